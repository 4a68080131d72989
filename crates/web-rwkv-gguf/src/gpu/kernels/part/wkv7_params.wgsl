// What both kernels of `wkv7` have in common.

struct Params {
    sequences: u32, // in the table
    state: u32, // of this layer's S, in a slot
    slot: u32, // size
    width: u32,
    r: u32,
    w: u32,
    k: u32,
    v: u32,
    a: u32,
    g: u32,
    v_first: u32,
    first: u32, // whether this layer's v is v_first
    k_k: u32,
    k_a: u32,
    r_k: u32,
    weight: u32,
    bias: u32,
    eps: f32,
    y: u32,
    y_width: u32,
    sums: u32, // S r, if there are several workgroups
    /// Of `wkv7` in blocks: w, a, g and nu from token to token and from part to part, and what gates are made with.
    pitch: u32,
    part: u32,
    nu: u32,
    w0: u32,
    a0: u32,
    v0: u32,
    /// Of `wkv7_matrix`: from this workgroup on what the layer before has left of the state is sent, to this place.
    sends: u32,
    sent: u32,
}

/// (norm(y) + (Σ r k r_k) v) g, of mean, 1 / deviation and Σ r k r_k.
fn store(token: u32, c: u32, y: vec4<f32>, stats: vec3<f32>, v: vec4<f32>, g: vec4<f32>) {
    let normed = (y - stats.x) * stats.y * vectors[(p.weight + c) / 4u] + vectors[(p.bias + c) / 4u];
    let x = clamp((normed + stats.z * v) * g, vec4(-LARGEST), vec4(LARGEST));
    inputs[input_place(p.y, token, p.y_width, c) / 4u] = vec4<Input>(x);
}
