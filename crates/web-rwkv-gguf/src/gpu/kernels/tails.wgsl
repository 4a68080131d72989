// Leaves of each sequence its last tokens: rows of x and y move to the front, in order. A thread has four neighbours of all rows.

struct Params {
    rows: u32, // that stay, in the table
    count: u32,
    x: u32,
    x_width: u32,
    y: u32,
    y_width: u32,
}

/// Rows at a time. No row goes where one stands that comes after these.
const TOGETHER: u32 = 8u;

@compute @workgroup_size(THREADS)
fn tails(b: Builtins) {
    let c = b.workgroup.x * THREADS + thread(b).index;
    let in_x = min(c, p.x_width / 4u - 1u);
    let in_y = min(c, p.y_width % TILES / 4u - 1u);
    for (var first = 0u; first < p.count; first += TOGETHER) {
        var x: array<vec4<f32>, TOGETHER>;
        var y: array<Inputs, TOGETHER>;
        for (var i = 0u; i < TOGETHER; i++) {
            let row = table[p.rows + min(first + i, p.count - 1u)];
            x[i] = acts[(p.x + row * p.x_width) / 4u + in_x];
            y[i] = inputs[input_place(p.y, row, p.y_width, 4u * in_y) / 4u];
        }
        for (var i = 0u; i < TOGETHER; i++) {
            let row = first + i;
            if row < p.count && c == in_x {
                acts[(p.x + row * p.x_width) / 4u + c] = x[i];
            }
            if row < p.count && c == in_y {
                inputs[input_place(p.y, row, p.y_width, 4u * c) / 4u] = y[i];
            }
        }
    }
}
