// A subgroup decodes half a chunk of its rows at a time, which it alone multiplies, so that the workgroup must meet only once a
// chunk, for the inputs, which lie in two places in turn. That a subgroup finds what it has put into memory is what its barrier is
// for; a driver that minds only registers fails the self-test.

/// Whether a unit is a whole chunk; units of half a chunk, or 1 if it is, which lie side by side among threads; and how many
/// of them a thread fetches at a time. EARLY says that this is two halves ahead, which takes registers: the time of one is too
/// short for the memory of a device.
const WHOLE_FORMAT: bool = UNITS_FORMAT == 1u;
const SPAN_FORMAT: u32 = (UNITS_FORMAT + 1u) / 2u;
const FETCH_FORMAT: u32 = 16u * DEEP * SPAN_FORMAT / LANES;
const EARLY_FORMAT: bool = !WHOLE_FORMAT && EARLY == 1u;
/// Whether places of inputs are one for a thread and even steps from there: blocks in larger tiles win by it, others lose.
const STEPS_FORMAT: bool = WHOLE_FORMAT && TOKENS > 64u;

fn product_FORMAT(t: Thread, job: Job, first: u32, token: u32, part: u32, out: u32, pitch: u32) {
    let chunks = job.columns / 32u;
    let share = (chunks + p.splits - 1u) / p.splits;
    let begin = part * share;
    let end = min(begin + share, chunks);
    let own = t.subgroup * 16u * DEEP;
    let unit = t.lane % SPAN_FORMAT;
    var w_at: array<u32, FETCH_FORMAT>;
    for (var i = 0u; i < FETCH_FORMAT; i++) {
        let row = first + own + (t.lane + i * LANES) / SPAN_FORMAT;
        w_at[i] = job.weights + min(row, job.rows - 1u) * job.stride;
    }
    let x_first = input_at(job, token, t.index);
    let x_step = input_step(job);
    let x_to = input_to(t.index);
    var x_at: array<u32, FETCH_X>;
    for (var i = 0u; i < FETCH_X; i++) {
        x_at[i] = select(input_at(job, token, t.index + i * THREADS), x_first + i * x_step, STEPS_FORMAT);
    }
    let w_to = W_STRIDE * (own + t.lane / SPAN_FORMAT) + 4u / SPAN_FORMAT * unit;
    var sums: array<array<coop_mat16x16<f32, C>, WIDE>, DEEP>;
    // Vectors of a chunk. A loop up to a variable is not written out: the driver does better if that is left to it.
    let depth = 8u;
    var raw: array<Unit_FORMAT, FETCH_FORMAT>;
    var later: array<Unit_FORMAT, FETCH_FORMAT>;
    var x: array<vec4<u32>, FETCH_X>;
    for (var i = 0u; i < FETCH_FORMAT; i++) {
        let at = UNITS_FORMAT * min(begin, chunks - 1u) + unit;
        raw[i] = unit_FORMAT(w_at[i], at, job.columns);
        if EARLY_FORMAT {
            later[i] = unit_FORMAT(w_at[i], at + SPAN_FORMAT, job.columns);
        }
    }
    for (var i = 0u; i < FETCH_X; i++) {
        x[i] = inputs[x_at[i] + 64u * min(begin, chunks - 1u)];
    }
    var turn = 0u;
    for (var chunk = begin; chunk < end; chunk++) {
        for (var i = 0u; i < FETCH_X; i++) {
            if t.index + i * THREADS < 4u * TOKENS {
                let to = select(input_to(t.index + i * THREADS), x_to + i * TO_STEP, STEPS_FORMAT);
                put_input(turn + to, x[i]);
            }
        }
        workgroupBarrier();
        var w: array<array<vec4<f16>, 8u / UNITS_FORMAT>, FETCH_FORMAT>;
        let next = min(chunk + 1u, end - 1u);
        if WHOLE_FORMAT {
            for (var i = 0u; i < FETCH_FORMAT; i++) {
                w[i] = halves_FORMAT(raw[i], chunk);
                raw[i] = refetch_FORMAT(raw[i], w_at[i], next, job.columns);
            }
        }
        for (var i = 0u; i < FETCH_X; i++) {
            x[i] = inputs[select(x_at[i], x_first + i * x_step, STEPS_FORMAT) + 64u * next];
        }
        for (var k = 0u; k < depth; k += 4u) {
            for (var i = 0u; i < FETCH_FORMAT; i++) {
                if !WHOLE_FORMAT {
                    w[i] = halves_FORMAT(raw[i], unit);
                    if EARLY_FORMAT {
                        raw[i] = later[i];
                        let after = UNITS_FORMAT * next + select(0u, SPAN_FORMAT, k > 0u);
                        later[i] = unit_FORMAT(w_at[i], after + unit, job.columns);
                    } else {
                        let after = select(UNITS_FORMAT * chunk + SPAN_FORMAT, UNITS_FORMAT * next, k > 0u);
                        raw[i] = unit_FORMAT(w_at[i], after + unit, job.columns);
                    }
                }
                for (var v = 0u; v < 4u / SPAN_FORMAT; v++) {
                    let last = w[i][v + 8u / UNITS_FORMAT - 4u / SPAN_FORMAT];
                    w_tile[w_to + W_STRIDE * LANES / SPAN_FORMAT * i + v] = select(w[i][v], last, k > 0u);
                }
            }
            subgroupBarrier();
            var tokens: array<coop_mat16x16<f16, B>, WIDE>;
            for (var i = 0u; i < WIDE; i++) {
                let at = turn + X_STRIDE * 16u * i + k;
                tokens[i] = coopLoad<coop_mat16x16<f16, B>>(&x_tile[at], X_STRIDE);
            }
            for (var m = 0u; m < DEEP; m++) {
                let at = W_STRIDE * (own + 16u * m);
                let rows = coopLoadT<coop_mat16x16<f16, A>>(&w_tile[at], W_STRIDE);
                for (var i = 0u; i < WIDE; i++) {
                    sums[m][i] = coopMultiplyAdd(rows, tokens[i], sums[m][i]);
                }
            }
            subgroupBarrier();
        }
        turn = X_STRIDE * TOKENS - turn;
    }
    for (var m = 0u; m < DEEP; m++) {
        for (var i = 0u; i < WIDE; i++) {
            let sum = sums[m][i];
            let at = out + 16u * i * pitch + own + 16u * m;
            coopStore(sum, &acts[at], pitch);
        }
    }
}
