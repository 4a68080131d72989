// Q5_K: for 256 values the 16 bytes of scales of the file, a word of fifth bits for each chunk (bit i of byte j for value
// 4i + j), then 16 bytes of low bits for each.
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
    return unpacked(packed_q5_k(raw, 0u));
}

fn factors_q5_k(raw: Raw_q5_k, chunk: u32) -> vec4<f32> {
    return from_one(k_factors(raw.head, chunk % 8u), 256.0);
}

fn packed_q5_k(raw: Raw_q5_k, chunk: u32) -> Packed {
    var p = packed_nibbles(raw.codes, k_factors(raw.head, chunk % 8u));
    let fifth = vec4(raw.fifth) >> vec4(0u, 1u, 2u, 3u);
    p.first |= (fifth & vec4(0x01010101u)) << vec4(4u);
    p.last |= fifth & vec4(0x10101010u);
    return p;
}
