//! IQ4_NL: 32 values of 4 bits that index a table, one f16 scale. Layout: ggml `block_iq4_nl`.

use super::{
    Bytes,
    fit::{self, Codes},
    nibbles,
    small::{Blocks, Small},
};

pub(crate) type Block = Blocks<Iq4Nl, 1>;

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Iq4Nl {
    d: [u8; 2],   // f16
    qs: [u8; 16], // value i in the low half of byte i, i + 16 in the high
}
const _: () = assert!(size_of::<Block>() == 18);

impl Small for Iq4Nl {
    const LARGEST: usize = 128;
    const OFFSETS: bool = false;
    const BIAS: u8 = 128;

    #[inline(always)]
    unsafe fn biased<B: Bytes>(&self) -> B {
        // SAFETY: the caller has the instructions.
        unsafe { B::nibbles(&self.qs).lookup(&TABLE).less(Self::BIAS) }
    }

    #[inline(always)]
    fn pack(x: &[f32], weight: &[f32]) -> Self {
        let (d, q) = fit::scaled::<Table>(fit::block(x), fit::block(weight));
        Self { d, qs: nibbles(&q.map(Table::index)) }
    }
}

/// ggml `kvalues_iq4nl`.
pub(super) const TABLE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The codes of [`TABLE`].
pub(super) struct Table;

impl Codes for Table {
    const REACH: f32 = 127.0;
    const STEP: f32 = 16.0;

    #[inline(always)]
    fn nearest(v: f32) -> f32 {
        (0..15).fold(TABLE[0] as f32, |entry, i| {
            let (a, b) = (TABLE[i] as f32, TABLE[i + 1] as f32);
            entry + if v > (a + b) * 0.5 { b - a } else { 0.0 }
        })
    }
}

impl Table {
    /// Where an entry stands.
    pub(super) fn index(entry: f32) -> u8 {
        TABLE.iter().position(|t| f32::from(*t) == entry).unwrap_or_default() as u8
    }
}
