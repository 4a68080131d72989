// The recurrence of a head of a sequence, one workgroup: a thread has J rows of four columns of Sᵀ in registers; PARTS
// threads share the columns, of each PARTS fours of rows one. BLOCK tokens are fetched while those before run; a TEAM of
// threads sums up what a token has.
//
// u = k k_k, kk = u / ‖u‖, k = k (1 + (a − 1) k_a)
// S = S diag(w) − (S kk)(kk a)ᵀ + v kᵀ, y = S r
// y = (norm(y) + (Σ r k r_k) v) g
//
// (S kk)(kk a)ᵀ is computed as (S u)(u a)ᵀ / ‖u‖².

struct Params {
    sequences: u32, // in the table
    state: u32, // of this layer's S, in a slot
    slot: u32, // size
    width: u32,
    r: u32,
    w: u32,
    k: u32,
    v: u32,
    a: u32,
    g: u32,
    v_first: u32,
    first: u32, // whether this layer's v is v_first
    k_k: u32,
    k_a: u32,
    r_k: u32,
    weight: u32,
    bias: u32,
    eps: f32,
    y: u32,
    y_width: u32,
}

/// Rows of a thread.
const J: u32 = N / PARTS;
/// Channels of a block, in vectors of four, and how many of them a thread fetches.
const SIZE: u32 = BLOCK * N / 4u;
const FETCH: u32 = (SIZE + THREADS - 1u) / THREADS;

/// Four channels of a token.
struct Fetched {
    r: vec4<f32>,
    w: vec4<f32>,
    k: vec4<f32>,
    v: vec4<f32>,
    a: vec4<f32>,
    g: vec4<f32>,
}

var<workgroup> rs: array<vec4<f32>, SIZE>;
var<workgroup> ws: array<vec4<f32>, SIZE>;
var<workgroup> ks: array<vec4<f32>, SIZE>;
var<workgroup> us: array<vec4<f32>, SIZE>;
var<workgroup> uas: array<vec4<f32>, SIZE>;
var<workgroup> bonus: array<vec4<f32>, SIZE>; // r k r_k
var<workgroup> vs: array<vec4<f32>, SIZE>;
var<workgroup> ys: array<vec4<f32>, SIZE>;
var<workgroup> stats: array<vec3<f32>, BLOCK>; // mean, 1 / deviation, Σ r k r_k

