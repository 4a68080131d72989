// Sums over the threads of a workgroup, by subgroups.

var<workgroup> partial_sums: array<Sum, 64>;

/// The sum of x over a workgroup of `threads` threads; every thread gets it.
fn workgroup_sum(t: Thread, threads: u32, x: Sum) -> Sum {
    let sum = subgroupAdd(x);
    workgroupBarrier();
    if t.lane == 0u {
        partial_sums[t.subgroup] = sum;
    }
    workgroupBarrier();
    var total = Sum(0.0);
    for (var i = 0u; i < threads / t.lanes; i++) {
        total += partial_sums[i];
    }
    return total;
}
