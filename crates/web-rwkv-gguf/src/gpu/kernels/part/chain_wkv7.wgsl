// The recurrence of a head as in wkv7.wgsl, of one token; a thread has J rows of four columns.
const J: u32 = N / PARTS;
const SIZE: u32 = N / 4u;

/// Of the channels of a head, in vectors of four: r, w, k, v, a, g; and y.
var<workgroup> given: array<vec4<f32>, 6u * SIZE>;
var<workgroup> ys: array<vec4<f32>, SIZE>;

fn wkv7(t: Thread, task: u32) {
    let has_rows = t.index < SIZE * PARTS;
    let i = t.index / PARTS % SIZE;
    let part = t.index % PARTS;
    let head = task * SIZE;
    let place = 4u * part * FOURS + head + i;
    let state = told(2u) / 4u + place;
    var s: array<vec4<f32>, J>;
    for (var j = 0u; j < J; j++) {
        s[j] = states[state + row(j) * FOURS];
    }
    var k_k: array<vec4<f32>, J / 4u>;
    var k_a: array<vec4<f32>, J / 4u>;
    var r_k: array<vec4<f32>, J / 4u>;
    for (var m = 0u; m < J / 4u; m++) {
        let c = head + part + PARTS * m;
        k_k[m] = vectors[told(11u) / 4u + c];
        k_a[m] = vectors[told(12u) / 4u + c];
        r_k[m] = vectors[told(13u) / 4u + c];
    }
    // Of the first threads, which have four channels each.
    let e = t.index % SIZE;
    let c = head + e;
    let norm_weight = vectors[told(14u) / 4u + c];
    let norm_bias = vectors[told(15u) / 4u + c];
    for (var n = t.index; n < 6u * SIZE; n += THREADS) {
        given[n] = floats_at(told(4u + n / SIZE), head + n % SIZE);
    }
    workgroupBarrier();
    let v_first = told(10u);
    if v_first != 0u && t.index < SIZE {
        let bits = bitcast<vec4<u32>>(given[3u * SIZE + e]);
        let tag = vec4(v_first & 0xffffu);
        posts[(v_first >> 16u) + 2u * c] = (bits & vec4(0xffff0000u)) | tag;
        posts[(v_first >> 16u) + 2u * c + 1u] = (bits << vec4(16u)) | tag;
    }
    var sa = vec4(0.0);
    var square = 0.0;
    var gain = 0.0;
    for (var m = 0u; m < J / 4u; m++) {
        let at = part + PARTS * m;
        let u = given[2u * SIZE + at] * k_k[m];
        for (var j = 0u; j < 4u; j++) {
            sa += s[4u * m + j] * u[j];
        }
        square += dot(u, u);
    }
    let scale = -1.0 / max(lanes_sum(t, PARTS, square), 1e-24);
    for (var j = 0u; j < 4u; j++) {
        sa[j] = lanes_sum(t, PARTS, sa[j]) * scale;
    }
    let v = given[3u * SIZE + i];
    var y = vec4(0.0);
    for (var m = 0u; m < J / 4u; m++) {
        let at = part + PARTS * m;
        let r = given[at];
        let w = given[SIZE + at];
        let k = given[2u * SIZE + at];
        let a = given[4u * SIZE + at];
        let ua = k * k_k[m] * a;
        let key = k * (1.0 + (a - 1.0) * k_a[m]);
        gain += dot(r * key, r_k[m]);
        for (var j = 0u; j < 4u; j++) {
            s[4u * m + j] = s[4u * m + j] * w[j] + sa * ua[j] + v * key[j];
            y += s[4u * m + j] * r[j];
        }
    }
    for (var j = 0u; j < 4u; j++) {
        y[j] = lanes_sum(t, PARTS, y[j]);
    }
    gain = lanes_sum(t, PARTS, gain);
    if has_rows && part == 0u {
        ys[i] = y;
    }
    workgroupBarrier();
    // Squares are of differences from one of the numbers, as in `statistics`.
    let near = ys[0].x;
    var sum = 0.0;
    var squares = 0.0;
    for (var m = 0u; m < J / 4u; m++) {
        let d = ys[part + PARTS * m] - near;
        sum += dot(d, vec4(1.0));
        squares += dot(d, d);
    }
    let off = lanes_sum(t, PARTS, sum) / f32(N);
    let variance = max(lanes_sum(t, PARTS, squares) / f32(N) - off * off, 0.0);
    if t.index < SIZE {
        let normed = (ys[e] - near - off) * inverseSqrt(variance + bitcast<f32>(told(16u))) * norm_weight + norm_bias;
        let x = clamp((normed + gain * given[3u * SIZE + e]) * given[5u * SIZE + e], vec4(-LARGEST), vec4(LARGEST));
        let halves = vec4<f32>(vec4<Input>(x));
        let two = vec2(pack2x16float(halves.xy), pack2x16float(halves.zw)).xxyy;
        let to = told(17u);
        posts[(to >> 16u) + c] = ((two << vec4(16u, 0u, 16u, 0u)) & vec4(0xffff0000u)) | vec4(to & 0xffffu);
    }
    if has_rows {
        let after = told(3u) / 4u + place;
        for (var j = 0u; j < J; j++) {
            states[after + row(j) * FOURS] = s[j];
        }
    }
}

/// Row j of a thread, from its first.
fn row(j: u32) -> u32 {
    return j / 4u * 4u * PARTS + j % 4u;
}
