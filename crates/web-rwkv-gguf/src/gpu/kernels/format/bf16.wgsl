// BF16: the upper halves of f32; 64 bytes are a chunk.
alias Raw_bf16 = array<vec4<u32>, 4>;
alias Unit_bf16 = vec4<u32>;
const UNITS_bf16: u32 = 4u;

fn fetch_bf16(row: u32, chunk: u32, columns: u32) -> Raw_bf16 {
    var raw: Raw_bf16;
    for (var i = 0u; i < 4u; i++) {
        raw[i] = weights[row + 4u * chunk + i];
    }
    return raw;
}

fn decode_bf16(raw: Raw_bf16, chunk: u32) -> Chunk {
    var v: Chunk;
    for (var i = 0u; i < 4u; i++) {
        let two = values_bf16(raw[i], i);
        v[2u * i] = two[0];
        v[2u * i + 1u] = two[1];
    }
    return v;
}

fn unit_bf16(row: u32, i: u32, columns: u32) -> Unit_bf16 {
    return weights[row + i];
}

fn values_bf16(w: Unit_bf16, i: u32) -> array<vec4<f32>, 2> {
    let low = bitcast<vec4<f32>>(w << vec4(16u));
    let high = bitcast<vec4<f32>>(w & vec4(0xffff0000u));
    return array(vec4(low.x, high.x, low.y, high.y), vec4(low.z, high.z, low.w, high.w));
}
