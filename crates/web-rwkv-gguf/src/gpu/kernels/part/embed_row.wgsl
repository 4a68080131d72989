
/// Puts the values of a row where x begins.
fn embed_row_FORMAT(t: Thread, row: u32, x: u32) {
    for (var c = t.index; c < p.columns / 32u; c += THREADS) {
        let v = decode_FORMAT(fetch_FORMAT(row, c, p.columns), c);
        for (var i = 0u; i < 32u; i++) {
            if 32u * c + i < WIDTH {
                acts[x + 32u * c + i] = v[i / 4u][i % 4u];
            }
        }
    }
}
