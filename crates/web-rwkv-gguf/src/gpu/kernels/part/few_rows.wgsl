
/// The part of a thread of the sums of ROWS rows and TOKENS tokens.
fn rows_FORMAT(t: Thread, job: Job, first: u32, token: u32) -> Sums {
    let units = job.columns / 32u * UNITS_FORMAT;
    let segment = SEGMENT_KIND * UNITS_FORMAT;
    let lane = t.index % LANES_KIND;
    var sums: Sums;
    for (var begin = 0u; begin < units; begin += segment) {
        let end = min(begin + segment, units);
        if begin > 0u {
            workgroupBarrier();
        }
        var next: array<array<Unit_FORMAT, ROWS>, AHEAD_KIND>;
        for (var u = 0u; u < AHEAD_KIND; u++) {
            for (var r = 0u; r < ROWS; r++) {
                next[u][r] = row_unit_FORMAT(job, first + r, min(begin + lane + u * LANES_KIND, end - 1u));
            }
        }
        load_KIND(t, job, token, begin / UNITS_FORMAT, end / UNITS_FORMAT);
        workgroupBarrier();
        for (var c = begin + lane; c < end; c += LANES_KIND * AHEAD_KIND) {
            for (var u = 0u; u < AHEAD_KIND; u++) {
                let unit = c + u * LANES_KIND;
                if unit < end {
                    for (var r = 0u; r < ROWS; r++) {
                        let raw = next[u][r];
                        if unit + LANES_KIND * AHEAD_KIND < end {
                            next[u][r] = row_unit_FORMAT(job, first + r, unit + LANES_KIND * AHEAD_KIND);
                        }
                        let products = products_FORMAT(raw, unit, unit - begin);
                        for (var i = 0u; i < TOKENS; i++) {
                            sums[r][i] += products[i];
                        }
                    }
                }
            }
        }
    }
    return sums;
}

fn row_unit_FORMAT(job: Job, row: u32, i: u32) -> Unit_FORMAT {
    return unit_FORMAT(job.weights + min(row, job.rows - 1u) * job.stride, i, job.columns);
}
