// What formats are taken apart with. A format has the bytes of a chunk (`Raw_…`), which are fetched from a row. One of floats
// gives their values, also those of a vector (a unit). One of blocks gives codes as numbers, with factors: value = code ·
// scale + offset, for 16 values x · + y, for the other 16 z · + w; and codes as bytes, with factors for those.

/// A chunk: 32 neighbours of a row.
alias Chunk = array<vec4<f32>, 8>;

/// The codes of a chunk as signed bytes, four neighbours in a word, as 0 2 1 3, and their factors.
struct Packed {
    first: vec4<u32>,
    last: vec4<u32>,
    factors: vec4<f32>,
}

/// The f16 number i from `at` on.
fn half_at(at: u32, i: u32) -> f32 {
    return unpack2x16float(weights[at + i / 8u][(i / 2u) % 4u] >> (16u * (i % 2u))).x;
}

/// The float 1 + q / 16 for 4 bits q, 1 + q / 256 for 8: bits put into the mantissa, which is quicker than a conversion.
/// `q` is shifted so that the highest of the bits is bit 22; `mask` has those bits.
fn mantissa(q: vec4<u32>, mask: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>((q & vec4(mask)) | vec4(0x3f800000u));
}

/// Codes of 4 bits, as 1 + q / 16: word j has values 4j to 4j + 3 in the low halves of its bytes, as 0 2 1 3, and those from
/// 16 + 4j on in the high.
fn nibbles(w: vec4<u32>) -> Chunk {
    var v: Chunk;
    for (var j = 0u; j < 4u; j++) {
        v[j] = mantissa(vec4(w[j] << 19u, w[j] << 3u, w[j] << 11u, w[j] >> 5u), 0x00780000u);
        v[j + 4u] = mantissa(vec4(w[j] << 15u, w[j] >> 1u, w[j] << 7u, w[j] >> 9u), 0x00780000u);
    }
    return v;
}

/// The same as bytes.
fn packed_nibbles(w: vec4<u32>, factors: vec4<f32>) -> Packed {
    return Packed(w & vec4(0x0f0f0f0fu), (w >> vec4(4u)) & vec4(0x0f0f0f0fu), factors);
}

/// Codes of bytes without a sign, as 1 + q / 256.
fn unpacked(p: Packed) -> Chunk {
    var v: Chunk;
    for (var j = 0u; j < 4u; j++) {
        v[j] = bytes(p.first[j]);
        v[j + 4u] = bytes(p.last[j]);
    }
    return v;
}

/// Codes of 8 bits without a sign, as 1 + q / 256.
fn bytes(w: u32) -> vec4<f32> {
    return mantissa(vec4(w << 15u, w >> 1u, w << 7u, w >> 9u), 0x007f8000u);
}

/// Factors for codes q from those for 1 + q / n.
fn from_one(f: vec4<f32>, n: f32) -> vec4<f32> {
    return vec4(n * f.x, f.y - n * f.x, n * f.z, f.w - n * f.z);
}

/// Scale and offset of a group of 32 of a Q4_K or Q5_K block: six bits each, times two f16 in front.
fn k_factors(head: vec4<u32>, group: u32) -> vec4<f32> {
    let d = unpack2x16float(head.x);
    let x = (head.yzw >> vec3(8u * (group % 4u))) & vec3(0xffu);
    let first = vec2(x.x & 63u, x.y & 63u);
    let last = vec2((x.z & 15u) | ((x.x >> 6u) << 4u), (x.z >> 4u) | ((x.y >> 6u) << 4u));
    let f = vec2(d.x, -d.y) * vec2<f32>(select(first, last, group >= 4u));
    return f.xyxy;
}
