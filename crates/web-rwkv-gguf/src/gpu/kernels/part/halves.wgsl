
/// The values of a chunk, for matrix units.
fn halves_FORMAT(raw: Raw_FORMAT, chunk: u32) -> Halves {
    let f = factors_FORMAT(raw, chunk);
    let q = codes_FORMAT(raw);
    var v: Halves;
    for (var k = 0u; k < 4u; k++) {
        v[k] = vec4<f16>(q[k] * f.x + f.y);
        v[k + 4u] = vec4<f16>(q[k + 4u] * f.z + f.w);
    }
    return v;
}
