//! Weights that become integers of up to 15 bits, for many tokens: floats of 16 bits, since products of integers are twice as fast, and
//! blocks, whose own scales are of fewer columns.

use std::ops::Range;

use crate::format::{
    Format,
    beside::{Beside, ROWS},
};

use super::{
    Matrix,
    across::Packed,
    beside::{quarters, scale_group},
    dot::{eight_parts, prefetch},
    gemm::decode,
    level::{Kernel, Vector},
    lines::Lines,
    rounded::{Pairs, SHARED, inverse, step},
};

/// Matrices of fewer columns take little time: floats of 16 bits get finer steps, and blocks keep their codes.
const WIDE: usize = 512;

/// Whether weights become such.
pub(super) fn takes(w: &Matrix) -> bool {
    match w.format {
        Format::F32 => false,
        Format::F16 | Format::BF16 => w.columns.is_multiple_of(SHARED),
        // Narrow ones keep codes times whole scales, which share one of 256 columns.
        _ if w.data.is_beside() => w.columns > WIDE,
        _ => w.columns >= WIDE,
    }
}

/// The largest integer, which leaves as many bits to activations that are folded with it.
pub(super) const LARGEST: i32 = 16383;

/// The same where rows stand side by side: quarters of steps fit in 16 bits, as those of a scale times half as many as there are codes must,
/// which is at most 16 fifteenths of the largest.
pub(super) const LARGEST_BESIDE: i32 = 32767 / 4 * 15 / 16;

/// What the root of the sum of squares of integers may be that share a scale, of weights and of activations alike: by the inequality of
/// Cauchy and Schwarz a sum of products then fits in 32 bits.
pub(super) const NORM: i32 = 46340;

/// How many columns of a matrix share a scale.
pub(super) fn span(w: &Matrix) -> usize {
    let spans: &[usize] =
        if w.data.is_beside() { &[32 * SHARED, 16 * SHARED, 8 * SHARED] } else { &[4 * SHARED, 2 * SHARED] };
    let fits = |span: &usize| w.columns >= WIDE && w.columns.is_multiple_of(*span);
    spans.iter().copied().find(fits).unwrap_or(SHARED)
}

/// Columns that are decoded at a time, whole blocks and spans: they stay in the first-level cache.
const PART: usize = 256;

/// What rows are taken apart in.
#[derive(Default)]
pub(super) struct Scratch {
    values: Lines<f32>,  // [LANES, PART]
    turned: Lines<f32>,  // [span, LANES]
    factors: Lines<f32>, // [span / group, 2, LANES], scales and what the middle codes are
}

/// Packs columns of as many rows as a register has lanes for as number `register` of `packed`; those that are missing are zeros.
pub(super) struct Pack<'a> {
    pub(super) w: &'a Matrix,
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
    pub(super) packed: &'a mut Packed,
    pub(super) register: usize,
    pub(super) scratch: &'a mut Scratch,
}

impl Kernel for Pack<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { w, rows, columns, packed, register, scratch: Scratch { values, turned, .. } } = self;
        let (k, span, lanes) = (columns.len(), packed.grain.span, V::LANES);
        assert!(span.is_multiple_of(lanes) && k.is_multiple_of(span));
        let (codes, scales, _) = packed.register::<Pairs>(register, lanes);
        values.resize(lanes * PART);
        turned.resize(span * lanes);
        for part in (0..k).step_by(PART) {
            let n = PART.min(k - part);
            for (r, values) in values.chunks_exact_mut(PART).enumerate() {
                if rows.start + r >= rows.end {
                    values.fill(0.0);
                    continue;
                }
                let bytes = w.part(rows.start + r, columns.start + part, n);
                // SAFETY: this runs inside `dispatch`.
                unsafe {
                    prefetch::<V>(bytes.as_ptr().wrapping_add(lanes * w.row_bytes()), bytes.len());
                    decode::<V>(w.format, bytes, &mut values[..n]);
                }
            }
            let codes = &mut codes[part / 2 * lanes..][..n / 2 * lanes];
            let scales = &mut scales[part / span * lanes..][..n / span * lanes];
            let spans = codes.chunks_exact_mut(span / 2 * lanes).zip(scales.chunks_exact_mut(lanes));
            for ((codes, scales), first) in spans.zip((0..n).step_by(span)) {
                // SAFETY: as above, and rows have as many columns.
                unsafe {
                    for at in (0..span).step_by(lanes) {
                        let (from, to) = (&values[first + at..], &mut turned[at * lanes..]);
                        V::transpose(from.as_ptr(), 4 * PART, to.as_mut_ptr(), 4 * lanes);
                    }
                    round::<V>(turned, codes, scales);
                }
            }
        }
        // SAFETY: as above.
        unsafe { packed.sum_up::<V, Pairs>(register) };
    }
}

