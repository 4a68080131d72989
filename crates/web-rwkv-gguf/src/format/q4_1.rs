//! Q4_1: 32 values of 4 bits, f16 scale and minimum. Layout: ggml `block_q4_1`.

use super::{
    Bytes, fit, nibbles,
    small::{Blocks, Small},
};

pub(crate) type Block = Blocks<Q4_1, 1>;

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Q4_1 {
    d: [u8; 2],   // f16
    m: [u8; 2],   // f16
    qs: [u8; 16], // value i in the low half of byte i, i + 16 in the high
}
const _: () = assert!(size_of::<Block>() == 20);

impl Small for Q4_1 {
    const LARGEST: usize = 8;
    const OFFSETS: bool = true;
    const MIDDLE: u8 = 8;

    #[inline(always)]
    unsafe fn biased<B: Bytes>(&self) -> B {
        // SAFETY: the caller has the instructions.
        unsafe { B::nibbles(&self.qs) }
    }

    #[inline(always)]
    fn pack(x: &[f32], weight: &[f32]) -> Self {
        let (d, m, q) = fit::offset(fit::block(x), fit::block(weight), 15.0);
        Self { d, m, qs: nibbles(&q.map(|q| q as u8)) }
    }
}
