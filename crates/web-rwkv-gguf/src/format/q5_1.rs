//! Q5_1: 32 values of 5 bits, f16 scale and minimum. Layout: ggml `block_q5_1`.

use super::{
    Bytes, fifth_bits, fit, nibbles,
    small::{Blocks, Small},
};

pub(crate) type Block = Blocks<Q5_1, 1>;

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Q5_1 {
    d: [u8; 2],   // f16
    m: [u8; 2],   // f16
    qh: [u8; 4],  // bit i: the fifth bit of value i
    qs: [u8; 16], // value i in the low half of byte i, i + 16 in the high
}
const _: () = assert!(size_of::<Block>() == 24);

impl Small for Q5_1 {
    const LARGEST: usize = 16;
    const OFFSETS: bool = true;
    const MIDDLE: u8 = 16;

    #[inline(always)]
    unsafe fn biased<B: Bytes>(&self) -> B {
        // SAFETY: the caller has the instructions.
        unsafe { B::nibbles(&self.qs).or(B::spread(self.qh), 4) }
    }

    #[inline(always)]
    fn pack(x: &[f32], weight: &[f32]) -> Self {
        let (d, m, q) = fit::offset(fit::block(x), fit::block(weight), 31.0);
        let q = q.map(|q| q as u8);
        Self { d, m, qh: fifth_bits(&q), qs: nibbles(&q) }
    }
}
