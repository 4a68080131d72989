// Products, in the table.

struct Job {
    first: u32, // workgroup
    rows: u32,
    columns: u32,
    weights: u32, // place of the first row
    stride: u32, // from row to row
    format: u32,
    x: u32,
    x_width: u32,
    y: u32,
    y_width: u32,
    y_kind: u32,
    act: u32,
    bias: u32, // of `Decay`, `Gate`, `Residual` and `Lerp`
    other: u32, // v_first of `Residual`, h of `Lerp`
    other_width: u32,
    before: u32, // of `Lerp`: h of the token before, an input
}

const JOB: u32 = 16u;
