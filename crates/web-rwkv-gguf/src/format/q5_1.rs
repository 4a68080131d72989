//! Q5_1: 32 values of 5 bits, f16 scale and minimum. Layout: ggml `block_q5_1`.

use super::{Bytes, Quant, fifth_bits, fit, nibbles};

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Block {
    d: [u8; 2],   // f16
    m: [u8; 2],   // f16
    qh: [u8; 4],  // bit i: the fifth bit of value i
    qs: [u8; 16], // value i in the low half of byte i, i + 16 in the high
}
const _: () = assert!(size_of::<Block>() == 24);

impl Quant for Block {
    const LEN: usize = 32;
    const GROUP: usize = 32;
    const LARGEST: usize = 16;
    const OFFSETS: bool = true;
    const MIDDLE: u8 = 16;

    #[inline(always)]
    unsafe fn biased<B: Bytes>(&self, _: usize) -> B {
        // SAFETY: the caller has the instructions.
        unsafe { B::nibbles(&self.qs).or(B::spread(self.qh), 4) }
    }

    #[inline(always)]
    unsafe fn factors<B: Bytes>(&self, scale: &mut [f32], offset: &mut [f32]) {
        // SAFETY: the caller has the instructions.
        scale[0] = unsafe { B::f16(self.d) };
        // SAFETY: as above.
        offset[0] = unsafe { B::f16(self.m) };
    }

    #[inline(always)]
    fn pack(x: &[f32], weight: &[f32]) -> Self {
        let (d, m, q) = fit::offset(fit::block(x), fit::block(weight), 31.0);
        let q = q.map(|q| q as u8);
        Self { d, m, qh: fifth_bits(&q), qs: nibbles(&q) }
    }
}
