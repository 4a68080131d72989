
/// Chunk i of a row, of which there is the chunk before: it may have the same head.
fn refetch_FORMAT(before: Raw_FORMAT, row: u32, i: u32, columns: u32) -> Raw_FORMAT {
    let block = row + 9u * (i / 8u);
    var raw = before;
    if i % 8u == 0u {
        raw.head = weights[block];
    }
    raw.codes = weights[block + 1u + i % 8u];
    return raw;
}
