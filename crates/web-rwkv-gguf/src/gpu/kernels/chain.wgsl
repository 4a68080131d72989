// A chain: operations on one token of one sequence, one after another in one dispatch. What a link of it hands to others are
// posts: words of 16 bits of a number and the tag of the link, so that who reads one knows whether it is there, and nobody waits
// for anything else. Weights, vectors and states, which depend on no link, are on their way meanwhile. All workgroups of a
// dispatch must run at a time; should they not, they give up in the end.
//
// A link stands in the table: what it is, how many tasks it has, which workgroups take in turn, then
// - products: whether what they read needs all that the last shift was read for, their jobs, the first tasks of jobs 1 to 7;
// - products of shifted inputs: whether x has been posted, jobs as above, x or its place in the stream, weight, bias, eps, the
//   state before and after, or NOWHERE if there is nothing but the norm; a job's x is its mix;
// - `wkv7`: its state before and after, r, w, k, v, a, g, v_first if that is v, k_k, k_a, r_k, weight, bias, eps and y;
// - a meeting: a place, where each workgroup posts a word and waits for all others'.
//
// A post is a number too: its place, in vectors, times 2^16, and the tag that it has there; 0 is none. Halves take a word each,
// floats two: four neighbours are the high parts in a vector, and the low ones in the next.

struct Params {
    links: u32, // in the table
    count: u32,
    workgroups: u32,
    patience: u32,
}

const LINK: u32 = 18u;
const JOBS: u32 = 8u;
/// Where a link has its jobs, and its shift.
const PLACES: u32 = 3u;
const SHIFT: u32 = PLACES + JOBS;
const PRODUCTS: u32 = 0u;
const SHIFTED: u32 = 1u;
const WKV7: u32 = 2u;
/// A place that is none.
const NOWHERE: u32 = 0xffffffffu;

/// What has been posted; in front, whether any workgroup gave up.
@group(0) @binding(7) @coherent var<storage, read_write> posts: array<vec4<u32>>;

/// Products of a link in the table.
struct Job {
    first: u32, // task
    rows: u32,
    columns: u32,
    weights: u32, // place of the first row
    stride: u32, // from row to row
    format: u32,
    x: u32, // a mix, or a post
    count: u32, // of x
    row: u32, // of the results, the first
    y: u32, // a post of halves or floats; of outputs where the first candidate of each task stands in the table; or 0
    stream: u32, // where y is kept as well, or NOWHERE; of outputs where it is
    kind: u32, // of y
    act: u32,
    bias: u32, // of `Decay`, `Gate` and `Residual`
    old: u32, // what y was, of `Add` and `Residual`: a post, or 0 if it is in the stream
    other: u32, // v_first of `Residual`, a post
    lanes: u32, // threads that share a row
    strip: u32, // rows of a task
}

const JOB: u32 = 18u;
/// Of y.
const OUTPUTS: u32 = 2u;
/// The link that a workgroup is at, the two that follow, and its jobs of them; each in its turn, so that slow threads still find
/// the one before.
var<workgroup> links: array<u32, 4u * LINK>;
var<workgroup> jobs: array<u32, 4u * JOB>;
/// The link that a workgroup is at.
var<private> here: u32;

@compute @workgroup_size(THREADS)
fn chain(b: Builtins) {
    let t = thread(b);
    let own = b.workgroup.x;
    left = p.patience;
    // What links and jobs are takes as long to come as anything else: it is asked for two links ahead.
    tell_link(t, 0u, link_word(t, 0u));
    tell_link(t, 1u, link_word(t, 1u));
    workgroupBarrier();
    tell_job(t, 0u, job_word(t, 0u, own));
    var link = link_word(t, 2u);
    var job = job_word(t, 1u, own);
    for (var i = 0u; i < p.count; i++) {
        here = i;
        left = select(p.patience, 0u, left == 0u); // who has given up does not wait again
        tell_link(t, i + 2u, link);
        tell_job(t, i + 1u, job);
        workgroupBarrier();
        link = link_word(t, i + 3u);
        job = job_word(t, i + 2u, own);
        let tasks = told(1u);
        for (var task = own; task < tasks; task += p.workgroups) {
            if task != own {
                workgroupBarrier();
                tell_job(t, i, job_word(t, i, task));
                workgroupBarrier();
            }
            switch told(0u) {
                case PRODUCTS, SHIFTED: { products(t, task); }
                case WKV7: { wkv7(t, task); }
                default: { meet(t, task); }
            }
        }
    }
}

/// A thread's word of a link.
fn link_word(t: Thread, i: u32) -> u32 {
    return table[p.links + min(i, p.count - 1u) * LINK + min(t.index, LINK - 1u)];
}

