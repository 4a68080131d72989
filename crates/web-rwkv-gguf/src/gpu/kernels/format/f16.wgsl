// F16: 64 bytes are a chunk.
alias Raw_f16 = array<vec4<u32>, 4>;
alias Unit_f16 = vec4<u32>;
const UNITS_f16: u32 = 4u;

fn fetch_f16(row: u32, chunk: u32, columns: u32) -> Raw_f16 {
    var raw: Raw_f16;
    for (var i = 0u; i < 4u; i++) {
        raw[i] = weights[row + 4u * chunk + i];
    }
    return raw;
}

fn decode_f16(raw: Raw_f16, chunk: u32) -> Chunk {
    var v: Chunk;
    for (var i = 0u; i < 4u; i++) {
        let two = values_f16(raw[i], i);
        v[2u * i] = two[0];
        v[2u * i + 1u] = two[1];
    }
    return v;
}

fn unit_f16(row: u32, i: u32, columns: u32) -> Unit_f16 {
    return weights[row + i];
}

fn values_f16(w: Unit_f16, i: u32) -> array<vec4<f32>, 2> {
    return array(vec4(unpack2x16float(w.x), unpack2x16float(w.y)), vec4(unpack2x16float(w.z), unpack2x16float(w.w)));
}
