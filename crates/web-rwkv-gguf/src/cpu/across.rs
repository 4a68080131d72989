//! Products of integers, for many tokens: codes stay integers, and their products with activations of 16 or 8 bits are
//! summed over a group of codes that share a scale.

use std::{array::from_fn, marker::PhantomData, ops::Range};

use crate::{
    format::{self, Bits, Bytes, Quant, with_quant},
    ops::Act,
};

use super::{
    Matrix, Shared,
    dot::prefetch_kept,
    level::{Kernel, Vector},
    lines::Lines,
    math::Fast,
    rounded::{Grain, Integers, Rounded, SHARED, folds},
    scalar,
};

/// Rows of a quantized matrix taken apart.
#[derive(Default)]
pub(super) struct Codes {
    columns: usize,
    group: usize,
    codes: Vec<u8>,   // [R, K], signed
    scale: Vec<f32>,  // [R, K / group]
    offset: Vec<f32>, // [R, K / group]
}

impl Codes {
    /// Takes apart columns of as many rows of `w` as a register has lanes for; those that are missing are zeros.
    ///
    /// # Safety
    /// As [`Vector`].
    pub(super) unsafe fn read<V: Vector>(&mut self, w: &Matrix, rows: Range<usize>, columns: Range<usize>) {
        (self.columns, self.group) = (columns.len(), w.format.group().expect("it is in blocks"));
        let (k, n) = (self.columns, self.columns / self.group);
        self.codes.resize(V::LANES * k, 0);
        self.scale.resize(V::LANES * n, 0.0);
        self.offset.resize(V::LANES * n, 0.0);
        let rows = rows.start..rows.end.min(rows.start + V::LANES);
        self.codes[rows.len() * k..].fill(0);
        self.scale[rows.len() * n..].fill(0.0);
        self.offset[rows.len() * n..].fill(0.0);
        for (i, row) in rows.enumerate() {
            let bytes = w.part(row, columns.start, k);
            let (scale, offset) = (&mut self.scale[i * n..][..n], &mut self.offset[i * n..][..n]);
            let codes = &mut self.codes[i * k..][..k];
            // SAFETY: the caller's promise is handed on.
            unsafe {
                with_quant!(w.format, Q => V::call(Unpack { blocks: format::cast::<Q>(bytes), codes, scale, offset }),
                    _ => unreachable!("{:?} is not quantized", w.format))
            }
        }
    }
}

struct Unpack<'a, Q> {
    blocks: &'a [Q],
    codes: &'a mut [u8],
    scale: &'a mut [f32],
    offset: &'a mut [f32],
}

impl<Q: Quant> Kernel for Unpack<'_, Q> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let groups = Q::LEN / Q::GROUP;
        let codes = self.codes.as_chunks_mut().0.chunks_exact_mut(Q::LEN / 32);
        let factors = self.scale.chunks_exact_mut(groups).zip(self.offset.chunks_exact_mut(groups));
        for ((block, codes), (scale, offset)) in self.blocks.iter().zip(codes).zip(factors) {
            // SAFETY: this runs inside `dispatch`, here and below.
            unsafe { block.factors::<V::Bytes>(scale, offset) };
            for (offset, scale) in offset.iter_mut().zip(scale) {
                *offset += f32::from(Q::MIDDLE) * *scale;
            }
            for (i, codes) in codes.iter_mut().enumerate() {
                // SAFETY: as above.
                unsafe { block.codes::<V::Bytes>(i).less(Q::MIDDLE).store(codes) };
            }
        }
    }
}

/// Codes with as many rows in the lanes as a register has, for many tokens.
#[derive(Default)]
pub(super) struct Packed {
    /// Columns that share a scale, and those that share an offset.
    pub(super) grain: Grain,
    columns: usize,
    codes: Lines<i32>,  // [R / LANES, K / PER, LANES]
    bias: Lines<i32>,   // [R / LANES, K / span, LANES], less what activations give that are zero
    scale: Lines<f32>,  // [R / LANES, K / span, LANES]
    offset: Lines<f32>, // [R / LANES, K / group, LANES]
    quads: Vec<i32>,    // [K / 4, LANES]
}

impl Packed {
    /// Makes room for rows; what they hold is left as it is.
    pub(super) fn resize<I: Integers>(&mut self, rows: usize, columns: usize, grain: Grain) {
        (self.columns, self.grain) = (columns, grain);
        self.codes.resize(rows * columns / I::PER);
        let [spans, groups] = grain.of(columns);
        self.bias.resize(rows * spans);
        self.scale.resize(rows * spans);
        self.offset.resize(rows * groups);
    }

