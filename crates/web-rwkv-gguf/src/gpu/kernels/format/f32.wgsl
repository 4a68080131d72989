// F32: 128 bytes are a chunk.
alias Raw_f32 = array<vec4<u32>, 8>;

fn fetch_f32(row: u32, chunk: u32, columns: u32) -> Raw_f32 {
    var raw: Raw_f32;
    for (var i = 0u; i < 8u; i++) {
        raw[i] = weights[row + 8u * chunk + i];
    }
    return raw;
}

fn codes_f32(raw: Raw_f32) -> Chunk {
    var v: Chunk;
    for (var i = 0u; i < 8u; i++) {
        v[i] = bitcast<vec4<f32>>(raw[i]);
    }
    return v;
}

fn factors_f32(raw: Raw_f32, chunk: u32) -> vec4<f32> {
    return ONE;
}
