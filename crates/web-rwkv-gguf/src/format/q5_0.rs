//! Q5_0: 32 values of 5 bits less 16, one f16 scale. Layout: ggml `block_q5_0`.

use super::{Quant, f16, fifth_bits, nibbles};

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Block {
    d: [u8; 2],   // f16
    qh: [u8; 4],  // bit i: the fifth bit of value i
    qs: [u8; 16], // value i in the low half of byte i, i + 16 in the high
}
const _: () = assert!(size_of::<Block>() == 22);

impl Quant for Block {
    const LEN: usize = 32;
    const GROUP: usize = 32;

    #[inline(always)]
    fn unpack(&self, codes: &mut [i8], scale: &mut [f32], offset: &mut [f32]) {
        let (lo, hi) = (nibbles(&self.qs), fifth_bits(self.qh));
        for (i, c) in codes[..32].iter_mut().enumerate() {
            *c = (lo[i] | hi[i]) as i8 - 16;
        }
        scale[0] = f16(self.d);
        offset[0] = 0.0;
    }
}
