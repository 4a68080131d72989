// Q4_0, in two planes: 16 bytes of codes for each chunk, 8 too high; then an f16 scale for each.
struct Raw_q4_0 {
    codes: vec4<u32>,
    scale: f32,
}

fn fetch_q4_0(row: u32, chunk: u32, columns: u32) -> Raw_q4_0 {
    return Raw_q4_0(weights[row + chunk], half_at(row + columns / 32u, chunk));
}

fn codes_q4_0(raw: Raw_q4_0) -> Chunk {
    return nibbles(raw.codes);
}

fn factors_q4_0(raw: Raw_q4_0, chunk: u32) -> vec4<f32> {
    return from_one(packed_q4_0(raw, chunk).factors, 16.0);
}

fn packed_q4_0(raw: Raw_q4_0, chunk: u32) -> Packed {
    let d = raw.scale;
    return packed_nibbles(raw.codes, vec4(d, -8.0 * d, d, -8.0 * d));
}
