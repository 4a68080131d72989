// Products of a dispatch, in the table.

struct Job {
    first: u32, // workgroup
    rows: u32,
    columns: u32,
    weights: u32, // place of the first row
    stride: u32, // from row to row
    format: u32,
    x: u32,
    x_width: u32,
    y: u32,
    y_width: u32,
    y_kind: u32,
    act: u32,
    bias: u32, // of `Decay`, `Gate`, `Residual` and `Lerp`
    other: u32, // v_first of `Residual`, h of `Lerp`
    other_width: u32,
    before: u32, // of `Lerp`: h of the token before, an input
}

const JOB: u32 = 16u;

/// The job that a workgroup belongs to.
fn find_job(workgroup: u32) -> Job {
    var at = p.jobs;
    for (var i = 1u; i < p.count; i++) {
        if workgroup >= table[p.jobs + JOB * i] {
            at = p.jobs + JOB * i;
        }
    }
    return Job(table[at], table[at + 1u], table[at + 2u], table[at + 3u], table[at + 4u], table[at + 5u],
        table[at + 6u], table[at + 7u], table[at + 8u], table[at + 9u], table[at + 10u], table[at + 11u],
        table[at + 12u], table[at + 13u], table[at + 14u], table[at + 15u]);
}

/// Puts the sum of a row and a token through the activation and stores it.
fn finish(job: Job, row: u32, token: u32, sum: f32) {
    let at = job.y + token * job.y_width + row;
    var y = sum;
    switch job.act {
        case 1u: { y = 1.0 - 2.0 / (exp(2.0 * sum) + 1.0); }
        case 2u: { y = sigmoid(sum); }
        case 3u: { y = select(sum * sum, 0.0, sum < 0.0); }
        case 4u: { y = acts[at] + sum; }
        case 5u: { y = exp(-0.60653067 * sigmoid(vectors[job.bias + row] + sum)); }
        case 6u: { y = sigmoid(vectors[job.bias + row] + sum); }
        case 7u: {
            let v = acts[at];
            let v_first = acts[job.other + token * job.other_width + row];
            y = v + (v_first - v) * sigmoid(vectors[job.bias + row] + sum);
        }
        case 8u: {
            let h = acts[job.other + token * job.other_width + row];
            let before = job.before + token * job.y_width + row;
            y = h + (vectors[job.bias + row] + sum) * (f32(inputs[before / 4u][before % 4u]) - h);
        }
        default: {}
    }
    switch job.y_kind {
        case 0u: { acts[at] = y; }
        case 1u: { store_input(at, y); }
        default: { outputs[at] = y; }
    }
}
