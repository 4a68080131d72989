//! Products of integers, for many tokens: codes stay integers, and their products with activations of 16 or 8 bits are
//! summed over a group of codes that share a scale.

use std::{array::from_fn, marker::PhantomData, ops::Range};

use crate::{
    format::{self, Bits, Bytes, Format, Quant, with_quant},
    ops::Act,
};

use super::{
    Shared,
    dot::LINE,
    level::{Kernel, Vector},
    lines::Lines,
    math::Fast,
    rounded::{Integers, Rounded, SHARED},
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
    /// Makes room for rows; what they hold is left as it is.
    pub(super) fn resize(&mut self, rows: usize, columns: usize, group: usize) {
        (self.columns, self.group) = (columns, group);
        self.codes.resize(rows * columns, 0);
        self.scale.resize(rows * columns / group, 0.0);
        self.offset.resize(rows * columns / group, 0.0);
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
            with_quant!(format, Q => V::call(Unpack { blocks: format::cast::<Q>(bytes), codes, scale, offset }),
                _ => unreachable!("{format:?} is not quantized"))
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
    /// Columns that share a scale.
    pub(super) span: usize,
    /// Columns that share an offset.
    group: usize,
    columns: usize,
    codes: Lines<i32>,  // [R / LANES, K / PER, LANES]
    bias: Lines<i32>,   // [R / LANES, K / span, LANES], −Σ BIAS · code
    scale: Lines<f32>,  // [R / LANES, K / span, LANES]
    offset: Lines<f32>, // [R / LANES, K / group, LANES]
    quads: Vec<i32>,    // [K / 4, LANES]
}

impl Packed {
    /// Makes room for rows; what they hold is left as it is.
    pub(super) fn resize<I: Integers>(&mut self, rows: usize, columns: usize, span: usize, group: usize) {
        (self.columns, self.span, self.group) = (columns, span, group);
        self.codes.resize(rows * columns / I::PER);
        self.bias.resize(rows * columns / span);
        self.scale.resize(rows * columns / span);
        self.offset.resize(rows * columns / group);
    }

    /// Codes, scales and offsets of a register of rows.
    pub(super) fn register<I: Integers>(
        &mut self,
        register: usize,
        lanes: usize,
    ) -> (&mut [i32], &mut [f32], &mut [f32]) {
        let [codes, scales, offsets] = [I::PER, self.span, self.group].map(|n| lanes * self.columns / n);
        (
            &mut self.codes[register * codes..][..codes],
            &mut self.scale[register * scales..][..scales],
            &mut self.offset[register * offsets..][..offsets],
        )
    }

    /// Fills in the bias of a register of rows.
    ///
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    pub(super) unsafe fn sum_up<V: Vector, I: Integers>(&mut self, register: usize) {
        let (lanes, spans, steps) = (V::LANES, self.columns / self.span, self.columns / I::PER);
        let codes = &self.codes[register * lanes * steps..][..lanes * steps];
        let bias = &mut self.bias[register * lanes * spans..][..lanes * spans];
        let per_span = self.span / I::PER;
        for s in 0..if I::BIAS == 0 { 0 } else { spans } {
            // SAFETY: a span has `span / PER` lanes for each row.
            unsafe {
                let x = V::splat_int(&i32::from_le_bytes([I::BIAS as u8; 4]));
                let mut sum = V::zero();
                for k in s * per_span..(s + 1) * per_span {
                    sum = I::dot::<V>(x, V::load_ints(codes.as_ptr().add(lanes * k)), sum);
                }
                V::store_ints(bias.as_mut_ptr().add(s * lanes), V::negate_quads(sum));
            }
        }
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
            V::transpose(x.add(i).cast(), n, y.as_mut_ptr().add(i * V::LANES).cast(), V::LANES);
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
    /// Asks for where the sums of these tokens will be written.
    ///
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    unsafe fn fetch<V: Vector>(self, tokens: Range<usize>) {
        for t in tokens {
            let y = self.y.place(t, self.at, self.rows).cast::<u8>();
            for line in (0..self.rows * size_of::<f32>()).step_by(LINE) {
                // SAFETY: the caller's promise is handed on.
                unsafe { V::prefetch_kept(y.wrapping_add(line)) };
            }
        }
    }

    /// Puts the sums of registers of rows and of tokens from `t` through the activation and writes them.
    ///
    /// # Safety
    /// As [`Vector`], and nothing else may use these activations meanwhile.
    #[inline(always)]
    unsafe fn write<V: Vector, const T: usize, const R: usize>(self, t: usize, sums: [[V; R]; T]) {
        // By reference: arrays that are moved are copied, and what was stored is read before it has arrived.
        for (i, sums) in sums.iter().enumerate() {
            let mut row = [[0.0; WIDEST]; R];
            let row = row.as_flattened_mut();
            // SAFETY: the caller's promise is handed on, and the row has room for as many of the widest registers.
            unsafe {
                for (r, sum) in sums.iter().enumerate() {
                    V::store(row.as_mut_ptr().add(r * V::LANES), *sum);
                }
                scalar::write::<Fast>(self.act, &row[..self.rows], self.y.part(t + i, self.at, self.rows));
            }
        }
    }
}

/// `R` registers of packed rows from number `register` times a tile of `T` tokens from `t`, lanes along the rows; a span of columns
/// has so many groups with an offset.
pub(super) struct Across<'a, I, const T: usize, const R: usize, const SPAN: usize, const GROUPS: usize> {
    pub(super) w: &'a Packed,
    pub(super) x: &'a Rounded<I>,
    pub(super) register: usize,
    pub(super) t: usize,
    pub(super) target: Target,
}

impl<I: Integers, const T: usize, const R: usize, const SPAN: usize, const GROUPS: usize> Kernel
    for Across<'_, I, T, R, SPAN, GROUPS>
{
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (w, lanes, columns) = (self.w, V::LANES, self.w.columns);
        let (spans, steps) = (columns / SPAN, columns / I::PER);
        fn part<N>(x: &[N], register: usize, len: usize) -> *const N {
            x[register * len..][..len].as_ptr()
        }
        let code: [*const i32; R] = from_fn(|i| part(&w.codes, self.register + i, lanes * steps));
        let bias: [*const i32; R] = from_fn(|i| part(&w.bias, self.register + i, lanes * spans));
        let scale: [*const f32; R] = from_fn(|i| part(&w.scale, self.register + i, lanes * spans));
        let offset: [*const f32; R] = from_fn(|i| part(&w.offset, self.register + i, lanes * spans * GROUPS));
        let x = self.x.codes(self.t, T).as_ptr();
        let (x_scale, x_sums) = (self.x.scale(self.t, T).as_ptr(), self.x.sums(self.t, T).as_ptr());
        let group = SPAN / GROUPS.max(1);
        assert!(self.x.columns == columns && w.span == SPAN && self.x.grain.span == SPAN);
        assert!(GROUPS == 0 || w.group == group && self.x.grain.group == group);
        // SAFETY: what was sliced above has K / PER codes and as many factors as spans and groups for each lane or token of the
        // tile.
        unsafe {
            let mut acc = [[V::splat(0.0); R]; T];
            for s in 0..spans {
                // Bit by bit, since memory takes longer than a span.
                self.target.fetch::<V>(self.t + s * T / spans..self.t + (s + 1) * T / spans);
                let first: [V::Int; R] = match I::BIAS {
                    0 => [V::zero(); R],
                    _ => from_fn(|r| V::load_ints(bias[r].add(s * lanes))),
                };
                let mut sums = [first; T];
                for column in (s * SPAN..(s + 1) * SPAN).step_by(SHARED) {
                    let (first, lanes_of) = (column / I::PER, SHARED / I::PER);
                    let x = x.add(column / SHARED * lanes_of * T + first % lanes_of);
                    for k in 0..SPAN.min(SHARED) / I::PER {
                        let mut w = [V::zero(); R];
                        for r in 0..R {
                            w[r] = V::load_ints(code[r].add(lanes * (first + k)));
                        }
                        for (t, sums) in sums.iter_mut().enumerate() {
                            let x = V::splat_int(x.add(t * lanes_of + k));
                            for r in 0..R {
                                sums[r] = I::dot::<V>(x, w[r], sums[r]);
                            }
                        }
                    }
                }
                let (x_scale, x_sums) = (x_scale.add(s * T), x_sums.add(s * GROUPS * T));
                let mut factor = [V::splat(0.0); R];
                for r in 0..R {
                    factor[r] = V::load(scale[r].add(s * lanes));
                }
                for t in 0..T {
                    let x_scale = V::splat(*x_scale.add(t));
                    for r in 0..R {
                        acc[t][r] =
                            V::fma(I::to_float::<V>(sums[t][r]), V::mul(factor[r], x_scale), acc[t][r]);
                    }
                }
                for g in 0..GROUPS {
                    for r in 0..R {
                        factor[r] = V::load(offset[r].add((s * GROUPS + g) * lanes));
                    }
                    for (t, acc) in acc.iter_mut().enumerate() {
                        let x_sum = V::splat(*x_sums.add(g * T + t));
                        for r in 0..R {
                            acc[r] = V::fma(factor[r], x_sum, acc[r]);
                        }
                    }
                }
            }
            self.target.write(self.t, acc);
        }
    }
}