fn tell_link(t: Thread, i: u32, word: u32) {
    if t.index < LINK {
        links[i % 4u * LINK + t.index] = word;
    }
}

/// A thread's word of the job of a task.
fn job_word(t: Thread, i: u32, task: u32) -> u32 {
    let at = i % 4u * LINK;
    if links[at] >= WKV7 {
        return 0u;
    }
    var job = links[at + PLACES];
    for (var k = 1u; k < JOBS; k++) {
        job += select(0u, JOB, task >= links[at + PLACES + k]);
    }
    return table[job + min(t.index, JOB - 1u)];
}

fn tell_job(t: Thread, i: u32, word: u32) {
    if t.index < JOB {
        jobs[i % 4u * JOB + t.index] = word;
    }
}

/// Word k of the link that a workgroup is at.
fn told(k: u32) -> u32 {
    return links[here % 4u * LINK + k];
}

fn job_of(i: u32) -> Job {
    let at = i % 4u * JOB;
    return Job(jobs[at], jobs[at + 1u], jobs[at + 2u], jobs[at + 3u], jobs[at + 4u], jobs[at + 5u], jobs[at + 6u],
        jobs[at + 7u], jobs[at + 8u], jobs[at + 9u], jobs[at + 10u], jobs[at + 11u], jobs[at + 12u], jobs[at + 13u],
        jobs[at + 14u], jobs[at + 15u], jobs[at + 16u], jobs[at + 17u]);
}

/// How often a thread looks again at a link before it gives up.
var<private> left: u32;

/// Whether a thread has looked at posts in vain, and should look again.
fn again(late: bool) -> bool {
    if !late || left == 0u {
        return false;
    }
    left -= 1u;
    if left == 0u {
        posts[0].x = 1u;
    }
    return true;
}

/// Whether words are not there yet.
fn is_late(post: u32, words: vec4<u32>) -> bool {
    return any(((words ^ vec4(post)) & vec4(0xffffu)) != vec4(0u));
}

/// Four halves of a post.
fn halves_of(words: vec4<u32>) -> vec4<f32> {
    let two = (words.xz >> vec2(16u)) | (words.yw & vec2(0xffff0000u));
    return vec4(unpack2x16float(two.x), unpack2x16float(two.y));
}

/// Floats 4e to 4e + 3 of a post, once they are there.
fn floats_at(post: u32, e: u32) -> vec4<f32> {
    let at = (post >> 16u) + 2u * e;
    var high = posts[at];
    var low = posts[at + 1u];
    while again(is_late(post, high) || is_late(post, low)) {
        high = posts[at];
        low = posts[at + 1u];
    }
    return bitcast<vec4<f32>>((high & vec4(0xffff0000u)) | (low >> vec4(16u)));
}

/// Float i of a post, once it is there.
fn float_at(post: u32, i: u32) -> f32 {
    let at = (post >> 16u) + i / 4u * 2u;
    var high = posts[at][i % 4u];
    var low = posts[at + 1u][i % 4u];
    while again(is_late(post, vec4(high, low, high, low))) {
        high = posts[at][i % 4u];
        low = posts[at + 1u][i % 4u];
    }
    return bitcast<f32>((high & 0xffff0000u) | (low >> 16u));
}

fn post_float(post: u32, i: u32, x: f32) {
    let at = (post >> 16u) + i / 4u * 2u;
    let bits = bitcast<u32>(x);
    let tag = post & 0xffffu;
    posts[at][i % 4u] = (bits & 0xffff0000u) | tag;
    posts[at + 1u][i % 4u] = (bits << 16u) | tag;
}

fn post_half(post: u32, i: u32, x: f32) {
    let half = f32(Input(clamp(x, -LARGEST, LARGEST)));
    posts[(post >> 16u) + i / 4u][i % 4u] = pack2x16float(vec2(0.0, half)) | (post & 0xffffu);
}

/// Waits until all workgroups are here.
fn meet(t: Thread, task: u32) {
    let at = told(2u) >> 16u;
    let tag = told(2u) & 0xffffu;
    if t.index == 0u {
        posts[at + task / 4u][task % 4u] = tag;
    }
    for (var i = t.index; i < p.workgroups; i += THREADS) {
        while again(posts[at + i / 4u][i % 4u] != tag) {}
    }
    workgroupBarrier();
    settle(t);
}

// A row of vectors of four.
const FOURS: u32 = WIDTH / 4u;
const PER_THREAD: u32 = (FOURS + THREADS - 1u) / THREADS;
alias Row = array<vec4<f32>, PER_THREAD>;

