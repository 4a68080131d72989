fn load_packed(t: Thread, job: Job, token: u32, begin: u32, end: u32) {
    let fours = 8u * (end - begin);
    for (var i = 0u; i < TOKENS; i++) {
        let row = input_row(job, token + i) + 8u * begin;
        for (var step = 0u; step < fours; step += THREADS) {
            let e = step + t.index;
            put_packed(t, 8u * i * SEGMENT_packed + e, vec4<f32>(inputs[row + min(e, fours - 1u)]), e < fours);
        }
    }
}
