// Inputs of few tokens as whole numbers of 15 bits, with a scale for each chunk: products with codes are summed as those
// of their bytes, 256 high + low, four at a time.

/// From chunk to chunk: two vectors of high bytes, two of low ones; scale, and sums of the inputs of each half.
const PITCH_packed: u32 = 5u;
/// The exponent of 1, and of the scale of inputs below 2, so that both bytes have a sign.
const EXPONENT: u32 = 0x3f800000u;
const BITS: u32 = 13u << 23u;
/// A float with this added has a whole number in its lowest bits.
const WHOLE: f32 = 12582912.0;

/// Packs four inputs from 4e on, of which eight neighbours have a chunk, if they are `there`.
fn put_packed(t: Thread, e: u32, x: vec4<f32>, there: bool) {
    let sum = lanes_sum(t, 4u, (x.x + x.y) + (x.z + x.w));
    var most = max(max(abs(x.x), abs(x.y)), max(abs(x.z), abs(x.w)));
    for (var lanes = 1u; lanes < 8u; lanes *= 2u) {
        most = max(most, subgroupShuffleXor(most, lanes));
    }
    // Scales are powers of two, from 2^-107 on.
    let exponent = max(bitcast<u32>(most) & 0x7f800000u, 20u << 23u);
    let q = bitcast<vec4<u32>>(x * bitcast<f32>(2u * EXPONENT + BITS - exponent) + WHOLE);
    let at = e / 8u * PITCH_packed;
    let part = e / 4u % 2u;
    if there {
        x_tile[at + part][e % 4u] = pack4xU8((q.xzyw + 128u) >> vec4(8u));
        x_tile[at + 2u + part][e % 4u] = pack4xU8(q.xzyw);
        if e % 4u == 0u {
            x_tile[at + 4u][part] = bitcast<u32>(sum);
            x_tile[at + 4u].z = exponent - BITS;
        }
    }
}

fn dot_packed(w: Packed, x: u32) -> f32 {
    let high = array(x_tile[x], x_tile[x + 1u]);
    let low = array(x_tile[x + 2u], x_tile[x + 3u]);
    let inputs = bitcast<vec4<f32>>(x_tile[x + 4u]);
    var sums: array<vec2<i32>, 2>;
    for (var k = 0u; k < 4u; k++) {
        sums[0] += vec2(dot4I8Packed(w.first[k], high[0][k]), dot4I8Packed(w.last[k], high[1][k]));
        sums[1] += vec2(dot4I8Packed(w.first[k], low[0][k]), dot4I8Packed(w.last[k], low[1][k]));
    }
    let products = vec2<f32>(256 * sums[0] + sums[1]);
    return inputs.z * dot(products, w.factors.xz) + dot(inputs.xy, w.factors.yw);
}
