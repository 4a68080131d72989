
fn product_FORMAT(t: Thread, job: Job, first: u32, token: u32, part: u32, out: u32, pitch: u32) {
    let down = t.subgroup % DOWN;
    let across = t.subgroup / DOWN;
    let chunks = job.columns / 32u;
    let share = (chunks + p.splits - 1u) / p.splits;
    let begin = part * share;
    let end = min(begin + share, chunks);
    var w_at: array<u32, FETCH>;
    for (var i = 0u; i < FETCH; i++) {
        w_at[i] = job.weights + min(first + t.index + i * THREADS, job.rows - 1u) * job.stride;
    }
    var x_at: array<u32, FETCH_X>;
    for (var i = 0u; i < FETCH_X; i++) {
        let x = token + (t.index + i * THREADS) / 8u;
        x_at[i] = (job.x + min(x, p.tokens - 1u) * job.x_width) / 4u + t.index % 8u;
    }
    var sums: array<array<coop_mat16x16<f32, C>, WIDE>, DEEP>;
    var raw: array<Raw_FORMAT, FETCH>;
    var x: array<vec4<f16>, FETCH_X>;
    for (var i = 0u; i < FETCH; i++) {
        raw[i] = fetch_FORMAT(w_at[i], min(begin, chunks - 1u), job.columns);
    }
    for (var i = 0u; i < FETCH_X; i++) {
        x[i] = inputs[x_at[i] + 8u * min(begin, chunks - 1u)];
    }
    for (var chunk = begin; chunk < end; chunk++) {
        workgroupBarrier();
        for (var i = 0u; i < FETCH; i++) {
            let w = halves_FORMAT(raw[i], chunk);
            for (var k = 0u; k < 8u; k++) {
                w_tile[STRIDE * (t.index + i * THREADS) + k] = w[k];
            }
        }
        for (var i = 0u; i < FETCH_X; i++) {
            x_tile[STRIDE * ((t.index + i * THREADS) / 8u) + t.index % 8u] = x[i];
        }
        workgroupBarrier();
        let next = min(chunk + 1u, end - 1u);
        for (var i = 0u; i < FETCH; i++) {
            raw[i] = fetch_FORMAT(w_at[i], next, job.columns);
        }
        for (var i = 0u; i < FETCH_X; i++) {
            x[i] = inputs[x_at[i] + 8u * next];
        }
        for (var k = 0u; k < 8u; k += 4u) {
            var tokens: array<coop_mat16x16<f16, B>, WIDE>;
            for (var i = 0u; i < WIDE; i++) {
                let at = STRIDE * 16u * (across * WIDE + i) + k;
                tokens[i] = coopLoad<coop_mat16x16<f16, B>>(&x_tile[at], STRIDE);
            }
            for (var m = 0u; m < DEEP; m++) {
                let at = STRIDE * 16u * (down * DEEP + m) + k;
                let w = coopLoadT<coop_mat16x16<f16, A>>(&w_tile[at], STRIDE);
                for (var i = 0u; i < WIDE; i++) {
                    sums[m][i] = coopMultiplyAdd(w, tokens[i], sums[m][i]);
                }
            }
        }
    }
    for (var m = 0u; m < DEEP; m++) {
        for (var i = 0u; i < WIDE; i++) {
            let sum = sums[m][i];
            let at = out + 16u * (across * WIDE + i) * pitch + 16u * (down * DEEP + m);
            coopStore(sum, &acts[at], pitch);
        }
    }
}
