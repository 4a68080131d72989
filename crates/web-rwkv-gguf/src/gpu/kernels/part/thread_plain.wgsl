// A thread in its workgroup.

struct Builtins {
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
}

struct Thread {
    index: u32,
}

fn thread(b: Builtins) -> Thread {
    return Thread(b.index);
}

var<workgroup> lane_sums: array<f32, 256>;

/// The sum of x over `lanes` neighbours, a power of two; to be called by all threads together.
fn lanes_sum(t: Thread, lanes: u32, x: f32) -> f32 {
    workgroupBarrier();
    lane_sums[t.index] = x;
    workgroupBarrier();
    var sum = 0.0;
    let first = t.index / lanes * lanes;
    for (var i = 0u; i < lanes; i++) {
        sum += lane_sums[first + i];
    }
    return sum;
}
