// The recurrence of a head of a sequence: a thread has J rows of COLUMNS columns of Sᵀ in registers; PARTS threads share the
// columns, of each PARTS fours of rows one. BLOCK tokens are fetched while those before run. SPLIT workgroups share the
// columns of a head; if it is one, a TEAM of threads sums up what a token has, otherwise that is left to `wkv7_norm`.
//
// u = k k_k, kk = u / ‖u‖, k = k (1 + (a − 1) k_a)
// S = S diag(w) − (S kk)(kk a)ᵀ + v kᵀ, y = S r
// y = (norm(y) + (Σ r k r_k) v) g
//
// (S kk)(kk a)ᵀ is computed as (S u)(u a)ᵀ / ‖u‖².
//
// ALONE says that every sequence has one token, GATES that w, a and nu are sums, which lie with g in so many parts (MORE beside the
// first), and of which the gates are still to be made:
//
// w = exp(−e^−½ σ(w0 + w)), a = σ(a0 + a), v = v + (v_first − v) σ(v0 + nu)

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
    v_first: vec4<f32>,
    nu: vec4<f32>,
}

var<workgroup> rs: array<vec4<f32>, SIZE>;
var<workgroup> ws: array<vec4<f32>, SIZE>;
var<workgroup> ks: array<vec4<f32>, SIZE>;
var<workgroup> us: array<vec4<f32>, SIZE>;
var<workgroup> uas: array<vec4<f32>, SIZE>;
var<workgroup> bonus: array<vec4<f32>, SIZE>; // r k r_k
var<workgroup> vs: array<State, 4u * SIZE / COLUMNS>;
var<workgroup> ys: array<State, 4u * SIZE / COLUMNS>;
var<workgroup> stats: array<vec3<f32>, BLOCK>; // mean, 1 / deviation, Σ r k r_k

