// A chain: operations on one token of one sequence, one after another in one dispatch. A link of it begins when all workgroups
// of the link before have arrived; while it waits, weights, vectors and states are on their way, which depend on no link.
// So all workgroups of a dispatch must run at a time; should they not, they give up in the end.
//
// A link stands in the table: what it is, how many tasks it has, which workgroups take in turn, then
// - products: their jobs, the first tasks of jobs 1 to 7; of shifted inputs also the shift's x, weight, bias, eps, its state
//   before and after, and a job's x is then its mix;
// - `wkv7`: its state before and after, r, w, k, v, a, g, v_first if that is v, k_k, k_a, r_k, weight, bias, eps and y.

struct Params {
    links: u32, // in the table
    count: u32,
    first: u32, // in `arrived`
    workgroups: u32,
    patience: u32,
}

const LINK: u32 = 18u;
const JOBS: u32 = 8u;
/// Where a link has its shift.
const SHIFT: u32 = 2u + JOBS;
const PRODUCTS: u32 = 0u;
const SHIFTED: u32 = 1u;
const WKV7: u32 = 2u;
/// A place that is none.
const NOWHERE: u32 = 0xffffffffu;

/// Workgroups that have arrived at the end of each link; in front, whether any gave up.
@group(0) @binding(7) var<storage, read_write> arrived: array<atomic<u32>>;

/// Words of a link, and of a job of it: how many threads share a row, and the rows of a task.
const TOLD: u32 = LINK + JOB + 2u;
/// The link that a workgroup is at, and the job of its task.
var<workgroup> told: array<u32, TOLD>;

@compute @workgroup_size(THREADS)
fn chain(b: Builtins) {
    let t = thread(b);
    let own = b.workgroup.x;
    var before = 0u; // tasks of the link before
    var next = word(t, 0u, own);
    for (var i = 0u; i < p.count; i++) {
        tell(t, next);
        // What the next link is comes while this one runs.
        next = word(t, min(i + 1u, p.count - 1u), own);
        let tasks = told[1];
        for (var task = own; task < tasks; task += p.workgroups) {
            if task != own {
                tell(t, word(t, i, task));
            }
            let link = Link(i, min(before, p.workgroups), task);
            switch told[0] {
                case PRODUCTS, SHIFTED: { products(t, link); }
                case WKV7: { wkv7(t, link); }
                default: { wait(t, link); }
            }
        }
        before = tasks;
        storageBarrier();
        if t.index == 0u && own < tasks {
            atomicAdd(&arrived[p.first + i], 1u);
        }
    }
    if pending {
        wait(t, Link(p.count, min(before, p.workgroups), 0u));
    }
}

/// A thread's word of a link, or of the job of a task of it.
fn word(t: Thread, i: u32, task: u32) -> u32 {
    let at = p.links + i * LINK;
    if t.index < LINK {
        return table[at + t.index];
    }
    var job = table[at + 2u];
    for (var k = 1u; k < JOBS; k++) {
        job += select(0u, JOB + 2u, task >= table[at + 2u + k]);
    }
    if t.index < TOLD && table[at] < WKV7 {
        return table[job + t.index - LINK];
    }
    return 0u;
}

fn tell(t: Thread, word: u32) {
    workgroupBarrier();
    if t.index < TOLD {
        told[t.index] = word;
    }
    workgroupBarrier();
}

/// A task of a link.
struct Link {
    index: u32,
    before: u32, // workgroups that have tasks of the link before
    task: u32,
}

/// Whether this workgroup has given up, and the link that was waited for.
var<private> gave_up: bool;
var<private> waited: u32;

