
/// Units of weights that a thread fetches; those of a row lie side by side among threads.
const FETCH_FORMAT: u32 = ROWS * UNITS_FORMAT / THREADS;

fn product_FORMAT(t: Thread, job: Job, first: u32, token: u32, part: u32, out: u32, pitch: u32) {
    let down = t.subgroup % DOWN;
    let across = t.subgroup / DOWN;
    let chunks = job.columns / 32u;
    let share = (chunks + p.splits - 1u) / p.splits;
    let begin = part * share;
    let end = min(begin + share, chunks);
    var w_at: array<u32, FETCH_FORMAT>;
    for (var i = 0u; i < FETCH_FORMAT; i++) {
        w_at[i] = job.weights + min(first + (t.index + i * THREADS) / UNITS_FORMAT, job.rows - 1u) * job.stride;
    }
    var x_at: array<u32, FETCH_X>;
    for (var i = 0u; i < FETCH_X; i++) {
        x_at[i] = input_at(job, token, t.index + i * THREADS);
    }
    var sums: array<array<coop_mat16x16<f32, C>, WIDE>, DEEP>;
    let unit = t.index % UNITS_FORMAT;
    // Vectors of a chunk. A loop up to a variable is not written out: the driver does better if that is left to it.
    let depth = 8u;
    var raw: array<Unit_FORMAT, FETCH_FORMAT>;
    var x: array<vec4<u32>, FETCH_X>;
    for (var i = 0u; i < FETCH_FORMAT; i++) {
        raw[i] = unit_FORMAT(w_at[i], UNITS_FORMAT * min(begin, chunks - 1u) + unit, job.columns);
    }
    for (var i = 0u; i < FETCH_X; i++) {
        x[i] = inputs[x_at[i] + 64u * min(begin, chunks - 1u)];
    }
    for (var chunk = begin; chunk < end; chunk++) {
        workgroupBarrier();
        for (var i = 0u; i < FETCH_FORMAT; i++) {
            let w = halves_FORMAT(raw[i], UNITS_FORMAT * chunk + unit);
            let at = W_STRIDE * ((t.index + i * THREADS) / UNITS_FORMAT) + 8u / UNITS_FORMAT * unit;
            for (var k = 0u; k < 8u / UNITS_FORMAT; k++) {
                w_tile[at + k] = w[k];
            }
        }
        for (var i = 0u; i < FETCH_X; i++) {
            put_input(input_to(t.index + i * THREADS), x[i]);
        }
        workgroupBarrier();
        let next = min(chunk + 1u, end - 1u);
        for (var i = 0u; i < FETCH_FORMAT; i++) {
            raw[i] = refetch_FORMAT(raw[i], w_at[i], UNITS_FORMAT * next + unit, job.columns);
        }
        for (var i = 0u; i < FETCH_X; i++) {
            x[i] = inputs[x_at[i] + 64u * next];
        }
        for (var k = 0u; k < depth; k += 4u) {
            var tokens: array<coop_mat16x16<f16, B>, WIDE>;
            for (var i = 0u; i < WIDE; i++) {
                let at = X_STRIDE * 16u * (across * WIDE + i) + k;
                tokens[i] = coopLoad<coop_mat16x16<f16, B>>(&x_tile[at], X_STRIDE);
            }
            for (var m = 0u; m < DEEP; m++) {
                let at = W_STRIDE * 16u * (down * DEEP + m) + k;
                let w = coopLoadT<coop_mat16x16<f16, A>>(&w_tile[at], W_STRIDE);
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
