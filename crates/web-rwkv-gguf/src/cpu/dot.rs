//! Products for few tokens, which are as fast as the weights come from memory: blocks are taken apart in registers for
//! each two of them, or decoded once for all, and lanes lie along the columns, as the weights do.

use std::{array::from_fn, hint};

use crate::format::{self, Format, Quant};

use super::{
    Acts,
    level::{Kernel, Lanes, Vector},
    rounded::{Integers, Pairs, SHARED, Token},
};

/// Bytes of a line of the cache.
const LINE: usize = 64;

/// Columns that are decoded at once: those of all tokens stay in the first-level cache.
pub(super) const PART: usize = 512;

/// How far ahead weights are asked for: bit by bit, so that memory is never idle nor overrun.
pub(super) const AHEAD: usize = 2048;

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

/// Asks for the `len` bytes from `at`, which need not be there and will be wanted again.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn prefetch_kept<V: Vector>(at: *const u8, len: usize) {
    for line in (0..len).step_by(LINE) {
        // SAFETY: the caller's promise is handed on.
        unsafe { V::prefetch_kept(at.wrapping_add(line)) };
    }
}

/// Writes out the parts of a block of eight: in a loop their shifts would be numbers that are not known.
macro_rules! eight_parts {
    ($part:ident) => {
        $part!(0);
        $part!(1);
        $part!(2);
        $part!(3);
        $part!(4);
        $part!(5);
        $part!(6);
        $part!(7);
    };
}
pub(super) use eight_parts;

/// `R` rows of blocks times `T` tokens. With codes u = code + BIAS, and x = x' + lost where x' is
/// rounded, `Σ (code · scale + offset) x` over a group is
/// `scale Σ u x' + (offset − BIAS · scale) Σ x + u scale Σ lost`, the last of which takes the middle of all u for each.
pub(super) struct Along<'a, Q, const R: usize, const T: usize> {
    pub(super) rows: [&'a [Q]; R],
    pub(super) x: [Token<'a>; T],
}

impl<Q: Quant, const R: usize, const T: usize> Kernel for Along<'_, Q, R, T> {
    type Output = [[f32; R]; T];
    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> [[f32; R]; T] {
        let Self { rows, x } = self;
        let (blocks, parts, groups) = (rows[0].len(), Q::LEN / SHARED, Q::LEN / Q::GROUP);
        const { assert!(Q::LEN == SHARED || Q::LEN == 8 * SHARED) };
        assert!(rows.iter().all(|row| row.len() == blocks));
        assert!(x.iter().all(|x| x.has(blocks * Q::LEN, Q::GROUP)));
        let mut sums = [[0.0; R]; T];
        // SAFETY: this runs inside `dispatch`; rows have as many blocks, activations as many values and groups.
        unsafe {
            let mut acc = [[V::splat(0.0); T]; R];
            let mut rest: [[Sum; T]; R] = [[[0.0; 16]; T]; R];
            let mut scale = Aligned([[[0.0; 16]; T]; R]);
            for b in 0..blocks {
                for r in 0..R {
                    let next = rows[r].as_ptr().wrapping_add(b).cast::<u8>().wrapping_add(AHEAD);
                    prefetch::<V>(next, size_of::<Q>());
                    let (mut own, mut offset) = ([0.0; 16], [0.0; 16]);
                    rows[r].get_unchecked(b).factors::<V::Bytes>(&mut own, &mut offset);
                    for t in 0..T {
                        let at = b * groups;
                        let Token { scale: x_scale, sums: x_sums, lost: x_lost, .. } = x[t];
                        let x = [x_scale.as_ptr().add(at), x_sums.as_ptr().add(at), x_lost.as_ptr().add(at)];
                        let (rest, scale) = (&mut rest[r][t], &mut scale.0[r][t]);
                        if groups == 1 {
                            scales::<Q, f32>(&own, &offset, x, rest, scale);
                        } else {
                            scales::<Q, V::Eight>(&own, &offset, x, rest, scale);
                        }
                    }
                }
                // Read from memory, a scale comes into all lanes at once; out of a register it would take two shuffles.
                let scale = &if groups > 1 { hint::black_box(&scale) } else { &scale }.0;
                macro_rules! part {
                    ($i:expr) => {
                        for r in 0..R {
                            let part = rows[r].get_unchecked(b).biased::<V::Bytes>($i);
                            for t in 0..T {
                                let x =
                                    x[t].codes.as_ptr().add((b * parts + $i) * SHARED / Pairs::PER).cast();
                                let sum = V::to_float(V::dot_codes(part, x));
                                let scale = match Q::GROUP {
                                    16 => V::halves(scale[r][t].as_ptr().add(2 * $i)),
                                    _ => V::splat(scale[r][t][$i]),
                                };
                                acc[r][t] = V::fma(sum, scale, acc[r][t]);
                            }
                        }
                    };
                }
                if parts == 1 {
                    part!(0);
                } else {
                    eight_parts!(part);
                }
            }
            for t in 0..T {
                for r in 0..R {
                    for at in (0..groups).step_by(V::LANES) {
                        acc[r][t] = V::fma(V::load(rest[r][t].as_ptr().add(at)), V::splat(1.0), acc[r][t]);
                    }
                    sums[t][r] = V::sum(acc[r][t]);
                }
            }
        }
        sums
    }
}

/// Begins with a line of the cache, so that no register is stored across two.
#[repr(align(64))]
struct Aligned<T>(T);

/// Of the groups of a block the scales, and what does not depend on codes, added to `rest`.
///
/// # Safety
/// As [`Vector`], and x begins with the scales, the sums and what was lost of as many groups.
#[inline(always)]
unsafe fn scales<Q: Quant, L: Lanes>(
    own: &Sum,
    offset: &Sum,
    [x_scale, x_sums, x_lost]: [*const f32; 3],
    rest: &mut Sum,
    scale: &mut Sum,
) {
    let (bias, middle) = (f32::from(Q::BIAS), f32::from(Q::BIAS + Q::MIDDLE));
    for g in (0..Q::LEN / Q::GROUP).step_by(L::LANES) {
        // SAFETY: the caller's promise is handed on, and a sum has room for any register.
        unsafe {
            let (own, offset) = (L::load(own.as_ptr().add(g)), L::load(offset.as_ptr().add(g)));
            let x_sum = L::load(x_sums.add(g));
            let lost = L::mul(L::load(x_lost.add(g)), L::splat(middle));
            let own_sum = L::fma(x_sum, L::splat(-bias), lost);
            let mut sum = L::fma(own, own_sum, L::load(rest.as_ptr().add(g)));
            if Q::OFFSETS {
                sum = L::fma(offset, x_sum, sum);
            }
            L::store(rest.as_mut_ptr().add(g), sum);
            L::store(scale.as_mut_ptr().add(g), L::mul(own, L::load(x_scale.add(g))));
        }
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
        let mut sums = [[0.0; R]; T];
        // SAFETY: the rows have n numbers each.
        unsafe {
            let mut acc = [[V::splat(0.0); T]; R];
            for k in (0..whole).step_by(V::LANES) {
                let w: [V; R] = from_fn(|r| {
                    let at = w[r].as_ptr().add(SIZE * k);
                    V::prefetch(at.wrapping_add(AHEAD));
                    load(at)
                });
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
