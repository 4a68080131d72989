// BF16: the upper halves of f32; 64 bytes are a chunk.
alias Raw_bf16 = array<vec4<u32>, 4>;

fn fetch_bf16(row: u32, chunk: u32, columns: u32) -> Raw_bf16 {
    var raw: Raw_bf16;
    for (var i = 0u; i < 4u; i++) {
        raw[i] = weights[row + 4u * chunk + i];
    }
    return raw;
}

fn codes_bf16(raw: Raw_bf16) -> Chunk {
    var v: Chunk;
    for (var i = 0u; i < 4u; i++) {
        let low = bitcast<vec4<f32>>(raw[i] << vec4(16u));
        let high = bitcast<vec4<f32>>(raw[i] & vec4(0xffff0000u));
        v[2u * i] = vec4(low.x, high.x, low.y, high.y);
        v[2u * i + 1u] = vec4(low.z, high.z, low.w, high.w);
    }
    return v;
}

fn factors_bf16(raw: Raw_bf16, chunk: u32) -> vec4<f32> {
    return ONE;
}