    /// Codes, scales and offsets of a register of rows.
    pub(super) fn register<I: Integers>(
        &mut self,
        register: usize,
        lanes: usize,
    ) -> (&mut [i32], &mut [f32], &mut [f32]) {
        let [spans, groups] = self.grain.of(self.columns);
        let [codes, scales, offsets] = [self.columns / I::PER, spans, groups].map(|n| lanes * n);
        (
            &mut self.codes[register * codes..][..codes],
            &mut self.scale[register * scales..][..scales],
            &mut self.offset[register * offsets..][..offsets],
        )
    }

    /// Fills in the bias of a register of rows: sums begin with what makes those of activations that are zero zero. These are their
    /// BIAS; of bytes that are folded the first codes get it too, so that sums with them, which are of 8 bits, have none.
    ///
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    pub(super) unsafe fn sum_up<V: Vector, I: Integers>(&mut self, register: usize) {
        let (Grain { span, folded, .. }, [spans, _]) = (self.grain, self.grain.of(self.columns));
        if I::BIAS == 0 && !folded {
            return;
        }
        let [codes, spans, of_span] = [self.columns / I::PER, spans, span / I::PER].map(|n| V::LANES * n);
        let codes = &mut self.codes[register * codes..][..codes];
        let bias = &mut self.bias[register * spans..][..spans];
        for (codes, bias) in codes.chunks_exact_mut(of_span).zip(bias.chunks_exact_mut(V::LANES)) {
            // SAFETY: the caller's promise is handed on; a span has whole blocks.
            unsafe {
                let sum = match span.min(SHARED) / I::PER {
                    4 => sum_blocks::<V, I, 4>(codes, folded),
                    8 => sum_blocks::<V, I, 8>(codes, folded),
                    _ => sum_blocks::<V, I, 16>(codes, folded),
                };
                V::store_ints(bias.as_mut_ptr(), I::negate::<V>(sum));
            }
        }
    }
}

/// What codes in blocks of `N` steps give with activations that are zero; those that are folded get their BIAS.
///
/// # Safety
/// As [`Vector`], and there are whole blocks.
#[inline(always)]
unsafe fn sum_blocks<V: Vector, I: Integers, const N: usize>(codes: &mut [i32], folded: bool) -> V::Int {
    let folds = if folded { folds(N) } else { 0 };
    // SAFETY: the caller's promise is handed on, and each step has a register.
    unsafe {
        let x = V::splat_int(&i32::from_le_bytes([I::BIAS as u8; 4]));
        // Sums of 32 bits are four, which do not wait for each other.
        let mut sums = [V::zero(); 4];
        for codes in codes.chunks_exact_mut(N * V::LANES) {
            for k in 0..N / 2 {
                let [first, mate] = [k, k + N / 2].map(|k| codes.as_mut_ptr().add(k * V::LANES));
                let (w, w_mate) = (V::load_ints(first), V::load_ints(mate));
                let sum = &mut sums[if I::PER == 2 { k % 4 } else { 0 }];
                if k < folds {
                    V::store_ints(first, I::add::<V>(w, x));
                    *sum = I::dot::<V>(I::add::<V>(x, w_mate), w, *sum);
                } else if I::BIAS != 0 {
                    *sum = I::dot::<V>(x, w, I::dot::<V>(x, w_mate, *sum));
                }
            }
        }
        let [a, b, c, d] = sums;
        if I::PER == 2 { V::add(V::add(a, b), V::add(c, d)) } else { a }
    }
}

/// Packs a register of rows of `w` as number `register` of `packed`.
pub(super) struct Pack<'a, I> {
    pub(super) w: &'a Codes,
    pub(super) packed: &'a mut Packed,
    pub(super) register: usize,
    pub(super) integers: PhantomData<I>,
}

impl<I: Integers> Kernel for Pack<'_, I> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (w, p, lanes) = (self.w, self.packed, V::LANES);
        let (columns, groups, quads) = (w.columns, w.columns / w.group, w.columns / 4);
        let mut room = std::mem::take(&mut p.quads);
        room.resize(if I::PER == 4 { 0 } else { quads * lanes }, 0);
        let (codes, scale, offset) = p.register::<I>(self.register, lanes);
        let turned = if I::PER == 4 { &mut *codes } else { &mut room[..] };
        // SAFETY: this runs inside `dispatch`.
        unsafe {
            turn::<V>(w.codes[..lanes * columns].as_ptr().cast(), turned);
            turn::<V>(w.scale[..lanes * groups].as_ptr().cast(), ints(scale));
            turn::<V>(w.offset[..lanes * groups].as_ptr().cast(), ints(offset));
        }
        if I::PER == 2 {
            for q in 0..quads {
                // SAFETY: there are `LANES · K / 4` quads and twice as many pairs.
                unsafe {
                    let [first, last] = V::widen_quads(V::load_ints(room.as_ptr().add(lanes * q)));
                    let y = codes.as_mut_ptr().add(2 * lanes * q);
                    V::store_ints(y, first);
                    V::store_ints(y.add(lanes), last);
                }
            }
        }
        p.quads = room;
        // SAFETY: as above.
        unsafe { p.sum_up::<V, I>(self.register) };
    }
}

