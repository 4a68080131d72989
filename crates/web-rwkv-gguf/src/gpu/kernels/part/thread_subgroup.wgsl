// A thread in its workgroup, numbered so that neighbours share a subgroup.

struct Builtins {
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
}

struct Thread {
    index: u32,
    subgroup: u32,
    lane: u32,
    lanes: u32,
}

fn thread(b: Builtins) -> Thread {
    return Thread(b.subgroup * b.lanes + b.lane, b.subgroup, b.lane, b.lanes);
}

/// The sum of x over `lanes` neighbours, a power of two up to the size of a subgroup.
fn lanes_sum(t: Thread, lanes: u32, x: f32) -> f32 {
    var sum = x;
    for (var step = 1u; step < lanes; step *= 2u) {
        sum += subgroupShuffleXor(sum, step);
    }
    return sum;
}
