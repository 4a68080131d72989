
/// Chunk e of a step of weights.
fn step_FORMAT(job: Job, first: u32, s: u32, e: u32) -> Raw_FORMAT {
    let row = job.weights + min(first + e / CHUNKS, job.rows - 1u) * job.stride;
    return fetch_FORMAT(row, min(s * CHUNKS + e % CHUNKS, job.columns / 32u - 1u), job.columns);
}

fn product_FORMAT(t: Thread, job: Job, first: u32, token: u32) {
    let down = t.subgroup % DOWN;
    let across = t.subgroup / DOWN;
    let chunks = job.columns / 32u;
    let steps = (chunks + CHUNKS - 1u) / CHUNKS;
    var sums: array<array<coop_mat16x16<f32, C>, WIDE>, DEEP>;
    var raw: array<Raw_FORMAT, FETCH>;
    var x: array<vec4<f16>, FETCH_X>;
    for (var i = 0u; i < FETCH; i++) {
        raw[i] = step_FORMAT(job, first, 0u, t.index + i * THREADS);
    }
    for (var i = 0u; i < FETCH_X; i++) {
        x[i] = inputs[input_at(job, token, 0u, t.index + i * THREADS)];
    }
    for (var s = 0u; s < steps; s++) {
        workgroupBarrier();
        for (var i = 0u; i < FETCH; i++) {
            let e = t.index + i * THREADS;
            let chunk = s * CHUNKS + e % CHUNKS;
            let w = decode_FORMAT(raw[i], chunk);
            for (var k = 0u; k < 8u; k++) {
                // Behind the last chunk there are zeros.
                w_tile[STRIDE * (e / CHUNKS) + 8u * (e % CHUNKS) + k] = select(vec4(0.0h), vec4<f16>(w[k]), chunk < chunks);
            }
        }
        for (var i = 0u; i < FETCH_X; i++) {
            let e = t.index + i * THREADS;
            x_tile[STRIDE * (e / (8u * CHUNKS)) + e % (8u * CHUNKS)] = x[i];
        }
        workgroupBarrier();
        for (var i = 0u; i < FETCH; i++) {
            raw[i] = step_FORMAT(job, first, s + 1u, t.index + i * THREADS);
        }
        for (var i = 0u; i < FETCH_X; i++) {
            x[i] = inputs[input_at(job, token, s + 1u, t.index + i * THREADS)];
        }
        for (var k = 0u; k < 8u * CHUNKS; k += 4u) {
            var tokens: array<coop_mat16x16<f16, B>, WIDE>;
            for (var n = 0u; n < WIDE; n++) {
                tokens[n] = coopLoad<coop_mat16x16<f16, B>>(&x_tile[STRIDE * 16u * (across * WIDE + n) + k], STRIDE);
            }
            for (var m = 0u; m < DEEP; m++) {
                let w = coopLoadT<coop_mat16x16<f16, A>>(&w_tile[STRIDE * 16u * (down * DEEP + m) + k], STRIDE);
                for (var n = 0u; n < WIDE; n++) {
                    sums[m][n] = coopMultiplyAdd(w, tokens[n], sums[m][n]);
                }
            }
        }
    }
    let y = 256u * t.subgroup;
    for (var m = 0u; m < DEEP; m++) {
        for (var n = 0u; n < WIDE; n++) {
            let sum = sums[m][n];
            workgroupBarrier();
            coopStore(sum, &y_tile[y], 16u);
            workgroupBarrier();
            for (var i = t.lane; i < 256u; i += t.lanes) {
                let row = first + 16u * (down * DEEP + m) + i % 16u;
                let at = token + 16u * (across * WIDE + n) + i / 16u;
                if row < job.rows && at < p.tokens {
                    finish(job, row, at, y_tile[y + i]);
                }
            }
        }
    }
}
