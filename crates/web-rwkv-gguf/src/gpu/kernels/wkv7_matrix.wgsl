// As `wkv7`, BLOCK tokens at a time on matrix units: a workgroup has M of the N columns of Sᵀ of a head, in f32 in registers.
// What matrix units read is f16.
//
// With W₋₁ w = W, one in the middle of a block, X = Sᵀ / W does not decay. With rows A = kk W₋₁, R = r W, B = kk a / W, K = k / W
// and v for each token of a block, and what lies on and below (L) or only below (D) the diagonal:
//
// P = A X + D(A Kᵀ) V − D(A Bᵀ) P, token by token
// Y = R X + L(R Kᵀ) V − L(R Bᵀ) P
// X = X + Kᵀ V − Bᵀ P
//
// There are four subgroups of N / 2 threads.
//
// SENDERS more workgroups may copy what the layer before has left of the state to where this machine reads it, which takes no
// time here, since not all multiprocessors have heads.

@group(0) @binding(7) var<storage, read_write> sent: array<vec4<f32>>;

const BLOCK: u32 = 16u;
const M: u32 = 32u;
/// From row to row, in vectors, where rows have N or M channels: more than there are, so that rows start in different banks.
const LONG: u32 = N / 4u + 2u;
const SHORT: u32 = M / 4u + 2u;
const FLOATS: u32 = M / 4u + 1u;
/// Vectors of a token, and tokens of a thread; columns of a thread, all of one row.
const VECTORS: u32 = N / 4u;
const TOKENS: u32 = BLOCK * VECTORS / THREADS;
const GROUPS: u32 = BLOCK / TOKENS;
const OWN: u32 = N * M / 4u / THREADS;

/// Four channels of a token.
struct Fetched {
    r: vec4<f32>,
    w: vec4<f32>,
    k: vec4<f32>,
    a: vec4<f32>,
}

/// Products of w over the tokens of a thread.
var<workgroup> decays: array<vec4<f32>, GROUPS * VECTORS>;
var<workgroup> ar: array<vec4<f16>, 2u * BLOCK * LONG>; // A, R
var<workgroup> bk: array<vec4<f16>, 2u * BLOCK * LONG>; // B, K
var<workgroup> pv: array<vec4<f16>, 2u * BLOCK * SHORT>; // −P, V
var<workgroup> x_tile: array<vec4<f16>, N * SHORT>;
/// A Bᵀ and A Kᵀ, R Bᵀ and R Kᵀ; of the latter what lies on and below the diagonals.
var<workgroup> pairs: array<vec4<f32>, 2u * BLOCK * FLOATS>;
var<workgroup> lower: array<vec4<f16>, BLOCK * SHORT>;
/// A X, then L(R Kᵀ) V; R X, then the rest of Y.
var<workgroup> ys: array<vec4<f32>, 2u * BLOCK * FLOATS>;
var<workgroup> change: array<vec4<f32>, N * FLOATS>;

