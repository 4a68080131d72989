// Products y = act(W x) for many tokens on matrix units: a workgroup takes ROWS rows and TOKENS tokens. Each of SLICES teams
// of DOWN × ACROSS subgroups takes every SLICES-th step of CHUNKS chunks of the columns; a subgroup has 16 DEEP × 16 WIDE of
// the sums. Inputs are f16, sums f32. The next step is fetched while the one before is multiplied.

const DEEP: u32 = ROWS / DOWN / 16u;
const WIDE: u32 = TOKENS / ACROSS / 16u;
const TEAM: u32 = THREADS / SLICES;
/// Vectors of four in a row of a step, and from row to row of a tile: 2 more, so that rows start in different banks.
const STEP: u32 = 8u * CHUNKS;
const STRIDE: u32 = STEP + 2u;
/// Chunks of weights, and vectors of inputs, that a thread fetches: all of the same columns.
const FETCH: u32 = ROWS * CHUNKS / TEAM;
const FETCH_X: u32 = TOKENS * STEP / TEAM;

var<workgroup> w_tile: array<vec4<f16>, SLICES * ROWS * STRIDE>;
var<workgroup> x_tile: array<vec4<f16>, SLICES * TOKENS * STRIDE>;
var<workgroup> y_tile: array<f32, SLICES * DOWN * ACROSS * 256>;

@compute @workgroup_size(THREADS)
fn project_matrix(b: Builtins) {
    let t = thread(b);
    let job = find_job(b.workgroup.x);
    product(t, job, (b.workgroup.x - job.first) * ROWS, b.workgroup.y * TOKENS);
}
