//! Kernels of products: tiles of rows × tokens in registers.
//!
//! Codes of quantized weights stay integers. Activations get 16 bits, with a scale for each 32 of them; their
//! products with codes are summed in i32 over a group of codes that share a scale.

use std::{array::from_fn, marker::PhantomData};

use crate::{
    format::{self, Format, Quant, with_quant},
    ops::Act,
};

use super::{
    Acts, Cpu, Shared,
    level::{Kernel, Vector, dispatch},
    math::{Fast, Math},
    scalar,
};

/// Bytes of a line of the cache.
const LINE: usize = 64;

/// Activations that share a scale.
const SHARED: usize = 32;

/// Of so many tokens that are left, how many a tile takes that has registers for `most`.
pub(super) fn tile(left: usize, most: usize) -> usize {
    [6, 4, 2].into_iter().find(|n| *n <= left.min(most)).unwrap_or(1)
}

/// Activations of T tokens in 16 bits, `x = code · scale`, in tiles of n tokens.
pub(super) struct Acts16 {
    columns: usize,
    codes: Vec<i16>,     // tiles of [K / 2, n, 2]
    scale: Vec<f32>,     // tiles of [K / 32, n]
    sums: [Vec<f32>; 2], // Σ x of 16 columns, tiles of [K / 16, n], and of 32, tiles of [K / 32, n]
}

impl Acts16 {
    /// The first `columns` of each row of x, which are whole groups of 32; tiles of at most `most` tokens.
    pub(super) fn new(cpu: &Cpu, x: &Acts, columns: usize, most: usize) -> Self {
        let (tokens, groups) = (x.tokens(), columns / SHARED);
        let floats = |width: usize| vec![0.0; tokens * width];
        let mut y = Self {
            columns,
            codes: vec![0; tokens * columns],
            scale: floats(groups),
            sums: [floats(2 * groups), floats(groups)],
        };
        let (mut tiles, mut t) = (vec![], 0);
        while t < tokens {
            tiles.push((t, tile(tokens - t, most)));
            t += tile(tokens - t, most);
        }
        let codes = Shared::new(&mut y.codes, columns);
        let scale = Shared::new(&mut y.scale, groups);
        let [sums_16, sums_32] = &mut y.sums;
        let (sums_16, sums_32) = (Shared::new(sums_16, 2 * groups), Shared::new(sums_32, groups));
        cpu.each(tiles.len(), 4 * columns * most, |i| {
            let (t, n) = tiles[i];
            // SAFETY: each task has a tile of its own.
            unsafe {
                let (codes, scale) = (codes.part(t, 0, n * columns), scale.part(t, 0, n * groups));
                let (sums_16, sums_32) = (sums_16.part(t, 0, n * 2 * groups), sums_32.part(t, 0, n * groups));
                dispatch(cpu.level(), Quantize { x, t, n, columns, codes, scale, sums_16, sums_32 });
            }
        });
        y
    }

    /// The tile of `n` tokens from `t`: `[K / 2, n, 2]`.
    fn codes(&self, t: usize, n: usize) -> &[i16] {
        &self.codes[t * self.columns..][..n * self.columns]
    }

    /// `[K / 32, n]`
    fn scale(&self, t: usize, n: usize) -> &[f32] {
        let groups = self.columns / SHARED;
        &self.scale[t * groups..][..n * groups]
    }

    /// Sums over groups of 16 or 32 columns, `[K / group, n]`.
    fn sums(&self, t: usize, n: usize, group: usize) -> &[f32] {
        let groups = self.columns / group;
        &self.sums[usize::from(group == SHARED)][t * groups..][..n * groups]
    }
}

/// One tile of [`Acts16`].
struct Quantize<'a> {
    x: &'a Acts,
    t: usize,
    n: usize,
    columns: usize,
    codes: &'a mut [i16],
    scale: &'a mut [f32],
    sums_16: &'a mut [f32],
    sums_32: &'a mut [f32],
}

