//! Q4_K: 256 values of 4 bits; each 32 have a 6-bit scale and a 6-bit minimum. Layout: ggml
//! `block_q4_K`.

use std::array;

use super::{Bytes, Quant, fit};

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Block {
    d: [u8; 2],        // f16
    dmin: [u8; 2],     // f16
    scales: [u8; 12],  // see `scales`
    qs: [[u8; 32]; 4], // for each 64 values: value i in the low half of byte i, i + 32 in the high
}
const _: () = assert!(size_of::<Block>() == 144);

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
        unsafe { B::load(&self.qs[i / 2]).bits(4 * (i as u32 % 2), 15) }
    }

    #[inline(always)]
    unsafe fn factors<B: Bytes>(&self, scale: &mut [f32], offset: &mut [f32]) {
        // SAFETY: the caller has the instructions.
        unsafe { scales::<B>(&self.scales, self.d, self.dmin, scale, offset) };
    }

    #[inline(always)]
    fn pack(x: &[f32], weight: &[f32]) -> Self {
        let fit = fit::offset_groups::<32, 8>(fit::groups(x), fit::groups(weight), 15.0, 63.0);
        let code = |g: usize, i: usize| fit.codes[g][i] as u8;
        Self {
            d: fit.d,
            dmin: fit.dmin,
            scales: pack_scales(&fit.scales, &fit.mins),
            qs: array::from_fn(|n| array::from_fn(|i| code(2 * n, i) | code(2 * n + 1, i) << 4)),
        }
    }
}

/// Eight scales and minimums of 6 bits. The first four of each are the low bits of bytes 0..4 and
/// 4..8; the last four have their low 4 bits in bytes 8..12 and their high 2 in those bytes' top.
///
/// # Safety
/// As [`Bytes`].
#[inline(always)]
pub(super) unsafe fn scales<B: Bytes>(
    packed: &[u8; 12],
    d: [u8; 2],
    dmin: [u8; 2],
    scale: &mut [f32],
    offset: &mut [f32],
) {
    const LOW_6: u32 = 0x3f3f_3f3f;
    const LOW_4: u32 = 0x0f0f_0f0f;
    let four = |i: usize| u32::from_le_bytes([packed[i], packed[i + 1], packed[i + 2], packed[i + 3]]);
    let (s, m, hi) = (four(0), four(4), four(8));
    let eight = |first: u32, last: u32| u64::from(first) | u64::from(last) << 32;
    let s = eight(s & LOW_6, hi & LOW_4 | s >> 2 & !LOW_4 & LOW_6);
    let m = eight(m & LOW_6, hi >> 4 & LOW_4 | m >> 2 & !LOW_4 & LOW_6);
    const TOP: u64 = 0x8080_8080_8080_8080;
    let negative = (TOP - m) ^ TOP; // in each byte
    let bytes = |x: u64| x.to_le_bytes().map(|byte| byte as i8);
    // SAFETY: the caller's promise is handed on.
    unsafe {
        B::scaled(bytes(s), d, &mut scale.as_chunks_mut().0[0]);
        B::scaled(bytes(negative), dmin, &mut offset.as_chunks_mut().0[0]);
    }
}

/// The inverse of [`scales`].
#[inline(always)]
pub(super) fn pack_scales(scale: &[f32; 8], min: &[f32; 8]) -> [u8; 12] {
    let (scale, min) = (scale.map(|s| s as u8), min.map(|m| m as u8));
    array::from_fn(|i| match i {
        0..4 => scale[i] | scale[i + 4] >> 4 << 6,
        4..8 => min[i - 4] | min[i] >> 4 << 6,
        _ => scale[i - 4] & 15 | min[i - 4] << 4,
    })
}
