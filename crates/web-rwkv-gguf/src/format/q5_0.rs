//! Q5_0: 32 values of 5 bits less 16, one f16 scale. Layout: ggml `block_q5_0`.

use super::{
    Bytes, fifth_bits,
    fit::{self, Whole},
    nibbles,
    small::{Blocks, Small},
};

pub(crate) type Block = Blocks<Q5_0, 1>;

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Q5_0 {
    d: [u8; 2],   // f16
    qh: [u8; 4],  // bit i: the fifth bit of value i
    qs: [u8; 16], // value i in the low half of byte i, i + 16 in the high
}
const _: () = assert!(size_of::<Block>() == 22);

impl Small for Q5_0 {
    const LARGEST: usize = 16;
    const OFFSETS: bool = false;
    const BIAS: u8 = 16;

    #[inline(always)]
    unsafe fn biased<B: Bytes>(&self) -> B {
        // SAFETY: the caller has the instructions.
        unsafe { B::nibbles(&self.qs).or(B::spread(self.qh), 4) }
    }

    #[inline(always)]
    fn pack(x: &[f32], weight: &[f32]) -> Self {
        let (d, q) = fit::scaled::<Whole<-16, 15>>(fit::block(x), fit::block(weight));
        let q = q.map(|q| (q + 16.0) as u8);
        Self { d, qh: fifth_bits(&q), qs: nibbles(&q) }
    }
}
