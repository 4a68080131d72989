// Products W x for many tokens on matrix units: a workgroup takes ROWS rows, TOKENS tokens and one of `splits` shares of the
// columns, a chunk at a time; of DOWN × ACROSS subgroups each has 16 DEEP × 16 WIDE of the sums. Inputs are f16, sums f32.
// The next chunk is fetched while the one before is multiplied. Sums are stored where they belong if nothing is to be
// done with them, and otherwise as parts, which `finish_parts` adds up.

const DEEP: u32 = ROWS / DOWN / 16u;
const WIDE: u32 = TOKENS / ACROSS / 16u;
/// From row to row of a tile, in vectors of four: 2 more than there are, so that rows start in different banks. W_STRIDE is that
/// of weights, a chunk of them or half of one.
const X_STRIDE: u32 = 10u;
/// Vectors of inputs that a thread fetches.
const FETCH_X: u32 = (TOKENS * 4u + THREADS - 1u) / THREADS;

var<workgroup> w_tile: array<vec4<f16>, ROWS * W_STRIDE>;
var<workgroup> x_tile: array<vec4<f16>, TURNS * TOKENS * X_STRIDE>;

@compute @workgroup_size(THREADS)
fn project_matrix(b: Builtins) {
    let t = thread(b);
    let job = find_job(b.workgroup.x);
    let first = (b.workgroup.x - job.first) * ROWS;
    let part = b.workgroup.y % p.splits;
    let token = p.token + b.workgroup.y / p.splits * TOKENS;
    let own = job.y + token * job.y_width + first;
    let among = p.parts + part * p.part + (token - p.token) * p.pitch + (b.workgroup.x - p.kept) * ROWS;
    let keeps = b.workgroup.x >= p.kept;
    product(t, job, first, token, part, select(own, among, keeps), select(job.y_width, p.pitch, keeps));
}

/// Where vector i of a chunk of inputs is: of 16 tokens there are two tiles, of 32 vectors each, two for a token.
fn input_at(job: Job, token: u32, i: u32) -> u32 {
    return (job.x + (token + i / 64u * 16u) * job.x_width) / 8u + i % 64u;
}

/// Where it belongs in the workgroup's memory.
fn input_to(i: u32) -> u32 {
    return X_STRIDE * (i / 64u * 16u + i % 32u / 2u) + 4u * (i / 32u % 2u) + 2u * (i % 2u);
}

/// From a thread's vector to its next, as many on as there are threads, which bring whole tiles: both.
fn input_step(job: Job) -> u32 {
    return THREADS / 32u * job.x_width;
}

const TO_STEP: u32 = THREADS / 4u * X_STRIDE;

fn put_input(at: u32, x: vec4<u32>) {
    let two = halves_in(x);
    x_tile[at] = two[0];
    x_tile[at + 1u] = two[1];
}

fn halves_in(w: vec4<u32>) -> array<vec4<f16>, 2> {
    return array(vec4(halves_of(w.x), halves_of(w.y)), vec4(halves_of(w.z), halves_of(w.w)));
}

fn halves_of(w: u32) -> vec2<f16> {
    return vec2<f16>(unpack2x16float(w));
}

/// Values d q + m of 8 codes q of 4 bits, those in the low halves of bytes and in the high: bits put into the mantissa of 1024, which make 1024 + q or 1024 + 16 q.
fn nibble_halves(w: u32, d: f16, m: f16) -> array<vec4<f16>, 2> {
    let q0 = halves_of((w & 0x000f000fu) | 0x64006400u) - vec2(1024.0h);
    let q1 = halves_of((w & 0x00f000f0u) | 0x64006400u) * 0.0625h - vec2(64.0h);
    let q2 = halves_of(((w >> 8u) & 0x000f000fu) | 0x64006400u) - vec2(1024.0h);
    let q3 = halves_of(((w >> 8u) & 0x00f000f0u) | 0x64006400u) * 0.0625h - vec2(64.0h);
    return array(vec4(q0, q2) * d + m, vec4(q1, q3) * d + m);
}
