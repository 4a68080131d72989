//! How weights lie in the GPU's memory: rows of vectors of 16 bytes, with an own layout where a format's blocks are not
//! of whole vectors. Every weight keeps its value, but that F32 becomes F16 where inputs of products are f16 too.

use crate::{
    device::Tier,
    format::{self, Format, Portable, Quant, q4_0, q5_k, with_quant},
    ops::FileMatrix,
};

/// A layout, each with its `kernels/format/*.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Layout {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4K,
    Q5K,
    Q6K,
    /// Codes of 8 bits with a scale and an offset in f32 for each 16: any other format.
    Codes,
}

/// Values that kernels decode together.
pub(super) const CHUNK: usize = 32;
/// Bytes of a vector.
pub(super) const VECTOR: usize = 16;
/// The largest number of f16.
const LARGEST: f32 = 65504.0;

impl Layout {
    pub(super) fn of(format: Format, tier: Tier) -> Self {
        match format {
            Format::F32 if tier == Tier::Plain => Self::F32,
            Format::F32 => Self::F16,
            Format::F16 => Self::F16,
            Format::BF16 => Self::BF16,
            Format::Q8_0 => Self::Q8_0,
            Format::Q4_0 => Self::Q4_0,
            Format::Q4K => Self::Q4K,
            Format::Q5K => Self::Q5K,
            Format::Q6K => Self::Q6K,
            _ => Self::Codes,
        }
    }

    /// Whether values are in it as they are.
    pub(super) fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Its name in WGSL.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
            Self::Codes => "codes",
        }
    }

    /// The file that decodes it.
    pub(super) fn source(self) -> &'static str {
        match self {
            Self::F32 => include_str!("kernels/format/f32.wgsl"),
            Self::F16 => include_str!("kernels/format/f16.wgsl"),
            Self::BF16 => include_str!("kernels/format/bf16.wgsl"),
            Self::Q8_0 => include_str!("kernels/format/q8_0.wgsl"),
            Self::Q4_0 => include_str!("kernels/format/q4_0.wgsl"),
            Self::Q4K => include_str!("kernels/format/q4_k.wgsl"),
            Self::Q5K => include_str!("kernels/format/q5_k.wgsl"),
            Self::Q6K => include_str!("kernels/format/q6_k.wgsl"),
            Self::Codes => include_str!("kernels/format/codes.wgsl"),
        }
    }

    /// The file that makes values for matrix units of it.
    pub(super) fn halves(self) -> &'static str {
        match self {
            Self::F16 => include_str!("kernels/part/halves_same.wgsl"),
            Self::Q4_0 | Self::Q4K => include_str!("kernels/part/halves_nibbles.wgsl"),
            _ => include_str!("kernels/part/halves.wgsl"),
        }
    }

    /// The file that fetches a chunk of it after another.
    pub(super) fn refetch(self) -> &'static str {
        match self {
            Self::Q4K => include_str!("kernels/part/refetch_block.wgsl"),
            _ => include_str!("kernels/part/refetch.wgsl"),
        }
    }

    /// Bytes of a row of a matrix.
    pub(super) fn row_bytes(self, columns: usize) -> usize {
        self.stride(padded(columns)) * VECTOR
    }

    /// Vectors of a row of `columns` values, which are a multiple of [`CHUNK`].
    pub(super) fn stride(self, columns: usize) -> usize {
        let planes = |codes: usize, scales: usize| codes + scales.div_ceil(VECTOR);
        match self {
            Self::F32 => columns / 4,
            Self::F16 | Self::BF16 => columns / 8,
            Self::Q8_0 => planes(columns / 16, columns / 32 * 2),
            Self::Q4_0 => planes(columns / 32, columns / 32 * 2),
            Self::Q4K => columns / 256 * 9,
            Self::Q5K => columns / 256 * 11,
            Self::Q6K => planes(columns / 256 * 13, columns / 256 * 2),
            Self::Codes => columns / 32 * 3,
        }
    }
}

