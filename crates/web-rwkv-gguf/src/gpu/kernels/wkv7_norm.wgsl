// What comes after `wkv7` if several workgroups share a head: a TEAM of threads takes a head of a token.

@compute @workgroup_size(THREADS)
fn wkv7_norm(b: Builtins) {
    let t = thread(b);
    let heads = p.width / N;
    let token = b.workgroup.y;
    let head = min(b.workgroup.x * (THREADS / TEAM) + t.index / TEAM, heads - 1u) * N;
    let at = token * p.width + head;
    var mean = 0.0;
    var gain = 0.0;
    for (var c = 4u * (t.index % TEAM); c < N; c += 4u * TEAM) {
        let key = acts[(p.k + at + c) / 4u] * (1.0 + (acts[(p.a + at + c) / 4u] - 1.0) * vectors[(p.k_a + head + c) / 4u]);
        mean += dot(acts[(p.sums + at + c) / 4u], vec4(1.0));
        gain += dot(acts[(p.r + at + c) / 4u] * key, vectors[(p.r_k + head + c) / 4u]);
    }
    mean = lanes_sum(t, TEAM, mean) / f32(N);
    gain = lanes_sum(t, TEAM, gain);
    var variance = 0.0;
    for (var c = 4u * (t.index % TEAM); c < N; c += 4u * TEAM) {
        let x = acts[(p.sums + at + c) / 4u] - mean;
        variance += dot(x, x);
    }
    variance = lanes_sum(t, TEAM, variance) / f32(N);
    let stats = vec3(mean, inverseSqrt(variance + p.eps), gain);
    for (var c = 4u * (t.index % TEAM); c < N; c += 4u * TEAM) {
        let y = acts[(p.sums + at + c) / 4u];
        store(token, head + c, y, stats, acts[(p.v + at + c) / 4u], acts[(p.g + at + c) / 4u]);
    }
}
