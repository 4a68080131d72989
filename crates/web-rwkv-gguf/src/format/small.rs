//! Blocks of 32 values, which are so small that several are taken apart at once.

use std::{array, ptr};

use super::{Bytes, Quant};

/// 32 codes with a scale, and perhaps an offset, for all of them: f16 numbers, with which the block begins. See [`Quant`], here
/// and below.
pub(crate) trait Small: Copy + 'static {
    const LARGEST: usize;
    const MIDDLE: u8 = 0;
    const OFFSETS: bool;
    const BIAS: u8 = 0;
    /// # Safety
    /// As [`Bytes`].
    unsafe fn biased<B: Bytes>(&self) -> B;
    fn pack(x: &[f32], weight: &[f32]) -> Self;
}

/// `N` of them as one.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Blocks<S, const N: usize>([S; N]);

impl<S: Small, const N: usize> Quant for Blocks<S, N> {
    type Span = Blocks<S, 8>;
    const LEN: usize = 32 * N;
    const GROUP: usize = 32;
    const LARGEST: usize = S::LARGEST;
    const MIDDLE: u8 = S::MIDDLE;
    const OFFSETS: bool = S::OFFSETS;
    const BIAS: u8 = S::BIAS;

    #[inline(always)]
    unsafe fn biased<B: Bytes>(&self, i: usize) -> B {
        // SAFETY: the caller has the instructions.
        unsafe { self.0[i].biased() }
    }

    #[inline(always)]
    unsafe fn factors<B: Bytes>(&self, scale: &mut [f32], offset: &mut [f32]) {
        // SAFETY: the caller has the instructions.
        unsafe {
            self.halves::<B>(0, scale);
            if S::OFFSETS {
                self.halves::<B>(2, offset);
            } else {
                offset[..N].fill(0.0);
            }
        }
    }

    #[inline(always)]
    fn pack(x: &[f32], weight: &[f32]) -> Self {
        Self(array::from_fn(|i| S::pack(&x[32 * i..][..32], &weight[32 * i..][..32])))
    }
}

impl<S: Small, const N: usize> Blocks<S, N> {
    /// The f16 numbers that stand `at` bytes from the beginning of each block.
    ///
    /// # Safety
    /// As [`Bytes`], and four bytes stand there.
    #[inline(always)]
    unsafe fn halves<B: Bytes>(&self, at: usize, y: &mut [f32]) {
        // SAFETY: the caller's promise is handed on.
        let x: [[u8; 4]; N] =
            self.0.each_ref().map(|block| unsafe { *ptr::from_ref(block).byte_add(at).cast() });
        let (x, rest) = x.as_chunks();
        let (y, last) = y[..N].as_chunks_mut();
        // SAFETY: as above.
        unsafe {
            x.iter().zip(y).for_each(|(x, y)| B::f16s(*x, y));
            rest.iter().zip(last).for_each(|(x, y)| *y = B::f16([x[0], x[1]]));
        }
    }
}
