//! Q4_K: 256 values of 4 bits; each 32 have a 6-bit scale and a 6-bit minimum. Layout: ggml
//! `block_q4_K`.

use std::array;

use super::{Bytes, Quant, f16, fit};

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
    const LEN: usize = 256;
    const GROUP: usize = 32;

    #[inline(always)]
    unsafe fn unpack<B: Bytes>(&self, codes: &mut [[u8; 32]], scale: &mut [f32], offset: &mut [f32]) {
        for (codes, qs) in codes.as_chunks_mut::<2>().0.iter_mut().zip(&self.qs) {
            // SAFETY: the caller has the instructions.
            unsafe {
                let q = B::load(qs);
                q.bits(0, 15).store(&mut codes[0]);
                q.bits(4, 15).store(&mut codes[1]);
            }
        }
        scales(&self.scales, f16(self.d), f16(self.dmin), scale, offset);
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
#[inline(always)]
pub(super) fn scales(packed: &[u8; 12], d: f32, dmin: f32, scale: &mut [f32], offset: &mut [f32]) {
    let (scale, offset) = (&mut scale[..8], &mut offset[..8]);
    for g in 0..4 {
        let (s, m, hi) = (packed[g], packed[g + 4], packed[g + 8]);
        scale[g] = d * (s & 63) as f32;
        offset[g] = -(dmin * (m & 63) as f32);
        scale[g + 4] = d * (hi & 15 | s >> 2 & 48) as f32;
        offset[g + 4] = -(dmin * (hi >> 4 | m >> 2 & 48) as f32);
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
