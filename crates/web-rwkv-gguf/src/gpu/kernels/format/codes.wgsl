// Any other format, as codes with factors: for each chunk 32 signed codes, then scale and offset of each 16, in f32.
alias Raw_codes = array<vec4<u32>, 3>;

fn fetch_codes(row: u32, chunk: u32, columns: u32) -> Raw_codes {
    let at = row + 3u * chunk;
    return array(weights[at], weights[at + 1u], weights[at + 2u]);
}

fn codes_codes(raw: Raw_codes) -> Chunk {
    var v: Chunk;
    for (var i = 0u; i < 8u; i++) {
        v[i] = vec4<f32>(unpack4xI8(raw[i / 4u][i % 4u])).xzyw;
    }
    return v;
}

fn factors_codes(raw: Raw_codes, chunk: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(raw[2]);
}

fn packed_codes(raw: Raw_codes, chunk: u32) -> Packed {
    return Packed(raw[0], raw[1], bitcast<vec4<f32>>(raw[2]));
}
