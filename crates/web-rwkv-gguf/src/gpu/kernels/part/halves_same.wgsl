
/// The values of a unit, which matrix units take as they are.
fn halves_FORMAT(unit: Unit_FORMAT, i: u32) -> array<vec4<f16>, 2> {
    return halves_in(unit);
}
