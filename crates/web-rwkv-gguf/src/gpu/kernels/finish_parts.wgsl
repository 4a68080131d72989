// y = act(Σ parts) of products on matrix units: a workgroup takes ROWS rows, as `project_matrix` does, and TOKENS tokens.

@compute @workgroup_size(THREADS)
fn finish_parts(b: Builtins) {
    let t = thread(b);
    let group = b.workgroup.x + p.kept;
    let job = find_job(group);
    for (var i = 0u; i < ROWS * TOKENS / THREADS / FLOATS; i++) {
        let e = FLOATS * (t.index + i * THREADS);
        let row = (group - job.first) * ROWS + e % ROWS;
        let token = b.workgroup.y * TOKENS + e / ROWS;
        let at = p.parts + token * p.pitch + b.workgroup.x * ROWS + e % ROWS;
        var sum = Float(0.0);
        for (var k = 0u; k < SPLITS; k++) {
            sum += acts[(at + k * p.part) / FLOATS];
        }
        if row < job.rows && p.token + token < p.tokens {
            finish(job, row, p.token + token, sum);
        }
    }
}
