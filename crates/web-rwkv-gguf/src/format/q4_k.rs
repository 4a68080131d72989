//! Q4_K: 256 values of 4 bits; each 32 have a 6-bit scale and a 6-bit minimum. Layout: ggml
//! `block_q4_K`.

use std::{array, mem::offset_of};

use super::{
    Bits, Bytes, Eights, Quant,
    beside::{Beside, Row, Source},
    fit,
};

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Block {
    factors: Factors,
    qs: [[u8; 32]; 4], // for each 64 values: value i in the low half of byte i, i + 32 in the high
}
const _: () = assert!(size_of::<Block>() == 144);

impl Beside for Block {
    const WHOLE: usize = 63;

    #[inline(always)]
    unsafe fn code<B: Bits>(from: impl Source<B>, i: usize) -> B {
        // SAFETY: the caller has the instructions.
        unsafe { from.load(offset_of!(Self, qs) + i / 2 * 32).bits(4 * (i as u32 % 2), 15) }
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
    const LARGEST: usize = 8;
    const OFFSETS: bool = true;
    const MIDDLE: u8 = 8;

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
        let fit = fit::offset_groups::<32, 8>(fit::groups(x), fit::groups(weight), 15.0, 63.0);
        let code = |g: usize, i: usize| fit.codes[g][i] as u8;
        Self {
            factors: Factors::pack(fit.d, fit.dmin, &fit.scales, &fit.mins),
            qs: array::from_fn(|n| array::from_fn(|i| code(2 * n, i) | code(2 * n + 1, i) << 4)),
        }
    }
}

/// Eight scales and minimums of 6 bits. The first four of each are the low bits of bytes 0..4 and
/// 4..8; the last four have their low 4 bits in bytes 8..12 and their high 2 in those bytes' top.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Factors {
    d: [u8; 2],    // f16
    dmin: [u8; 2], // f16
    packed: [u8; 12],
}

impl Factors {
    /// `scale = d scales`, `offset = −dmin minimums`
    ///
    /// # Safety
    /// As [`Bytes`].
    #[inline(always)]
    pub(super) unsafe fn unpack<B: Bytes>(&self, scale: &mut [f32; 8], offset: &mut [f32; 8]) {
        let (low, high) = self.packed.split_at(8);
        let last = |g: usize, shift: u32| high[g % 4] >> shift & 15;
        let scales =
            array::from_fn(|g| (if g < 4 { low[g] & 63 } else { last(g, 0) | low[g - 4] >> 6 << 4 }) as i8);
        let mins =
            array::from_fn(|g| (if g < 4 { low[g + 4] & 63 } else { last(g, 4) | low[g] >> 6 << 4 }) as i8);
        // SAFETY: the caller's promise is handed on.
        unsafe {
            B::scaled(scales, self.d, scale);
            B::scaled(mins.map(|m: i8| -m), self.dmin, offset);
        }
    }

    /// Those of rows that stand side by side, which blocks begin with: scales and offsets as `d` or `−dmin` and whole numbers.
    ///
    /// # Safety
    /// As [`Eights`].
    #[inline(always)]
    pub(super) unsafe fn beside<E: Eights>(eights: &[*const u8]) -> [(E::Floats, [E; 4]); 2] {
        // SAFETY: the caller's promise is handed on.
        unsafe {
            let [d, dmin] = E::load(eights, 0).f16s();
            let (scales, minimums, last) = (E::load(eights, 4), E::load(eights, 8), E::load(eights, 12));
            let last_scales = last.bits(0, 15).or(scales.bits(2, 0x30), 0);
            let last_minimums = last.bits(4, 15).or(minimums.bits(2, 0x30), 0);
            let (scales, minimums) = (scales.bits(0, 63), minimums.bits(0, 63));
            [
                (d, [scales, last_scales, scales, last_scales]),
                (E::negative(dmin), [minimums, last_minimums, minimums, last_minimums]),
            ]
        }
    }

    /// The inverse of `unpack`.
    #[inline(always)]
    pub(super) fn pack(d: [u8; 2], dmin: [u8; 2], scale: &[f32; 8], min: &[f32; 8]) -> Self {
        let (scale, min) = (scale.map(|s| s as u8), min.map(|m| m as u8));
        let packed = array::from_fn(|i| match i {
            0..4 => scale[i] | scale[i + 4] >> 4 << 6,
            4..8 => min[i - 4] | min[i] >> 4 << 6,
            _ => scale[i - 4] & 15 | min[i - 4] << 4,
        });
        Self { d, dmin, packed }
    }
}
