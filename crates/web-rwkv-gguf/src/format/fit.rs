//! Fitting: the scales, offsets and codes whose values are nearest to given ones, in weighted squares.
//!
//! A scale and its codes determine each other: the best code for a scale is the nearest one, the best scale for codes
//! is that of least squares. So a search tries some scales, takes for each the codes and for those the scale again.
//! Scales that are codes themselves, times a number for the whole block, are tried with their neighbours, on the
//! values that they really give.

use super::{f16, to_f16};

/// Blocks of values that are all below this are zero: no f16 scale is that small.
const TINY: f32 = 1e-20;

/// Codes, and the numbers that they stand for before scale and offset.
pub(super) trait Codes {
    /// The largest magnitude.
    const REACH: f32;
    /// About the distance of neighbours.
    const STEP: f32;
    /// The number of the code that is nearest to v.
    fn nearest(v: f32) -> f32;
}

/// The whole numbers from `LEAST` to `MOST`.
pub(super) struct Whole<const LEAST: i8, const MOST: i8>;

impl<const LEAST: i8, const MOST: i8> Codes for Whole<LEAST, MOST> {
    const REACH: f32 = -(LEAST as f32);
    const STEP: f32 = 1.0;

    #[inline(always)]
    fn nearest(v: f32) -> f32 {
        round(clamp(v, LEAST as f32, MOST as f32))
    }
}

/// The values of a block.
#[inline(always)]
pub(super) fn block(x: &[f32]) -> &[f32; 32] {
    x.first_chunk().expect("a block has the length of its format")
}

/// The values of a block, in its groups.
#[inline(always)]
pub(super) fn groups<const N: usize, const G: usize>(x: &[f32]) -> &[[f32; N]; G] {
    x.as_chunks().0.first_chunk().expect("a block has the length of its format")
}

/// As `f32::clamp`, in comparisons that vectorise.
#[inline(always)]
fn clamp(v: f32, least: f32, most: f32) -> f32 {
    let v = if v > least { v } else { least };
    if v < most { v } else { most }
}

/// The nearest whole number to one below 2²², by arithmetic that every vector unit has.
#[inline(always)]
fn round(v: f32) -> f32 {
    const SHIFT: f32 = 1.5 * (1 << 23) as f32;
    (v + SHIFT) - SHIFT
}

/// `Σᵢ f(i)` for `i` below `N`, in eight lanes.
#[inline(always)]
fn sums<const N: usize, const K: usize>(f: impl Fn(usize) -> [f32; K]) -> [f32; K] {
    let mut lanes = [[0.0; 8]; K];
    for i in (0..N).step_by(8) {
        for l in 0..8 {
            let terms = f(i + l);
            for (lanes, term) in lanes.iter_mut().zip(terms) {
                lanes[l] += term;
            }
        }
    }
    lanes.map(|l| ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7])))
}

/// As `array::from_fn`, but always a part of its caller, with the caller's instructions.
#[inline(always)]
fn each<T: Copy, const N: usize>(f: impl Fn(usize) -> T) -> [T; N] {
    let mut all = [f(0); N];
    for (i, y) in all.iter_mut().enumerate().skip(1) {
        *y = f(i);
    }
    all
}

/// `1 / d`, but 0 for a scale of 0: all codes are then that of 0.
#[inline(always)]
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

#[inline(always)]
fn rounded(d: f32) -> f32 {
    f16(to_f16(d))
}

/// The nearest f16 that is no closer to zero, so that whole numbers times it reach what they should, also where f16
/// numbers are few.
#[inline(always)]
fn rounded_up(d: f32) -> f32 {
    let near = to_f16(d);
    match f16(near).abs() < d.abs() {
        true => f16((u16::from_le_bytes(near) + 1).to_le_bytes()),
        false => f16(near),
    }
}

/// The scale d for which `d · code` is nearest to x.
#[inline(always)]
fn scale<C: Codes, const N: usize>(x: &[f32; N], w: &[f32; N]) -> f32 {
    const STEPS: usize = 12;
    let most = x.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    if most < TINY {
        return 0.0;
    }
    let tried = |inverse: f32| {
        let [xq, qq] = sums::<N, 2>(|i| {
            let q = C::nearest(x[i] * inverse);
            [w[i] * x[i] * q, w[i] * q * q]
        });
        if qq > 0.0 { (xq * xq / qq, xq / qq) } else { (0.0, 0.0) }
    };
    let mut best = (0.0, 0.0);
    for step in 0..STEPS {
        let reach = (C::REACH + C::STEP * (0.25 * step as f32 - 1.5)) / most;
        for inverse in [reach, -reach] {
            let now = tried(inverse);
            if now.0 > best.0 {
                best = now;
            }
        }
    }
    for _ in 0..4 {
        let now = tried(inverse(best.1));
        if now.0 <= best.0 {
            break;
        }
        best = now;
    }
    best.1
}

