// Four rows at a time, for finish.wgsl.
const FLOATS: u32 = 4u;

fn input_at(at: u32) -> vec4<f32> {
    return vec4<f32>(inputs[at / 4u]);
}

fn store_input(at: u32, x: vec4<f32>) {
    inputs[at / 4u] = vec4<Input>(clamp(x, vec4(-LARGEST), vec4(LARGEST)));
}

fn store_output(at: u32, y: vec4<f32>) {
    for (var i = 0u; i < 4u; i++) {
        outputs[at + i] = y[i];
    }
}

fn sigmoid(x: vec4<f32>) -> vec4<f32> {
    return 1.0 / (1.0 + exp(-x));
}
