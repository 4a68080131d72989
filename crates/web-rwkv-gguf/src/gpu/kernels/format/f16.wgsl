// F16: 64 bytes are a chunk.
alias Raw_f16 = array<vec4<u32>, 4>;

fn fetch_f16(row: u32, chunk: u32, columns: u32) -> Raw_f16 {
    var raw: Raw_f16;
    for (var i = 0u; i < 4u; i++) {
        raw[i] = weights[row + 4u * chunk + i];
    }
    return raw;
}

fn codes_f16(raw: Raw_f16) -> Chunk {
    var v: Chunk;
    for (var i = 0u; i < 4u; i++) {
        v[2u * i] = vec4(unpack2x16float(raw[i].x), unpack2x16float(raw[i].y));
        v[2u * i + 1u] = vec4(unpack2x16float(raw[i].z), unpack2x16float(raw[i].w));
    }
    return v;
}

fn factors_f16(raw: Raw_f16, chunk: u32) -> vec4<f32> {
    return ONE;
}