@compute @workgroup_size(THREADS)
fn wkv7(b: Builtins) {
    let t = thread(b);
    let head = b.workgroup.x / SPLIT * N;
    let share = b.workgroup.x % SPLIT * (N / SPLIT);
    let sequence = p.sequences + SEQUENCE * b.workgroup.y;
    var start = b.workgroup.y;
    var len = 1u;
    if ALONE == 0u {
        start = table[sequence + 2u];
        len = table[sequence + 3u];
    }
    if len == 0u {
        return;
    }
    // What is small and used first is fetched first, so that it does not wait behind the state.
    var next: array<Fetched, FETCH>;
    for (var f = 0u; f < FETCH; f++) {
        if t.index + f * THREADS < len * N / 4u {
            next[f] = fetch(t.index + f * THREADS, head, start, len);
        }
    }
    let i = share / COLUMNS + t.index / PARTS;
    let part = t.index % PARTS;
    let place = p.state + 4u * part * p.width + head + COLUMNS * i;
    let before = table[sequence] * p.slot + place;
    let after = table[sequence + 1u] * p.slot + place;
    var s: array<State, J>;
    // What a new text begins with is not fetched; a single token would only wait longer, until it is told what that is.
    if ALONE != 0u || table[sequence] != ZEROS {
        for (var j = 0u; j < J; j++) {
            s[j] = states[(before + row(j) * p.width) / COLUMNS];
        }
    }
    for (var done = 0u; done < len; done += BLOCK) {
        let tokens = min(BLOCK, len - done);
        var g: array<vec4<f32>, FETCH>;
        workgroupBarrier();
        for (var f = 0u; f < FETCH; f++) {
            let e = t.index + f * THREADS;
            if e < tokens * N / 4u {
                let c = head + 4u * (e % (N / 4u));
                let x = gated(next[f], c);
                let u = x.k * vectors[(p.k_k + c) / 4u];
                let key = x.k * (1.0 + (x.a - 1.0) * vectors[(p.k_a + c) / 4u]);
                rs[e] = x.r;
                ws[e] = x.w;
                ks[e] = key;
                us[e] = u;
                uas[e] = u * x.a;
                put_v(e, x.v);
                if SPLIT == 1u {
                    bonus[e] = x.r * key * vectors[(p.r_k + c) / 4u];
                    g[f] = x.g;
                }
                if p.first != 0u && share == 0u {
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
            var sa = State(0.0);
            var square = 0.0;
            for (var m = 0u; m < J / 4u; m++) {
                let u = us[at + PARTS * m];
                for (var j = 0u; j < 4u; j++) {
                    sa += s[4u * m + j] * u[j];
                }
                square += dot(u, u);
            }
            let scale = -1.0 / max(lanes_sum(t, PARTS, square), 1e-24);
            for (var j = 0u; j < COLUMNS; j++) {
                sa[j] = lanes_sum(t, PARTS, sa[j]) * scale;
            }
            let v = vs[n * N / COLUMNS + i];
            var y = State(0.0);
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
            for (var j = 0u; j < COLUMNS; j++) {
                y[j] = lanes_sum(t, PARTS, y[j]);
            }
            if part == 0u {
                ys[n * N / COLUMNS + i] = y;
            }
        }
        workgroupBarrier();
        if SPLIT > 1u {
            for (var e = t.index; e < tokens * N / SPLIT / 4u; e += THREADS) {
                let n = e / (N / SPLIT / 4u);
                let c = share + 4u * (e % (N / SPLIT / 4u));
                acts[(p.sums + (start + done + n) * p.width + head + c) / 4u] = four_y((n * N + c) / 4u);
            }
            continue;
        }
        for (var first = 0u; first < tokens; first += THREADS / TEAM) {
            let n = min(first + t.index / TEAM, tokens - 1u);
            var mean = 0.0;
            var gain = 0.0;
            for (var m = t.index % TEAM; m < N / 4u; m += TEAM) {
                mean += dot(four_y(n * N / 4u + m), vec4(1.0));
                gain += dot(bonus[n * N / 4u + m], vec4(1.0));
            }
            mean = lanes_sum(t, TEAM, mean) / f32(N);
            gain = lanes_sum(t, TEAM, gain);
            var variance = 0.0;
            for (var m = t.index % TEAM; m < N / 4u; m += TEAM) {
                let x = four_y(n * N / 4u + m) - mean;
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
                store(start + done + e / (N / 4u), c, four_y(e), stats[e / (N / 4u)], four_v(e), g[f]);
            }
        }
    }
    for (var j = 0u; j < J; j++) {
        states[(after + row(j) * p.width) / COLUMNS] = s[j];
    }
}

/// Row j of a thread, from its first.
fn row(j: u32) -> u32 {
    return j / 4u * 4u * PARTS + j % 4u;
}

/// Vector e of tokens from `start` on, of which there are `len`.
fn fetch(e: u32, head: u32, start: u32, len: u32) -> Fetched {
    let token = start + min(e / (N / 4u), len - 1u);
    let c = head + 4u * (e % (N / 4u));
    let at = token * p.width + c;
    let sum = token * p.pitch + c;
    var x: Fetched;
    x.r = acts[(p.r + at) / 4u];
    x.w = whole(p.w + sum);
    x.k = acts[(p.k + at) / 4u];
    x.v = acts[(p.v + at) / 4u];
    x.a = whole(p.a + sum);
    x.g = whole(p.g + sum);
    if GATES != 0u && p.first == 0u {
        x.v_first = acts[(p.v_first + at) / 4u];
        x.nu = whole(p.nu + sum);
    }
    return x;
}

/// All parts of four neighbours.
fn whole(at: u32) -> vec4<f32> {
    var x = acts[at / 4u];
    for (var i = 0u; i < MORE; i++) {
        x += acts[(at + (i + 1u) * p.part) / 4u];
    }
    return x;
}

/// The same with its gates.
fn gated(sums: Fetched, c: u32) -> Fetched {
    var x = sums;
    if GATES != 0u {
        x.w = exp(-0.60653067 * sigmoid(vectors[(p.w0 + c) / 4u] + x.w));
        x.a = sigmoid(vectors[(p.a0 + c) / 4u] + x.a);
        if p.first == 0u {
            x.v += (x.v_first - x.v) * sigmoid(vectors[(p.v0 + c) / 4u] + x.nu);
        }
    }
    return x;
}

fn sigmoid(x: vec4<f32>) -> vec4<f32> {
    return 1.0 / (1.0 + exp(-x));
}
