//! Products of 16-bit integers, for many tokens: codes stay integers, and their products with activations are summed in
//! i32 over a group of codes that share a scale.

use std::array::from_fn;

use crate::{
    format::{self, Bytes, Format, Quant, with_quant},
    ops::Act,
};

use super::{
    Shared,
    acts16::{Acts16, SHARED},
    level::{Kernel, Vector},
    lines::Lines,
    math::Fast,
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
    group: usize,
    columns: usize,
    pairs: Lines<i16>, // [R / LANES, K / 2, LANES, 2]
    scale: Vec<f32>,   // [R / LANES, K / group, LANES]
    offset: Vec<f32>,  // [R / LANES, K / group, LANES]
    quads: Vec<u8>,    // [K / 4, LANES, 4]
}

impl Packed {
    /// Makes room for rows; what they hold is left as it is.
    pub(super) fn resize(&mut self, rows: usize, columns: usize, group: usize) {
        (self.columns, self.group) = (columns, group);
        self.pairs.resize(rows * columns);
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
        let pairs = &mut p.pairs[self.register * lanes * columns..][..lanes * columns];
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
        let code: [*const i16; 2] =
            from_fn(|i| w.pairs[(self.register + i) * lanes * columns..][..lanes * columns].as_ptr());
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