impl Kernel for Quantize<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (pairs, n) = (self.codes.as_chunks_mut::<2>().0, self.n);
        for i in 0..n {
            let x = &self.x.row(self.t + i)[..self.columns];
            for (g, x) in x.as_chunks::<SHARED>().0.iter().enumerate() {
                let mut codes = [0; SHARED];
                let mut sums = [0.0; 2];
                // SAFETY: x and the codes have 32 values, and LANES divides 16.
                let most = unsafe {
                    let mut most = V::splat(0.0);
                    for (half, total) in sums.iter_mut().enumerate() {
                        let mut sum = V::splat(0.0);
                        for at in (0..SHARED / 2).step_by(V::LANES) {
                            let x = V::load(x.as_ptr().add(half * SHARED / 2 + at));
                            most = V::max_abs(most, x);
                            sum = V::fma(x, V::splat(1.0), sum);
                        }
                        *total = V::sum(sum);
                    }
                    let most = V::largest(most);
                    let inverse = V::splat(if most > 0.0 { 32767.0 / most } else { 0.0 });
                    for at in (0..SHARED).step_by(V::LANES) {
                        V::store_codes(
                            codes.as_mut_ptr().add(at),
                            V::mul(V::load(x.as_ptr().add(at)), inverse),
                        );
                    }
                    most
                };
                for (p, pair) in codes.as_chunks::<2>().0.iter().enumerate() {
                    pairs[(g * SHARED / 2 + p) * n + i] = *pair;
                }
                // What is not finite has no code, and must not vanish.
                self.scale[g * n + i] = most / 32767.0 + 0.0 * (sums[0] + sums[1]);
                self.sums_16[2 * g * n + i] = sums[0];
                self.sums_16[(2 * g + 1) * n + i] = sums[1];
                self.sums_32[g * n + i] = sums[0] + sums[1];
            }
        }
    }
}

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
    /// Makes room for rows; what they hold is left as it is.
    pub(super) fn resize(&mut self, rows: usize, columns: usize, group: usize) {
        (self.columns, self.group) = (columns, group);
        self.codes.resize(rows * columns, 0);
        self.scale.resize(rows * columns / group, 0.0);
        self.offset.resize(rows * columns / group, 0.0);
    }

    fn codes(&self, row: usize) -> &[u8] {
        &self.codes[row * self.columns..][..self.columns]
    }

    fn scale(&self, row: usize) -> &[f32] {
        let n = self.columns / self.group;
        &self.scale[row * n..][..n]
    }

    fn offset(&self, row: usize) -> &[f32] {
        let n = self.columns / self.group;
        &self.offset[row * n..][..n]
    }

    /// Takes apart the rows that stand in `bytes`; the others become zeros.
    ///
    /// # Safety
    /// As [`Vector`].
    pub(super) unsafe fn read<V: Vector>(&mut self, format: Format, bytes: &[u8]) {
        let row_bytes = format.row_bytes(self.columns).expect("checked when the model was opened");
        let rows = bytes.len() / row_bytes;
        let (k, n) = (self.columns, self.columns / self.group);
        self.codes[rows * k..].fill(0);
        self.scale[rows * n..].fill(0.0);
        self.offset[rows * n..].fill(0.0);
        let (codes, scale, offset) = (&mut self.codes[..], &mut self.scale[..], &mut self.offset[..]);
        // SAFETY: the caller's promise is handed on.
        unsafe {
            with_quant!(format, Q => V::call(Unpack::<Q> { bytes, codes, scale, offset, quant: PhantomData }),
                _ => unreachable!("{format:?} is not quantized"))
        }
    }
}

struct Unpack<'a, Q> {
    bytes: &'a [u8],
    codes: &'a mut [u8],
    scale: &'a mut [f32],
    offset: &'a mut [f32],
    quant: PhantomData<Q>,
}

