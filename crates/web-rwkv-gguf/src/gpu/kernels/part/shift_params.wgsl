// What both kinds of shift are told.

struct Params {
    sequences: u32, // in the table
    sequence_of: u32, // in the table, for each token
    x: u32,
    weight: u32,
    bias: u32,
    eps: f32,
    state: u32, // of this shift, in a slot
    slot: u32, // size
    mix: u32, // the first of the mixes
    mix_stride: u32,
    y: u32, // the first of the results
    y_stride: u32,
    y_width: u32,
    h: u32,
    /// Of `shift`: where the parts are, from token to token, how long a part is, and where x goes.
    parts: u32,
    pitch: u32,
    part: u32,
    x_after: u32,
}
