// As `shift`, of sequences that have one token each: several workgroups for each, of which every one computes the norm, and a
// thread has a channel. So few tokens wait for one another's memory, and the less a kernel's code is, the quicker it comes.

@compute @workgroup_size(THREADS)
fn shift_alone(b: Builtins) {
    let t = thread(b);
    let token = b.workgroup.x;
    let channel = b.workgroup.y * THREADS + t.index;
    let c = min(channel, WIDTH - 1u);
    let row = p.x + token * WIDTH;
    let x = load_acts(t, row);
    let own = acts[row + c];
    let weight = vectors[p.weight + c];
    let bias = vectors[p.bias + c];
    var mix: array<f32, MIXES>;
    for (var i = 0u; i < MIXES; i++) {
        mix[i] = vectors[p.mix + i * p.mix_stride + c];
    }
    let s = p.sequences + SEQUENCE * token;
    let after = table[s + 1u] * p.slot + p.state + c;
    let before = states[table[s] * p.slot + p.state + c];
    let q = statistics(t, x);
    let h = (own - q.x) * q.y * weight + bias;
    if channel < WIDTH {
        states[after] = h;
        if KEEP != 0u {
            acts[p.h + token * WIDTH + c] = h;
        }
        for (var i = 0u; i < MIXES; i++) {
            let y = input_place(p.y + i * p.y_stride, token, p.y_width, c);
            store_input(y, h + mix[i] * (before - h));
        }
    }
}
