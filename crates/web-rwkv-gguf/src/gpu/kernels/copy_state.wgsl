// Copies states from slot to slot; workgroups x share one copy of the table, y are the copies.

struct Params {
    copies: u32, // in the table: from, to
    slot: u32, // size
}

@compute @workgroup_size(THREADS)
fn copy_state(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) index: u32) {
    let source = table[p.copies + 2u * workgroup.y] * p.slot;
    let destination = table[p.copies + 2u * workgroup.y + 1u] * p.slot;
    for (var i = workgroup.x * THREADS + index; i < p.slot; i += workgroups.x * THREADS) {
        states[destination + i] = states[source + i];
    }
}
