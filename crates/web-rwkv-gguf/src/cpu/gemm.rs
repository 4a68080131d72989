//! Products in f32, for many tokens: a panel of weights is decoded into the second-level cache and multiplied with tiles
//! of tokens that stay in the first-level one.

use std::array::from_fn;

use crate::{
    format::{self, Format, Quant, with_quant},
    ops::Act,
};

use super::{
    Acts, Cpu, Matrix, Shared,
    dot::prefetch,
    level::{Kernel, Vector, dispatch},
    lines::Lines,
    math::Fast,
    scalar,
};

/// Rows of a panel: a multiple of those of every tile.
pub(super) const PANEL: usize = 48;

/// Columns of a panel, whole blocks of every format: a tile's activations take half of the first-level cache.
const DEPTH: usize = 256;

/// How many rows ahead weights are asked for.
const AHEAD: usize = 8;

/// Activations of T tokens with those of a tile side by side, padded with zeros.
pub(super) struct Columns {
    tokens: usize,
    columns: usize,
    width: usize,  // tokens of a tile: two registers
    x: Lines<f32>, // [T / width, K, width]
}

impl Columns {
    /// The first `columns` of each row of x.
    pub(super) fn new(cpu: &Cpu, x: &Acts, columns: usize) -> Self {
        let (tokens, width) = (x.tokens(), 2 * cpu.level().lanes());
        let tiles = tokens.div_ceil(width);
        let mut y = Lines::default();
        y.resize(tiles * width * columns);
        let to = Shared::new(&mut y, width * columns);
        cpu.each(tiles, 2 * width * columns, |tile| {
            // SAFETY: each task has a tile of its own.
            let y = unsafe { to.part(tile, 0, width * columns) };
            dispatch(cpu.level(), TurnIn { x, first: tile * width, columns, y });
        });
        Self { tokens, columns, width, x: y }
    }
}

/// Turns a tile of tokens from `first` on.
struct TurnIn<'a> {
    x: &'a Acts,
    first: usize,
    columns: usize,
    y: &'a mut [f32], // [K, width]
}

impl Kernel for TurnIn<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let width = 2 * V::LANES;
        let tokens = width.min(self.x.tokens() - self.first);
        let whole = self.columns - self.columns % V::LANES;
        if tokens < width {
            self.y.fill(0.0);
        }
        for half in (0..tokens).step_by(V::LANES) {
            let full = half + V::LANES <= tokens;
            let start = if full { whole } else { 0 };
            for k in (0..start).step_by(V::LANES) {
                let x = &self.x.row(self.first + half)[k..];
                // SAFETY: there are LANES tokens and columns from here on, and rows of x have its width.
                unsafe {
                    V::transpose(x.as_ptr(), self.x.width, self.y[k * width + half..].as_mut_ptr(), width);
                }
            }
            for t in half..tokens.min(half + V::LANES) {
                let x = &self.x.row(self.first + t)[..self.columns];
                for (k, x) in x.iter().enumerate().skip(start) {
                    self.y[k * width + t] = *x;
                }
            }
        }
    }
}

/// What a thread computes a panel in.
#[derive(Default)]
pub(super) struct Scratch {
    w: Lines<f32>,    // [PANEL, DEPTH]
    sums: Lines<f32>, // [T / width, PANEL, width]
}

/// Rows `at..at + rows` of a product, at most [`PANEL`].
pub(super) struct Panel<'a> {
    pub(super) w: &'a Matrix,
    pub(super) at: usize,
    pub(super) rows: usize,
    pub(super) x: &'a Columns,
    pub(super) act: Act,
    pub(super) y: Shared<f32>,
    pub(super) scratch: &'a mut Scratch,
}

impl Kernel for Panel<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { w, at, rows, x, act, y, scratch: Scratch { w: panel, sums } } = self;
        let (columns, width) = (w.columns, 2 * V::LANES);
        assert!(rows <= PANEL && x.columns == columns && x.width == width);
        panel.resize(PANEL * DEPTH);
        sums.resize(x.tokens.div_ceil(width) * PANEL * width);
        panel[rows * DEPTH..].fill(0.0);
        // SAFETY: this runs inside `dispatch`, and this task alone has these rows.
        unsafe {
            for k in (0..columns).step_by(DEPTH) {
                let depth = DEPTH.min(columns - k);
                for r in 0..rows {
                    let (bytes, y) = (w.part(at + r, k, depth), &mut panel[r * DEPTH..][..depth]);
                    prefetch::<V>(bytes.as_ptr().wrapping_add(AHEAD * w.row_bytes()), bytes.len());
                    decode::<V>(w.format, bytes, y);
                }
                for tile in 0..x.tokens.div_ceil(width) {
                    let x_tile = &x.x[(tile * columns + k) * width..][..depth * width];
                    let sums = &mut sums[tile * PANEL * width..][..PANEL * width];
                    let one = x.tokens - tile * width <= V::LANES;
                    match (V::ROWS, one) {
                        (6, false) => tiles::<V, 6, 2>(panel, x_tile, sums, k == 0),
                        (6, true) => tiles::<V, 12, 1>(panel, x_tile, sums, k == 0),
                        (_, false) => tiles::<V, 12, 2>(panel, x_tile, sums, k == 0),
                        (_, true) => tiles::<V, 24, 1>(panel, x_tile, sums, k == 0),
                    }
                }
            }
            for tile in 0..x.tokens.div_ceil(width) {
                let sums = &sums[tile * PANEL * width..][..PANEL * width];
                let tokens = width.min(x.tokens - tile * width);
                V::call(TurnOut { sums, y, first: tile * width, tokens, at, rows, act });
            }
        }
    }
}

