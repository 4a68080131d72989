
fn product_FORMAT(t: Thread, job: Job, first: u32, token: u32) {
    let slice = t.subgroup / (DOWN * ACROSS);
    let down = t.subgroup % DOWN;
    let across = t.subgroup / DOWN % ACROSS;
    let index = t.index % TEAM;
    let chunks = job.columns / 32u;
    let steps = (chunks + CHUNKS * SLICES - 1u) / (CHUNKS * SLICES);
    var w_at: array<u32, FETCH>;
    for (var i = 0u; i < FETCH; i++) {
        w_at[i] = job.weights + min(first + (index + i * TEAM) / CHUNKS, job.rows - 1u) * job.stride;
    }
    var x_at: array<u32, FETCH_X>;
    for (var i = 0u; i < FETCH_X; i++) {
        x_at[i] = (job.x + min(token + (index + i * TEAM) / STEP, p.tokens - 1u) * job.x_width) / 4u;
    }
    var sums: array<array<coop_mat16x16<f32, C>, WIDE>, DEEP>;
    var raw: array<Raw_FORMAT, FETCH>;
    var x: array<vec4<f16>, FETCH_X>;
    for (var i = 0u; i < FETCH; i++) {
        raw[i] = fetch_FORMAT(w_at[i], min(slice * CHUNKS + index % CHUNKS, chunks - 1u), job.columns);
    }
    for (var i = 0u; i < FETCH_X; i++) {
        x[i] = inputs[x_at[i] + min(slice * STEP + index % STEP, 8u * chunks - 1u)];
    }
    for (var n = 0u; n < steps; n++) {
        let s = n * SLICES + slice;
        let chunk = s * CHUNKS + index % CHUNKS;
        workgroupBarrier();
        for (var i = 0u; i < FETCH; i++) {
            let w = decode_FORMAT(raw[i], chunk);
            let at = STRIDE * (slice * ROWS + (index + i * TEAM) / CHUNKS) + 8u * (index % CHUNKS);
            for (var k = 0u; k < 8u; k++) {
                // Behind the last chunk there are zeros.
                w_tile[at + k] = select(vec4(0.0h), vec4<f16>(w[k]), chunk < chunks);
            }
        }
        for (var i = 0u; i < FETCH_X; i++) {
            x_tile[STRIDE * (slice * TOKENS + (index + i * TEAM) / STEP) + index % STEP] = x[i];
        }
        workgroupBarrier();
        for (var i = 0u; i < FETCH; i++) {
            raw[i] = fetch_FORMAT(w_at[i], min((s + SLICES) * CHUNKS + index % CHUNKS, chunks - 1u), job.columns);
        }
        for (var i = 0u; i < FETCH_X; i++) {
            x[i] = inputs[x_at[i] + min((s + SLICES) * STEP + index % STEP, 8u * chunks - 1u)];
        }
        for (var k = 0u; k < STEP; k += 4u) {
            var tokens: array<coop_mat16x16<f16, B>, WIDE>;
            for (var i = 0u; i < WIDE; i++) {
                let at = STRIDE * (slice * TOKENS + 16u * (across * WIDE + i));
                tokens[i] = coopLoad<coop_mat16x16<f16, B>>(&x_tile[at + k], STRIDE);
            }
            for (var m = 0u; m < DEEP; m++) {
                let at = STRIDE * (slice * ROWS + 16u * (down * DEEP + m));
                let w = coopLoadT<coop_mat16x16<f16, A>>(&w_tile[at + k], STRIDE);
                for (var i = 0u; i < WIDE; i++) {
                    sums[m][i] = coopMultiplyAdd(w, tokens[i], sums[m][i]);
                }
            }
        }
    }
    for (var m = 0u; m < DEEP; m++) {
        for (var i = 0u; i < WIDE; i++) {
            let sum = sums[m][i];
            workgroupBarrier();
            coopStore(sum, &y_tile[256u * t.subgroup], 16u);
            workgroupBarrier();
            // What the teams have of a tile is added up by threads of all of them.
            for (var e = t.lane + slice * t.lanes; e < 256u; e += SLICES * t.lanes) {
                let row = first + 16u * (down * DEEP + m) + e % 16u;
                let at = token + 16u * (across * WIDE + i) + e / 16u;
                var y = 0.0;
                for (var l = 0u; l < SLICES; l++) {
                    y += y_tile[256u * (l * DOWN * ACROSS + t.subgroup % (DOWN * ACROSS)) + e];
                }
                if row < job.rows && at < p.tokens {
                    finish(job, row, at, y);
                }
            }
        }
    }
}
