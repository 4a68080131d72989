
/// Unit i of a row, of which there is the unit before.
fn refetch_FORMAT(before: Unit_FORMAT, row: u32, i: u32, columns: u32) -> Unit_FORMAT {
    return unit_FORMAT(row, i, columns);
}
