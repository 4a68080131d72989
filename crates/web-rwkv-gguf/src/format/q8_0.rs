//! Q8_0: 32 signed bytes and one f16 scale. Layout: ggml `block_q8_0`.

use super::{
    Bytes, Quant, f16,
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

    #[inline(always)]
    unsafe fn unpack<B: Bytes>(&self, codes: &mut [[u8; 32]], scale: &mut [f32], offset: &mut [f32]) {
        codes[0] = self.qs;
        scale[0] = f16(self.d);
        offset[0] = 0.0;
    }

    #[inline(always)]
    fn pack(x: &[f32], weight: &[f32]) -> Self {
        let (d, q) = fit::scaled::<Whole<-127, 127>>(fit::block(x), fit::block(weight));
        Self { d, qs: q.map(|q| q as i8 as u8) }
    }
}
