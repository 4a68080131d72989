// Products y = act(W x) for few tokens: LANES threads share ROWS rows, and take every LANES-th unit of their columns (a
// chunk, or a vector of floats) for TOKENS tokens; some are fetched before they are used. Inputs go through the workgroup's
// memory, a segment of the columns at a time: as floats (values), or packed. The first VALUES formats take values.

alias Sums = array<array<f32, TOKENS>, ROWS>;

/// From chunk to chunk of inputs, in vectors: an odd number, so that threads meet different banks.
const PITCH_values: u32 = 9u;
var<workgroup> x_tile: array<vec4<u32>, TILE>;

@compute @workgroup_size(THREADS)
fn project_few(b: Builtins) {
    let t = thread(b);
    let job = job_of(b.workgroup.x);
    let lanes = select(LANES_packed, LANES_values, job.format < VALUES);
    let lane = t.index % lanes;
    let first = ((b.workgroup.x - job.first) * (THREADS / lanes) + t.index / lanes) * ROWS;
    let token = b.workgroup.y * TOKENS;
    // What is added to is fetched early, where it is one value.
    let adds = ACT == ADD && TOKENS == 1u && ROWS == 1u;
    var early = 0.0;
    if adds {
        early = acts[job.y + min(first, job.rows - 1u)];
    }
    let sums = rows(t, job, first, token);
    for (var r = 0u; r < ROWS; r++) {
        for (var i = 0u; i < TOKENS; i++) {
            let sum = lanes_sum(t, lanes, sums[r][i]);
            if lane == (r * TOKENS + i) % lanes && first + r < job.rows && token + i < p.tokens {
                if adds {
                    acts[job.y + first] = early + sum;
                } else {
                    finish(job, first + r, token + i, sum);
                }
            }
        }
    }
}

/// The activation of all products, if there is but one.
const MIXED: u32 = 0xffffffffu;
const ADD: u32 = 4u;

fn job_of(workgroup: u32) -> Job {
    if ACT == MIXED {
        return find_job(workgroup);
    }
    var job = p.job;
    job.act = ACT;
    return job;
}

/// Puts inputs of chunks `begin..end` into the workgroup's memory.
fn load_values(t: Thread, job: Job, token: u32, begin: u32, end: u32) {
    for (var i = 0u; i < TOKENS; i++) {
        let row = input_row(job, token + i) + 8u * begin;
        for (var e = t.index; e < 8u * (end - begin); e += THREADS) {
            let at = (i * SEGMENT_values + e / 8u) * PITCH_values + e % 8u;
            x_tile[at] = bitcast<vec4<u32>>(vec4<f32>(inputs[row + e]));
        }
    }
}

/// Where a token's inputs begin, in vectors.
fn input_row(job: Job, token: u32) -> u32 {
    return (job.x + min(token, p.tokens - 1u) * job.x_width) / 4u;
}
