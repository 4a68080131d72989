// What is done with the sums of products.

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
