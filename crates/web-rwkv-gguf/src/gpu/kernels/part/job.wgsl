// Products of a dispatch, in the table.

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

struct Params {
    jobs: u32, // in the table
    tokens: u32,
    /// The first job; another one is looked up, which takes a microsecond.
    job: Job,
    /// The first workgroups of jobs 1 to 7.
    first1: u32,
    first2: u32,
    first3: u32,
    first4: u32,
    first5: u32,
    first6: u32,
    first7: u32,
    /// The first token, of products on matrix units, and among how many workgroups their columns are shared out.
    token: u32,
    splits: u32,
    /// From this workgroup on sums are kept as parts: where, from token to token, and how long a part is.
    kept: u32,
    parts: u32,
    pitch: u32,
    part: u32,
}

/// The job that a workgroup belongs to.
fn find_job(workgroup: u32) -> Job {
    if workgroup < p.first1 {
        return p.job;
    }
    let low = vec4(p.first1, p.first2, p.first3, p.first4) <= vec4(workgroup);
    let high = vec3(p.first5, p.first6, p.first7) <= vec3(workgroup);
    let job = dot(select(vec4(0u), vec4(1u), low), vec4(1u)) + dot(select(vec3(0u), vec3(1u), high), vec3(1u));
    let at = p.jobs + JOB * job;
    return Job(table[at], table[at + 1u], table[at + 2u], table[at + 3u], table[at + 4u], table[at + 5u],
        table[at + 6u], table[at + 7u], table[at + 8u], table[at + 9u], table[at + 10u], table[at + 11u],
        table[at + 12u], table[at + 13u], table[at + 14u], table[at + 15u]);
}
