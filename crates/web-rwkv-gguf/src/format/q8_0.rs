//! Q8_0: 32 signed bytes and one f16 scale. Layout: ggml `block_q8_0`.

use super::{
    Bytes,
    fit::{self, Whole},
    small::{Blocks, Small},
};

pub(crate) type Block = Blocks<Q8_0, 1>;

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Q8_0 {
    d: [u8; 2],
    qs: [u8; 32], // signed
}
const _: () = assert!(size_of::<Block>() == 34);

impl Small for Q8_0 {
    const LARGEST: usize = 128;
    const OFFSETS: bool = false;
    const BIAS: u8 = 128;

    #[inline(always)]
    unsafe fn biased<B: Bytes>(&self) -> B {
        // SAFETY: the caller has the instructions.
        unsafe { B::load(&self.qs).less(Self::BIAS) }
    }

    #[inline(always)]
    fn pack(x: &[f32], weight: &[f32]) -> Self {
        let (d, q) = fit::scaled::<Whole<-127, 127>>(fit::block(x), fit::block(weight));
        Self { d, qs: q.map(|q| q as i8 as u8) }
    }
}
