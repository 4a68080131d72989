//! Q3_K: 256 values of 3 bits less 4; each 16 have a 6-bit scale less 32. Layout: ggml `block_q3_K`.

use std::array;

use super::{
    Bytes, Quant,
    fit::{self, Whole},
};

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Block {
    hmask: [u8; 32],   // bit s of byte i: the third bit of value 32s + i
    qs: [[u8; 32]; 2], // for each 128 values: bits 2s and 2s + 1 of byte i belong to value 32s + i
    scales: [u8; 12],  // low 4 bits of 0..8 and 8..16 in bytes 0..8, high 2 bits in bytes 8..12
    d: [u8; 2],        // f16
}
const _: () = assert!(size_of::<Block>() == 110);

impl Quant for Block {
    type Span = Self;
    const LEN: usize = 256;
    const GROUP: usize = 16;
    const LARGEST: usize = 4;
    const OFFSETS: bool = false;
    const BIAS: u8 = 4;

    #[inline(always)]
    unsafe fn biased<B: Bytes>(&self, i: usize) -> B {
        // SAFETY: the caller has the instructions.
        unsafe {
            let hi = B::load(&self.hmask).bits(i as u32, 1);
            B::load(&self.qs[i / 4]).bits(2 * (i as u32 % 4), 3).or(hi, 2)
        }
    }

    #[inline(always)]
    unsafe fn factors<B: Bytes>(&self, scale: &mut [f32], offset: &mut [f32]) {
        for (half, y) in scale[..16].as_chunks_mut().0.iter_mut().enumerate() {
            let scales = array::from_fn(|g| {
                let lo = self.scales[g] >> (4 * half) & 15;
                let hi = self.scales[8 + g % 4] >> (4 * half + g / 4 * 2) & 3;
                (lo | hi << 4) as i8 - 32
            });
            // SAFETY: the caller has the instructions.
            unsafe { B::scaled(scales, self.d, y) };
        }
        offset[..16].fill(0.0);
    }

    #[inline(always)]
    fn pack(x: &[f32], weight: &[f32]) -> Self {
        let (x, weight) = (fit::groups(x), fit::groups(weight));
        let (d, scales, codes) = fit::scaled_groups::<Whole<-4, 3>, 16, 16>(x, weight, -32.0, 31.0);
        let code = |i: usize| (codes.as_flattened()[i] + 4.0) as u8;
        let scale = |g: usize| (scales[g] + 32.0) as u8;
        Self {
            hmask: array::from_fn(|i| (0..8).fold(0, |byte, s| byte | (code(32 * s + i) >> 2) << s)),
            qs: array::from_fn(|half| {
                array::from_fn(|i| {
                    (0..4).fold(0, |byte, s| byte | (code(128 * half + 32 * s + i) & 3) << (2 * s))
                })
            }),
            scales: array::from_fn(|i| match i {
                0..8 => scale(i) & 15 | scale(i + 8) << 4,
                _ => (0..4).fold(0, |byte, s| byte | scale(4 * s + i - 8) >> 4 << (2 * s)),
            }),
            d,
        }
    }
}
