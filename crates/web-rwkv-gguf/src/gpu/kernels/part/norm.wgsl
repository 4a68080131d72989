// Layer norm of a row of WIDTH activations by a workgroup: a thread has every THREADS-th of them.

const PER_THREAD: u32 = (WIDTH + THREADS - 1u) / THREADS;
alias Row = array<f32, PER_THREAD>;

fn load_acts(t: Thread, at: u32) -> Row {
    var row: Row;
    for (var k = 0u; k < PER_THREAD; k++) {
        row[k] = acts[at + min(t.index + k * THREADS, WIDTH - 1u)];
    }
    return row;
}

/// `mean, 1 / √(var + eps)`
fn statistics(t: Thread, x: Row) -> vec2<f32> {
    var sum = 0.0;
    for (var k = 0u; k < PER_THREAD; k++) {
        sum += select(0.0, x[k], t.index + k * THREADS < WIDTH);
    }
    let mean = workgroup_sum(t, THREADS, sum) / f32(WIDTH);
    var squares = 0.0;
    for (var k = 0u; k < PER_THREAD; k++) {
        squares += select(0.0, (x[k] - mean) * (x[k] - mean), t.index + k * THREADS < WIDTH);
    }
    return vec2(mean, inverseSqrt(workgroup_sum(t, THREADS, squares) / f32(WIDTH) + p.eps));
}

/// `(x − mean) / √(var + eps) · weight + bias`
fn normed(t: Thread, x: Row) -> Row {
    var weight: Row;
    var bias: Row;
    for (var k = 0u; k < PER_THREAD; k++) {
        let c = min(t.index + k * THREADS, WIDTH - 1u);
        weight[k] = vectors[p.weight + c];
        bias[k] = vectors[p.bias + c];
    }
    let q = statistics(t, x);
    var y: Row;
    for (var k = 0u; k < PER_THREAD; k++) {
        y[k] = (x[k] - q.x) * q.y * weight[k] + bias[k];
    }
    return y;
}
