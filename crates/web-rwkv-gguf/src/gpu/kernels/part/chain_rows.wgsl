
/// Sums of a strip of rows: some threads share a row, of which each takes every `lanes`-th unit, AHEAD_KIND of them fetched
/// before they are used, the first before the inputs are there.
fn rows_FORMAT(t: Thread, task: u32, job: Job) {
    let lanes = job.lanes;
    let begin = (task - job.first) * job.strip;
    let strip = min(job.strip, job.rows - begin);
    let units = job.columns / 32u * UNITS_FORMAT;
    let rounds = (units + lanes - 1u) / lanes;
    let lane = t.index % lanes;
    let step = THREADS / lanes;
    let last = begin + strip - 1u;
    var at = job.weights + min(begin + t.index / lanes, last) * job.stride;
    var next: array<Unit_FORMAT, AHEAD_KIND>;
    for (var u = 0u; u < AHEAD_KIND; u++) {
        next[u] = unit_FORMAT(at, min(lane + u * lanes, units - 1u), job.columns);
    }
    load(t, task, job);
    for (var first = 0u; first < strip; first += step) {
        let row = first + t.index / lanes;
        let after = job.weights + min(begin + row + step, last) * job.stride;
        var sum = 0.0;
        for (var round = 0u; round < rounds; round += AHEAD_KIND) {
            for (var u = 0u; u < AHEAD_KIND; u++) {
                if round + u < rounds {
                    let raw = next[u];
                    let unit = lane + (round + u) * lanes;
                    // From the last round on those of the next row; after the last one for nothing, which is cheaper than to ask.
                    let over = round + u + AHEAD_KIND >= rounds;
                    let ahead = min(select(unit + AHEAD_KIND * lanes, lane + u * lanes, over), units - 1u);
                    next[u] = unit_FORMAT(select(at, after, over), ahead, job.columns);
                    sum += select(0.0, product_FORMAT(raw, min(unit, units - 1u)), unit < units);
                }
            }
        }
        sum = lanes_sum(t, lanes, sum);
        if lane == 0u && row < strip {
            row_sums[row] = sum;
        }
        at = after;
    }
}
