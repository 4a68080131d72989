// Products y = act(W x) for many tokens on matrix units: a workgroup of DOWN × ACROSS subgroups takes ROWS rows and
// TOKENS tokens; a subgroup 16 DEEP × 16 WIDE of them. Inputs are f16, sums f32. The next CHUNKS chunks are fetched while
// those before are multiplied.

const DEEP: u32 = ROWS / DOWN / 16u;
const WIDE: u32 = TOKENS / ACROSS / 16u;
/// From row to row of a tile, in vectors of four: 8 for a chunk, and 2 so that rows start in different banks.
const STRIDE: u32 = 8u * CHUNKS + 2u;
/// Chunks of weights, and vectors of inputs, that a thread fetches.
const FETCH: u32 = ROWS * CHUNKS / THREADS;
const FETCH_X: u32 = TOKENS * CHUNKS * 8u / THREADS;

var<workgroup> w_tile: array<vec4<f16>, ROWS * STRIDE>;
var<workgroup> x_tile: array<vec4<f16>, TOKENS * STRIDE>;
var<workgroup> y_tile: array<f32, DOWN * ACROSS * 256>;

@compute @workgroup_size(THREADS)
fn project_matrix(b: Builtins) {
    let t = thread(b);
    let job = find_job(b.workgroup.x);
    product(t, job, (b.workgroup.x - job.first) * ROWS, b.workgroup.y * TOKENS);
}

/// The place of vector e of a step of inputs.
fn input_at(job: Job, token: u32, step: u32, e: u32) -> u32 {
    let row = min(token + e / (8u * CHUNKS), p.tokens - 1u);
    let vector = min(8u * CHUNKS * step + e % (8u * CHUNKS), job.columns / 4u - 1u);
    return (job.x + row * job.x_width) / 4u + vector;
}