/// A block of one scale: the scale as f16, and the numbers of the codes.
#[inline(always)]
pub(super) fn scaled<C: Codes>(x: &[f32; 32], w: &[f32; 32]) -> ([u8; 2], [f32; 32]) {
    let d = rounded(scale::<C, 32>(x, w));
    (to_f16(d), each(|i| C::nearest(x[i] * inverse(d))))
}

/// `Σ w (x − s code)²` for the nearest codes.
#[inline(always)]
fn error<C: Codes, const N: usize>(x: &[f32; N], w: &[f32; N], s: f32) -> f32 {
    let inverse = inverse(s);
    sums::<N, 1>(|i| {
        let e = x[i] - s * C::nearest(x[i] * inverse);
        [w[i] * e * e]
    })[0]
}

/// A block of `G` groups of `N`, whose scales are whole numbers from `least` to `most` times an f16: that number, the
/// scales, and the numbers of the codes.
#[inline(always)]
pub(super) fn scaled_groups<C: Codes, const N: usize, const G: usize>(
    x: &[[f32; N]; G],
    w: &[[f32; N]; G],
    least: f32,
    most: f32,
) -> ([u8; 2], [f32; G], [[f32; N]; G]) {
    let wanted: [f32; G] = each(|g| scale::<C, N>(&x[g], &w[g]));
    let largest = wanted.iter().fold(0.0, |a: f32, s| if s.abs() > a.abs() { *s } else { a });
    let mut best = (f32::INFINITY, 0.0, [0.0; G]);
    // The scales of all groups for a given d.
    let tried = |d: f32| {
        let (mut total, mut scales) = (0.0, [0.0; G]);
        for g in 0..G {
            let middle = round((wanted[g] * inverse(d)).clamp(least, most));
            let mut least_error = f32::INFINITY;
            for s in [middle, middle - 1.0, middle + 1.0] {
                let s = s.clamp(least, most);
                let e = error::<C, N>(&x[g], &w[g], d * s);
                if e < least_error {
                    (least_error, scales[g]) = (e, s);
                }
            }
            total += least_error;
        }
        (total, d, scales)
    };
    for reach in [least, least + 0.5, least - 1.0, least + 1.5] {
        let now = tried(rounded_up(largest / reach));
        if now.0 < best.0 {
            best = now;
        }
    }
    for _ in 0..3 {
        let (_, d, scales) = best;
        let (mut xq, mut qq) = (0.0, 0.0);
        for g in 0..G {
            let inverse = inverse(d * scales[g]);
            let [a, b] = sums::<N, 2>(|i| {
                let q = scales[g] * C::nearest(x[g][i] * inverse);
                [w[g][i] * x[g][i] * q, w[g][i] * q * q]
            });
            (xq, qq) = (xq + a, qq + b);
        }
        let now = tried(rounded(if qq > 0.0 { xq / qq } else { 0.0 }));
        if now.0 >= best.0 {
            break;
        }
        best = now;
    }
    let (_, d, scales) = best;
    let codes = each(|g| {
        let inverse = inverse(d * scales[g]);
        each(|i| C::nearest(x[g][i] * inverse))
    });
    (to_f16(d), scales, codes)
}

/// The code from 0 to `most` that is nearest to v.
#[inline(always)]
fn nearest(v: f32, most: f32) -> f32 {
    round(clamp(v, 0.0, most))
}

/// The scale d and offset m for which `d · code + m`, codes from 0 to `most`, is nearest to x; m is at most `ceiling`.
#[inline(always)]
fn line<const N: usize>(x: &[f32; N], w: &[f32; N], most: f32, ceiling: f32) -> (f32, f32) {
    let (low, high) = x.iter().fold((ceiling, f32::NEG_INFINITY), |(a, b), x| (a.min(*x), b.max(*x)));
    let [sum, sx] = sums::<N, 2>(|i| [w[i], w[i] * x[i]]);
    if high - low <= TINY || sum <= 0.0 {
        return (0.0, low.min(ceiling));
    }
    let tried = |inverse: f32, from: f32| {
        let [sq, sqq, sxq] = sums::<N, 3>(|i| {
            let q = nearest((x[i] - from) * inverse, most);
            [w[i] * q, w[i] * q * q, w[i] * x[i] * q]
        });
        let det = sum * sqq - sq * sq;
        let (mut d, mut m) = (0.0, sx / sum);
        if det > 0.0 {
            d = (sum * sxq - sx * sq) / det;
            m = (sx - d * sq) / sum;
        }
        if m > ceiling {
            (d, m) = (if sqq > 0.0 { (sxq - ceiling * sq) / sqq } else { 0.0 }, ceiling);
        }
        // What is left of Σ w x², less that, which is the same for all.
        (d * (d * sqq + 2.0 * m * sq - 2.0 * sxq) + m * (m * sum - 2.0 * sx), d, m)
    };
    let mut best = (f32::INFINITY, 0.0, 0.0);
    for step in 0..10 {
        let reach = most - 0.9 + 0.2 * step as f32;
        let inverse = reach / (high - low);
        let now = tried(inverse, low);
        if now.0 < best.0 {
            best = now;
        }
    }
    for _ in 0..4 {
        let now = tried(inverse(best.1), best.2);
        if now.0 >= best.0 {
            break;
        }
        best = now;
    }
    (best.1, best.2)
}

