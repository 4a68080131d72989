//! Q4_0: 32 values of 4 bits less 8, one f16 scale. Layout: ggml `block_q4_0`.

use super::{
    Bytes, Quant,
    fit::{self, Whole},
    nibbles,
};

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
    const LARGEST: usize = 8;
    const OFFSETS: bool = false;
    const BIAS: u8 = 8;

    #[inline(always)]
    unsafe fn biased<B: Bytes>(&self, _: usize) -> B {
        // SAFETY: the caller has the instructions.
        unsafe { B::nibbles(&self.qs) }
    }

    #[inline(always)]
    unsafe fn factors<B: Bytes>(&self, scale: &mut [f32], offset: &mut [f32]) {
        // SAFETY: the caller has the instructions.
        scale[0] = unsafe { B::f16(self.d) };
        offset[0] = 0.0;
    }

    #[inline(always)]
    fn pack(x: &[f32], weight: &[f32]) -> Self {
        let (d, q) = fit::scaled::<Whole<-8, 7>>(fit::block(x), fit::block(weight));
        Self { d, qs: nibbles(&q.map(|q| (q + 8.0) as u8)) }
    }
}
