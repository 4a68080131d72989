
/// The values of a chunk of codes of 4 bits, for matrix units.
fn halves_FORMAT(raw: Raw_FORMAT, chunk: u32) -> array<vec4<f16>, 8> {
    let f = factors_FORMAT(raw, chunk); // of 1 + q / 16
    var v: array<vec4<f16>, 8>;
    for (var j = 0u; j < 4u; j++) {
        let eight = nibble_halves(raw.codes[j], f16(f.x / 16.0), f16(f.x + f.y));
        v[j] = eight[0];
        v[j + 4u] = eight[1];
    }
    return v;
}