/// Waits for the link before. What others have written is read where it is coherent.
fn wait(t: Thread, link: Link) {
    if waited == link.index {
        return;
    }
    waited = link.index;
    if t.index == 0u && !gave_up {
        var left = p.patience;
        while atomicLoad(&arrived[p.first + link.index - 1u]) < link.before && left > 0u {
            left -= 1u;
        }
        if left == 0u {
            gave_up = true;
            atomicStore(&arrived[0], 1u);
        }
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
var<private> left_behind: Row;
var<private> left_at: u32;

fn settle(t: Thread) {
    if pending {
        pending = false;
        for (var k = 0u; k < PER_THREAD; k++) {
            if t.index + k * THREADS < FOURS {
                states[left_at / 4u + t.index + k * THREADS] = left_behind[k];
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

/// Sum, squares of differences from the mean, and how many, of each subgroup.
var<workgroup> partial_sums: array<vec3<f32>, THREADS / 8u>;

/// `mean, 1 / √(var + eps)`
fn statistics(t: Thread, x: Row, eps: f32) -> vec2<f32> {
    var sum = 0.0;
    var count = 0.0;
    for (var k = 0u; k < PER_THREAD; k++) {
        if t.index + k * THREADS < FOURS {
            sum += dot(x[k], vec4(1.0));
            count += 4.0;
        }
    }
    sum = subgroupAdd(sum);
    count = subgroupAdd(count);
    let mean_of_lanes = sum / max(count, 1.0);
    var squares = 0.0;
    for (var k = 0u; k < PER_THREAD; k++) {
        if t.index + k * THREADS < FOURS {
            let d = x[k] - mean_of_lanes;
            squares += dot(d, d);
        }
    }
    squares = subgroupAdd(squares);
    if t.lane == 0u {
        partial_sums[t.subgroup] = vec3(sum, squares, count);
    }
    workgroupBarrier();
    var total = 0.0;
    for (var i = t.lane; i < THREADS / t.lanes; i += t.lanes) {
        total += partial_sums[i].x;
    }
    let mean = subgroupAdd(total) / f32(WIDTH);
    var variance = 0.0;
    for (var i = t.lane; i < THREADS / t.lanes; i += t.lanes) {
        let part = partial_sums[i];
        let d = part.x - part.z * mean;
        variance += part.y + d * d / max(part.z, 1.0);
    }
    variance = subgroupAdd(variance);
    return vec2(mean, inverseSqrt(variance / f32(WIDTH) + eps));
}

/// Products: a task is a strip of the rows of a job.
fn products(t: Thread, link: Link) {
    let job = Job(told[LINK], told[LINK + 1u], told[LINK + 2u], told[LINK + 3u], told[LINK + 4u], told[LINK + 5u],
        told[LINK + 6u], told[LINK + 7u], told[LINK + 8u], told[LINK + 9u], told[LINK + 10u], told[LINK + 11u],
        told[LINK + 12u], told[LINK + 13u], told[LINK + 14u], told[LINK + 15u]);
    let lanes = told[LINK + JOB];
    let begin = (link.task - job.first) * told[LINK + JOB + 1u];
    let strip = min(told[LINK + JOB + 1u], job.rows - begin);
    rows(t, link, job, begin, strip, lanes);
    workgroupBarrier();
    if t.index < strip {
        finish(job, begin + t.index, 0u, row_sums[t.index]);
    }
}

/// The sums of the rows of a strip.
var<workgroup> row_sums: array<f32, THREADS>;

/// Puts what a job reads into the workgroup's memory, as soon as it is there.
fn load(t: Thread, link: Link, job: Job) {
    let fours = job.columns / 4u;
    if told[0] == SHIFTED {
        let x_at = told[SHIFT] / 4u;
        let eps = bitcast<f32>(told[SHIFT + 3u]);
        let state = told[SHIFT + 4u] / 4u;
        left_at = told[SHIFT + 5u];
        let weight = row_of(t, told[SHIFT + 1u]);
        let bias = row_of(t, told[SHIFT + 2u]);
        let mix = row_of(t, job.x);
        var x: Row;
        var before: Row;
        for (var k = 0u; k < PER_THREAD; k++) {
            before[k] = states[state + min(t.index + k * THREADS, FOURS - 1u)];
        }
        wait(t, link);
        for (var k = 0u; k < PER_THREAD; k++) {
            x[k] = acts[x_at + min(t.index + k * THREADS, FOURS - 1u)];
        }
        let q = statistics(t, x, eps);
        for (var k = 0u; k < PER_THREAD; k++) {
            let e = t.index + k * THREADS;
            let h = (x[k] - q.x) * q.y * weight[k] + bias[k];
            left_behind[k] = h;
            let y = clamp(h + mix[k] * (before[k] - h), vec4(-LARGEST), vec4(LARGEST));
            put(t, job, e, select(vec4(0.0), y, e < FOURS), e < fours);
        }
        pending |= link.task == 0u && left_at != NOWHERE;
    } else {
        wait(t, link);
        var x: array<vec4<Input>, FETCHED>;
        for (var k = 0u; k < FETCHED; k++) {
            x[k] = inputs[job.x / 4u + min(t.index + k * THREADS, fours - 1u)];
        }
        for (var k = 0u; k < FETCHED; k++) {
            let e = t.index + k * THREADS;
            put(t, job, e, vec4<f32>(x[k]), e < fours);
        }
    }
    workgroupBarrier();
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

// The recurrence of a head as in wkv7.wgsl, of one token; a thread has J rows of four columns.
const J: u32 = N / PARTS;
const SIZE: u32 = N / 4u;

/// Of the channels of a head; what is summed stands in vectors.
var<workgroup> rs: array<vec4<f32>, SIZE>;
var<workgroup> ws: array<vec4<f32>, SIZE>;
var<workgroup> ks: array<vec4<f32>, SIZE>;
var<workgroup> us: array<vec4<f32>, SIZE>;
var<workgroup> uas: array<vec4<f32>, SIZE>;
var<workgroup> vs: array<vec4<f32>, SIZE>;
var<workgroup> bonus: array<vec4<f32>, SIZE>;
var<workgroup> ys: array<vec4<f32>, SIZE>;

fn wkv7(t: Thread, link: Link) {
    var words: array<u32, 16>;
    for (var k = 0u; k < 16u; k++) {
        words[k] = told[2u + k];
    }
    let own = t.index < SIZE * PARTS;
    let i = t.index / PARTS % SIZE;
    let part = t.index % PARTS;
    let head = link.task * SIZE;
    let place = 4u * part * FOURS + head + i;
    var s: array<vec4<f32>, J>;
    for (var j = 0u; j < J; j++) {
        s[j] = states[words[0] / 4u + place + row(j) * FOURS];
    }
    // Of the first threads, which have four channels each.
    let e = t.index % SIZE;
    let c = head + e;
    let k_k = vectors[words[9] / 4u + c];
    let k_a = vectors[words[10] / 4u + c];
    let r_k = vectors[words[11] / 4u + c];
    let weight = vectors[words[12] / 4u + c];
    let bias = vectors[words[13] / 4u + c];
    wait(t, link);
    let g = acts[words[7] / 4u + c];
    if t.index < SIZE {
        let r = acts[words[2] / 4u + c];
        let k = acts[words[4] / 4u + c];
        let v = acts[words[5] / 4u + c];
        let a = acts[words[6] / 4u + c];
        let key = k * (1.0 + (a - 1.0) * k_a);
        rs[e] = r;
        ws[e] = acts[words[3] / 4u + c];
        ks[e] = key;
        us[e] = k * k_k;
        uas[e] = k * k_k * a;
        vs[e] = v;
        bonus[e] = r * key * r_k;
        if words[8] != NOWHERE {
            acts[words[8] / 4u + c] = v;
        }
    }
    workgroupBarrier();
    var sa = vec4(0.0);
    var square = 0.0;
    for (var m = 0u; m < J / 4u; m++) {
        let u = us[part + PARTS * m];
        for (var j = 0u; j < 4u; j++) {
            sa += s[4u * m + j] * u[j];
        }
        square += dot(u, u);
    }
    let scale = -1.0 / max(lanes_sum(t, PARTS, square), 1e-24);
    for (var j = 0u; j < 4u; j++) {
        sa[j] = lanes_sum(t, PARTS, sa[j]) * scale;
    }
    let v = vs[i];
    var y = vec4(0.0);
    for (var m = 0u; m < J / 4u; m++) {
        let w = ws[part + PARTS * m];
        let ua = uas[part + PARTS * m];
        let k = ks[part + PARTS * m];
        let r = rs[part + PARTS * m];
        for (var j = 0u; j < 4u; j++) {
            s[4u * m + j] = s[4u * m + j] * w[j] + sa * ua[j] + v * k[j];
            y += s[4u * m + j] * r[j];
        }
    }
    for (var j = 0u; j < 4u; j++) {
        y[j] = lanes_sum(t, PARTS, y[j]);
    }
    if own {
        if part == 0u {
            ys[i] = y;
        }
        for (var j = 0u; j < J; j++) {
            states[words[1] / 4u + place + row(j) * FOURS] = s[j];
        }
    }
    workgroupBarrier();
    var mean = 0.0;
    var gain = 0.0;
    for (var m = 0u; m < J / 4u; m++) {
        mean += dot(ys[part + PARTS * m], vec4(1.0));
        gain += dot(bonus[part + PARTS * m], vec4(1.0));
    }
    mean = lanes_sum(t, PARTS, mean) / f32(N);
    gain = lanes_sum(t, PARTS, gain);
    var variance = 0.0;
    for (var m = 0u; m < J / 4u; m++) {
        let d = ys[part + PARTS * m] - mean;
        variance += dot(d, d);
    }
    variance = lanes_sum(t, PARTS, variance) / f32(N);
    if t.index < SIZE {
        let normed = (ys[e] - mean) * inverseSqrt(variance + bitcast<f32>(words[14])) * weight + bias;
        let x = (normed + gain * vs[e]) * g;
        inputs[words[15] / 4u + c] = vec4<Input>(clamp(x, vec4(-LARGEST), vec4(LARGEST)));
    }
}

/// Row j of a thread, from its first.
fn row(j: u32) -> u32 {
    return j / 4u * 4u * PARTS + j % 4u;
}
