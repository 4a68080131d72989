//! Q6_K: 256 values of 6 bits less 32; each 16 have an 8-bit scale. Layout: ggml `block_q6_K`.

use std::{array, mem::offset_of};

use super::{
    Bits, Bytes, Eights, Quant,
    beside::{Beside, Row, Source},
    fit::{self, Whole},
};

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Block {
    ql: [[[u8; 32]; 2]; 2], // for each 128 values: value i in the low half of byte i, i + 64 in the high
    qh: [[u8; 32]; 2],      // for each 128 values: bits 2s and 2s + 1 of byte i top value 32s + i
    scales: [i8; 16],
    d: [u8; 2], // f16
}
const _: () = assert!(size_of::<Block>() == 210);

impl Beside for Block {
    const WHOLE: usize = 128;

    #[inline(always)]
    unsafe fn code<B: Bits>(from: impl Source<B>, i: usize) -> B {
        let (half, s) = (i / 4, i as u32 % 4);
        // SAFETY: the caller has the instructions.
        unsafe {
            let lo = from.load(offset_of!(Self, ql) + 64 * half + i % 2 * 32).bits(4 * (s / 2), 15);
            lo.or(from.load(offset_of!(Self, qh) + 32 * half).bits(2 * s, 3), 4)
        }
    }

    #[inline(always)]
    unsafe fn whole<E: Eights>(eights: &[*const u8]) -> [(E::Floats, [E; 4]); 2] {
        // SAFETY: the caller has the instructions, and blocks end with d.
        unsafe {
            let mut whole = [E::load(eights, offset_of!(Self, scales)); 4];
            for (i, whole) in whole.iter_mut().enumerate() {
                *whole = E::load(eights, offset_of!(Self, scales) + 4 * i);
            }
            [(E::last_f16(eights, offset_of!(Self, d)), whole); 2]
        }
    }
}

impl Quant for Block {
    type Span = Self;
    const LEN: usize = 256;
    const GROUP: usize = 16;
    const LARGEST: usize = 32;
    const OFFSETS: bool = false;
    const BIAS: u8 = 32;

    #[inline(always)]
    unsafe fn biased<B: Bytes>(&self, i: usize) -> B {
        // SAFETY: the caller has the instructions.
        unsafe { Self::code(Row(self), i) }
    }

    #[inline(always)]
    unsafe fn factors<B: Bytes>(&self, scale: &mut [f32], offset: &mut [f32]) {
        for (y, scales) in scale[..16].as_chunks_mut().0.iter_mut().zip(self.scales.as_chunks().0) {
            // SAFETY: the caller has the instructions.
            unsafe { B::scaled(*scales, self.d, y) };
        }
        offset[..16].fill(0.0);
    }

    #[inline(always)]
    fn pack(x: &[f32], weight: &[f32]) -> Self {
        let (x, weight) = (fit::groups(x), fit::groups(weight));
        let (d, scales, codes) = fit::scaled_groups::<Whole<-32, 31>, 16, 16>(x, weight, -128.0, 127.0);
        let code = |half: usize, i: usize| (codes.as_flattened()[128 * half + i] + 32.0) as u8;
        Self {
            ql: array::from_fn(|half| {
                array::from_fn(|s| {
                    array::from_fn(|i| code(half, 32 * s + i) & 15 | code(half, 32 * s + i + 64) << 4)
                })
            }),
            qh: array::from_fn(|half| {
                array::from_fn(|i| (0..4).fold(0, |byte, s| byte | code(half, 32 * s + i) >> 4 << (2 * s)))
            }),
            scales: scales.map(|s| s as i8),
            d,
        }
    }
}
