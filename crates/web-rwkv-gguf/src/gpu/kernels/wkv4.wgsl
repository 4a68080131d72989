// The recurrence of RWKV-4, a thread for each channel of a sequence; BLOCK tokens are fetched together.
//
// y = r (a + e^(u + k) v) / (b + e^(u + k)), then a = e^w a + e^k v, b = e^w b + e^k
//
// a and b are kept over e^top, the largest exponent so far, so that nothing overflows.

struct Params {
    sequences: u32, // in the table
    state: u32, // of this layer's a, b and top, in a slot
    slot: u32, // size
    width: u32,
    r: u32,
    k: u32,
    v: u32,
    u: u32,
    w: u32,
    y: u32,
    y_width: u32,
}

const BLOCK: u32 = 8u;

@compute @workgroup_size(THREADS)
fn wkv4(builtins: Builtins) {
    let c = builtins.workgroup.x * THREADS + thread(builtins).index;
    if c >= p.width {
        return;
    }
    let sequence = p.sequences + SEQUENCE * builtins.workgroup.y;
    let start = table[sequence + 2u];
    let len = table[sequence + 3u];
    let before = table[sequence] * p.slot + p.state + c;
    let after = table[sequence + 1u] * p.slot + p.state + c;
    let u = vectors[p.u + c];
    let w = vectors[p.w + c];
    var a = states[before];
    var b = states[before + p.width];
    var top = states[before + 2u * p.width];
    for (var done = 0u; done < len; done += BLOCK) {
        var r: array<f32, BLOCK>;
        var k: array<f32, BLOCK>;
        var v: array<f32, BLOCK>;
        for (var n = 0u; n < BLOCK; n++) {
            let at = (start + min(done + n, len - 1u)) * p.width + c;
            r[n] = acts[p.r + at];
            k[n] = acts[p.k + at];
            v[n] = acts[p.v + at];
        }
        for (var n = 0u; n < BLOCK; n++) {
            if done + n < len {
                let now = max(top, u + k[n]);
                let past = exp(top - now);
                let here = exp(u + k[n] - now);
                let y = r[n] * (past * a + here * v[n]) / (past * b + here);
                store_input(input_place(p.y, start + done + n, p.y_width, c), y);
                let next = max(top + w, k[n]);
                let decay = exp(top + w - next);
                let more = exp(k[n] - next);
                a = decay * a + more * v[n];
                b = decay * b + more;
                top = next;
            }
        }
    }
    states[after] = a;
    states[after + p.width] = b;
    states[after + 2u * p.width] = top;
}