/// A block of one scale and one offset: both as f16, and the codes.
#[inline(always)]
pub(super) fn offset(x: &[f32; 32], w: &[f32; 32], most: f32) -> ([u8; 2], [u8; 2], [f32; 32]) {
    let (d, m) = line(x, w, most, f32::INFINITY);
    let (d, m) = (rounded(d), rounded(m));
    let inverse = inverse(d);
    (to_f16(d), to_f16(m), each(|i| nearest((x[i] - m) * inverse, most)))
}

/// A block of groups whose scales and minimums are whole numbers times an f16 each: value = d s code − dmin m.
pub(super) struct Offset<const N: usize, const G: usize> {
    pub(super) d: [u8; 2],
    pub(super) dmin: [u8; 2],
    pub(super) scales: [f32; G],
    pub(super) mins: [f32; G],
    pub(super) codes: [[f32; N]; G],
}

/// The [`Offset`] of codes from 0 to `most`, scales and minimums from 0 to `highest`.
#[inline(always)]
pub(super) fn offset_groups<const N: usize, const G: usize>(
    x: &[[f32; N]; G],
    w: &[[f32; N]; G],
    most: f32,
    highest: f32,
) -> Offset<N, G> {
    let wanted: [(f32, f32); G] = each(|g| line(&x[g], &w[g], most, 0.0));
    let (scale, min) = wanted.iter().fold((0.0, 0.0), |(a, b): (f32, f32), (d, m)| (a.max(*d), b.max(-m)));
    let code = |g: usize, i: usize, s: f32, m: f32| nearest((x[g][i] + m) * inverse(s), most);
    // The scales and minimums of all groups for given d and dmin.
    let tried = |d: f32, dmin: f32| {
        let (mut total, mut scales, mut mins) = (0.0, [0.0; G], [0.0; G]);
        for g in 0..G {
            let s0 = round((wanted[g].0 * inverse(d)).clamp(0.0, highest));
            let m0 = round((-wanted[g].1 * inverse(dmin)).clamp(0.0, highest));
            let mut least = f32::INFINITY;
            for s in [s0, s0 - 1.0, s0 + 1.0] {
                for m in [m0, m0 - 1.0, m0 + 1.0] {
                    let (s, m) = (s.clamp(0.0, highest), m.clamp(0.0, highest));
                    let (step, off) = (d * s, dmin * m);
                    let [e] = sums::<N, 1>(|i| {
                        let e = x[g][i] - (step * code(g, i, step, off) - off);
                        [w[g][i] * e * e]
                    });
                    if e < least {
                        (least, scales[g], mins[g]) = (e, s, m);
                    }
                }
            }
            total += least;
        }
        (total, d, dmin, scales, mins)
    };
    let mut best = tried(rounded_up(scale / highest), rounded_up(min / highest));
    for _ in 0..3 {
        let (_, d, dmin, scales, mins) = best;
        // x ≈ d a − dmin b, a = s code, b = m
        let mut sum = [0.0; 5];
        for g in 0..G {
            let (step, off) = (d * scales[g], dmin * mins[g]);
            let terms = sums::<N, 5>(|i| {
                let (a, b) = (scales[g] * code(g, i, step, off), mins[g]);
                let (x, w) = (x[g][i], w[g][i]);
                [w * a * a, w * a * b, w * b * b, w * a * x, w * b * x]
            });
            (0..5).for_each(|k| sum[k] += terms[k]);
        }
        let [aa, ab, bb, ax, bx] = sum;
        let det = aa * bb - ab * ab;
        let (d, dmin) = match det > 0.0 {
            true => ((ax * bb - ab * bx) / det, (ax * ab - aa * bx) / det),
            false => (if aa > 0.0 { ax / aa } else { 0.0 }, dmin),
        };
        let now = tried(rounded(d), rounded(dmin));
        if now.0 >= best.0 {
            break;
        }
        best = now;
    }
    let (_, d, dmin, scales, mins) = best;
    Offset {
        d: to_f16(d),
        dmin: to_f16(dmin),
        scales,
        mins,
        codes: each(|g| each(|i| code(g, i, d * scales[g], dmin * mins[g]))),
    }
}
