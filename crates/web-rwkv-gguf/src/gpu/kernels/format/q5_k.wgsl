// Q5_K: for 256 values the 16 bytes of scales of the file, a word of fifth bits for each chunk (bit i for value i), then
// 16 bytes of low bits for each.
struct Raw_q5_k {
    head: vec4<u32>,
    codes: vec4<u32>,
    fifth: u32,
}

fn fetch_q5_k(row: u32, chunk: u32, columns: u32) -> Raw_q5_k {
    let block = row + 11u * (chunk / 8u);
    let group = chunk % 8u;
    return Raw_q5_k(weights[block], weights[block + 3u + group], weights[block + 1u + group / 4u][group % 4u]);
}

fn codes_q5_k(raw: Raw_q5_k) -> Chunk {
    var v: Chunk;
    for (var i = 0u; i < 8u; i++) {
        let low = (vec4(raw.codes[i / 2u] >> (16u * (i % 2u))) >> vec4(0u, 4u, 8u, 12u)) & vec4(15u);
        let high = (vec4(raw.fifth >> (4u * i)) >> vec4(0u, 1u, 2u, 3u)) & vec4(1u);
        v[i] = mantissa((low | (high << vec4(4u))) << vec4(15u), 0x007f8000u);
    }
    return v;
}

fn factors_q5_k(raw: Raw_q5_k, chunk: u32) -> vec4<f32> {
    return from_one(k_factors(raw.head, chunk % 8u), 256.0);
}
