//! Q4_0: 32 values of 4 bits less 8, one f16 scale. Layout: ggml `block_q4_0`.

use super::{
    Bytes,
    fit::{self, Whole},
    nibbles,
    small::{Blocks, Small},
};

pub(crate) type Block = Blocks<Q4_0, 1>;

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Q4_0 {
    d: [u8; 2],   // f16
    qs: [u8; 16], // value i in the low half of byte i, i + 16 in the high
}
const _: () = assert!(size_of::<Block>() == 18);

impl Small for Q4_0 {
    const LARGEST: usize = 8;
    const OFFSETS: bool = false;
    const BIAS: u8 = 8;

    #[inline(always)]
    unsafe fn biased<B: Bytes>(&self) -> B {
        // SAFETY: the caller has the instructions.
        unsafe { B::nibbles(&self.qs) }
    }

    #[inline(always)]
    fn pack(x: &[f32], weight: &[f32]) -> Self {
        let (d, q) = fit::scaled::<Whole<-8, 7>>(fit::block(x), fit::block(weight));
        Self { d, qs: nibbles(&q.map(|q| (q + 8.0) as u8)) }
    }
}
