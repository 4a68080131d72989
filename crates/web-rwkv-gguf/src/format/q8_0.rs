//! Q8_0: 32 signed bytes and one f16 scale. Layout: ggml `block_q8_0`.

use super::{Quant, f16};

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Block {
    d: [u8; 2],
    qs: [i8; 32],
}
const _: () = assert!(size_of::<Block>() == 34);

impl Quant for Block {
    const LEN: usize = 32;
    const GROUP: usize = 32;

    #[inline(always)]
    fn unpack(&self, codes: &mut [i8], scale: &mut [f32], offset: &mut [f32]) {
        codes[..32].copy_from_slice(&self.qs);
        scale[0] = f16(self.d);
        offset[0] = 0.0;
    }
}
