// Q6_K, in two planes: for 256 values 16 bytes of low bits for each chunk, two words of high bits for each (bits 2i and
// 2i + 1 of byte j for value 4i + j of 16), 16 scales; then an f16 scale for each 256. Codes are 32 too high.
struct Raw_q6_k {
    codes: vec4<u32>,
    high: vec2<u32>,
    scales: u32,
    scale: f32,
}

fn fetch_q6_k(row: u32, chunk: u32, columns: u32) -> Raw_q6_k {
    let block = row + 13u * (chunk / 8u);
    let group = chunk % 8u;
    let high = weights[block + 8u + group / 2u];
    return Raw_q6_k(
        weights[block + group],
        select(high.xy, high.zw, group % 2u == 1u),
        weights[block + 12u][group / 2u] >> (16u * (group % 2u)),
        half_at(row + 13u * (columns / 256u), chunk / 8u),
    );
}

fn codes_q6_k(raw: Raw_q6_k) -> Chunk {
    return unpacked(packed_q6_k(raw, 0u));
}

fn factors_q6_k(raw: Raw_q6_k, chunk: u32) -> vec4<f32> {
    return from_one(packed_q6_k(raw, chunk).factors, 256.0);
}

fn packed_q6_k(raw: Raw_q6_k, chunk: u32) -> Packed {
    let d = raw.scale * vec2<f32>(unpack4xI8(raw.scales).xy);
    var p = packed_nibbles(raw.codes, vec4(d.x, -32.0 * d.x, d.y, -32.0 * d.y));
    p.first |= two_bits(raw.high.x);
    p.last |= two_bits(raw.high.y);
    return p;
}

/// Bits 2i and 2i + 1 of each byte as bits 4 and 5 of word i.
fn two_bits(w: u32) -> vec4<u32> {
    return vec4(w << 4u, w << 2u, w, w >> 2u) & vec4(0x30303030u);
}