/// Rounds rows that share a scale each, x `[span, LANES]`, to pairs of codes.
///
/// # Safety
/// As [`Vector`], and there are as many codes, and a scale for each lane.
#[inline(always)]
unsafe fn round<V: Vector>(x: &[f32], codes: &mut [i32], scales: &mut [f32]) {
    let span = x.len() / V::LANES;
    let column = |i: usize| x[i * V::LANES..].as_ptr();
    // SAFETY: the caller's promise is handed on.
    unsafe {
        // Four at a time, which do not wait for each other.
        let mut four = [V::splat(0.0); 4];
        for i in (0..span).step_by(4) {
            for (j, most) in four.iter_mut().enumerate() {
                *most = V::max_abs(*most, V::load(column(i + j)));
            }
        }
        let [a, b, c, d] = four;
        let most = V::max_abs(V::max_abs(a, b), V::max_abs(c, d));
        let unit = inverses(most);
        let mut four = [V::splat(0.0); 4];
        for i in (0..span).step_by(4) {
            for (j, squares) in four.iter_mut().enumerate() {
                let x = V::mul(V::load(column(i + j)), unit);
                *squares = V::fma(x, x, *squares);
            }
        }
        let ([a, b, c, d], one) = (four, V::splat(1.0));
        let squares = V::fma(V::fma(a, one, b), one, V::fma(c, one, d));
        let inverse = steps(most, squares, LARGEST, span, scales);
        for (i, codes) in codes.chunks_exact_mut(V::LANES).enumerate() {
            let (a, b) = (V::load(column(2 * i)), V::load(column(2 * i + 1)));
            V::store_ints(codes.as_mut_ptr(), V::round_pairs(V::mul(a, inverse), V::mul(b, inverse)));
        }
    }
}

/// Fills in the steps of rows, from the largest number of each and the squares of all in units of that. Gives their inverses.
///
/// # Safety
/// As [`Vector`], and there is a scale for each lane.
#[inline(always)]
unsafe fn steps<V: Vector>(most: V, squares: V, largest: i32, span: usize, scales: &mut [f32]) -> V {
    let (mut tops, mut sums) = ([0.0; 16], [0.0; 16]);
    // SAFETY: the caller's promise is handed on, and 16 are at least as many as there are lanes.
    unsafe {
        V::store(tops.as_mut_ptr(), most);
        V::store(sums.as_mut_ptr(), squares);
        for ((scale, most), squares) in scales.iter_mut().zip(&mut tops).zip(sums) {
            let step = step(*most, squares, [largest, NORM], span);
            *most = inverse(step);
            // What is not finite has no code, and must not vanish.
            *scale = step + 0.0 * squares;
        }
        V::load(tops.as_ptr())
    }
}

/// [`inverse`] of each lane.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn inverses<V: Vector>(x: V) -> V {
    let mut lanes = [0.0; 16];
    // SAFETY: the caller's promise is handed on, and 16 are at least as many as there are lanes.
    unsafe {
        V::store(lanes.as_mut_ptr(), x);
        for x in &mut lanes {
            *x = inverse(*x);
        }
        V::load(lanes.as_ptr())
    }
}

/// [`Pack`] of blocks of as many eights of rows as a register has lanes for; the others are not looked at.
pub(super) struct PackBeside<'a, Q> {
    pub(super) eights: [&'a [[Q; ROWS]]; 2],
    /// How many bytes behind these the rows of the next register are, which are asked for.
    pub(super) next: usize,
    pub(super) packed: &'a mut Packed,
    pub(super) register: usize,
    pub(super) scratch: &'a mut Scratch,
}

