// x = (x + g y) scale, a workgroup for each token.

struct Params {
    g: u32,
    y: u32,
    x: u32,
    width: u32,
    scale: f32,
}

@compute @workgroup_size(THREADS)
fn add_gated(b: Builtins) {
    for (var c = thread(b).index; c < p.width; c += THREADS) {
        let at = b.workgroup.x * p.width + c;
        acts[p.x + at] = (acts[p.x + at] + acts[p.g + at] * acts[p.y + at]) * p.scale;
    }
}
