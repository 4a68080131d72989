// y = norm(x[rows]), a workgroup for each wanted row.

struct Params {
    rows: u32, // in the table
    x: u32,
    weight: u32,
    bias: u32,
    eps: f32,
    y: u32,
    y_width: u32,
    y_kind: u32,
}

@compute @workgroup_size(THREADS)
fn norm_rows(b: Builtins) {
    let t = thread(b);
    let h = normed(t, load_acts(t, p.x + table[p.rows + b.workgroup.x] * WIDTH));
    for (var k = 0u; k < PER_THREAD; k++) {
        let c = t.index + k * THREADS;
        if c < WIDTH {
            if p.y_kind == 1u {
                store_input(input_place(p.y, b.workgroup.x, p.y_width, c), h[k]);
            } else {
                acts[p.y + b.workgroup.x * p.y_width + c] = h[k];
            }
        }
    }
}
