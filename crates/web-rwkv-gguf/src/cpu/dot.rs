//! Products for few tokens, which are as fast as the weights come from memory: blocks are taken apart in registers for
//! each two of them, or decoded once for all, and lanes lie along the columns, as the weights do.

use std::array::from_fn;

use crate::format::{self, Format, Quant};

use super::{
    Acts,
    level::{Kernel, Vector},
    rounded::{Integers, Pairs, Rounded, SHARED},
};

/// Bytes of a line of the cache.
const LINE: usize = 64;

/// Columns that are decoded at once: those of all tokens stay in the first-level cache.
pub(super) const PART: usize = 512;

/// How far ahead weights are asked for: bit by bit, so that memory is never idle nor overrun.
pub(super) const AHEAD: usize = 4096;

/// Asks for the `len` bytes from `at`, which need not be there.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn prefetch<V: Vector>(at: *const u8, len: usize) {
    for line in (0..len).step_by(LINE) {
        // SAFETY: the caller's promise is handed on.
        unsafe { V::prefetch(at.wrapping_add(line)) };
    }
}

/// `R` rows of blocks times `T` tokens from `t`, in tiles of one.
pub(super) struct Along<'a, Q, const R: usize, const T: usize> {
    pub(super) rows: [&'a [Q]; R],
    pub(super) x: &'a Rounded<Pairs>,
    pub(super) t: usize,
    /// Room for the offsets of the rows.
    pub(super) offsets: &'a mut Vec<f32>,
}

impl<Q: Quant, const R: usize, const T: usize> Kernel for Along<'_, Q, R, T> {
    type Output = [[f32; R]; T];
    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> [[f32; R]; T] {
        let (blocks, parts, groups) = (self.rows[0].len(), Q::LEN / SHARED, Q::LEN / Q::GROUP);
        let x: [&[i32]; T] = from_fn(|i| self.x.codes(self.t + i, 1));
        let x_scale: [&[f32]; T] = from_fn(|i| self.x.scale(self.t + i, 1));
        let x_sums: [&[f32]; T] = from_fn(|i| self.x.sums(self.t + i, 1, Q::GROUP));
        assert!(
            self.rows.iter().all(|row| row.len() == blocks) && x[0].len() == blocks * Q::LEN / Pairs::PER
        );
        self.offsets.resize(R * blocks * groups, 0.0);
        let next = self.rows[0].as_ptr().cast::<u8>().wrapping_add(AHEAD);
        let mut sums = [[0.0; R]; T];
        // SAFETY: this runs inside `dispatch`; rows have as many blocks, activations as many values.
        unsafe {
            let mut acc = [[V::splat(0.0); T]; R];
            let mut scale = [[[0.0; 16]; T]; R];
            for b in 0..blocks {
                prefetch::<V>(next.wrapping_add(b * R * size_of::<Q>()), R * size_of::<Q>());
                #[allow(clippy::needless_range_loop)] // it indexes several arrays
                for r in 0..R {
                    let mut own = [0.0; 16];
                    let offset = self.offsets.get_unchecked_mut((r * blocks + b) * groups..);
                    let offset = offset.get_unchecked_mut(..groups);
                    self.rows[r].get_unchecked(b).factors::<V::Bytes>(&mut own, offset);
                    for g in 0..groups {
                        offset[g] += f32::from(Q::MIDDLE) * own[g];
                    }
                    for t in 0..T {
                        let x_scale = x_scale[t].get_unchecked(b * parts..(b + 1) * parts);
                        for g in 0..groups {
                            scale[r][t][g] = own[g] * x_scale.get_unchecked(g * Q::GROUP / SHARED);
                        }
                    }
                }
                // Four parts have shifts by four constants, which are faster than those by an index.
                for four in (0..parts).step_by(4) {
                    for i in 0..parts.min(4) {
                        let i = four + i;
                        for r in 0..R {
                            let codes = self.rows[r].get_unchecked(b).codes::<V::Bytes>(i);
                            for t in 0..T {
                                let x = x[t].as_ptr().add((b * parts + i) * SHARED / Pairs::PER).cast();
                                let sum = V::to_float(V::dot_codes(codes, Q::MIDDLE, x));
                                let scale = &scale[r][t];
                                let scale = match Q::GROUP {
                                    16 => V::halves(scale.as_ptr().add(2 * i)),
                                    _ => V::splat(scale[i]),
                                };
                                acc[r][t] = V::fma(sum, scale, acc[r][t]);
                            }
                        }
                    }
                }
            }
            let groups = blocks * groups;
            let whole = groups - groups % V::LANES;
            for (r, offset) in self.offsets.chunks_exact(groups).enumerate() {
                for t in 0..T {
                    let x_sums = &x_sums[t][..groups];
                    for g in (0..whole).step_by(V::LANES) {
                        let (offset, x_sum) =
                            (V::load(offset.as_ptr().add(g)), V::load(x_sums.as_ptr().add(g)));
                        acc[r][t] = V::fma(offset, x_sum, acc[r][t]);
                    }
                    let rest: f32 = (whole..groups).map(|g| offset[g] * x_sums[g]).sum();
                    sums[t][r] = V::sum(acc[r][t]) + rest;
                }
            }
        }
        sums
    }
}

