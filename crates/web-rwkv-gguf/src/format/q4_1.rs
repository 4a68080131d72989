//! Q4_1: 32 values of 4 bits, f16 scale and minimum. Layout: ggml `block_q4_1`.

use super::{Bytes, Quant, f16, fit, nibbles};

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Block {
    d: [u8; 2],   // f16
    m: [u8; 2],   // f16
    qs: [u8; 16], // value i in the low half of byte i, i + 16 in the high
}
const _: () = assert!(size_of::<Block>() == 20);

impl Quant for Block {
    const LEN: usize = 32;
    const GROUP: usize = 32;

    #[inline(always)]
    unsafe fn unpack<B: Bytes>(&self, codes: &mut [[u8; 32]], scale: &mut [f32], offset: &mut [f32]) {
        // SAFETY: the caller has the instructions.
        unsafe { B::nibbles(&self.qs).store(&mut codes[0]) };
        scale[0] = f16(self.d);
        offset[0] = f16(self.m);
    }

    #[inline(always)]
    fn pack(x: &[f32], weight: &[f32]) -> Self {
        let (d, m, q) = fit::offset(fit::block(x), fit::block(weight), 15.0);
        Self { d, m, qs: nibbles(&q.map(|q| q as u8)) }
    }
}
