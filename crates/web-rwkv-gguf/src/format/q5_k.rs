//! Q5_K: 256 values of 5 bits; each 32 have a 6-bit scale and a 6-bit minimum. Layout: ggml
//! `block_q5_K`.

use super::{Quant, f16, q4_k::scales};

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Block {
    d: [u8; 2],        // f16
    dmin: [u8; 2],     // f16
    scales: [u8; 12],  // as in Q4_K
    qh: [u8; 32],      // bit g of byte i: the fifth bit of value 32g + i
    qs: [[u8; 32]; 4], // for each 64 values: value i in the low half of byte i, i + 32 in the high
}
const _: () = assert!(size_of::<Block>() == 176);

impl Quant for Block {
    const LEN: usize = 256;
    const GROUP: usize = 32;

    #[inline(always)]
    fn unpack(&self, codes: &mut [i8], scale: &mut [f32], offset: &mut [f32]) {
        for (n, (codes, qs)) in codes.as_chunks_mut::<64>().0.iter_mut().zip(&self.qs).enumerate() {
            for i in 0..32 {
                let hi = self.qh[i] >> (2 * n);
                codes[i] = (qs[i] & 15 | (hi & 1) << 4) as i8;
                codes[i + 32] = (qs[i] >> 4 | (hi & 2) << 3) as i8;
            }
        }
        scales(&self.scales, f16(self.d), f16(self.dmin), scale, offset);
    }
}