/// `R` rows of floats times `T` tokens from `t`.
pub(super) struct AlongFloats<'a, const R: usize, const T: usize> {
    pub(super) format: Format,
    pub(super) rows: [&'a [u8]; R],
    pub(super) x: &'a Acts,
    pub(super) columns: usize,
    pub(super) t: usize,
}

impl<const R: usize, const T: usize> Kernel for AlongFloats<'_, R, T> {
    type Output = [[f32; R]; T];
    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> [[f32; R]; T] {
        // SAFETY: this runs inside `dispatch`, and numbers of these formats have as many bytes.
        unsafe {
            match self.format {
                Format::F32 => self.sums::<V, 4>(|x| V::load(x.cast())),
                Format::F16 => self.sums::<V, 2>(|x| V::load_f16(x.cast())),
                Format::BF16 => self.sums::<V, 2>(|x| V::load_bf16(x.cast())),
                _ => unreachable!("{:?} is in blocks", self.format),
            }
        }
    }
}

impl<const R: usize, const T: usize> AlongFloats<'_, R, T> {
    #[inline(always)]
    unsafe fn sums<V: Vector, const SIZE: usize>(&self, load: impl Fn(*const u8) -> V) -> [[f32; R]; T] {
        let (w, n) = (self.rows, self.columns);
        let x: [&[f32]; T] = from_fn(|i| &self.x.row(self.t + i)[..n]);
        assert!(w.iter().all(|row| row.len() == SIZE * n));
        let whole = n - n % V::LANES;
        let next = w[0].as_ptr().wrapping_add(AHEAD);
        let mut sums = [[0.0; R]; T];
        // SAFETY: the rows have n numbers each.
        unsafe {
            let mut acc = [[V::splat(0.0); T]; R];
            for k in (0..whole).step_by(V::LANES) {
                prefetch::<V>(next.wrapping_add(k * R * SIZE), V::LANES * R * SIZE);
                let w: [V; R] = from_fn(|r| load(w[r].as_ptr().add(SIZE * k)));
                for t in 0..T {
                    let x = V::load(x[t].as_ptr().add(k));
                    for r in 0..R {
                        acc[r][t] = V::fma(w[r], x, acc[r][t]);
                    }
                }
            }
            for r in 0..R {
                let mut rest = [0.0; 16];
                let rest = &mut rest[..n - whole];
                format::decode_plain(self.format, &w[r][SIZE * whole..], rest);
                for t in 0..T {
                    let rest: f32 = rest.iter().zip(&x[t][whole..]).map(|(w, x)| w * x).sum();
                    sums[t][r] = V::sum(acc[r][t]) + rest;
                }
            }
        }
        sums
    }
}

/// Lanes of a sum, as many as the widest register has.
pub(super) type Sum = [f32; 16];

/// `R` rows of decoded weights times `T` tokens, lane by lane added to their sums.
pub(super) struct AlongDecoded<'a, const R: usize, const T: usize> {
    pub(super) w: [&'a [f32]; R],
    pub(super) x: [&'a [f32]; T],
    pub(super) sums: &'a mut [[Sum; R]],
}

impl<const R: usize, const T: usize> Kernel for AlongDecoded<'_, R, T> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (w, x, n) = (self.w, self.x, self.w[0].len());
        let sums = &mut self.sums[..T];
        assert!(w.iter().chain(&x).all(|row| row.len() == n));
        let whole = n - n % V::LANES;
        // SAFETY: this runs inside `dispatch`, all rows have n numbers, and a sum has room for any register.
        unsafe {
            let mut acc = [[V::splat(0.0); R]; T];
            for t in 0..T {
                for r in 0..R {
                    acc[t][r] = V::load(sums[t][r].as_ptr());
                }
            }
            for k in (0..whole).step_by(V::LANES) {
                let x: [V; T] = from_fn(|t| V::load(x[t].as_ptr().add(k)));
                for r in 0..R {
                    let w = V::load(w[r].as_ptr().add(k));
                    for t in 0..T {
                        acc[t][r] = V::fma(w, x[t], acc[t][r]);
                    }
                }
            }
            for t in 0..T {
                for r in 0..R {
                    V::store(sums[t][r].as_mut_ptr(), acc[t][r]);
                    for k in whole..n {
                        sums[t][r][0] += w[r][k] * x[t][k];
                    }
                }
            }
        }
    }
}
