// The recurrence of a head of a sequence in RWKV-5 and 6, spread over threads as that of wkv7.wgsl.
//
// w = exp(−exp(w0 + w)), where RWKV-5 has w0 alone
// y = S r + (Σ r u k) v, S = S diag(w) + v kᵀ
// y = norm(y) silu(g), where RWKV-5.0 has no g

struct Params {
    sequences: u32, // in the table
    state: u32, // of this layer's S, in a slot
    slot: u32, // size
    width: u32,
    r: u32,
    k: u32,
    v: u32,
    w: u32,
    g: u32,
    w0: u32,
    u: u32,
    weight: u32,
    bias: u32,
    eps: f32,
    y: u32,
    y_width: u32,
}

/// Rows of a thread.
const J: u32 = N / PARTS;
/// Channels of a block, in vectors of four.
const SIZE: u32 = BLOCK * N / 4u;

var<workgroup> rs: array<vec4<f32>, SIZE>;
var<workgroup> ws: array<vec4<f32>, SIZE>;
var<workgroup> ks: array<vec4<f32>, SIZE>;
var<workgroup> bonus: array<vec4<f32>, SIZE>; // r u k
var<workgroup> vs: array<vec4<f32>, SIZE>;
var<workgroup> ys: array<vec4<f32>, SIZE>;
var<workgroup> stats: array<vec2<f32>, BLOCK>; // mean, 1 / deviation

@compute @workgroup_size(THREADS)
fn wkv6(b: Builtins) {
    let t = thread(b);
    let head = b.workgroup.x * N;
    let sequence = p.sequences + SEQUENCE * b.workgroup.y;
    let start = table[sequence + 2u];
    let len = table[sequence + 3u];
    let i = t.index / PARTS;
    let part = t.index % PARTS;
    let place = p.state + part * J * p.width + head + 4u * i;
    let before = table[sequence] * p.slot + place;
    let after = table[sequence + 1u] * p.slot + place;
    var s: array<vec4<f32>, J>;
    for (var j = 0u; j < J; j++) {
        let at = before + j * p.width;
        s[j] = vec4(states[at], states[at + 1u], states[at + 2u], states[at + 3u]);
    }
    for (var done = 0u; done < len; done += BLOCK) {
        let tokens = min(BLOCK, len - done);
        workgroupBarrier();
        for (var e = t.index; e < tokens * N / 4u; e += THREADS) {
            let c = head + 4u * (e % (N / 4u));
            let at = (start + done + e / (N / 4u)) * p.width + c;
            let k = four(p.k + at);
            let r = four(p.r + at);
            var w = four_of(p.w0 + c);
            if DECAY != 0u {
                w += four(p.w + at);
            }
            rs[e] = r;
            ws[e] = exp(-exp(w));
            ks[e] = k;
            bonus[e] = r * k * four_of(p.u + c);
            vs[e] = four(p.v + at);
        }
        workgroupBarrier();
        for (var n = 0u; n < tokens; n++) {
            let at = (n * N + part * J) / 4u;
            let v = vs[n * N / 4u + i];
            var y = vec4(0.0);
            for (var m = 0u; m < J / 4u; m++) {
                let w = ws[at + m];
                let k = ks[at + m];
                let r = rs[at + m];
                y += v * dot(bonus[at + m], vec4(1.0));
                for (var j = 0u; j < 4u; j++) {
                    y += s[4u * m + j] * r[j];
                    s[4u * m + j] = s[4u * m + j] * w[j] + v * k[j];
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
            for (var m = t.index % TEAM; m < N / 4u; m += TEAM) {
                mean += dot(ys[n * N / 4u + m], vec4(1.0));
            }
            mean = lanes_sum(t, TEAM, mean) / f32(N);
            var variance = 0.0;
            for (var m = t.index % TEAM; m < N / 4u; m += TEAM) {
                let x = ys[n * N / 4u + m] - mean;
                variance += dot(x, x);
            }
            variance = lanes_sum(t, TEAM, variance) / f32(N);
            stats[n] = vec2(mean, inverseSqrt(variance + p.eps));
        }
        workgroupBarrier();
        for (var e = t.index; e < tokens * N / 4u; e += THREADS) {
            let c = head + 4u * (e % (N / 4u));
            let token = start + done + e / (N / 4u);
            let f = stats[e / (N / 4u)];
            var y = (ys[e] - f.x) * f.y * four_of(p.weight + c) + four_of(p.bias + c);
            if GATE != 0u {
                let g = four(p.g + token * p.width + c);
                y *= g / (1.0 + exp(-g));
            }
            let to = input_place(p.y, token, p.y_width, c);
            inputs[to / 4u] = vec4<Input>(clamp(y, vec4(-LARGEST), vec4(LARGEST)));
        }
    }
    for (var j = 0u; j < J; j++) {
        for (var m = 0u; m < 4u; m++) {
            states[after + j * p.width + m] = s[j][m];
        }
    }
}
