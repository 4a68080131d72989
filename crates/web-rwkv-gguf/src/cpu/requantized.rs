//! Weights that become integers of 15 bits, for many tokens: floats of 16 bits, since products of integers are twice as fast, and blocks
//! whose own scales are of fewer columns.

use std::ops::Range;

use crate::format::Format;

use super::{
    Matrix,
    across::Packed,
    dot::prefetch,
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
        _ => !w.data.is_beside() && w.columns >= WIDE,
    }
}

/// The largest integer, which leaves as many bits to activations that are folded with it.
pub(super) const LARGEST: i32 = 16383;

/// What the root of the sum of squares of integers may be that share a scale, of weights and of activations alike: by the inequality of
/// Cauchy and Schwarz a sum of products then fits in 32 bits.
pub(super) const NORM: i32 = 46340;

/// How many columns of a matrix share a scale.
pub(super) fn span(w: &Matrix) -> usize {
    let fits = |span: &usize| w.columns >= WIDE && w.columns.is_multiple_of(*span);
    [4 * SHARED, 2 * SHARED].into_iter().find(fits).unwrap_or(SHARED)
}

/// Columns that are decoded at a time, whole blocks and spans: they stay in the first-level cache.
const PART: usize = 256;

/// What rows are taken apart in.
#[derive(Default)]
pub(super) struct Scratch {
    values: Lines<f32>, // [LANES, PART]
    turned: Lines<f32>, // [span, LANES]
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
        let Self { w, rows, columns, packed, register, scratch: Scratch { values, turned } } = self;
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
    let (mut most, mut squares, mut inverses) = ([0.0; 16], [0.0; 16], [0.0; 16]);
    // SAFETY: the caller's promise is handed on, and 16 are at least as many as there are lanes.
    unsafe {
        // Four at a time, which do not wait for each other.
        let mut four = [V::splat(0.0); 4];
        for i in (0..span).step_by(4) {
            for (j, most) in four.iter_mut().enumerate() {
                *most = V::max_abs(*most, V::load(column(i + j)));
            }
        }
        let [a, b, c, d] = four;
        V::store(most.as_mut_ptr(), V::max_abs(V::max_abs(a, b), V::max_abs(c, d)));
        for (unit, most) in inverses.iter_mut().zip(most) {
            *unit = inverse(most);
        }
        let unit = V::load(inverses.as_ptr());
        let mut four = [V::splat(0.0); 4];
        for i in (0..span).step_by(4) {
            for (j, squares) in four.iter_mut().enumerate() {
                let x = V::mul(V::load(column(i + j)), unit);
                *squares = V::fma(x, x, *squares);
            }
        }
        let ([a, b, c, d], one) = (four, V::splat(1.0));
        V::store(squares.as_mut_ptr(), V::fma(V::fma(a, one, b), one, V::fma(c, one, d)));
        for (i, scale) in scales.iter_mut().enumerate() {
            let step = step(most[i], squares[i], [LARGEST, NORM], span);
            inverses[i] = inverse(step);
            // What is not finite has no code, and must not vanish.
            *scale = step + 0.0 * squares[i];
        }
        let inverse = V::load(inverses.as_ptr());
        for (i, codes) in codes.chunks_exact_mut(V::LANES).enumerate() {
            let (a, b) = (V::load(column(2 * i)), V::load(column(2 * i + 1)));
            V::store_ints(codes.as_mut_ptr(), V::round_pairs(V::mul(a, inverse), V::mul(b, inverse)));
        }
    }
}
