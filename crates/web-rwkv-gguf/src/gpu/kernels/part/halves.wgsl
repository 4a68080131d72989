
/// The values of a unit, for matrix units.
fn halves_FORMAT(unit: Unit_FORMAT, i: u32) -> array<vec4<f16>, 8u / UNITS_FORMAT> {
    let w = values_FORMAT(unit, i);
    var v: array<vec4<f16>, 8u / UNITS_FORMAT>;
    for (var k = 0u; k < 8u / UNITS_FORMAT; k++) {
        v[k] = vec4<f16>(w[k]);
    }
    return v;
}
