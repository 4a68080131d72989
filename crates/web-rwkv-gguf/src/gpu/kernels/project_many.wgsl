// Products y = act(W x) for many tokens: a workgroup takes 64 rows and 64 tokens, a thread 4 and 4 of them.

const TILE: u32 = 64u;
/// From row to row, in vectors; one more than it takes, so that threads meet different banks.
const STRIDE: u32 = 9u;

var<workgroup> w_tile: array<vec4<f32>, TILE * STRIDE>;
var<workgroup> x_tile: array<vec4<f32>, TILE * STRIDE>;

@compute @workgroup_size(THREADS)
fn project_many(b: Builtins) {
    let t = thread(b);
    let job = find_job(b.workgroup.x);
    let first = (b.workgroup.x - job.first) * TILE;
    let token = b.workgroup.y * TILE;
    let i = t.index % 16u;
    let j = t.index / 16u;
    var sums: array<vec4<f32>, 4>;
    for (var c = 0u; c < job.columns / 32u; c++) {
        workgroupBarrier();
        if t.index < TILE {
            let row = min(first + t.index, job.rows - 1u);
            let w = decode_row(job, row, c);
            for (var k = 0u; k < 8u; k++) {
                w_tile[STRIDE * t.index + k] = w[k];
            }
        } else if t.index < 2u * TILE {
            let x = (job.x + min(token + t.index - TILE, p.tokens - 1u) * job.x_width) / 4u + 8u * c;
            for (var k = 0u; k < 8u; k++) {
                x_tile[STRIDE * (t.index - TILE) + k] = vec4<f32>(inputs[x + k]);
            }
        }
        workgroupBarrier();
        for (var k = 0u; k < 8u; k++) {
            var w: array<vec4<f32>, 4>;
            for (var r = 0u; r < 4u; r++) {
                w[r] = w_tile[STRIDE * (i + 16u * r) + k];
            }
            for (var n = 0u; n < 4u; n++) {
                let x = x_tile[STRIDE * (j + 16u * n) + k];
                sums[n] += vec4(dot(w[0], x), dot(w[1], x), dot(w[2], x), dot(w[3], x));
            }
        }
    }
    for (var n = 0u; n < 4u; n++) {
        for (var r = 0u; r < 4u; r++) {
            if first + i + 16u * r < job.rows && token + j + 16u * n < p.tokens {
                finish(job, first + i + 16u * r, token + j + 16u * n, sums[n][r]);
            }
        }
    }
}
