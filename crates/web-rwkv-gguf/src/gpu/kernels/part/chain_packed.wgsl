
fn product_FORMAT(raw: Unit_FORMAT, i: u32) -> f32 {
    return dot_packed(packed_FORMAT(raw, i), i * PITCH_packed);
}
