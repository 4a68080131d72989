//! Q5_K: 256 values of 5 bits; each 32 have a 6-bit scale and a 6-bit minimum. Layout: ggml
//! `block_q5_K`.

use std::{array, mem::offset_of};

use super::{
    Bits, Bytes, Eights, Quant,
    beside::{Beside, Row, Source},
    fit,
    q4_k::Factors,
};

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Block {
    factors: Factors,
    qh: [u8; 32],      // bit g of byte i: the fifth bit of value 32g + i
    qs: [[u8; 32]; 4], // for each 64 values: value i in the low half of byte i, i + 32 in the high
}
const _: () = assert!(size_of::<Block>() == 176);

impl Beside for Block {
    const WHOLE: usize = 63;

    #[inline(always)]
    unsafe fn code<B: Bits>(from: impl Source<B>, i: usize) -> B {
        // SAFETY: the caller has the instructions.
        unsafe {
            let hi = from.load(offset_of!(Self, qh)).bits(i as u32, 1);
            from.load(offset_of!(Self, qs) + i / 2 * 32).bits(4 * (i as u32 % 2), 15).or(hi, 4)
        }
    }

    #[inline(always)]
    unsafe fn whole<E: Eights>(eights: &[*const u8]) -> [(E::Floats, [E; 4]); 2] {
        // SAFETY: the caller has the instructions, and blocks begin with them.
        unsafe { Factors::beside(eights) }
    }
}

impl Quant for Block {
    type Span = Self;
    const LEN: usize = 256;
    const GROUP: usize = 32;
    const LARGEST: usize = 16;
    const OFFSETS: bool = true;
    const MIDDLE: u8 = 16;

    #[inline(always)]
    unsafe fn biased<B: Bytes>(&self, i: usize) -> B {
        // SAFETY: the caller has the instructions.
        unsafe { Self::code(Row(self), i) }
    }

    #[inline(always)]
    unsafe fn factors<B: Bytes>(&self, scale: &mut [f32], offset: &mut [f32]) {
        // SAFETY: the caller has the instructions.
        unsafe {
            B::factors(&self.factors, &mut scale.as_chunks_mut().0[0], &mut offset.as_chunks_mut().0[0])
        };
    }

    #[inline(always)]
    fn pack(x: &[f32], weight: &[f32]) -> Self {
        let fit = fit::offset_groups::<32, 8>(fit::groups(x), fit::groups(weight), 31.0, 63.0);
        let code = |g: usize, i: usize| fit.codes[g][i] as u8;
        Self {
            factors: Factors::pack(fit.d, fit.dmin, &fit.scales, &fit.mins),
            qh: array::from_fn(|i| (0..8).fold(0, |byte, g| byte | code(g, i) >> 4 << g)),
            qs: array::from_fn(|n| array::from_fn(|i| code(2 * n, i) & 15 | code(2 * n + 1, i) << 4)),
        }
    }
}
