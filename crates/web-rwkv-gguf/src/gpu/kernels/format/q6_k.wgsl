// Q6_K, in two planes: for 256 values 16 bytes of low bits for each chunk, two words of high bits for each (two bits for
// each value), 16 scales; then an f16 scale for each 256. Codes are 32 too high.
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
    var v: Chunk;
    for (var i = 0u; i < 8u; i++) {
        let low = (vec4(raw.codes[i / 2u] >> (16u * (i % 2u))) >> vec4(0u, 4u, 8u, 12u)) & vec4(15u);
        let high = (vec4(raw.high[i / 4u] >> (8u * (i % 4u))) >> vec4(0u, 2u, 4u, 6u)) & vec4(3u);
        v[i] = mantissa((low | (high << vec4(4u))) << vec4(15u), 0x007f8000u);
    }
    return v;
}

fn factors_q6_k(raw: Raw_q6_k, chunk: u32) -> vec4<f32> {
    let d = raw.scale * vec2<f32>(unpack4xI8(raw.scales).xy);
    return from_one(vec4(d.x, -32.0 * d.x, d.y, -32.0 * d.y), 256.0);
}
