// h = norm(x), then for each of several mixes y = h + m (h₋₁ − h); a workgroup for each token, a thread for four neighbours. The
// first token of a sequence takes h₋₁ from the state, and puts the h of the last one there; ALONE says that it is that. KEEP says
// whether h itself is wanted. What a product is yet to add to x may lie in SPLITS parts: then it is added here, and x goes to
// another place, because workgroups read one another's.

struct Params {
    sequences: u32, // in the table
    sequence_of: u32, // in the table, for each token
    x: u32,
    weight: u32,
    bias: u32,
    eps: f32,
    state: u32, // of this shift, in a slot
    slot: u32, // size
    mix: u32, // the first of the mixes
    mix_stride: u32,
    y: u32, // the first of the results
    y_stride: u32,
    y_width: u32,
    h: u32,
    /// Where the parts are, from token to token, how long a part is, and where x goes.
    parts: u32,
    pitch: u32,
    part: u32,
    x_after: u32,
}

const FOURS: u32 = WIDTH / 4u;
const PER_THREAD: u32 = (FOURS + THREADS - 1u) / THREADS;
alias Row = array<vec4<f32>, PER_THREAD>;

@compute @workgroup_size(THREADS)
fn shift(b: Builtins) {
    let t = thread(b);
    let token = b.workgroup.x;
    let s = p.sequences + SEQUENCE * table[p.sequence_of + token];
    let state = (table[s] * p.slot + p.state) / 4u;
    let first = token == table[s + 1u];
    // Beside its own row that of the token before, or for the first token that of the last one.
    let x = row_of(t, token);
    var other = x;
    if ALONE == 0u {
        other = row_of(t, select(token - 1u, token + table[s + 2u] - 1u, first));
    }
    var weight: Row;
    var bias: Row;
    var mix: array<Row, MIXES>;
    var sums = vec2(0.0);
    for (var k = 0u; k < PER_THREAD; k++) {
        let c = min(t.index + k * THREADS, FOURS - 1u);
        weight[k] = vectors[p.weight / 4u + c];
        bias[k] = vectors[p.bias / 4u + c];
        for (var i = 0u; i < MIXES; i++) {
            mix[i][k] = vectors[(p.mix + i * p.mix_stride) / 4u + c];
        }
        let both = vec2(dot(x[k], vec4(1.0)), dot(other[k], vec4(1.0)));
        sums += select(vec2(0.0), both, t.index + k * THREADS < FOURS);
    }
    let mean = workgroup_sum(t, THREADS, sums) / f32(WIDTH);
    var squares = vec2(0.0);
    for (var k = 0u; k < PER_THREAD; k++) {
        let own = x[k] - mean.x;
        let others = other[k] - mean.y;
        squares += select(vec2(0.0), vec2(dot(own, own), dot(others, others)), t.index + k * THREADS < FOURS);
    }
    let scale = inverseSqrt(workgroup_sum(t, THREADS, squares) / f32(WIDTH) + p.eps);
    for (var k = 0u; k < PER_THREAD; k++) {
        let c = t.index + k * THREADS;
        if c < FOURS {
            let h = (x[k] - mean.x) * scale.x * weight[k] + bias[k];
            var before = (other[k] - mean.y) * scale.y * weight[k] + bias[k];
            if first {
                let last = before;
                before = states[state + c];
                states[state + c] = last;
            }
            if SPLITS > 0u {
                acts[(p.x_after + token * WIDTH) / 4u + c] = x[k];
            }
            if KEEP != 0u {
                acts[(p.h + token * WIDTH) / 4u + c] = h;
            }
            for (var i = 0u; i < MIXES; i++) {
                let y = clamp(h + mix[i][k] * (before - h), vec4(-LARGEST), vec4(LARGEST));
                inputs[(p.y + i * p.y_stride + token * p.y_width) / 4u + c] = vec4<Input>(y);
            }
        }
    }
}

fn row_of(t: Thread, token: u32) -> Row {
    var x: Row;
    for (var k = 0u; k < PER_THREAD; k++) {
        let c = min(t.index + k * THREADS, FOURS - 1u);
        x[k] = acts[(p.x + token * WIDTH) / 4u + c];
        for (var i = 0u; i < SPLITS; i++) {
            x[k] += acts[(p.parts + token * p.pitch + i * p.part) / 4u + c];
        }
    }
    return x;
}
