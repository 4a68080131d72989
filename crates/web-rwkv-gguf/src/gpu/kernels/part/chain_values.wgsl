
fn product_FORMAT(raw: Unit_FORMAT, i: u32) -> f32 {
    let w = values_FORMAT(raw, i);
    var sum = vec4(0.0);
    for (var k = 0u; k < 8u / UNITS_FORMAT; k++) {
        sum += w[k] * halves_at(i * (8u / UNITS_FORMAT) + k);
    }
    return (sum.x + sum.y) + (sum.z + sum.w);
}
