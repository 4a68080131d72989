
/// The values of a chunk.
fn decode_FORMAT(raw: Raw_FORMAT, chunk: u32) -> Chunk {
    let f = factors_FORMAT(raw, chunk);
    var v = codes_FORMAT(raw);
    for (var k = 0u; k < 4u; k++) {
        v[k] = v[k] * f.x + f.y;
        v[k + 4u] = v[k + 4u] * f.z + f.w;
    }
    return v;
}
