
/// The values of a chunk.
fn decode_FORMAT(raw: Raw_FORMAT, chunk: u32) -> Chunk {
    let f = factors_FORMAT(raw, chunk);
    var v = codes_FORMAT(raw);
    for (var k = 0u; k < 4u; k++) {
        v[k] = v[k] * f.x + f.y;
        v[k + 4u] = v[k + 4u] * f.z + f.w;
    }
    return v;
}

// What is fetched of a block at a time is a chunk.
alias Unit_FORMAT = Raw_FORMAT;
const UNITS_FORMAT: u32 = 1u;

fn unit_FORMAT(row: u32, i: u32, columns: u32) -> Unit_FORMAT {
    return fetch_FORMAT(row, i, columns);
}

fn values_FORMAT(raw: Unit_FORMAT, i: u32) -> Chunk {
    return decode_FORMAT(raw, i);
}
