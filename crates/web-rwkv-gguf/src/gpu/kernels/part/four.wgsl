// Four neighbours.

fn four(at: u32) -> vec4<f32> {
    return vec4(acts[at], acts[at + 1u], acts[at + 2u], acts[at + 3u]);
}

fn four_of(at: u32) -> vec4<f32> {
    return vec4(vectors[at], vectors[at + 1u], vectors[at + 2u], vectors[at + 3u]);
}
