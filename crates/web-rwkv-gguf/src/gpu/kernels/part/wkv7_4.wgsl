// Four columns of a thread.
alias State = vec4<f32>;

fn put_v(at: u32, v: vec4<f32>) {
    vs[at] = v;
}

fn four_v(at: u32) -> vec4<f32> {
    return vs[at];
}

fn four_y(at: u32) -> vec4<f32> {
    return ys[at];
}
