// Q4_K: for 256 values the 16 bytes of scales of the file, then 16 bytes of codes for each chunk.
struct Raw_q4_k {
    head: vec4<u32>,
    codes: vec4<u32>,
}

fn fetch_q4_k(row: u32, chunk: u32, columns: u32) -> Raw_q4_k {
    let block = row + 9u * (chunk / 8u);
    return Raw_q4_k(weights[block], weights[block + 1u + chunk % 8u]);
}

fn codes_q4_k(raw: Raw_q4_k) -> Chunk {
    return nibbles(raw.codes);
}

fn factors_q4_k(raw: Raw_q4_k, chunk: u32) -> vec4<f32> {
    return from_one(k_factors(raw.head, chunk % 8u), 16.0);
}

fn packed_q4_k(raw: Raw_q4_k, chunk: u32) -> Packed {
    return packed_nibbles(raw.codes, k_factors(raw.head, chunk % 8u));
}