@compute @workgroup_size(THREADS)
fn wkv7(b: Builtins) {
    let t = thread(b);
    let head = b.workgroup.x * N;
    let sequence = p.sequences + SEQUENCE * b.workgroup.y;
    let start = table[sequence + 1u];
    let len = table[sequence + 2u];
    if len == 0u {
        return;
    }
    let i = t.index / PARTS;
    let part = t.index % PARTS;
    let state = table[sequence] * p.slot + p.state + 4u * part * p.width + head + 4u * i;
    var s: array<vec4<f32>, J>;
    for (var j = 0u; j < J; j++) {
        let at = state + row(j) * p.width;
        s[j] = states[at / 4u];
    }
    var next: array<Fetched, FETCH>;
    for (var f = 0u; f < FETCH; f++) {
        if t.index + f * THREADS < len * N / 4u {
            next[f] = fetch(t.index + f * THREADS, head, start, len);
        }
    }
    for (var done = 0u; done < len; done += BLOCK) {
        let tokens = min(BLOCK, len - done);
        var g: array<vec4<f32>, FETCH>;
        workgroupBarrier();
        for (var f = 0u; f < FETCH; f++) {
            let e = t.index + f * THREADS;
            if e < tokens * N / 4u {
                let x = next[f];
                let c = head + 4u * (e % (N / 4u));
                let u = x.k * vectors[(p.k_k + c) / 4u];
                let key = x.k * (1.0 + (x.a - 1.0) * vectors[(p.k_a + c) / 4u]);
                rs[e] = x.r;
                ws[e] = x.w;
                ks[e] = key;
                us[e] = u;
                uas[e] = u * x.a;
                bonus[e] = x.r * key * vectors[(p.r_k + c) / 4u];
                vs[e] = x.v;
                g[f] = x.g;
                if p.first != 0u {
                    let at = p.v_first + (start + done + e / (N / 4u)) * p.width + c;
                    acts[at / 4u] = x.v;
                }
            }
        }
        workgroupBarrier();
        if done + BLOCK < len {
            for (var f = 0u; f < FETCH; f++) {
                next[f] = fetch(t.index + f * THREADS, head, start + done + BLOCK, len - done - BLOCK);
            }
        }
        for (var n = 0u; n < tokens; n++) {
            let at = n * N / 4u + part;
            var sa = vec4(0.0);
            var square = 0.0;
            for (var m = 0u; m < J / 4u; m++) {
                let u = us[at + PARTS * m];
                for (var j = 0u; j < 4u; j++) {
                    sa += s[4u * m + j] * u[j];
                }
                square += dot(u, u);
            }
            let scale = -1.0 / max(lanes_sum(t, PARTS, square), 1e-24);
            for (var j = 0u; j < 4u; j++) {
                sa[j] = lanes_sum(t, PARTS, sa[j]) * scale;
            }
            let v = vs[n * N / 4u + i];
            var y = vec4(0.0);
            for (var m = 0u; m < J / 4u; m++) {
                let w = ws[at + PARTS * m];
                let ua = uas[at + PARTS * m];
                let k = ks[at + PARTS * m];
                let r = rs[at + PARTS * m];
                for (var j = 0u; j < 4u; j++) {
                    s[4u * m + j] = s[4u * m + j] * w[j] + sa * ua[j] + v * k[j];
                    y += s[4u * m + j] * r[j];
                }
            }
            for (var j = 0u; j < 4u; j++) {
                y[j] = lanes_sum(t, PARTS, y[j]);
            }
            if part == 0u {
                ys[n * N / 4u + i] = y;
            }
        }
        workgroupBarrier();
        for (var first = 0u; first < tokens; first += THREADS / TEAM) {
            let n = min(first + t.index / TEAM, tokens - 1u);
            var mean = 0.0;
            var gain = 0.0;
            for (var m = t.index % TEAM; m < N / 4u; m += TEAM) {
                mean += dot(ys[n * N / 4u + m], vec4(1.0));
                gain += dot(bonus[n * N / 4u + m], vec4(1.0));
            }
            mean = lanes_sum(t, TEAM, mean) / f32(N);
            gain = lanes_sum(t, TEAM, gain);
            var variance = 0.0;
            for (var m = t.index % TEAM; m < N / 4u; m += TEAM) {
                let x = ys[n * N / 4u + m] - mean;
                variance += dot(x, x);
            }
            variance = lanes_sum(t, TEAM, variance) / f32(N);
            stats[n] = vec3(mean, inverseSqrt(variance + p.eps), gain);
        }
        workgroupBarrier();
        for (var f = 0u; f < FETCH; f++) {
            let e = t.index + f * THREADS;
            if e < tokens * N / 4u {
                let c = head + 4u * (e % (N / 4u));
                let q = stats[e / (N / 4u)];
                let x = (ys[e] - q.x) * q.y * vectors[(p.weight + c) / 4u] + vectors[(p.bias + c) / 4u] + q.z * vs[e];
                let y = clamp(x * g[f], vec4(-LARGEST), vec4(LARGEST));
                inputs[(p.y + (start + done + e / (N / 4u)) * p.y_width + c) / 4u] = vec4<Input>(y);
            }
        }
    }
    for (var j = 0u; j < J; j++) {
        states[(state + row(j) * p.width) / 4u] = s[j];
    }
}

/// Row j of a thread, from its first.
fn row(j: u32) -> u32 {
    return j / 4u * 4u * PARTS + j % 4u;
}

/// Vector e of tokens from `start` on, of which there are `len`.
fn fetch(e: u32, head: u32, start: u32, len: u32) -> Fetched {
    let at = (start + min(e / (N / 4u), len - 1u)) * p.width + head + 4u * (e % (N / 4u));
    return Fetched(acts[(p.r + at) / 4u], acts[(p.w + at) / 4u], acts[(p.k + at) / 4u], acts[(p.v + at) / 4u], acts[(p.a + at) / 4u], acts[(p.g + at) / 4u]);
}
