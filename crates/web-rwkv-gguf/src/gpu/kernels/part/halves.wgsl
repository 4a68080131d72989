
/// The values of a chunk, for matrix units.
fn halves_FORMAT(raw: Raw_FORMAT, chunk: u32) -> Halves {
    let w = decode_FORMAT(raw, chunk);
    var v: Halves;
    for (var k = 0u; k < 8u; k++) {
        v[k] = vec4<f16>(w[k]);
    }
    return v;
}
