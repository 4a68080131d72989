// Rows one by one, for finish.wgsl.
const FLOATS: u32 = 1u;

fn input_at(at: u32) -> f32 {
    return f32(inputs[at / 4u][at % 4u]);
}

fn store_output(at: u32, y: f32) {
    outputs[at] = y;
}