impl<Q: Quant> Kernel for Unpack<'_, Q> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let groups = Q::LEN / Q::GROUP;
        let codes = self.codes.as_chunks_mut().0.chunks_exact_mut(Q::LEN / 32);
        let factors = self.scale.chunks_exact_mut(groups).zip(self.offset.chunks_exact_mut(groups));
        for ((block, codes), (scale, offset)) in format::cast::<Q>(self.bytes).iter().zip(codes).zip(factors)
        {
            // SAFETY: this runs inside `dispatch`.
            unsafe { block.unpack::<V::Bytes>(codes, scale, offset) };
        }
    }
}

/// Asks for `len` of the bytes that come next, from `at`: bit by bit, so that memory is never idle nor overrun.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn prefetch<V: Vector>(next: &[u8], at: usize, len: usize) {
    for line in (0..len).step_by(LINE) {
        // SAFETY: the caller's promise is handed on; the place need not be there.
        unsafe { V::prefetch(next.as_ptr().wrapping_add(at + line)) };
    }
}

/// All `R` rows of codes times `T` tokens from `t` in tiles of one, lanes along the columns: for few tokens.
pub(super) struct Along<'a, const R: usize, const T: usize, const GROUP: usize> {
    pub(super) w: &'a Codes,
    pub(super) x: &'a Acts16,
    pub(super) t: usize,
    /// Bytes that come next, see [`prefetch`].
    pub(super) next: &'a [u8],
}

impl<const R: usize, const T: usize, const GROUP: usize> Kernel for Along<'_, R, T, GROUP> {
    type Output = [[f32; R]; T];
    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> [[f32; R]; T] {
        let (step, columns) = (2 * V::LANES, self.w.columns);
        let w: [&[u8]; R] = from_fn(|r| self.w.codes(r));
        let scale: [&[f32]; R] = from_fn(|r| self.w.scale(r));
        let offset: [&[f32]; R] = from_fn(|r| self.w.offset(r));
        let x: [&[i16]; T] = from_fn(|i| self.x.codes(self.t + i, 1));
        let x_scale: [&[f32]; T] = from_fn(|i| self.x.scale(self.t + i, 1));
        let x_sums: [&[f32]; T] = from_fn(|i| self.x.sums(self.t + i, 1, GROUP));
        assert!(self.x.columns == columns && self.w.group == GROUP && SHARED.is_multiple_of(step));
        let mut sums = [[0.0; R]; T];
        // SAFETY: K is a multiple of 32, and so of the step; rows of codes and activations have K columns,
        // and K / GROUP and K / 32 factors.
        unsafe {
            let mut acc = [[V::splat(0.0); T]; R];
            let ahead = self.next.len().div_ceil(columns / step);
            for at in (0..columns).step_by(step) {
                prefetch::<V>(self.next, at / step * ahead, ahead);
                let g = at / GROUP;
                let scale: [V; R] = from_fn(|r| {
                    let scale = |g| *scale[r].get_unchecked(g);
                    if step > GROUP { V::halves(scale(g), scale(g + 1)) } else { V::splat(scale(g)) }
                });
                let w: [V::Int; R] = from_fn(|r| V::widen(w[r].as_ptr().add(at).cast()));
                for i in 0..T {
                    let x_scale = V::splat(*x_scale[i].get_unchecked(at / SHARED));
                    let x = V::load_pairs(x[i].as_ptr().add(at));
                    for r in 0..R {
                        let sum = V::to_float(V::dot(w[r], x, V::zero()));
                        acc[r][i] = V::fma(sum, V::mul(scale[r], x_scale), acc[r][i]);
                    }
                }
            }
            for r in 0..R {
                for i in 0..T {
                    let (offset, x_sums) = (offset[r], &x_sums[i][..offset[r].len()]);
                    sums[i][r] = V::sum(acc[r][i]) + Fast::sum(offset.len(), |g| offset[g] * x_sums[g]);
                }
            }
        }
        sums
    }
}

