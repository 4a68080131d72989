// F32: 128 bytes are a chunk.
alias Raw_f32 = array<vec4<u32>, 8>;
alias Unit_f32 = vec4<u32>;
const UNITS_f32: u32 = 8u;

fn fetch_f32(row: u32, chunk: u32, columns: u32) -> Raw_f32 {
    var raw: Raw_f32;
    for (var i = 0u; i < 8u; i++) {
        raw[i] = weights[row + 8u * chunk + i];
    }
    return raw;
}

fn decode_f32(raw: Raw_f32, chunk: u32) -> Chunk {
    var v: Chunk;
    for (var i = 0u; i < 8u; i++) {
        v[i] = bitcast<vec4<f32>>(raw[i]);
    }
    return v;
}

fn unit_f32(row: u32, i: u32, columns: u32) -> Unit_f32 {
    return weights[row + i];
}

fn values_f32(w: Unit_f32, i: u32) -> array<vec4<f32>, 1> {
    return array(bitcast<vec4<f32>>(w));
}
