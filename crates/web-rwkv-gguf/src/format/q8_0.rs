//! Q8_0: 32 signed bytes and one f16 scale. Layout: ggml `block_q8_0`.

use super::{
    Bytes, Quant,
    fit::{self, Whole},
};

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Block {
    d: [u8; 2],
    qs: [u8; 32], // signed
}
const _: () = assert!(size_of::<Block>() == 34);

impl Quant for Block {
    const LEN: usize = 32;
    const GROUP: usize = 32;
    const LARGEST: usize = 128;
    const OFFSETS: bool = false;
    const BIAS: u8 = 128;

    #[inline(always)]
    unsafe fn biased<B: Bytes>(&self, _: usize) -> B {
        // SAFETY: the caller has the instructions.
        unsafe { B::load(&self.qs).less(Self::BIAS) }
    }

    #[inline(always)]
    unsafe fn factors<B: Bytes>(&self, scale: &mut [f32], offset: &mut [f32]) {
        // SAFETY: the caller has the instructions.
        scale[0] = unsafe { B::f16(self.d) };
        offset[0] = 0.0;
    }

    #[inline(always)]
    fn pack(x: &[f32], weight: &[f32]) -> Self {
        let (d, q) = fit::scaled::<Whole<-127, 127>>(fit::block(x), fit::block(weight));
        Self { d, qs: q.map(|q| q as i8 as u8) }
    }
}
