// Chooses a token by each row of logits: the likeliest, or one that is drawn among the likeliest. A workgroup for each
// row. Candidates are ordered by falling logits, those of equal ones by their tokens; nothing is sorted, but the last that
// is kept is searched for by what stands above it.

struct Params {
    choices: u32, // in the table
    chosen: u32, // in the table: the tokens
    logits: u32,
    vocab: u32,
    bests: u32, // in the table, the first candidates of parts of the vocabulary, if they are known
    count: u32, // of them, or 0
}

struct Choice {
    temperature: f32, // 0 is the likeliest
    top_k: u32, // 0 is all
    top_p: f32,
    random: f32, // in [0, 1)
    penalties: u32, // in the table: tokens, and what is taken off their logits
    count: u32, // of them
}

const CHOICE: u32 = 6u;

/// What a workgroup chooses from.
struct Row {
    logits: u32,
    best: f32,
    /// If not 0, all that matter are in the list.
    listed: u32,
}

/// Candidates of the list.
const LISTED: u32 = 1024u;
/// Threads that sum up together.
const TEAMS: u32 = THREADS / LANES;

var<workgroup> tops: array<Candidate, THREADS>; // the first of each thread
var<workgroup> first: Candidate;
var<workgroup> bound: u32; // not above the k-th
var<workgroup> counts: array<u32, THREADS>;
var<workgroup> list: array<Candidate, LISTED>;
var<workgroup> sums: array<f32, TEAMS>;

@compute @workgroup_size(THREADS)
fn sample(b: Builtins) {
    let t = thread(b);
    let at = p.choices + CHOICE * b.workgroup.x;
    let c = Choice(bitcast<f32>(table[at]), table[at + 1u], bitcast<f32>(table[at + 2u]),
        bitcast<f32>(table[at + 3u]), table[at + 4u], table[at + 5u]);
    var row = Row(p.logits + b.workgroup.x * p.vocab, 0.0, 0u);
    for (var i = t.index; i < c.count; i += THREADS) {
        outputs[row.logits + table[c.penalties + 2u * i]] -= bitcast<f32>(table[c.penalties + 2u * i + 1u]);
    }
    storageBarrier();
    workgroupBarrier();
    find_first(t, row, c);
    row.best = value(first);
    var token = first.y;
    if c.temperature > 0.0 && c.top_k != 1u {
        var last = Candidate(0u, p.vocab);
        if c.top_k > 0u || c.top_p < 1.0 {
            last = last_kept(t, row, c);
        }
        token = draw(t, row, c, last);
    }
    if t.index == 0u {
        table[p.chosen + b.workgroup.x] = token;
    }
}

fn candidate(row: Row, i: u32) -> Candidate {
    return Candidate(ordered(outputs[row.logits + i]), i);
}

fn value(c: Candidate) -> f32 {
    return bitcast<f32>(c.x ^ select(0xffffffffu, 0x80000000u, c.x >= 0x80000000u));
}

/// Finds the first candidate, and a bound of the k-th: that of the first ones of threads or parts.
fn find_first(t: Thread, row: Row, c: Choice) {
    var own = Candidate(0u, p.vocab + t.index);
    var candidates = THREADS;
    if p.count > 0u && c.count == 0u {
        candidates = min(p.count, THREADS);
        for (var i = t.index; i < p.count; i += THREADS) {
            let best = Candidate(table[p.bests + 2u * i], table[p.bests + 2u * i + 1u]);
            if is_before(best, own) {
                own = best;
            }
        }
    } else {
        own = own_first(t, row, own);
    }
    tops[t.index] = own;
    workgroupBarrier();
    var rank = 0u;
    for (var j = 0u; j < candidates; j++) {
        rank += select(0u, 1u, is_before(tops[j], own));
    }
    if rank == 0u {
        first = own;
        bound = 0u;
    }
    workgroupBarrier();
    if rank + 1u == c.top_k {
        bound = own.x;
    }
    workgroupBarrier();
}

/// The first candidate of a thread.
fn own_first(t: Thread, row: Row, least: Candidate) -> Candidate {
    var own = least;
    for (var i = t.index; i < p.vocab; i += 16u * THREADS) {
        // All are fetched before the first is looked at.
        var some: array<Candidate, 16>;
        for (var k = 0u; k < 16u; k++) {
            some[k] = candidate(row, min(i + k * THREADS, p.vocab - 1u));
        }
        for (var k = 0u; k < 16u; k++) {
            if is_before(some[k], own) {
                own = some[k];
            }
        }
    }
    return own;
}

/// How much likelier the first candidate is, to the power of −1.
fn mass(row: Row, c: Candidate) -> f32 {
    return exp(value(c) - row.best);
}

