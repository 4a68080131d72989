// The likeliest token of a task, for `sample` to choose from.

var<workgroup> bests: array<Candidate, THREADS / 8u>;

/// Puts the first of all candidates of a workgroup into the table.
fn tell_best(t: Thread, at: u32, own: Candidate) {
    let best = first_of(t, own);
    if t.lane == 0u {
        bests[t.subgroup] = best;
    }
    workgroupBarrier();
    if t.subgroup == 0u {
        var some = best;
        for (var i = t.lane; i < (THREADS + t.lanes - 1u) / t.lanes; i += t.lanes) {
            some = select(some, bests[i], is_before(bests[i], some));
        }
        some = first_of(t, some);
        if t.lane == 0u {
            table[at] = some.x;
            table[at + 1u] = some.y;
        }
    }
}

/// The first candidate of a subgroup.
fn first_of(t: Thread, own: Candidate) -> Candidate {
    var best = own;
    for (var step = 1u; step < t.lanes; step *= 2u) {
        let other = subgroupShuffleXor(best, step);
        best = select(best, other, is_before(other, best));
    }
    return best;
}
