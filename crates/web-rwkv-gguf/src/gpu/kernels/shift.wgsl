// h = norm(x), then for each of several mixes y = h + m (h₋₁ − h); a workgroup for each token, a thread for four neighbours. The
// first token of a sequence takes h₋₁ from the state, and puts the h of the last one there; ALONE says that it is that. KEEP says
// whether h itself is wanted. What a product is yet to add to x may lie in SPLITS parts: then it is added here, and x goes to
// another place, because workgroups read one another's.

const FOURS: u32 = WIDTH / 4u;
const PER_THREAD: u32 = (FOURS + THREADS - 1u) / THREADS;
alias Row = array<vec4<f32>, PER_THREAD>;

/// What four channels need beside x.
struct Own {
    weight: vec4<f32>,
    bias: vec4<f32>,
    mix: array<vec4<f32>, MIXES>,
    state: vec4<f32>,
}

@compute @workgroup_size(THREADS)
fn shift(b: Builtins) {
    let t = thread(b);
    let token = b.workgroup.x;
    let x = row_of(t, token);
    // Beside its own row that of the token before, or for the first token that of the last one.
    var s = p.sequences + SEQUENCE * token;
    var first = true;
    var other = x;
    if ALONE == 0u {
        s = p.sequences + SEQUENCE * table[p.sequence_of + token];
        first = token == table[s + 2u];
        other = row_of(t, select(token - 1u, token + table[s + 3u] - 1u, first));
    }
    let state = (table[s] * p.slot + p.state) / 4u;
    let after = (table[s + 1u] * p.slot + p.state) / 4u;
    var own: array<Own, PER_THREAD>;
    var sums = vec2(0.0);
    for (var k = 0u; k < PER_THREAD; k++) {
        if ALONE != 0u {
            // Of many tokens it would only take registers, of which two workgroups share a multiprocessor's.
            own[k] = own_at(min(t.index + k * THREADS, FOURS - 1u), state, first);
        }
        let both = vec2(dot(x[k], vec4(1.0)), dot(other[k], vec4(1.0)));
        sums += select(vec2(0.0), both, t.index + k * THREADS < FOURS);
    }
    let mean = workgroup_sum(t, THREADS, sums) / f32(WIDTH);
    var squares = vec2(0.0);
    for (var k = 0u; k < PER_THREAD; k++) {
        let d = x[k] - mean.x;
        let e = other[k] - mean.y;
        squares += select(vec2(0.0), vec2(dot(d, d), dot(e, e)), t.index + k * THREADS < FOURS);
    }
    let scale = inverseSqrt(workgroup_sum(t, THREADS, squares) / f32(WIDTH) + p.eps);
    for (var k = 0u; k < PER_THREAD; k++) {
        let c = t.index + k * THREADS;
        if c < FOURS {
            if ALONE == 0u {
                own[k] = own_at(c, state, first);
            }
            let h = (x[k] - mean.x) * scale.x * own[k].weight + own[k].bias;
            var before = (other[k] - mean.y) * scale.y * own[k].weight + own[k].bias;
            if first {
                states[after + c] = before;
                before = own[k].state;
            }
            if SPLITS > 0u {
                acts[(p.x_after + token * WIDTH) / 4u + c] = x[k];
            }
            if KEEP != 0u {
                acts[(p.h + token * WIDTH) / 4u + c] = h;
            }
            for (var i = 0u; i < MIXES; i++) {
                let y = clamp(h + own[k].mix[i] * (before - h), vec4(-LARGEST), vec4(LARGEST));
                inputs[input_place(p.y + i * p.y_stride, token, p.y_width, 4u * c) / 4u] = vec4<Input>(y);
            }
        }
    }
}

/// x of a token, with what is yet to be added.
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

fn own_at(c: u32, state: u32, first: bool) -> Own {
    var own: Own;
    own.weight = vectors[p.weight / 4u + c];
    own.bias = vectors[p.bias / 4u + c];
    for (var i = 0u; i < MIXES; i++) {
        own.mix[i] = vectors[(p.mix + i * p.mix_stride) / 4u + c];
    }
    if first {
        own.state = states[state + c];
    }
    return own;
}
