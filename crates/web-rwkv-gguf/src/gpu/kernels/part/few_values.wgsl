
/// Products of a unit with the inputs of each token.
fn products_FORMAT(raw: Unit_FORMAT, i: u32, at: u32) -> array<f32, TOKENS> {
    let w = values_FORMAT(raw, i);
    let x = at / UNITS_FORMAT * PITCH_values + at % UNITS_FORMAT * (8u / UNITS_FORMAT);
    var products: array<f32, TOKENS>;
    for (var n = 0u; n < TOKENS; n++) {
        var sum = vec4(0.0);
        for (var k = 0u; k < 8u / UNITS_FORMAT; k++) {
            sum += w[k] * bitcast<vec4<f32>>(x_tile[n * SEGMENT_values * PITCH_values + x + k]);
        }
        products[n] = (sum.x + sum.y) + (sum.z + sum.w);
    }
    return products;
}