/// What the shift leaves in the state, when no workgroup reads what was there any more.
var<private> pending: bool;
var<workgroup> left_behind: array<vec4<f32>, FOURS>;
var<private> left_at: u32;

fn settle(t: Thread) {
    if pending {
        pending = false;
        for (var k = 0u; k < PER_THREAD; k++) {
            if t.index + k * THREADS < FOURS {
                states[left_at / 4u + t.index + k * THREADS] = left_behind[t.index + k * THREADS];
            }
        }
    }
}

fn row_of(t: Thread, at: u32) -> Row {
    var row: Row;
    for (var k = 0u; k < PER_THREAD; k++) {
        row[k] = vectors[at / 4u + min(t.index + k * THREADS, FOURS - 1u)];
    }
    return row;
}

/// Mean, squares of differences from it, and how many, of each subgroup.
var<workgroup> partial_sums: array<vec3<f32>, THREADS / 8u>;

/// `mean, 1 / √(var + eps)`; squares are of differences from one of the numbers, which are small beside a common offset.
fn statistics(t: Thread, x: Row, eps: f32) -> vec2<f32> {
    let near = subgroupBroadcastFirst(x[0].x);
    var sum = 0.0;
    var squares = 0.0;
    var count = 0u;
    for (var k = 0u; k < PER_THREAD; k++) {
        if t.index + k * THREADS < FOURS {
            let d = x[k] - near;
            sum += dot(d, vec4(1.0));
            squares += dot(d, d);
        }
        count += min(FOURS - min(FOURS, t.index - t.lane + k * THREADS), t.lanes);
    }
    sum = lanes_sum(t, t.lanes, sum);
    squares = lanes_sum(t, t.lanes, squares);
    if t.lane == 0u {
        let n = max(4.0 * f32(count), 1.0);
        partial_sums[t.subgroup] = vec3(near + sum / n, squares - sum * sum / n, 4.0 * f32(count));
    }
    workgroupBarrier();
    let mean_near = partial_sums[0].x;
    var total = 0.0;
    var variance = 0.0;
    for (var i = t.lane; i < (THREADS + t.lanes - 1u) / t.lanes; i += t.lanes) {
        let part = partial_sums[i];
        let d = part.x - mean_near;
        total += part.z * d;
        variance += part.y + part.z * d * d;
    }
    total = lanes_sum(t, t.lanes, total) / f32(WIDTH);
    variance = lanes_sum(t, t.lanes, variance) / f32(WIDTH) - total * total;
    return vec2(mean_near + total, inverseSqrt(max(variance, 0.0) + eps));
}

/// Products: a task is a strip of the rows of a job.
fn products(t: Thread, task: u32) {
    let job = job_of(here);
    let begin = (task - job.first) * job.strip;
    let strip = min(job.strip, job.rows - begin);
    // What is added to is there before anything else.
    let own = job.row + begin + min(t.index, strip - 1u);
    let own_at = (job.old >> 16u) + own / 4u * 2u;
    if job.old != 0u && t.index < strip {
        old_words = vec2(posts[own_at][own % 4u], posts[own_at + 1u][own % 4u]);
    }
    rows(t, task, job);
    workgroupBarrier();
    let done = job_of(here);
    let row = done.row + begin + t.index;
    var best = Candidate(0u, 0xffffffffu);
    if t.index < strip {
        let y = finish(done, row, row_sums[t.index]);
        best = Candidate(ordered(y), row);
    }
    if done.kind == OUTPUTS && done.y != 0u {
        tell_best(t, done.y + 2u * task, best);
    }
}

/// What a row was, as it came early.
var<private> old_words: vec2<u32>;

/// The sums of the rows of a strip.
var<workgroup> row_sums: array<f32, THREADS>;

/// Puts the sum of a row through the activation and posts it; what it is then.
fn finish(job: Job, row: u32, sum: f32) -> f32 {
    var y = sum;
    switch job.act {
        case 1u: { y = 1.0 - 2.0 / (exp(2.0 * sum) + 1.0); }
        case 2u: { y = sigmoid(sum); }
        case 3u: { y = select(sum * sum, 0.0, sum < 0.0); }
        case 4u: { y = old(job, row) + sum; }
        case 5u: { y = exp(-0.60653067 * sigmoid(bias_of(job, row) + sum)); }
        case 6u: { y = sigmoid(bias_of(job, row) + sum); }
        case 7u: {
            let v = old(job, row);
            y = v + (float_at(job.other, row) - v) * sigmoid(bias_of(job, row) + sum);
        }
        default: {}
    }
    switch job.kind {
        case 0u: { post_float(job.y, row, y); }
        case 1u: { post_half(job.y, row, y); }
        default: { outputs[job.stream + row] = y; }
    }
    if job.kind == 0u && job.stream != NOWHERE {
        acts[(job.stream + row) / 4u][(job.stream + row) % 4u] = y;
    }
    return y;
}