/// Columns that a row takes: whole chunks.
pub(super) fn padded(columns: usize) -> usize {
    columns.next_multiple_of(CHUNK)
}

/// Writes rows `first..` of a matrix in a layout; `out` is a whole number of rows, and zero.
pub(super) fn pack(w: &FileMatrix, layout: Layout, first: usize, out: &mut [u8]) {
    let from = w.format.row_bytes(w.columns).expect("checked when the model was opened");
    let rows = w.data[first * from..].chunks_exact(from);
    let rows = rows.zip(out.chunks_exact_mut(layout.row_bytes(w.columns)));
    rows.for_each(|(row, out)| pack_row((w.format, layout), row, out));
}

fn pack_row((format, layout): (Format, Layout), row: &[u8], out: &mut [u8]) {
    match layout {
        Layout::F16 if format == Format::F32 => {
            for (x, out) in row.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
                // As inputs, beyond the largest number it is that.
                *out = format::to_f16(f32::from_le_bytes(*x).clamp(-LARGEST, LARGEST));
            }
        }
        Layout::F32 | Layout::F16 | Layout::BF16 => out[..row.len()].copy_from_slice(row),
        Layout::Q4K => blocks(row, 144, out, 144, |block, out| {
            out[..16].copy_from_slice(&block[..16]);
            for (q, out) in block[16..].chunks_exact(32).zip(out[16..].chunks_exact_mut(32)) {
                let (q, out) = (words(q).map(in_order), out.as_chunks_mut::<4>().0);
                for i in 0..4 {
                    let (a, b) = (q[i], q[4 + i]);
                    out[i] = (a & LOW | (b & LOW) << 4).to_le_bytes();
                    out[4 + i] = (a >> 4 & LOW | b & !LOW).to_le_bytes();
                }
            }
        }),
        Layout::Q8_0 => {
            let (codes, scales) = out.split_at_mut(row.len() / 34 * 32);
            blocks(row, 34, codes, 32, |block, out| {
                out.iter_mut().enumerate().for_each(|(i, to)| *to = block[2 + order(i)] ^ 0x80);
            });
            blocks(row, 34, scales, 2, |block, out| out.copy_from_slice(&block[..2]));
        }
        Layout::Q4_0 => {
            let (codes, scales) = out.split_at_mut(row.len() / 18 * 16);
            blocks(row, 18, codes, 16, |block, out| nibbles(&codes_of::<q4_0::Block>(block, 8)[0], out));
            blocks(row, 18, scales, 2, |block, out| out.copy_from_slice(&block[..2]));
        }
        Layout::Q5K => blocks(row, 176, out, 176, |block, out| {
            out[..16].copy_from_slice(&block[..16]);
            for (c, q) in codes_of::<q5_k::Block>(block, 0).iter().enumerate() {
                for (i, q) in q.iter().enumerate() {
                    out[16 + 4 * c + order(i) % 4] |= q >> 4 << (i / 4);
                }
                nibbles(q, &mut out[48 + 16 * c..][..16]);
            }
        }),
        Layout::Q6K => {
            let (codes, scales) = out.split_at_mut(row.len() / 210 * 208);
            blocks(row, 210, codes, 208, |block, out| {
                let (words, out) = (|at: usize| words(&block[at..]), out.as_chunks_mut::<4>().0);
                for c in 0..8 {
                    let (half, part) = (c / 4, c % 4);
                    let low =
                        words(64 * half + 32 * (part % 2)).map(|w| in_order(w >> (4 * (part / 2)) & LOW));
                    let high = words(128 + 32 * half).map(|w| in_order(w >> (2 * part) & 0x0303_0303));
                    for i in 0..4 {
                        out[4 * c + i] = (low[i] | low[4 + i] << 4).to_le_bytes();
                    }
                    for (i, h) in high.as_chunks::<4>().0.iter().enumerate() {
                        out[32 + 2 * c + i] = (h[0] | h[1] << 2 | h[2] << 4 | h[3] << 6).to_le_bytes();
                    }
                }
                out.as_flattened_mut()[192..].copy_from_slice(&block[192..208]);
            });
            blocks(row, 210, scales, 2, |block, out| out.copy_from_slice(&block[208..]));
        }
        Layout::Codes => with_quant!(format, Q => codes::<Q>(row, out), _ => unreachable!("it is in blocks")),
    }
}

