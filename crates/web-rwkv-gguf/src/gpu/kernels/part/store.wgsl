// What kernels have in common.

fn store_input(at: u32, x: f32) {
    inputs[at / 4u][at % 4u] = Input(clamp(x, -LARGEST, LARGEST));
}

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(-x));
}
