//! Weights that are floats of 16 bits as integers, for many tokens: products of integers are twice as fast.

use std::ops::Range;

use super::{
    Matrix,
    across::{Packed, ints, turn},
    gemm::decode,
    level::{Kernel, Vector},
    lines::Lines,
    rounded::{Pairs, SHARED},
};

/// Rows and columns of matrices that are not small: these, as LoRAs are, take little time, and get finer steps.
const SMALL: usize = 512;

/// How many columns of a matrix share a scale.
pub(super) fn span(w: &Matrix) -> usize {
    let small = w.rows.min(w.columns) < SMALL || !w.columns.is_multiple_of(2 * SHARED);
    if small { SHARED } else { 2 * SHARED }
}

/// The largest integer: over a span it leaves activations an eighth of their largest on average.
pub(super) fn largest(span: usize) -> i32 {
    (1 << 19) / span as i32 - 1
}

/// What rows are taken apart in.
#[derive(Default)]
pub(super) struct Scratch {
    values: Lines<f32>, // [K]
    codes: Lines<i32>,  // [LANES, K / 2], pairs
    scale: Lines<f32>,  // [LANES, K / span]
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
        let Self { w, rows, columns, packed, register, scratch: Scratch { values, codes, scale } } = self;
        let (k, span) = (columns.len(), packed.grain.span);
        let largest = largest(span) as f32;
        assert!(span.is_multiple_of(V::LANES) && k.is_multiple_of(span));
        values.resize(k);
        codes.resize(V::LANES * k / 2);
        scale.resize(V::LANES * k / span);
        for r in 0..V::LANES {
            let (codes, scale) = (&mut codes[r * k / 2..][..k / 2], &mut scale[r * k / span..][..k / span]);
            let row = rows.start + r;
            if row >= rows.end {
                codes.fill(0);
                scale.fill(0.0);
                continue;
            }
            // SAFETY: this runs inside `dispatch`, and a pair has room for two codes.
            unsafe {
                decode::<V>(w.format, w.part(row, columns.start, k), values);
                for ((x, codes), scale) in
                    values.chunks_exact(span).zip(codes.chunks_exact_mut(span / 2)).zip(scale)
                {
                    let (mut most, mut total) = (V::splat(0.0), V::splat(0.0));
                    for x in x.chunks_exact(V::LANES) {
                        let x = V::load(x.as_ptr());
                        most = V::max_abs(most, x);
                        total = V::fma(x, V::splat(0.0), total);
                    }
                    // What is not finite has no code, and must not vanish.
                    let most = V::largest(most);
                    *scale = most / largest + V::sum(total);
                    let inverse = V::splat(if most > 0.0 { largest / most } else { 0.0 });
                    for (x, codes) in x.chunks_exact(V::LANES).zip(codes.chunks_exact_mut(V::LANES / 2)) {
                        V::store_codes(codes.as_mut_ptr().cast(), V::mul(V::load(x.as_ptr()), inverse));
                    }
                }
            }
        }
        let (to, to_scale, _) = packed.register::<Pairs>(register, V::LANES);
        // SAFETY: as above.
        unsafe {
            turn::<V>(codes.as_ptr(), to);
            turn::<V>(scale.as_ptr().cast(), ints(to_scale));
            packed.sum_up::<V, Pairs>(register);
        }
    }
}
