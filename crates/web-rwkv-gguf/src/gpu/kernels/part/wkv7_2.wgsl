// Two columns of a thread.
alias State = vec2<f32>;

fn put_v(at: u32, v: vec4<f32>) {
    vs[2u * at] = v.xy;
    vs[2u * at + 1u] = v.zw;
}

fn four_v(at: u32) -> vec4<f32> {
    return vec4(vs[2u * at], vs[2u * at + 1u]);
}

fn four_y(at: u32) -> vec4<f32> {
    return vec4(ys[2u * at], ys[2u * at + 1u]);
}
