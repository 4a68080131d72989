//! IQ4_XS: 256 values of 4 bits that index the table of IQ4_NL; each 32 have a 6-bit scale less 32.
//! Layout: ggml `block_iq4_xs`.

use std::array;

use super::{
    Bytes, Quant, fit,
    iq4_nl::{TABLE, Table},
    nibbles,
};

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Block {
    d: [u8; 2],        // f16
    scales_h: [u8; 2], // high 2 bits of each scale
    scales_l: [u8; 4], // low 4 bits of each scale
    qs: [[u8; 16]; 8], // for each 32 values: value i in the low half of byte i, i + 16 in the high
}
const _: () = assert!(size_of::<Block>() == 136);

impl Quant for Block {
    type Span = Self;
    const LEN: usize = 256;
    const GROUP: usize = 32;
    const LARGEST: usize = 128;
    const OFFSETS: bool = false;
    const BIAS: u8 = 128;

    #[inline(always)]
    unsafe fn biased<B: Bytes>(&self, i: usize) -> B {
        // SAFETY: the caller has the instructions.
        unsafe { B::nibbles(&self.qs[i]).lookup(&TABLE).less(Self::BIAS) }
    }

    #[inline(always)]
    unsafe fn factors<B: Bytes>(&self, scale: &mut [f32], offset: &mut [f32]) {
        let hi = u16::from_le_bytes(self.scales_h);
        let scales = array::from_fn(|g| {
            let lo = self.scales_l[g / 2] >> (4 * (g % 2)) & 15;
            let hi = (hi >> (2 * g) & 3) as u8;
            (lo | hi << 4) as i8 - 32
        });
        // SAFETY: the caller has the instructions.
        unsafe { B::scaled(scales, self.d, &mut scale.as_chunks_mut().0[0]) };
        offset[..8].fill(0.0);
    }

    #[inline(always)]
    fn pack(x: &[f32], weight: &[f32]) -> Self {
        let (x, weight) = (fit::groups(x), fit::groups(weight));
        let (d, scales, codes) = fit::scaled_groups::<Table, 32, 8>(x, weight, -32.0, 31.0);
        let scale = |g: usize| (scales[g] + 32.0) as u8;
        Self {
            d,
            scales_h: (0..8).fold(0, |all, g| all | u16::from(scale(g) >> 4) << (2 * g)).to_le_bytes(),
            scales_l: array::from_fn(|i| scale(2 * i) & 15 | scale(2 * i + 1) << 4),
            qs: codes.map(|q| nibbles(&q.map(Table::index))),
        }
    }
}
