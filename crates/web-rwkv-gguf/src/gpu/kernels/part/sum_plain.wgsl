// Sums over the threads of a workgroup, through its memory.

var<workgroup> partial_sums: array<Sum, 256>;

/// The sum of x over a workgroup of `threads` threads; every thread gets it.
fn workgroup_sum(t: Thread, threads: u32, x: Sum) -> Sum {
    workgroupBarrier();
    partial_sums[t.index] = x;
    workgroupBarrier();
    for (var step = threads / 2u; step > 0u; step /= 2u) {
        if t.index < step {
            partial_sums[t.index] += partial_sums[t.index + step];
        }
        workgroupBarrier();
    }
    return partial_sums[0];
}
