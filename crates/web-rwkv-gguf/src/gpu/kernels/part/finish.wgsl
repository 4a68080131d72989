// What is done with the sums of products, of FLOATS rows at a time.

/// Puts sums of a token through the activation and stores them.
fn finish(job: Job, row: u32, token: u32, sum: Float) {
    let at = job.y + token * job.y_width + row;
    var y = sum;
    switch job.act {
        case 1u: { y = 1.0 - 2.0 / (exp(2.0 * sum) + 1.0); }
        case 2u: { y = sigmoid(sum); }
        case 3u: { y = select(sum * sum, Float(0.0), sum < Float(0.0)); }
        case 4u: { y = acts[at / FLOATS] + sum; }
        case 5u: { y = exp(-0.60653067 * sigmoid(vectors[(job.bias + row) / FLOATS] + sum)); }
        case 6u: { y = sigmoid(vectors[(job.bias + row) / FLOATS] + sum); }
        case 7u: {
            let v = acts[at / FLOATS];
            let v_first = acts[(job.other + token * job.other_width + row) / FLOATS];
            y = v + (v_first - v) * sigmoid(vectors[(job.bias + row) / FLOATS] + sum);
        }
        case 8u: {
            let h = acts[(job.other + token * job.other_width + row) / FLOATS];
            let before = input_at(input_place(job.before, token, job.y_width, row));
            y = h + (vectors[(job.bias + row) / FLOATS] + sum) * (before - h);
        }
        default: {}
    }
    switch job.y_kind {
        case 0u: { acts[at / FLOATS] = y; }
        case 1u: { store_input(input_place(job.y, token, job.y_width, row), y); }
        default: { store_output(at, y); }
    }
}
