//! IQ4_NL: 32 values of 4 bits that index a table, one f16 scale. Layout: ggml `block_iq4_nl`.

use super::{Bytes, Quant};

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Block {
    d: [u8; 2],   // f16
    qs: [u8; 16], // value i in the low half of byte i, i + 16 in the high
}
const _: () = assert!(size_of::<Block>() == 18);

impl Quant for Block {
    const LEN: usize = 32;
    const GROUP: usize = 32;

    #[inline(always)]
    unsafe fn codes<B: Bytes>(&self, _: usize) -> B {
        // SAFETY: the caller has the instructions.
        unsafe { B::nibbles(&self.qs).lookup(&TABLE) }
    }

    #[inline(always)]
    unsafe fn factors<B: Bytes>(&self, scale: &mut [f32], offset: &mut [f32]) {
        // SAFETY: the caller has the instructions.
        scale[0] = unsafe { B::f16(self.d) };
        offset[0] = 0.0;
    }
}

/// ggml `kvalues_iq4nl`.
pub(super) const TABLE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