/// Takes blocks of `from` bytes to `to` bytes each.
fn blocks(row: &[u8], from: usize, out: &mut [u8], to: usize, f: impl Fn(&[u8], &mut [u8])) {
    row.chunks_exact(from).zip(out.chunks_exact_mut(to)).for_each(|(block, out)| f(block, out));
}

/// The codes of a block, `bias` added so that they have no sign.
fn codes_of<Q: Quant>(block: &[u8], bias: u8) -> [[u8; CHUNK]; 8] {
    let (mut codes, mut scale, mut offset) = ([[0; CHUNK]; 8], [0.0; 16], [0.0; 16]);
    // SAFETY: portable bytes need no instructions.
    unsafe { format::cast::<Q>(block)[0].unpack::<Portable>(&mut codes, &mut scale, &mut offset) };
    codes.map(|chunk| chunk.map(|q| q.wrapping_add(bias)))
}

/// Where the value stands that comes at a place: of four neighbours 0, 2, 1, 3, so that both four bytes of a word and the two
/// 16 bits apart, which matrix units take, are neighbours.
fn order(i: usize) -> usize {
    i & !3 | (i & 1) << 1 | (i >> 1) & 1
}

/// The first 32 bytes.
fn words(bytes: &[u8]) -> [u32; 8] {
    std::array::from_fn(|i| u32::from_le_bytes(std::array::from_fn(|k| bytes[4 * i + k])))
}

/// Four bytes, as [`order`] says.
fn in_order(w: u32) -> u32 {
    w & 0xff00_00ff | (w & 0xff00) << 8 | w >> 8 & 0xff00
}

/// The low halves of four bytes.
const LOW: u32 = 0x0f0f_0f0f;

/// The low halves of 32 codes: the first 16 in the low halves of bytes.
fn nibbles(q: &[u8; CHUNK], out: &mut [u8]) {
    out.iter_mut().enumerate().for_each(|(i, to)| *to = q[order(i)] & 15 | q[16 + order(i)] << 4);
}

/// Rows `first..` of a matrix if they are in the file as they lie in the GPU's memory, so many bytes.
pub(super) fn in_file(w: &FileMatrix, layout: Layout, first: usize, bytes: usize) -> Option<&[u8]> {
    let stride = layout.row_bytes(w.columns);
    let same = layout.is_float() && w.format.row_bytes(w.columns) == Some(stride);
    same.then(|| &w.data[first * stride..][..bytes])
}

/// For each chunk 32 codes, then scale and offset of each 16.
fn codes<Q: Quant>(row: &[u8], out: &mut [u8]) {
    let (mut codes, mut scale, mut offset) = ([[0; CHUNK]; 8], [0.0; 16], [0.0; 16]);
    for (block, out) in format::cast::<Q>(row).iter().zip(out.chunks_exact_mut(Q::LEN / CHUNK * 3 * VECTOR)) {
        // SAFETY: portable bytes need no instructions.
        unsafe { block.unpack::<Portable>(&mut codes, &mut scale, &mut offset) };
        for (c, out) in out.chunks_exact_mut(3 * VECTOR).enumerate() {
            out[..CHUNK].iter_mut().enumerate().for_each(|(i, to)| *to = codes[c][order(i)]);
            for half in 0..2 {
                let group = (CHUNK * c + 16 * half) / Q::GROUP;
                let to = &mut out[CHUNK + 8 * half..][..8];
                to[..4].copy_from_slice(&scale[group].to_le_bytes());
                to[4..].copy_from_slice(&offset[group].to_le_bytes());
            }
        }
    }
}
