// x = ln0(emb[tokens]), a workgroup for each token.

struct Params {
    tokens: u32, // in the table
    weights: u32,
    stride: u32,
    first_row: u32, // rows of the embedding that are bound
    rows: u32,
    columns: u32,
    x: u32,
    weight: u32,
    bias: u32,
    eps: f32,
}

@compute @workgroup_size(THREADS)
fn embed(b: Builtins) {
    let t = thread(b);
    let row = table[p.tokens + b.workgroup.x] - p.first_row;
    if row >= p.rows {
        return;
    }
    let x = p.x + b.workgroup.x * WIDTH;
    embed_row(t, p.weights + row * p.stride, x);
    storageBarrier();
    workgroupBarrier();
    let h = normed(t, load_acts(t, x));
    for (var k = 0u; k < PER_THREAD; k++) {
        if t.index + k * THREADS < WIDTH {
            acts[x + t.index + k * THREADS] = h[k];
        }
    }
}