/// The last candidate that `top_k` and `top_p` keep: fewer than k stand before it, which have less than p of the mass.
fn last_kept(t: Thread, all: Row, c: Choice) -> Candidate {
    let most = select(f32(c.top_k), 3e38, c.top_k == 0u);
    var limit = 3e38;
    var low = bound;
    if c.top_p < 1.0 {
        var own = 0.0;
        for (var i = t.index; i < p.vocab; i += THREADS) {
            own += mass(all, candidate(all, i));
        }
        let total = workgroup_sum(t, THREADS, own);
        limit = c.top_p * total;
        // All candidates of less than this have together less than what is not kept.
        let least = all.best + log(0.5 * (1.0 - c.top_p) * total / f32(p.vocab));
        let bits = bitcast<u32>(least);
        low = max(low, bits ^ select(0x80000000u, 0xffffffffu, bits >= 0x80000000u));
    }
    var row = all;
    row.listed = make_list(t, all, low);
    var high = first.x;
    while low < high {
        let middle = low + (high - low) / 2u;
        let before = above(t, row, middle);
        if before.x < most && before.y < limit {
            high = middle;
        } else {
            low = middle + 1u;
        }
    }
    let before = above(t, row, high);
    let each = exp(value(Candidate(high, 0u)) - row.best);
    let equals = max(1.0, min(most - before.x, ceil((limit - before.y) / each)));
    var last = p.vocab - 1u;
    if equal(t, row, high, last) > equals {
        var least = 0u;
        while least < last {
            let middle = (least + last) / 2u;
            if equal(t, row, high, middle) < equals {
                least = middle + 1u;
            } else {
                last = middle;
            }
        }
    }
    return Candidate(high, last);
}

/// Lists candidates from `low` on, always in the same order; how many, or 0 if they are too many.
fn make_list(t: Thread, row: Row, low: u32) -> u32 {
    var own = 0u;
    for (var i = t.index; i < p.vocab; i += THREADS) {
        own += select(0u, 1u, candidate(row, i).x >= low);
    }
    counts[t.index] = own;
    workgroupBarrier();
    var place = 0u;
    var all = 0u;
    for (var j = 0u; j < THREADS; j++) {
        place += select(0u, counts[j], j < t.index);
        all += counts[j];
    }
    if all > LISTED {
        return 0u;
    }
    for (var i = t.index; i < p.vocab; i += THREADS) {
        let c = candidate(row, i);
        if c.x >= low {
            list[place] = c;
            place++;
        }
    }
    workgroupBarrier();
    return all;
}

/// Number and mass of the candidates above a place in the order.
fn above(t: Thread, row: Row, place: u32) -> vec2<f32> {
    var own = vec2(0.0);
    if row.listed > 0u {
        for (var i = t.index; i < row.listed; i += THREADS) {
            own += select(vec2(0.0), vec2(1.0, mass(row, list[i])), list[i].x > place);
        }
    } else {
        for (var i = t.index; i < p.vocab; i += THREADS) {
            let c = candidate(row, i);
            own += select(vec2(0.0), vec2(1.0, mass(row, c)), c.x > place);
        }
    }
    return vec2(workgroup_sum(t, THREADS, own.x), workgroup_sum(t, THREADS, own.y));
}

/// Number of the candidates at a place in the order, up to a token.
fn equal(t: Thread, row: Row, place: u32, last: u32) -> f32 {
    var own = 0.0;
    if row.listed > 0u {
        for (var i = t.index; i < row.listed; i += THREADS) {
            own += select(0.0, 1.0, list[i].x == place && list[i].y <= last);
        }
    } else {
        for (var i = t.index; i <= last; i += THREADS) {
            own += select(0.0, 1.0, candidate(row, i).x == place);
        }
    }
    return workgroup_sum(t, THREADS, own);
}

/// Goes through the tokens, with the weights of those that are kept, until `random` of all weights are behind: the part
/// where that is is cut into parts again.
fn draw(t: Thread, row: Row, c: Choice, last: Candidate) -> u32 {
    let team = t.index / LANES;
    var begin = 0u;
    var len = p.vocab;
    var part = len;
    var left = -1.0;
    while part > 1u {
        part = (len + TEAMS - 1u) / TEAMS;
        let end = min(begin + (team + 1u) * part, begin + len);
        var own = 0.0;
        for (var i = begin + team * part + t.index % LANES; i < end; i += LANES) {
            let x = candidate(row, i);
            own += select(exp((value(x) - row.best) / c.temperature), 0.0, is_before(last, x));
        }
        let sum = lanes_sum(t, LANES, own);
        workgroupBarrier();
        if t.index % LANES == 0u {
            sums[team] = sum;
        }
        workgroupBarrier();
        if left < 0.0 {
            var total = 0.0;
            for (var j = 0u; j < TEAMS; j++) {
                total += sums[j];
            }
            left = c.random * total;
        }
        var chosen = 0u;
        var found = false;
        for (var j = 0u; j < TEAMS; j++) {
            if !found && sums[j] > 0.0 {
                chosen = j;
                found = left < sums[j];
                left -= select(sums[j], 0.0, found);
            }
        }
        begin += chosen * part;
        len = min(part, len - chosen * part);
    }
    return min(begin, p.vocab - 1u);
}
