// Products y = act(W x) for few tokens: LANES threads share ROWS rows, and take every LANES-th chunk of their columns
// for TOKENS tokens. AHEAD chunks are fetched before they are used. Inputs go through the workgroup's memory, SEGMENT
// columns at a time.

alias Sums = array<array<f32, TOKENS>, ROWS>;

/// From chunk to chunk of inputs, in vectors: one more than it takes, so that threads meet different banks.
const PITCH: u32 = 9u;
const SEGMENT_CHUNKS: u32 = SEGMENT / 32u;
var<workgroup> x_tile: array<vec4<f32>, TOKENS * SEGMENT_CHUNKS * PITCH>;

@compute @workgroup_size(THREADS)
fn project_few(b: Builtins) {
    let t = thread(b);
    let job = find_job(b.workgroup.x);
    let lane = t.index % LANES;
    let first = ((b.workgroup.x - job.first) * (THREADS / LANES) + t.index / LANES) * ROWS;
    let token = b.workgroup.y * TOKENS;
    let sums = rows(t, job, first, token);
    for (var r = 0u; r < ROWS; r++) {
        for (var i = 0u; i < TOKENS; i++) {
            let sum = lanes_sum(t, LANES, sums[r][i]);
            if lane == (r * TOKENS + i) % LANES && first + r < job.rows && token + i < p.tokens {
                finish(job, first + r, token + i, sum);
            }
        }
    }
}

/// Puts inputs of chunks `begin..end` into the workgroup's memory.
fn load_inputs(t: Thread, job: Job, token: u32, begin: u32, end: u32) {
    for (var i = 0u; i < TOKENS; i++) {
        let row = (job.x + min(token + i, p.tokens - 1u) * job.x_width) / 4u + 8u * begin;
        for (var e = t.index; e < 8u * (end - begin); e += THREADS) {
            x_tile[(i * SEGMENT_CHUNKS + e / 8u) * PITCH + e % 8u] = vec4<f32>(inputs[row + e]);
        }
    }
}

/// The product of the values of a chunk and inputs.
fn dot_chunk(w: Chunk, f: vec4<f32>, x: u32) -> f32 {
    var products: array<vec4<f32>, 2>;
    var sums: array<vec4<f32>, 2>;
    for (var k = 0u; k < 8u; k++) {
        let v = x_tile[x + k];
        products[k / 4u] += w[k] * v;
        sums[k / 4u] += v;
    }
    let all = f.x * products[0] + f.y * sums[0] + f.z * products[1] + f.w * sums[1];
    return (all.x + all.y) + (all.z + all.w);
}