@compute @workgroup_size(THREADS)
fn wkv7_matrix(b: Builtins) {
    let t = thread(b);
    // Those do not return at once, since all subgroups must come to matrix units.
    let sends = b.workgroup.x >= p.sends;
    let head = select(b.workgroup.x / (N / M) * N, 0u, sends);
    let share = b.workgroup.x % (N / M) * M;
    let sequence = p.sequences + SEQUENCE * b.workgroup.y;
    let start = table[sequence + 2u];
    let len = select(table[sequence + 3u], 0u, sends);
    // Four channels of some tokens; four columns of one; a row of the state, and its columns.
    let group = t.index / VECTORS;
    let vector = t.index % VECTORS;
    let token = t.index / (M / 4u);
    let column = t.index % (M / 4u);
    let row = t.index / 2u;
    let own = t.index % 2u * OWN;
    let down = t.subgroup / 2u;
    let across = t.subgroup % 2u;
    let place = p.state + row * p.width + head + share;
    let before = table[sequence] * p.slot + place;
    let after = table[sequence + 1u] * p.slot + place;
    var s: array<vec4<f32>, OWN>;
    for (var i = 0u; i < OWN; i++) {
        s[i] = states[before / 4u + own + i];
    }
    let k_k = vectors[(p.k_k + head) / 4u + vector];
    let k_a = vectors[(p.k_a + head) / 4u + vector];
    var next: array<Fetched, TOKENS>;
    for (var i = 0u; i < TOKENS; i++) {
        next[i] = fetch(TOKENS * group + i, head / 4u + vector, start, len);
    }
    var v = fetch_v(token, (head + share) / 4u + column, start, len);
    decays[t.index] = decay(next);
    workgroupBarrier();
    for (var done = 0u; done < len; done += BLOCK) {
        // W of the first half of a block, which goes back from its middle, and of the second.
        var first = 1.0;
        var second = 1.0;
        for (var i = 0u; i < GROUPS / 2u; i++) {
            first *= decays[i * VECTORS + row / 4u][row % 4u];
            second *= decays[(GROUPS / 2u + i) * VECTORS + row / 4u][row % 4u];
        }
        for (var i = 0u; i < OWN; i++) {
            s[i] *= first;
            x_tile[row * SHORT + own + i] = halves(s[i]);
        }
        var before = vec4(1.0);
        var w = vec4(1.0);
        for (var i = 0u; i < GROUPS / 2u; i++) {
            before *= select(vec4(1.0), decays[i * VECTORS + vector], i >= group);
            w *= select(vec4(1.0), decays[(GROUPS / 2u + i) * VECTORS + vector], GROUPS / 2u + i < group);
        }
        w /= before;
        for (var i = 0u; i < TOKENS; i++) {
            let x = next[i];
            let u = x.k * k_k;
            let kk = u * inverseSqrt(max(lanes_sum(t, VECTORS, dot(u, u)), 1e-24));
            let at = (TOKENS * group + i) * LONG + vector;
            ar[at] = halves(kk * w);
            w *= x.w;
            let inverse = 1.0 / w;
            ar[at + BLOCK * LONG] = halves(x.r * w);
            bk[at] = halves(kk * x.a * inverse);
            bk[at + BLOCK * LONG] = halves(x.k * (1.0 + (x.a - 1.0) * k_a) * inverse);
        }
        pv[(BLOCK + token) * SHORT + column] = halves(v);
        if p.first != 0u && done + token < len {
            acts[(p.v_first + (start + done + token) * p.width + head + share) / 4u + column] = v;
        }
        workgroupBarrier();
        for (var i = 0u; i < TOKENS; i++) {
            next[i] = fetch(done + BLOCK + TOKENS * group + i, head / 4u + vector, start, len);
        }
        v = fetch_v(done + BLOCK + token, (head + share) / 4u + column, start, len);
        // Of each subgroup a tile of the pairs, and one of A X or R X.
        var pair: coop_mat16x16<f32, C>;
        var y: coop_mat16x16<f32, C>;
        for (var k = 0u; k < VECTORS; k += 4u) {
            let own = coopLoadT<coop_mat16x16<f16, A>>(&ar[down * BLOCK * LONG + k], LONG);
            let other = coopLoad<coop_mat16x16<f16, B>>(&bk[across * BLOCK * LONG + k], LONG);
            let x = coopLoadT<coop_mat16x16<f16, B>>(&x_tile[4u * k * SHORT + 4u * across], SHORT);
            pair = coopMultiplyAdd(own, other, pair);
            y = coopMultiplyAdd(own, x, y);
        }
        let tile = down * BLOCK * FLOATS + 4u * across;
        coopStoreT(pair, &pairs[tile], FLOATS);
        coopStoreT(y, &ys[tile], FLOATS);
        workgroupBarrier();
        let right = 4u * (column % 4u);
        let below = vec4(right, right + 1u, right + 2u, right + 3u) <= vec4(token);
        lower[token * SHORT + column] = halves(select(vec4(0.0), pairs[(BLOCK + token) * FLOATS + column], below));
        // P, a column a thread: first its sums with V, which wait for nothing.
        if t.index < M {
            var ps: array<f32, BLOCK>;
            var vs: array<f32, BLOCK>;
            for (var n = 0u; n < BLOCK; n++) {
                ps[n] = ys[n * FLOATS + t.index / 4u][t.index % 4u];
                vs[n] = f32(pv[(BLOCK + n) * SHORT + t.index / 4u][t.index % 4u]);
            }
            for (var n = 0u; n < BLOCK; n++) {
                for (var m = 0u; m < BLOCK; m += 4u) {
                    if m < n {
                        let four = pairs[n * FLOATS + 4u + m / 4u];
                        for (var i = 0u; i < 4u; i++) {
                            ps[n] += select(0.0, four[i], m + i < n) * vs[m + i];
                        }
                    }
                }
            }
            for (var n = 0u; n < BLOCK; n++) {
                for (var m = 0u; m < BLOCK; m += 4u) {
                    if m < n {
                        let four = pairs[n * FLOATS + m / 4u];
                        for (var i = 0u; i < 4u; i++) {
                            ps[n] -= select(0.0, four[i], m + i < n) * ps[m + i];
                        }
                    }
                }
            }
            for (var n = 0u; n < BLOCK; n++) {
                pv[n * SHORT + t.index / 4u][t.index % 4u] = halves(vec4(-ps[n])).x;
                ys[n * FLOATS + t.index / 4u][t.index % 4u] = 0.0;
            }
        }
        workgroupBarrier();
        // Of each subgroup what one of P and V adds to a tile of Y, and what both add to some rows of X.
        var part = coopLoadT<coop_mat16x16<f32, C>>(&ys[(1u - down) * BLOCK * FLOATS + 4u * across], FLOATS);
        let factors = coopLoadT<coop_mat16x16<f16, A>>(&lower[4u * down], SHORT);
        let added = coopLoadT<coop_mat16x16<f16, B>>(&pv[down * BLOCK * SHORT + 4u * across], SHORT);
        part = coopMultiplyAdd(factors, added, part);
        coopStoreT(part, &ys[(1u - down) * BLOCK * FLOATS + 4u * across], FLOATS);
        var sums: array<coop_mat16x16<f32, C>, 2>;
        for (var k = 0u; k < 2u; k++) {
            let rows = coopLoad<coop_mat16x16<f16, A>>(&bk[k * BLOCK * LONG + 4u * t.subgroup], LONG);
            for (var i = 0u; i < 2u; i++) {
                let tokens = coopLoadT<coop_mat16x16<f16, B>>(&pv[k * BLOCK * SHORT + 4u * i], SHORT);
                sums[i] = coopMultiplyAdd(rows, tokens, sums[i]);
            }
        }
        for (var i = 0u; i < 2u; i++) {
            let sum = sums[i];
            coopStoreT(sum, &change[t.subgroup * 16u * FLOATS + 4u * i], FLOATS);
        }
        decays[t.index] = decay(next);
        workgroupBarrier();
        for (var i = 0u; i < OWN; i++) {
            s[i] = (s[i] + change[row * FLOATS + own + i]) * second;
        }
        if done + token < len {
            let y = ys[token * FLOATS + column] + ys[(BLOCK + token) * FLOATS + column];
            acts[(p.sums + (start + done + token) * p.width + head + share) / 4u + column] = y;
        }
    }
    if sends {
        let size = (N + 2u) * p.width / 4u;
        let before = (table[sequence + 1u] * p.slot + p.state - p.width) / 4u - size;
        let first = (b.workgroup.x - p.sends) * THREADS + t.index;
        for (var i = first; i < size; i += SENDERS * THREADS) {
            sent[p.sent / 4u + i] = states[before + i];
        }
        return;
    }
    for (var i = 0u; i < OWN; i++) {
        states[after / 4u + own + i] = s[i];
    }
}

fn halves(x: vec4<f32>) -> vec4<f16> {
    return clamp(vec4<f16>(x), vec4(-f16(LARGEST)), vec4(f16(LARGEST)));
}

/// Four channels of a token; behind the last of `len` there are some that change nothing.
fn fetch(n: u32, c: u32, start: u32, len: u32) -> Fetched {
    let at = (start + min(n, max(len, 1u) - 1u)) * p.width / 4u + c;
    let live = f32(n < len);
    let r = acts[p.r / 4u + at];
    let w = acts[p.w / 4u + at];
    let k = acts[p.k / 4u + at];
    let a = acts[p.a / 4u + at];
    return Fetched(r, select(vec4(1.0), w, n < len), k * live, a);
}

fn fetch_v(n: u32, c: u32, start: u32, len: u32) -> vec4<f32> {
    return acts[(p.v + (start + min(n, max(len, 1u) - 1u)) * p.width) / 4u + c];
}

fn decay(x: array<Fetched, TOKENS>) -> vec4<f32> {
    var w = vec4(1.0);
    for (var i = 0u; i < TOKENS; i++) {
        w *= x[i].w;
    }
    return w;
}
