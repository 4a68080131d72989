
/// Products of a chunk with the inputs of each token.
fn products_FORMAT(raw: Raw_FORMAT, chunk: u32, at: u32) -> array<f32, TOKENS> {
    let w = packed_FORMAT(raw, chunk);
    var products: array<f32, TOKENS>;
    for (var n = 0u; n < TOKENS; n++) {
        products[n] = dot_packed(w, (n * SEGMENT_packed + at) * PITCH_packed);
    }
    return products;
}
