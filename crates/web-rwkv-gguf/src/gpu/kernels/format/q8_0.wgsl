// Q8_0, in two planes: 32 codes for each chunk, 128 too high; then an f16 scale for each.
struct Raw_q8_0 {
    codes: array<vec4<u32>, 2>,
    scale: f32,
}

fn fetch_q8_0(row: u32, chunk: u32, columns: u32) -> Raw_q8_0 {
    let at = row + 2u * chunk;
    return Raw_q8_0(array(weights[at], weights[at + 1u]), half_at(row + columns / 16u, chunk));
}

fn codes_q8_0(raw: Raw_q8_0) -> Chunk {
    var v: Chunk;
    for (var i = 0u; i < 8u; i++) {
        v[i] = bytes(raw.codes[i / 4u][i % 4u]);
    }
    return v;
}

fn factors_q8_0(raw: Raw_q8_0, chunk: u32) -> vec4<f32> {
    let d = raw.scale;
    return from_one(vec4(d, -128.0 * d, d, -128.0 * d), 256.0);
}

fn packed_q8_0(raw: Raw_q8_0, chunk: u32) -> Packed {
    const TOP = vec4(0x80808080u);
    return Packed(raw.codes[0] ^ TOP, raw.codes[1] ^ TOP, vec4(raw.scale, 0.0, raw.scale, 0.0));
}
