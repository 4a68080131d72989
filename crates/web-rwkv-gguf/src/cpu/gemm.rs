//! Products in f32, for many tokens: a panel of weights is decoded into the second-level cache, with the rows of a tile side by
//! side, so that activations are read and written as they stand.

use std::array::from_fn;

use crate::{
    format::{
        self, Format, Quant,
        beside::{ROWS as EIGHT, with_beside},
        with_quant,
    },
    ops::Act,
};

use super::{
    Acts, Matrix, Shared, beside,
    dot::prefetch,
    level::{Kernel, Vector},
    lines::Lines,
    math::Fast,
    rounded::tiles,
    scalar,
    sparse::{self, Masks},
};

/// Rows of a panel: a multiple of those of every tile.
pub(super) const PANEL: usize = 96;

/// Columns of a panel, whole blocks of every format: a tile's weights take half of the first-level cache.
const DEPTH: usize = 256;

/// Tokens that stay in the second-level cache while all tiles of a panel pass by.
const CHUNK: usize = 96;

/// How many rows ahead weights are asked for.
const AHEAD: usize = 8;

/// What a thread computes a panel in.
#[derive(Default)]
pub(super) struct Scratch {
    eights: [Lines<u8>; 1],
    rows: Lines<f32>, // [LANES, DEPTH]
    w: Lines<f32>,    // tiles of [DEPTH, 2 LANES]
    sums: Lines<f32>, // [T, PANEL]
}

/// Rows `at..at + rows` of a product, at most [`PANEL`].
pub(super) struct Panel<'a> {
    pub(super) w: &'a Matrix,
    pub(super) at: usize,
    pub(super) rows: usize,
    pub(super) x: &'a Acts,
    /// Which inputs are not zero, if many are.
    pub(super) masks: Option<&'a Masks>,
    pub(super) act: Act,
    pub(super) y: Shared<f32>,
    pub(super) scratch: &'a mut Scratch,
}

impl Kernel for Panel<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { w, at, rows, x, masks, act, y, scratch } = self;
        let Scratch { eights, rows: decoded, w: panel, sums } = scratch;
        let (columns, tokens, all) = (w.columns, x.tokens(), w.eights());
        let width = if masks.is_some() { PANEL } else { 2 * V::LANES };
        assert!(rows <= PANEL && PANEL.is_multiple_of(width) && columns <= x.width);
        decoded.resize(V::LANES * DEPTH);
        panel.resize(PANEL * DEPTH);
        sums.resize(tokens * PANEL);
        // SAFETY: this runs inside `dispatch`, and this task alone has these rows.
        unsafe {
            for k in (0..columns).step_by(DEPTH) {
                let depth = DEPTH.min(columns - k);
                for r in (0..rows).step_by(if w.data.is_beside() { EIGHT } else { V::LANES }) {
                    let to = &mut panel[r / width * width * DEPTH + r % width..];
                    if w.data.is_beside() {
                        let [eight] = all.parts::<V, 1>([at + r], AHEAD, (k, depth), eights);
                        prefetch::<V>(eight.as_ptr().wrapping_add(AHEAD * w.row_bytes()), eight.len());
                        with_beside!(w.format, Q => {
                            let blocks = format::beside::cast::<Q>(eight);
                            V::Eight::call(beside::Decode { blocks, y: to, width });
                        }, _ => unreachable!("{:?} stands by rows", w.format));
                    } else {
                        for (i, y) in decoded.chunks_exact_mut(DEPTH).enumerate() {
                            let bytes = w.part(at + (r + i).min(rows - 1), k, depth);
                            prefetch::<V>(bytes.as_ptr().wrapping_add(AHEAD * w.row_bytes()), bytes.len());
                            decode::<V>(w.format, bytes, &mut y[..depth]);
                        }
                        V::call(Turn { x: decoded, depth, y: to, width });
                    }
                }
                if let Some(masks) = masks {
                    for at in (0..depth).step_by(sparse::WORD) {
                        let end = depth.min(at + sparse::WORD);
                        let (w, first) = (&panel[at * PANEL..end * PANEL], k + at == 0);
                        V::call(sparse::Columns { w, x, masks, at: k + at, sums, first });
                    }
                    continue;
                }
                for chunk in (0..tokens).step_by(CHUNK) {
                    let end = tokens.min(chunk + CHUNK);
                    for r in (0..rows).step_by(width) {
                        let w = &panel[r * DEPTH..][..depth * width];
                        let (stride, first) = (x.width, k == 0);
                        tiles!([12, 6, 4, 3, 2] of V::TOKENS, chunk..end, |t, N| {
                            let (x, sums) = (&x.data[t * stride + k..], &mut sums[t * PANEL + r..]);
                            V::call(Tile::<N> { w, x, stride, sums, first });
                        });
                    }
                }
            }
            for (t, sums) in sums.chunks_exact(PANEL).enumerate() {
                scalar::write::<Fast>(act, &sums[..rows], y.part(t, at, rows));
            }
        }
    }
}

/// Turns `LANES` rows of x: `[LANES, DEPTH]` becomes a half of `[depth, 2 LANES]`.
struct Turn<'a> {
    x: &'a [f32],
    depth: usize,
    y: &'a mut [f32],
    width: usize,
}

impl Kernel for Turn<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { x, depth, y, width } = self;
        // Blocks are multiples of every register; floats may end in between, where what is turned is not used.
        for k in (0..depth).step_by(V::LANES) {
            let (x, y) = (&x[k..], &mut y[k * width..]);
            assert!(
                x.len() >= (V::LANES - 1) * DEPTH + V::LANES && y.len() >= (V::LANES - 1) * width + V::LANES
            );
            // SAFETY: both have the room.
            unsafe { V::transpose(x.as_ptr(), 4 * DEPTH, y.as_mut_ptr(), 4 * width) };
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

/// `sums += x wᵀ` for `T` tokens, where `first` says that nothing was summed yet.
struct Tile<'a, const T: usize> {
    w: &'a [f32], // [depth, width]
    x: &'a [f32], // rows begin `stride` apart
    stride: usize,
    sums: &'a mut [f32], // rows begin PANEL apart
    first: bool,
}

impl<const T: usize> Kernel for Tile<'_, T> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (width, stride) = (2 * V::LANES, self.stride);
        let depth = self.w.len() / width;
        assert!(self.x.len() >= (T - 1) * stride + depth && self.sums.len() >= (T - 1) * PANEL + width);
        let (w, sums) = (self.w.as_ptr(), self.sums.as_mut_ptr());
        // SAFETY: k < depth and t < T, and the slices have what was asserted.
        unsafe {
            // Three rows have an address.
            let x: [*const f32; 4] = from_fn(|i| self.x.as_ptr().wrapping_add(3 * i * stride));
            let mut acc = [[V::splat(0.0); 2]; T];
            for k in 0..depth {
                let w = [V::load(w.add(k * width)), V::load(w.add(k * width + V::LANES))];
                for (t, acc) in acc.iter_mut().enumerate() {
                    let x = V::splat(*x[t / 3].add(t % 3 * stride + k));
                    acc[0] = V::fma(w[0], x, acc[0]);
                    acc[1] = V::fma(w[1], x, acc[1]);
                }
            }
            for (t, acc) in acc.iter().enumerate() {
                for (n, acc) in acc.iter().enumerate() {
                    let y = sums.add(t * PANEL + n * V::LANES);
                    let before = if self.first { V::splat(0.0) } else { V::load(y) };
                    V::store(y, V::fma(*acc, V::splat(1.0), before));
                }
            }
        }
    }
}
