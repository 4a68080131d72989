
/// The values of a chunk, which matrix units take as they are.
fn halves_FORMAT(raw: Raw_FORMAT, chunk: u32) -> Halves {
    var v: Halves;
    for (var i = 0u; i < 4u; i++) {
        v[2u * i] = vec4(halves_of(raw[i].x), halves_of(raw[i].y));
        v[2u * i + 1u] = vec4(halves_of(raw[i].z), halves_of(raw[i].w));
    }
    return v;
}