/// A line of the cache: registers that are loaded from it lie in it whole.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([i16; 32]);

impl Line {
    fn flat(lines: &[Self]) -> &[i16] {
        // SAFETY: a line is 32 numbers without padding.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), 32 * lines.len()) }
    }

    fn flat_mut(lines: &mut [Self]) -> &mut [i16] {
        // SAFETY: a line is 32 numbers without padding.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), 32 * lines.len()) }
    }
}

/// Codes with as many rows in the lanes as a register has, for many tokens.
#[derive(Default)]
pub(super) struct Packed {
    group: usize,
    columns: usize,
    pairs: Vec<Line>, // [R / LANES, K / 2, LANES, 2]
    scale: Vec<f32>,  // [R / LANES, K / group, LANES]
    offset: Vec<f32>, // [R / LANES, K / group, LANES]
    quads: Vec<u8>,   // [K / 4, LANES, 4]
}

impl Packed {
    /// Makes room for rows; what they hold is left as it is.
    pub(super) fn resize(&mut self, rows: usize, columns: usize, group: usize) {
        (self.columns, self.group) = (columns, group);
        self.pairs.resize(rows * columns / 32, Line([0; 32]));
        self.scale.resize(rows * columns / group, 0.0);
        self.offset.resize(rows * columns / group, 0.0);
    }
}

/// Packs a register of rows of `w` as number `register` of `packed`.
pub(super) struct Pack<'a> {
    pub(super) w: &'a Codes,
    pub(super) packed: &'a mut Packed,
    pub(super) register: usize,
}

impl Kernel for Pack<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (w, p, lanes) = (self.w, self.packed, V::LANES);
        let (columns, groups) = (w.columns, w.columns / w.group);
        p.quads.resize(columns * lanes, 0);
        let quads = p.quads.as_chunks_mut::<4>().0;
        for r in 0..lanes {
            for (q, codes) in w.codes(r).as_chunks::<4>().0.iter().enumerate() {
                quads[q * lanes + r] = *codes;
            }
        }
        let pairs = &mut Line::flat_mut(&mut p.pairs)[self.register * lanes * columns..][..lanes * columns];
        for q in 0..columns / 4 {
            // SAFETY: quads and pairs have `LANES · K` values, and 4 LANES at 4 LANES · q are inside.
            unsafe {
                let [first, last] = V::widen_quads(p.quads.as_ptr().add(4 * lanes * q).cast());
                let y = pairs.as_mut_ptr().add(4 * lanes * q);
                V::store_pairs(y, first);
                V::store_pairs(y.add(2 * lanes), last);
            }
        }
        let at = self.register * lanes * groups;
        for r in 0..lanes {
            for g in 0..groups {
                p.scale[at + g * lanes + r] = w.scale(r)[g];
                p.offset[at + g * lanes + r] = w.offset(r)[g];
            }
        }
    }
}

/// Lanes of the widest register.
const WIDEST: usize = 16;

/// Where sums go: rows `at..at + rows` of the activations.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) y: Shared<f32>,
    pub(super) at: usize,
    pub(super) rows: usize,
    pub(super) act: Act,
}

impl Target {
    /// Puts the sums of two registers of rows and of tokens from `t` through the activation and writes them.
    ///
    /// # Safety
    /// As [`Vector`], and nothing else may use these activations meanwhile.
    #[inline(always)]
    unsafe fn write<V: Vector, const T: usize>(self, t: usize, sums: [[V; 2]; T]) {
        for (i, [low, high]) in sums.into_iter().enumerate() {
            let mut row = [0.0; 2 * WIDEST];
            // SAFETY: the caller's promise is handed on, and the row has room for two of the widest registers.
            unsafe {
                V::store(row.as_mut_ptr(), low);
                V::store(row.as_mut_ptr().add(V::LANES), high);
                scalar::write::<Fast>(self.act, &row[..self.rows], self.y.part(t + i, self.at, self.rows));
            }
        }
    }
}

