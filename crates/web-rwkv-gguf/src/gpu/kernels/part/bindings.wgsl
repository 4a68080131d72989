// What every kernel sees. Activations of a kind stand in one buffer; a place in it is an index of a value. `Float` and `State`
// are f32, or several of them where a kernel takes nothing less; `Inputs` are four of `Input`, or eight as they lie in memory.

@group(0) @binding(0) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> vectors: array<Float>;
@group(0) @binding(2) var<storage, read_write> acts: array<Float>;
/// What products read.
@group(0) @binding(3) var<storage, read_write> inputs: array<Inputs>;
/// Logits.
@group(0) @binding(4) var<storage, read_write> outputs: array<f32>;
@group(0) @binding(5) var<storage, read_write> states: array<State>;
/// Of a batch: its sequences, tokens, wanted rows and products.
@group(0) @binding(6) var<storage, read_write> table: array<u32>;

var<immediate> p: Params;

/// Added to the width of inputs that stand in tiles of 16 tokens by 16 columns, as matrix units take them.
const TILES: u32 = 0x80000000u;

/// The place of a column of a token's inputs.
fn input_place(first: u32, token: u32, width: u32, column: u32) -> u32 {
    if width < TILES {
        return first + token * width + column;
    }
    return first + token / 16u * 16u * (width - TILES) + column / 16u * 256u + token % 16u * 16u + column % 16u;
}

/// A sequence in the table: the slots of its state before and after, start, len.
const SEQUENCE: u32 = 4u;