fn bias_of(job: Job, row: u32) -> f32 {
    return vectors[(job.bias + row) / 4u][(job.bias + row) % 4u];
}

fn old(job: Job, row: u32) -> f32 {
    if job.old == 0u {
        return acts[(job.stream + row) / 4u][(job.stream + row) % 4u];
    }
    if is_late(job.old, old_words.xyxy) {
        return float_at(job.old, row);
    }
    return bitcast<f32>((old_words.x & 0xffff0000u) | (old_words.y >> 16u));
}

/// Puts what a job reads into the workgroup's memory, as soon as it is there.
fn load(t: Thread, task: u32, job: Job) {
    let fours = job.columns / 4u;
    if told(0u) == SHIFTED {
        let eps = bitcast<f32>(told(SHIFT + 3u));
        let mixed = told(SHIFT + 4u) != NOWHERE;
        let state = select(0u, told(SHIFT + 4u) / 4u, mixed);
        let weight = row_of(t, told(SHIFT + 1u));
        let bias = row_of(t, told(SHIFT + 2u));
        let mix = row_of(t, job.x);
        var before: Row;
        for (var k = 0u; k < PER_THREAD; k++) {
            before[k] = states[state + min(t.index + k * THREADS, FOURS - 1u)];
        }
        let x = stream(t);
        let q = statistics(t, x, eps);
        left_at = told(SHIFT + 5u);
        for (var k = 0u; k < PER_THREAD; k++) {
            let e = t.index + k * THREADS;
            let h = (x[k] - q.x) * q.y * weight[k] + bias[k];
            if e < FOURS && task == 0u {
                left_behind[e] = h;
            }
            let y = clamp(select(h, h + mix[k] * (before[k] - h), mixed), vec4(-LARGEST), vec4(LARGEST));
            put(t, job, e, select(vec4(0.0), y, e < FOURS), e < fours);
        }
        pending |= task == 0u && left_at != NOWHERE;
    } else {
        let at = job.x >> 16u;
        // Whole subgroups may have nothing to do.
        let first = t.index - t.lane;
        var x: array<vec4<u32>, FETCHED>;
        var look = true;
        while look {
            for (var k = 0u; k < FETCHED; k++) {
                if first + k * THREADS < fours {
                    x[k] = posts[at + min(t.index + k * THREADS, fours - 1u)];
                }
            }
            var late = false;
            for (var k = 0u; k < FETCHED; k++) {
                if first + k * THREADS < fours {
                    if job.count < job.columns {
                        // Columns of weights are padded.
                        let there = (vec4(4u * (t.index + k * THREADS)) + vec4(0u, 1u, 2u, 3u)) < vec4(job.count);
                        x[k] = select(vec4(job.x & 0xffffu), x[k], there);
                    }
                    late |= is_late(job.x, x[k]);
                }
            }
            look = again(late);
        }
        for (var k = 0u; k < FETCHED; k++) {
            let e = t.index + k * THREADS;
            if first + k * THREADS < fours {
                put(t, job, e, halves_of(x[k]), e < fours);
            }
        }
    }
    workgroupBarrier();
    if told(0u) == PRODUCTS && told(2u) != 0u {
        settle(t);
    }
}

/// x of a shift.
fn stream(t: Thread) -> Row {
    let post = told(SHIFT);
    var x: Row;
    if told(2u) == 0u {
        for (var k = 0u; k < PER_THREAD; k++) {
            x[k] = acts[post / 4u + min(t.index + k * THREADS, FOURS - 1u)];
        }
        return x;
    }
    for (var k = 0u; k < PER_THREAD; k++) {
        x[k] = floats_at(post, min(t.index + k * THREADS, FOURS - 1u));
    }
    return x;
}

var<workgroup> x_tile: array<vec4<u32>, TILE>;

/// Four inputs from 4e on, if they are `there`: halves, or packed.
fn put(t: Thread, job: Job, e: u32, x: vec4<f32>, there: bool) {
    if job.format >= VALUES {
        put_packed(t, e, x, there);
    } else if there {
        x_tile[e / 2u][e % 2u * 2u] = pack2x16float(x.xy);
        x_tile[e / 2u][e % 2u * 2u + 1u] = pack2x16float(x.zw);
    }
}

/// Four of those that are halves.
fn halves_at(e: u32) -> vec4<f32> {
    let x = x_tile[e / 2u];
    let two = select(x.xy, x.zw, e % 2u == 1u);
    return vec4(unpack2x16float(two.x), unpack2x16float(two.y));
}
