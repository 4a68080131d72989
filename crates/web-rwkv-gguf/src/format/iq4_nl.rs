//! IQ4_NL: 32 values of 4 bits that index a table, one f16 scale. Layout: ggml `block_iq4_nl`.

use super::{Quant, f16, nibbles};

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Block {
    d: [u8; 2],   // f16
    qs: [u8; 16], // value i in the low half of byte i, i + 16 in the high
}
const _: () = assert!(size_of::<Block>() == 18);

impl Quant for Block {
    const LEN: usize = 32;
    const GROUP: usize = 32;

    #[inline(always)]
    fn unpack(&self, codes: &mut [i8], scale: &mut [f32], offset: &mut [f32]) {
        for codes in &mut codes.as_chunks_mut().0[..1] {
            lookup(&self.qs, codes);
        }
        scale[0] = f16(self.d);
        offset[0] = 0.0;
    }
}

/// ggml `kvalues_iq4nl`.
const TABLE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Table values of the low halves of 16 bytes, then of the high halves.
///
/// The table rises, so its value at `q` is the sum of its steps up to `q`: unlike a lookup, that
/// becomes byte-wide vector code on every target.
#[inline(always)]
pub(super) fn lookup(qs: &[u8; 16], codes: &mut [i8; 32]) {
    for (c, q) in codes.iter_mut().zip(nibbles(qs)) {
        let mut sum = TABLE[0];
        for k in 1..16 {
            let reached = -((q >= k as u8) as i8);
            sum = sum.wrapping_add(reached & (TABLE[k] - TABLE[k - 1]));
        }
        *c = sum;
    }
}