/// Decodes the values of whole blocks.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn decode<V: Vector>(format: Format, bytes: &[u8], y: &mut [f32]) {
    // SAFETY: the caller's promise is handed on.
    unsafe {
        with_quant!(format, Q => V::call(DecodeBlocks { blocks: format::cast::<Q>(bytes), y }),
            _ => V::call(DecodeFloats { format, bytes, y }))
    }
}

struct DecodeBlocks<'a, Q> {
    blocks: &'a [Q],
    y: &'a mut [f32],
}

impl<Q: Quant> Kernel for DecodeBlocks<'_, Q> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let mut scale = [0.0; 16];
        let mut offset = [0.0; 16];
        for (block, y) in self.blocks.iter().zip(self.y.chunks_exact_mut(Q::LEN)) {
            // SAFETY: this runs inside `dispatch`, here and below.
            unsafe { block.factors::<V::Bytes>(&mut scale, &mut offset) };
            for (i, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let at = |half: usize| (32 * i + 16 * half) / Q::GROUP;
                // SAFETY: as above.
                unsafe {
                    let codes = block.codes::<V::Bytes>(i);
                    V::decode(codes, [scale[at(0)], scale[at(1)]], [offset[at(0)], offset[at(1)]], y);
                }
            }
        }
    }
}

/// Decodes floats that are not in blocks.
struct DecodeFloats<'a> {
    format: Format,
    bytes: &'a [u8],
    y: &'a mut [f32],
}

impl Kernel for DecodeFloats<'_> {
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

/// All rows of a panel with a tile of tokens, of which there are `N` registers.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn tiles<V: Vector, const R: usize, const N: usize>(
    panel: &[f32],
    x: &[f32],
    sums: &mut [f32],
    first: bool,
) {
    const { assert!(PANEL.is_multiple_of(R)) };
    for r in (0..PANEL).step_by(R) {
        let (w, sums) = (&panel[r * DEPTH..][..R * DEPTH], &mut sums[r * 2 * V::LANES..][..R * 2 * V::LANES]);
        // SAFETY: the caller's promise is handed on.
        unsafe { V::call(Tile::<R, N> { w, x, sums, first }) };
    }
}

/// `sums += w x`, where `first` says that nothing was summed yet.
struct Tile<'a, const R: usize, const N: usize> {
    w: &'a [f32],        // [R, DEPTH]
    x: &'a [f32],        // [depth, width]
    sums: &'a mut [f32], // [R, width]
    first: bool,
}

impl<const R: usize, const N: usize> Kernel for Tile<'_, R, N> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let width = 2 * V::LANES;
        let depth = self.x.len() / width;
        assert!(N <= 2 && depth <= DEPTH && self.w.len() == R * DEPTH && self.sums.len() == R * width);
        let (w, x, sums) = (self.w.as_ptr(), self.x.as_ptr(), self.sums.as_mut_ptr());
        // SAFETY: k < depth, r < R and n < N, and the slices have what was asserted.
        unsafe {
            let mut acc = [[V::splat(0.0); N]; R];
            for k in 0..depth {
                let x: [V; N] = from_fn(|n| V::load(x.add(k * width + n * V::LANES)));
                for (r, acc) in acc.iter_mut().enumerate() {
                    let w = V::splat(*w.add(r * DEPTH + k));
                    for (acc, x) in acc.iter_mut().zip(x) {
                        *acc = V::fma(w, x, *acc);
                    }
                }
            }
            for (r, acc) in acc.iter().enumerate() {
                for (n, acc) in acc.iter().enumerate() {
                    let y = sums.add(r * width + n * V::LANES);
                    let before = if self.first { V::splat(0.0) } else { V::load(y) };
                    V::store(y, V::fma(*acc, V::splat(1.0), before));
                }
            }
        }
    }
}

/// Turns the sums of a tile of tokens from `first` on, puts them through the activation and writes them.
struct TurnOut<'a> {
    sums: &'a [f32], // [PANEL, width]
    y: Shared<f32>,
    first: usize,
    tokens: usize,
    at: usize,
    rows: usize,
    act: Act,
}

impl Kernel for TurnOut<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let width = 2 * V::LANES;
        let mut turned = [0.0; PANEL * WIDEST];
        for half in (0..self.tokens).step_by(V::LANES) {
            for r in (0..self.rows).step_by(V::LANES) {
                let (from, to) = (&self.sums[r * width + half..], &mut turned[r..]);
                assert!(from.len() >= (V::LANES - 1) * width + V::LANES && V::LANES <= WIDEST);
                assert!(to.len() >= (V::LANES - 1) * PANEL + V::LANES);
                // SAFETY: both have the room.
                unsafe { V::transpose(from.as_ptr(), width, to.as_mut_ptr(), PANEL) };
            }
            for (t, sums) in turned.chunks_exact(PANEL).take(V::LANES.min(self.tokens - half)).enumerate() {
                // SAFETY: this task alone has these rows.
                let y = unsafe { self.y.part(self.first + half + t, self.at, self.rows) };
                scalar::write::<Fast>(self.act, &sums[..self.rows], y);
            }
        }
    }
}

/// Lanes of the widest register.
const WIDEST: usize = 16;