/// Two registers of packed rows from number `register` times a tile of `T` tokens from `t`, lanes along the
/// rows.
pub(super) struct Across<'a, const T: usize, const GROUP: usize> {
    pub(super) w: &'a Packed,
    pub(super) x: &'a Acts16,
    pub(super) register: usize,
    pub(super) t: usize,
    pub(super) target: Target,
}

impl<const T: usize, const GROUP: usize> Kernel for Across<'_, T, GROUP> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (w, lanes, columns) = (self.w, V::LANES, self.w.columns);
        let groups = columns / GROUP;
        let part = |x: &[f32], i: usize| x[(self.register + i) * lanes * groups..][..lanes * groups].as_ptr();
        let code: [*const i16; 2] = from_fn(|i| {
            Line::flat(&w.pairs)[(self.register + i) * lanes * columns..][..lanes * columns].as_ptr()
        });
        let scale: [*const f32; 2] = from_fn(|i| part(&w.scale, i));
        let offset: [*const f32; 2] = from_fn(|i| part(&w.offset, i));
        let x = self.x.codes(self.t, T).as_ptr();
        let (x_scale, x_sums) = (self.x.scale(self.t, T).as_ptr(), self.x.sums(self.t, T, GROUP).as_ptr());
        assert!(self.x.columns == columns && w.group == GROUP);
        // SAFETY: what was sliced above has K / 2 pairs and K / GROUP factors for each lane or token of the
        // tile, and K / 32 scales of activations.
        unsafe {
            let mut acc = [[V::splat(0.0); 2]; T];
            for g in 0..groups {
                let mut sums = [[V::zero(); 2]; T];
                for p in g * GROUP / 2..(g + 1) * GROUP / 2 {
                    let w = [
                        V::load_pairs(code[0].add(2 * lanes * p)),
                        V::load_pairs(code[1].add(2 * lanes * p)),
                    ];
                    for (t, [a, b]) in sums.iter_mut().enumerate() {
                        let x = V::splat_pair(x.add(2 * (p * T + t)));
                        *a = V::dot(w[0], x, *a);
                        *b = V::dot(w[1], x, *b);
                    }
                }
                let (x_scale, x_sums) = (x_scale.add(g * GROUP / SHARED * T), x_sums.add(g * T));
                let two = |x: [*const f32; 2]| [V::load(x[0].add(g * lanes)), V::load(x[1].add(g * lanes))];
                let (scale, offset) = (two(scale), two(offset));
                for (t, (acc, sums)) in acc.iter_mut().zip(sums).enumerate() {
                    let (x_scale, x_sum) = (V::splat(*x_scale.add(t)), V::splat(*x_sums.add(t)));
                    for i in 0..2 {
                        let sum = V::fma(V::to_float(sums[i]), V::mul(scale[i], x_scale), acc[i]);
                        acc[i] = V::fma(offset[i], x_sum, sum);
                    }
                }
            }
            self.target.write(self.t, acc);
        }
    }
}

/// Floats `[K, LANES]` of two registers of rows, one after the other.
#[derive(Default)]
pub(super) struct Turned {
    columns: usize,
    w: Vec<f32>, // [2, K, LANES]
}

impl Turned {
    /// Makes room for rows; what they hold is left as it is.
    pub(super) fn resize(&mut self, columns: usize) {
        self.columns = columns;
        self.w.resize(2 * columns * WIDEST, 0.0);
    }
}

/// Turns rows of floats `[R, K]`, at most as many as two registers have lanes.
pub(super) struct Turn<'a> {
    pub(super) w: &'a [f32],
    pub(super) turned: &'a mut Turned,
}

impl Kernel for Turn<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (columns, lanes) = (self.turned.columns, V::LANES);
        for (r, row) in self.w.chunks_exact(columns).enumerate() {
            let to = &mut self.turned.w[r / lanes * columns * lanes + r % lanes..];
            for (k, w) in row.iter().enumerate() {
                to[k * lanes] = *w;
            }
        }
    }
}

