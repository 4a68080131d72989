//! Q2_K: 256 values of 2 bits; each 16 have a 4-bit scale and a 4-bit minimum. Layout: ggml
//! `block_q2_K`.

use std::array;

use super::{Bytes, Quant, fit};

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Block {
    scales: [u8; 16],  // scale in the low half, minimum in the high
    qs: [[u8; 32]; 2], // for each 128 values: bits 2s and 2s + 1 of byte i are value 32s + i
    d: [u8; 2],        // f16
    dmin: [u8; 2],     // f16
}
const _: () = assert!(size_of::<Block>() == 84);

impl Quant for Block {
    type Span = Self;
    const LEN: usize = 256;
    const GROUP: usize = 16;
    const LARGEST: usize = 2;
    const OFFSETS: bool = true;
    const MIDDLE: u8 = 2;

    #[inline(always)]
    unsafe fn biased<B: Bytes>(&self, i: usize) -> B {
        // SAFETY: the caller has the instructions.
        unsafe { B::load(&self.qs[i / 4]).bits(2 * (i as u32 % 4), 3) }
    }

    #[inline(always)]
    unsafe fn factors<B: Bytes>(&self, scale: &mut [f32], offset: &mut [f32]) {
        let (scale, offset) = (scale.as_chunks_mut().0, offset.as_chunks_mut().0);
        for (g, scales) in self.scales.as_chunks::<8>().0.iter().enumerate() {
            // SAFETY: the caller has the instructions.
            unsafe {
                B::scaled(scales.map(|s| (s & 15) as i8), self.d, &mut scale[g]);
                B::scaled(scales.map(|s| -((s >> 4) as i8)), self.dmin, &mut offset[g]);
            }
        }
    }

    #[inline(always)]
    fn pack(x: &[f32], weight: &[f32]) -> Self {
        let fit = fit::offset_groups::<16, 16>(fit::groups(x), fit::groups(weight), 3.0, 15.0);
        let codes = fit.codes.as_flattened();
        let code = |half: usize, s: usize, i: usize| codes[128 * half + 32 * s + i] as u8;
        Self {
            scales: array::from_fn(|g| fit.scales[g] as u8 | (fit.mins[g] as u8) << 4),
            qs: array::from_fn(|half| {
                array::from_fn(|i| (0..4).fold(0, |byte, s| byte | code(half, s, i) << (2 * s)))
            }),
            d: fit.d,
            dmin: fit.dmin,
        }
    }
}
