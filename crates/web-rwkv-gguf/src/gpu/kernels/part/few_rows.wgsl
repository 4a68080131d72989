
/// The part of a thread of the sums of ROWS rows and TOKENS tokens.
fn rows_FORMAT(t: Thread, job: Job, first: u32, token: u32) -> Sums {
    let chunks = job.columns / 32u;
    let lane = t.index % LANES;
    var sums: Sums;
    for (var begin = 0u; begin < chunks; begin += SEGMENT_CHUNKS) {
        let end = min(begin + SEGMENT_CHUNKS, chunks);
        if begin > 0u {
            workgroupBarrier();
        }
        var raw: array<array<Raw_FORMAT, ROWS>, AHEAD>;
        for (var u = 0u; u < AHEAD; u++) {
            for (var r = 0u; r < ROWS; r++) {
                raw[u][r] = fetch_row_FORMAT(job, first + r, min(begin + lane + u * LANES, end - 1u));
            }
        }
        load_inputs(t, job, token, begin, end);
        workgroupBarrier();
        for (var c = begin + lane; c < end; c += LANES * AHEAD) {
            for (var u = 0u; u < AHEAD; u++) {
                let chunk = c + u * LANES;
                if chunk < end {
                    for (var r = 0u; r < ROWS; r++) {
                        let w = codes_FORMAT(raw[u][r]);
                        let f = factors_FORMAT(raw[u][r], chunk);
                        for (var i = 0u; i < TOKENS; i++) {
                            sums[r][i] += dot_chunk(w, f, (i * SEGMENT_CHUNKS + chunk - begin) * PITCH);
                        }
                    }
                }
                for (var r = 0u; r < ROWS; r++) {
                    raw[u][r] = fetch_row_FORMAT(job, first + r, min(chunk + LANES * AHEAD, end - 1u));
                }
            }
        }
    }
    return sums;
}

fn fetch_row_FORMAT(job: Job, row: u32, chunk: u32) -> Raw_FORMAT {
    return fetch_FORMAT(job.weights + min(row, job.rows - 1u) * job.stride, chunk, job.columns);
}