/// [`Across`] for floats.
pub(super) struct AcrossFloats<'a, const T: usize> {
    pub(super) w: &'a Turned,
    pub(super) x: &'a Acts,
    pub(super) t: usize,
    pub(super) target: Target,
}

impl<const T: usize> Kernel for AcrossFloats<'_, T> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (columns, lanes) = (self.w.columns, V::LANES);
        let x: [&[f32]; T] = from_fn(|i| &self.x.row(self.t + i)[..columns]);
        let w: [&[f32]; 2] = from_fn(|i| &self.w.w[i * columns * lanes..][..columns * lanes]);
        // SAFETY: k < K, and there are K values of each token and K registers of each half of the rows.
        unsafe {
            let mut acc = [[V::splat(0.0); 2]; T];
            for k in 0..columns {
                let w = [V::load(w[0].as_ptr().add(k * lanes)), V::load(w[1].as_ptr().add(k * lanes))];
                for ([a, b], x) in acc.iter_mut().zip(&x) {
                    let x = V::splat(*x.get_unchecked(k));
                    *a = V::fma(w[0], x, *a);
                    *b = V::fma(w[1], x, *b);
                }
            }
            self.target.write(self.t, acc);
        }
    }
}

/// `R` rows of floats times `T` tokens, lanes along the columns: for few tokens.
pub(super) struct Floats<'a, const R: usize, const T: usize> {
    pub(super) w: [&'a [f32]; R],
    pub(super) x: [&'a [f32]; T],
    /// As in [`Along`].
    pub(super) next: &'a [u8],
}

impl<const R: usize, const T: usize> Kernel for Floats<'_, R, T> {
    type Output = [[f32; R]; T];
    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> [[f32; R]; T] {
        let (w, x, n) = (self.w, self.x, self.w[0].len());
        assert!(w.iter().chain(&x).all(|row| row.len() == n));
        let whole = n - n % V::LANES;
        let mut sums = [[0.0; R]; T];
        // SAFETY: the slices have n values each.
        unsafe {
            let mut acc = [[V::splat(0.0); T]; R];
            let ahead = self.next.len().div_ceil((n / V::LANES).max(1));
            for k in (0..whole).step_by(V::LANES) {
                prefetch::<V>(self.next, k / V::LANES * ahead, ahead);
                let w: [V; R] = from_fn(|r| V::load(w[r].as_ptr().add(k)));
                for i in 0..T {
                    let x = V::load(x[i].as_ptr().add(k));
                    for r in 0..R {
                        acc[r][i] = V::fma(w[r], x, acc[r][i]);
                    }
                }
            }
            for r in 0..R {
                for i in 0..T {
                    let rest: f32 = (whole..n).map(|k| w[r][k] * x[i][k]).sum();
                    sums[i][r] = V::sum(acc[r][i]) + rest;
                }
            }
        }
        sums
    }
}

/// Decodes rows of floats that are not in blocks.
pub(super) struct Decode<'a> {
    pub(super) format: Format,
    pub(super) bytes: &'a [u8],
    pub(super) y: &'a mut [f32],
}

impl Kernel for Decode<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        if self.format != Format::F16 {
            return format::decode_plain(self.format, self.bytes, self.y);
        }
        let halves = self.bytes.as_chunks::<2>().0;
        let whole = halves.len() - halves.len() % V::LANES;
        assert_eq!(halves.len(), self.y.len());
        for at in (0..whole).step_by(V::LANES) {
            // SAFETY: both have LANES numbers from here on.
            unsafe { V::store(self.y.as_mut_ptr().add(at), V::load_f16(halves.as_ptr().add(at))) };
        }
        format::decode_plain(self.format, &self.bytes[2 * whole..], &mut self.y[whole..]);
    }
}
