// What formats are taken apart with. A format has the bytes of a chunk (`Raw_…`), which are fetched from a row; codes of
// them, as numbers; and factors: value = code · scale + offset, for 16 values x · + y, for the other 16 z · + w.

/// A chunk: 32 neighbours of a row.
alias Chunk = array<vec4<f32>, 8>;

/// The factors of formats whose codes are values.
const ONE: vec4<f32> = vec4(1.0, 0.0, 1.0, 0.0);

/// The f16 number i from `at` on.
fn half_at(at: u32, i: u32) -> f32 {
    return unpack2x16float(weights[at + i / 8u][(i / 2u) % 4u] >> (16u * (i % 2u))).x;
}

/// The float 1 + q / 16 for 4 bits q, 1 + q / 256 for 8: bits put into the mantissa, which is quicker than a conversion.
/// `q` is shifted so that the highest of the bits is bit 22; `mask` has those bits.
fn mantissa(q: vec4<u32>, mask: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>((q & vec4(mask)) | vec4(0x3f800000u));
}

/// Codes of 4 bits, as 1 + q / 16: word j has values 8j to 8j + 7, the even ones in its lower half.
fn nibbles(w: u32) -> array<vec4<f32>, 2> {
    let first = vec4(w << 19u, w << 3u, w << 15u, w >> 1u);
    let last = vec4(w << 11u, w >> 5u, w << 7u, w >> 9u);
    return array(mantissa(first, 0x00780000u), mantissa(last, 0x00780000u));
}

/// Codes of 8 bits without a sign, as 1 + q / 256.
fn bytes(w: u32) -> vec4<f32> {
    return mantissa(vec4(w << 15u, w << 7u, w >> 1u, w >> 9u), 0x007f8000u);
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