/// Turns `LANES` rows of lanes of 32 bits, which need not be numbers: `[LANES, n]` becomes `[n, LANES]`.
///
/// # Safety
/// As [`Vector`], and x has as many lanes as y.
#[inline(always)]
unsafe fn turn<V: Vector>(x: *const i32, y: &mut [i32]) {
    let n = y.len() / V::LANES;
    let whole = n - n % V::LANES;
    // SAFETY: all places are below `LANES · n`; what x points to need not be aligned.
    unsafe {
        for i in (0..whole).step_by(V::LANES) {
            V::transpose(x.add(i).cast(), 4 * n, y.as_mut_ptr().add(i * V::LANES).cast(), 4 * V::LANES);
        }
        for i in whole..n {
            for r in 0..V::LANES {
                y[i * V::LANES + r] = x.add(r * n + i).read_unaligned();
            }
        }
    }
}

/// The bits of numbers.
fn ints(x: &mut [f32]) -> &mut [i32] {
    // SAFETY: both have 32 bits, any of which are a number of either.
    unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast(), x.len()) }
}

/// Where sums go: rows `at..at + rows` of the activations.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) y: Shared<f32>,
    pub(super) at: usize,
    pub(super) rows: usize,
    pub(super) act: Act,
}

impl Target {
    /// Asks for where the sums of a token will be written.
    ///
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    unsafe fn fetch<V: Vector>(self, t: usize) {
        let y = self.y.place(t, self.at, self.rows);
        // SAFETY: the caller's promise is handed on.
        unsafe { prefetch_kept::<V>(y.cast(), self.rows * size_of::<f32>()) };
    }

    /// Puts the sums of rows and of `T` tokens from `t`, `[T, R · LANES]`, through the activation and writes them.
    ///
    /// # Safety
    /// As [`Vector`], and nothing else may use these activations meanwhile.
    #[inline(always)]
    unsafe fn write<V: Vector, const T: usize, const R: usize>(self, t: usize, sums: &[f32]) {
        for (i, sums) in sums.chunks_exact(R * V::LANES).enumerate() {
            // SAFETY: the caller's promise is handed on.
            unsafe {
                scalar::write::<Fast>(self.act, &sums[..self.rows], self.y.part(t + i, self.at, self.rows))
            };
        }
    }
}

/// `R` registers of packed rows from number `register` times a tile of `T` tokens from `t`, lanes along the rows.
pub(super) struct Across<'a, I, const T: usize, const R: usize, const SPAN: usize, const FOLDED: bool> {
    pub(super) w: &'a Packed,
    pub(super) x: &'a Rounded<I>,
    pub(super) register: usize,
    pub(super) t: usize,
    pub(super) offsets: bool,
    /// Which columns of x those of w are.
    pub(super) columns: Range<usize>,
    /// Sums over the columns before, `[T, R, LANES]`, which those of these are added to.
    pub(super) sums: &'a mut [f32],
    pub(super) target: Target,
}

