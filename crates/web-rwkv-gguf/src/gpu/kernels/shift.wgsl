// h = norm(x), then for each of several mixes y = h + m (h₋₁ − h); a workgroup for each token, a thread for every
// THREADS-th channel. The first token of a sequence takes h₋₁ from the state, and puts the h of the last one
// there. KEEP says whether h itself is wanted.

@compute @workgroup_size(THREADS)
fn shift(b: Builtins) {
    let t = thread(b);
    let token = b.workgroup.x;
    let s = p.sequences + SEQUENCE * table[p.sequence_of + token];
    let row = p.x + token * WIDTH;
    let state = table[s] * p.slot + p.state;
    var before: Row;
    if token == table[s + 1u] {
        before = load_state(t, state);
        let len = table[s + 2u];
        if len > 1u {
            store_state(t, state, normed(t, load_acts(t, row + (len - 1u) * WIDTH)));
        }
    } else {
        before = normed(t, load_acts(t, row - WIDTH));
    }
    let h = normed(t, load_acts(t, row));
    if token == table[s + 1u] && table[s + 2u] == 1u {
        store_state(t, state, h);
    }
    if KEEP != 0u {
        for (var k = 0u; k < PER_THREAD; k++) {
            if t.index + k * THREADS < WIDTH {
                acts[p.h + token * WIDTH + t.index + k * THREADS] = h[k];
            }
        }
    }
    for (var i = 0u; i < MIXES; i++) {
        for (var k = 0u; k < PER_THREAD; k++) {
            let c = t.index + k * THREADS;
            if c < WIDTH {
                let y = h[k] + vectors[p.mix + i * p.mix_stride + c] * (before[k] - h[k]);
                store_input(p.y + i * p.y_stride + token * p.y_width + c, y);
            }
        }
    }
}

fn load_state(t: Thread, at: u32) -> Row {
    var row: Row;
    for (var k = 0u; k < PER_THREAD; k++) {
        row[k] = states[at + min(t.index + k * THREADS, WIDTH - 1u)];
    }
    return row;
}

fn store_state(t: Thread, at: u32, row: Row) {
    for (var k = 0u; k < PER_THREAD; k++) {
        if t.index + k * THREADS < WIDTH {
            states[at + t.index + k * THREADS] = row[k];
        }
    }
}