impl<Q: Beside> Kernel for PackBeside<'_, Q> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { eights, next, packed, register, scratch: Scratch { factors, .. } } = self;
        let (span, lanes, of_block) = (packed.grain.span, V::LANES, Q::LEN / Q::GROUP * 2 * V::LANES);
        let (codes, scales, _) = packed.register::<Pairs>(register, lanes);
        factors.resize(span / Q::LEN * of_block);
        let places = |b: usize| eights.map(|rows| rows[b].as_ptr().cast::<u8>());
        let spans = codes.chunks_exact_mut(span / 2 * lanes).zip(scales.chunks_exact_mut(lanes));
        for ((codes, scales), first) in spans.zip((0..).step_by(span / Q::LEN)) {
            // SAFETY: this runs inside `dispatch`, and all eights have as many blocks.
            unsafe {
                let (mut most, mut squares) = (V::splat(0.0), V::splat(0.0));
                for (factors, b) in factors.chunks_exact_mut(of_block).zip(first..) {
                    let places = &places(b)[..lanes / ROWS];
                    for place in places {
                        prefetch::<V>(place.wrapping_add(next), ROWS * size_of::<Q>());
                    }
                    let (mut scale, mut offset) = ([V::splat(0.0); 16], [V::splat(0.0); 16]);
                    Q::factors_beside::<V::Int>(places, &mut scale, &mut offset);
                    macro_rules! part {
                        ($i:expr) => {
                            for half in 0..SHARED / Q::GROUP {
                                let (g, words) = ($i * (SHARED / Q::GROUP) + half, Q::GROUP / 4);
                                let (mut sum, mut sum_squares) = (V::zero(), V::zero());
                                for w in half * words..(half + 1) * words {
                                    let u = Q::biased_beside::<V::Int>(places, $i, w);
                                    sum = V::dot_quads(u, V::splat_int(&0x101_0101), sum);
                                    sum_squares = V::dot_quads(u, u, sum_squares);
                                }
                                let [sum, sum_squares] =
                                    [V::quads_to_float(sum), V::quads_to_float(sum_squares)];
                                // Numbers s u + o are at most as large as the first or the last, and
                                // Σ (s u + o)² = s (s Σu² + 2 o Σu) + n o².
                                let (s, codes) = (scale[g], (2 * Q::LARGEST - 1) as f32);
                                let o = V::fma(s, V::splat(-f32::from(Q::BIAS)), offset[g]);
                                most = V::max_abs(V::max_abs(most, o), V::fma(s, V::splat(codes), o));
                                let product = V::fma(V::mul(o, V::splat(2.0)), sum, V::mul(s, sum_squares));
                                let own = V::mul(o, V::splat(Q::GROUP as f32));
                                squares = V::fma(own, o, V::fma(s, product, squares));
                                let middle = V::fma(s, V::splat(f32::from(Q::MIDDLE)), offset[g]);
                                let factors = factors[2 * g * lanes..][..2 * lanes].as_mut_ptr();
                                V::store(factors, s);
                                V::store(factors.add(lanes), middle);
                            }
                        };
                    }
                    eight_parts!(part);
                }
                let unit = inverses(most);
                let squares = V::mul(V::mul(V::max_abs(V::splat(0.0), squares), unit), unit);
                let inverse = steps(most, squares, LARGEST_BESIDE, span, scales);
                let codes = codes.chunks_exact_mut(Q::LEN / 2 * lanes);
                for ((factors, codes), b) in factors.chunks_exact(of_block).zip(codes).zip(first..) {
                    let (places, codes) = (&places(b)[..lanes / ROWS], codes.as_mut_ptr());
                    macro_rules! part {
                        ($i:expr) => {
                            for half in 0..SHARED / Q::GROUP {
                                let g = $i * (SHARED / Q::GROUP) + half;
                                let factors = factors[2 * g * lanes..][..2 * lanes].as_ptr();
                                let [s, middle] = [V::load(factors), V::load(factors.add(lanes))];
                                let times = quarters(V::mul(s, inverse), Q::LARGEST);
                                // Half a step more, since what follows is rounded down.
                                let offset = quarters(V::fma(middle, inverse, V::splat(0.5)), 1);
                                scale_group::<V, Q>(places, $i, half, times, offset, codes);
                            }
                        };
                    }
                    eight_parts!(part);
                }
            }
        }
        // SAFETY: as above.
        unsafe { packed.sum_up::<V, Pairs>(register) };
    }
}