impl<I: Integers, const T: usize, const R: usize, const SPAN: usize, const FOLDED: bool> Kernel
    for Across<'_, I, T, R, SPAN, FOLDED>
{
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (w, lanes, columns, start) = (self.w, V::LANES, self.w.columns, self.columns.start);
        let ([spans, groups], [first_span, first_group]) = (w.grain.of(columns), w.grain.of(start));
        let steps = columns / I::PER;
        fn part<N>(x: &[N], register: usize, len: usize) -> *const N {
            x[register * len..][..len].as_ptr()
        }
        let code: [*const i32; R] = from_fn(|i| part(&w.codes, self.register + i, lanes * steps));
        let bias: [*const i32; R] = from_fn(|i| part(&w.bias, self.register + i, lanes * spans));
        let scale: [*const f32; R] = from_fn(|i| part(&w.scale, self.register + i, lanes * spans));
        let offset: [*const f32; R] = from_fn(|i| part(&w.offset, self.register + i, lanes * groups));
        let x = self.x.codes(self.t, T)[start / I::PER * T..].as_ptr();
        let x_scale = self.x.scale(self.t, T)[first_span * T..].as_ptr();
        let x_cross =
            if FOLDED { self.x.cross(self.t, T)[first_span * T..].as_ptr() } else { std::ptr::null() };
        let x_sums = self.x.sums(self.t, T)[first_group * T..].as_ptr();
        let last = self.columns.end == self.x.columns;
        assert!(self.columns.len() == columns && self.columns.end <= self.x.columns);
        assert!(w.grain == self.x.grain && w.grain.span == SPAN && (w.grain.folded || !FOLDED));
        assert!(self.sums.len() == T * R * lanes && start.is_multiple_of(SHARED.max(SPAN)));
        let sums = self.sums.as_mut_ptr();
        // SAFETY: what was sliced above has K / PER codes and as many factors as spans and groups for each lane or token of the
        // tile.
        unsafe {
            // Offsets before all spans: among them they would keep products waiting.
            let mut acc = [[V::splat(0.0); R]; T];
            if start > 0 {
                for (i, acc) in acc.as_flattened_mut().iter_mut().enumerate() {
                    *acc = V::load(sums.add(i * lanes));
                }
            }
            for g in 0..if self.offsets { groups } else { 0 } {
                let mut offsets = [V::splat(0.0); R];
                for r in 0..R {
                    offsets[r] = V::load(offset[r].add(g * lanes));
                }
                for (t, acc) in acc.iter_mut().enumerate() {
                    let x_sum = V::splat(*x_sums.add(g * T + t));
                    for r in 0..R {
                        acc[r] = V::fma(offsets[r], x_sum, acc[r]);
                    }
                }
            }
            let mut fetched = 0;
            for s in 0..spans {
                // Bit by bit, since memory takes longer than a span.
                while last && fetched < T && fetched * spans <= s * T {
                    self.target.fetch::<V>(self.t + fetched);
                    fetched += 1;
                }
                let mut first = [V::zero(); R];
                if FOLDED || I::BIAS != 0 {
                    for r in 0..R {
                        first[r] = V::load_ints(bias[r].add(s * lanes));
                    }
                }
                let mut sums = [first; T];
                if FOLDED {
                    for (t, sums) in sums.iter_mut().enumerate() {
                        let cross = V::splat_int(x_cross.add(s * T + t));
                        for sum in sums {
                            *sum = V::add(*sum, cross);
                        }
                    }
                }
                for column in (s * SPAN..(s + 1) * SPAN).step_by(SHARED) {
                    let (first, lanes_of) = (column / I::PER, SHARED / I::PER);
                    let x = x.add(column / SHARED * lanes_of * T + first % lanes_of);
                    macro_rules! codes {
                        ($k:expr) => {{
                            let mut w = [V::zero(); R];
                            for r in 0..R {
                                w[r] = V::load_ints(code[r].add(lanes * (first + $k)));
                            }
                            w
                        }};
                    }
                    macro_rules! one {
                        ($k:expr) => {
                            let w = codes!($k);
                            for (t, sums) in sums.iter_mut().enumerate() {
                                let x = V::splat_int(x.add(t * lanes_of + $k));
                                for r in 0..R {
                                    sums[r] = I::dot::<V>(x, w[r], sums[r]);
                                }
                            }
                        };
                    }
                    let steps = SPAN.min(SHARED) / I::PER;
                    let folds = if FOLDED { folds(steps) } else { 0 };
                    let alone = steps - 2 * folds;
                    for k in 0..if folds > alone { folds } else { alone } {
                        if k < folds {
                            let (w, mates) = (codes!(k), codes!(k + steps / 2));
                            for (t, sums) in sums.iter_mut().enumerate() {
                                let x = x.add(t * lanes_of + k);
                                let (x, mate) = (V::splat_int(x), V::splat_int(x.add(steps / 2)));
                                for r in 0..R {
                                    let (a, b) = (I::add::<V>(x, mates[r]), I::add::<V>(mate, w[r]));
                                    sums[r] = I::dot::<V>(a, b, sums[r]);
                                }
                            }
                        }
                        if k < alone {
                            one!(k + if k + folds < steps / 2 { folds } else { 2 * folds });
                        }
                    }
                }
                let x_scale = x_scale.add(s * T);
                let mut scales = [V::splat(0.0); R];
                for r in 0..R {
                    scales[r] = V::load(scale[r].add(s * lanes));
                }
                for t in 0..T {
                    let x_scale = V::splat(*x_scale.add(t));
                    for r in 0..R {
                        let factor = V::mul(scales[r], x_scale);
                        acc[t][r] = V::fma(I::to_float::<V>(sums[t][r]), factor, acc[t][r]);
                    }
                }
            }
            for (i, acc) in acc.as_flattened().iter().enumerate() {
                V::store(sums.add(i * lanes), *acc);
            }
            if last {
                self.target.write::<V, T, R>(self.t, self.sums);
            }
        }
    }
}
