//! Weight formats, one file each. A quantized block is groups of small integer codes, each group
//! with a scale and an offset: value = code · scale + offset. Kernels see nothing else.

pub(crate) mod beside;
mod bytes;
mod fit;
pub(crate) mod iq4_nl;
pub(crate) mod iq4_xs;
pub(crate) mod q2_k;
pub(crate) mod q3_k;
pub(crate) mod q4_0;
pub(crate) mod q4_1;
pub(crate) mod q4_k;
pub(crate) mod q5_0;
pub(crate) mod q5_1;
pub(crate) mod q5_k;
pub(crate) mod q6_k;
pub(crate) mod q8_0;
mod small;

pub(crate) use bytes::{Bits, Bytes, Eights, Portable};

/// A block format of ggml.
pub(crate) trait Quant: Copy + 'static {
    /// As many blocks as 256 values take.
    type Span: Quant;
    /// Values in a block.
    const LEN: usize;
    /// Values that share a scale and an offset: 16 or 32.
    const GROUP: usize;
    /// No code less the middle is farther from zero.
    const LARGEST: usize;
    /// The middle of the codes: what is multiplied by them may be rounded, which matters less for those around zero.
    const MIDDLE: u8 = 0;
    /// Whether offsets are not all zero.
    const OFFSETS: bool;
    /// No code is below −BIAS.
    const BIAS: u8 = 0;
    /// Codes `32 i ..` of the block plus BIAS.
    ///
    /// # Safety
    /// As [`Bytes`].
    unsafe fn biased<B: Bytes>(&self, i: usize) -> B;
    /// Codes `32 i ..` of the block, which are signed.
    ///
    /// # Safety
    /// As [`Bytes`].
    #[inline(always)]
    unsafe fn codes<B: Bytes>(&self, i: usize) -> B {
        // SAFETY: the caller's promise is handed on.
        unsafe { self.biased::<B>(i).less(Self::BIAS) }
    }
    /// Writes `LEN / GROUP` scales and offsets.
    ///
    /// # Safety
    /// As [`Bytes`].
    unsafe fn factors<B: Bytes>(&self, scale: &mut [f32], offset: &mut [f32]);

    /// Writes all codes, scales and offsets.
    ///
    /// # Safety
    /// As [`Bytes`].
    #[inline(always)]
    unsafe fn unpack<B: Bytes>(&self, codes: &mut [[u8; 32]], scale: &mut [f32], offset: &mut [f32]) {
        // SAFETY: the caller's promise is handed on.
        unsafe {
            self.factors::<B>(scale, offset);
            for (i, codes) in codes[..Self::LEN / 32].iter_mut().enumerate() {
                self.codes::<B>(i).store(codes);
            }
        }
    }

    /// The block that is nearest to `LEN` values: `Σ weight (x − value)²` is as small as the search gets it.
    fn pack(x: &[f32], weight: &[f32]) -> Self;
}

/// The f16 number in two little-endian bytes, without branches so that loops over it vectorise, and without
/// subnormal f32 numbers, which are slow.
#[inline(always)]
pub(crate) fn f16(bytes: [u8; 2]) -> f32 {
    let h = u16::from_le_bytes(bytes) as u32;
    let magnitude = h & 0x7fff;
    let subnormal = magnitude as f32 * f32::from_bits((127 - 24) << 23);
    let normal = (magnitude << 13) + if magnitude < 0x7c00 { (127 - 15) << 23 } else { (255 - 31) << 23 };
    let bits = if magnitude < 0x400 { subnormal.to_bits() } else { normal };
    f32::from_bits(bits | (h & 0x8000) << 16)
}

/// The nearest f16 number, as two little-endian bytes.
#[inline(always)]
pub(crate) fn to_f16(x: f32) -> [u8; 2] {
    let bits = x.to_bits();
    let (sign, magnitude) = (bits >> 16 & 0x8000, bits & 0x7fff_ffff);
    let half = match magnitude {
        0..0x3880_0000 => (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5_f32.to_bits(), // subnormal
        0x3880_0000..0x4780_0000 => (magnitude + 0xfff + (magnitude >> 13 & 1) - (112 << 23)) >> 13,
        0x4780_0000..=0x7f80_0000 => 0x7c00, // infinite
        _ => 0x7e00,                         // no number
    };
    ((sign | half) as u16).to_le_bytes()
}

/// The nearest bf16 number, as two little-endian bytes.
fn to_bf16(x: f32) -> [u8; 2] {
    let bits = x.to_bits();
    let bits = if x.is_nan() { bits | 1 << 22 } else { bits + 0x7fff + (bits >> 16 & 1) };
    ((bits >> 16) as u16).to_le_bytes()
}

/// 32 codes of 4 bits: code i in the low half of byte i, i + 16 in the high. Higher bits are dropped.
#[inline(always)]
fn nibbles(codes: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| codes[i] & 15 | codes[i + 16] << 4)
}

/// The fifth bit of each of 32 codes.
#[inline(always)]
fn fifth_bits(codes: &[u8; 32]) -> [u8; 4] {
    std::array::from_fn(|b| (0..8).fold(0, |byte, i| byte | (codes[8 * b + i] >> 4 & 1) << i))
}

/// The number in two little-endian bytes that are the upper ones of an f32.
#[inline(always)]
pub(crate) fn bf16(bytes: [u8; 2]) -> f32 {
    f32::from_bits((u16::from_le_bytes(bytes) as u32) << 16)
}

macro_rules! formats {
    ($($(#[$doc:meta])* $variant:ident $id:literal $name:literal $len:literal $bytes:literal;)*) => {
        /// How the values of a weight tensor are stored.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Format { $($(#[$doc])* $variant,)* }

        impl Format {
            /// Every format.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The format with this ggml type id.
            pub fn from_ggml(id: u32) -> Option<Self> {
                match id { $($id => Some(Self::$variant),)* _ => None }
            }

            /// Its ggml type id.
            pub fn ggml(self) -> u32 {
                match self { $(Self::$variant => $id,)* }
            }

            /// Name as on llama.cpp's command line, in lower case.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The format of this name; case does not matter.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|f| f.name().eq_ignore_ascii_case(name))
            }

            /// Values in a block.
            pub fn block_len(self) -> usize {
                match self { $(Self::$variant => $len,)* }
            }

            /// Bytes of a block.
            pub fn block_bytes(self) -> usize {
                match self { $(Self::$variant => $bytes,)* }
            }
        }
    };
}

formats! {
    /// 32-bit float.
    F32 0 "f32" 1 4;
    /// 16-bit float.
    F16 1 "f16" 1 2;
    /// 16-bit brain float.
    BF16 30 "bf16" 1 2;
    /// 8 bits, one scale for 32.
    Q8_0 8 "q8_0" 32 34;
    /// 4 bits, one scale for 32.
    Q4_0 2 "q4_0" 32 18;
    /// 4 bits, scale and minimum for 32.
    Q4_1 3 "q4_1" 32 20;
    /// 5 bits, one scale for 32.
    Q5_0 6 "q5_0" 32 22;
    /// 5 bits, scale and minimum for 32.
    Q5_1 7 "q5_1" 32 24;
    /// 2 bits, scale and minimum for 16.
    Q2K 10 "q2_k" 256 84;
    /// 3 bits, scale for 16.
    Q3K 11 "q3_k" 256 110;
    /// 4 bits, scale and minimum for 32.
    Q4K 12 "q4_k" 256 144;
    /// 5 bits, scale and minimum for 32.
    Q5K 13 "q5_k" 256 176;
    /// 6 bits, scale for 16.
    Q6K 14 "q6_k" 256 210;
    /// 4 bits into a table, scale for 32.
    IQ4NL 20 "iq4_nl" 32 18;
    /// 4 bits into a table, scale for 32 of 256.
    IQ4XS 23 "iq4_xs" 256 136;
}

/// Runs `$body` with `$q` as the block type of a quantized `$format`, or `$else` for plain floats.
macro_rules! with_quant {
    ($format:expr, $q:ident => $body:expr, _ => $else:expr) => {
        $crate::format::with_quant!($format, $q => $body, _ => $else;
            Q8_0 q8_0, Q4_0 q4_0, Q4_1 q4_1, Q5_0 q5_0, Q5_1 q5_1, Q2K q2_k, Q3K q3_k, Q4K q4_k, Q5K q5_k, Q6K q6_k,
            IQ4NL iq4_nl, IQ4XS iq4_xs)
    };
    ($format:expr, $q:ident => $body:expr, _ => $else:expr; $($variant:ident $module:ident),*) => {
        match $format {
            $($crate::format::Format::$variant => {
                type $q = $crate::format::$module::Block;
                $body
            })*
            _ => $else,
        }
    };
}
pub(crate) use with_quant;

impl Format {
    /// Values that share a scale and an offset; `None` for plain floats.
    pub(crate) fn group(self) -> Option<usize> {
        with_quant!(self, Q => Some(<Q as Quant>::GROUP), _ => None)
    }

    /// The most that a code of a block, less their middle, times the length of its group can be.
    pub(crate) fn largest_group(self) -> Option<usize> {
        with_quant!(self, Q => Some(Q::LARGEST * Q::GROUP), _ => None)
    }

    /// Bytes of a row of `len` values; `None` if they do not fill whole blocks.
    pub fn row_bytes(self, len: usize) -> Option<usize> {
        len.is_multiple_of(self.block_len())
            .then(|| len / self.block_len())
            .and_then(|n| n.checked_mul(self.block_bytes()))
    }
}

/// Decodes a row of any format from its bytes.
///
/// # Panics
/// If there are not as many bytes as the values take.
pub fn decode(format: Format, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(format.row_bytes(out.len()), Some(bytes.len()));
    with_quant!(format, Q => blocks::<Q>(bytes, out), _ => decode_plain(format, bytes, out))
}

/// Decodes floats that are not in blocks; compiled for the instruction set of its caller.
#[inline(always)]
pub(crate) fn decode_plain(format: Format, bytes: &[u8], out: &mut [f32]) {
    match format {
        Format::F32 => plain(bytes, out, f32::from_le_bytes),
        Format::F16 => plain(bytes, out, f16),
        Format::BF16 => plain(bytes, out, bf16),
        _ => unreachable!("{format:?} is in blocks"),
    }
}

#[inline(always)]
fn plain<const N: usize>(bytes: &[u8], out: &mut [f32], f: impl Fn([u8; N]) -> f32) {
    for (y, b) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *y = f(*b);
    }
}

/// Encodes a row into any format; the inverse of [`decode`], but for what the format loses. Blocks are the nearest in
/// `Σ importance (x − value)²`; without `importance`, which is one number from 0 on for each value, all count alike.
///
/// # Panics
/// If `out` has not the bytes of as many values, or there is another number of importances than of values.
pub fn encode(format: Format, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    assert_eq!(format.row_bytes(values.len()), Some(out.len()));
    assert!(importance.is_none_or(|i| i.len() == values.len()), "an importance for each value");
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        unsafe fn wide(format: Format, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
            encode_here(format, values, importance, out);
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the machine has the instructions.
            return unsafe { wide(format, values, importance, out) };
        }
    }
    encode_here(format, values, importance, out);
}

/// Compiled for the instruction set of its caller; all give the same blocks.
#[inline(always)]
fn encode_here(format: Format, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    with_quant!(format, Q => {
        let ones = [1.0; 256];
        for (b, (x, out)) in values.chunks_exact(Q::LEN).zip(out.chunks_exact_mut(size_of::<Q>())).enumerate() {
            let weight = importance.map_or(&ones[..Q::LEN], |all| &all[b * Q::LEN..][..Q::LEN]);
            let block = Q::pack(x, weight);
            // SAFETY: `Q` is a struct of byte arrays, as in `cast`.
            out.copy_from_slice(unsafe { std::slice::from_raw_parts((&raw const block).cast(), size_of::<Q>()) });
        }
    }, _ => match format {
        Format::F32 => plain_into(values, out, f32::to_le_bytes),
        Format::F16 => plain_into(values, out, to_f16),
        Format::BF16 => plain_into(values, out, to_bf16),
        _ => unreachable!("{format:?} is in blocks"),
    })
}

#[inline(always)]
fn plain_into<const N: usize>(values: &[f32], out: &mut [u8], f: impl Fn(f32) -> [u8; N]) {
    for (x, y) in values.iter().zip(out.as_chunks_mut::<N>().0) {
        *y = f(*x);
    }
}

/// The blocks of a row.
#[inline(always)]
pub(crate) fn cast<Q: Quant>(bytes: &[u8]) -> &[Q] {
    const { assert!(align_of::<Q>() == 1) };
    // SAFETY: `Q` is a struct of byte arrays: any bytes are valid, and its alignment is 1.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<Q>()) }
}

fn blocks<Q: Quant>(bytes: &[u8], out: &mut [f32]) {
    let (mut codes, mut scale, mut offset) = ([[0; 32]; 8], [0.0; 16], [0.0; 16]);
    for (block, out) in cast::<Q>(bytes).iter().zip(out.chunks_exact_mut(Q::LEN)) {
        // SAFETY: portable bytes need no instructions.
        unsafe { block.unpack::<Portable>(&mut codes, &mut scale, &mut offset) };
        for (g, out) in out.chunks_exact_mut(Q::GROUP).enumerate() {
            for (y, &q) in out.iter_mut().zip(&codes.as_flattened()[g * Q::GROUP..]) {
                *y = q as i8 as f32 * scale[g] + offset[g];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q8_0() {
        let mut block = [0; 34];
        block[..2].copy_from_slice(&[0x00, 0xb8]); // d = -0.5
        (block[2], block[3], block[33]) = (3, 0x80, 0x7f);
        let mut y = [f32::NAN; 32];
        decode(Format::Q8_0, &block, &mut y);
        assert_eq!((y[0], y[1], y[2], y[31]), (-1.5, 64.0, 0.0, -63.5));
    }

    #[test]
    fn q4_k() {
        let mut block = [0; 144];
        block[..4].copy_from_slice(&[0x00, 0x40, 0x00, 0x38]); // d = 2, dmin = 0.5
        (block[4], block[8], block[12]) = (0xc3, 0x45, 0x21); // scales 3 and 49, minimums 5 and 18
        block[5] = 1;
        (block[16], block[16 + 64]) = (0x21, 0xf7);
        let mut y = [f32::NAN; 256];
        decode(Format::Q4K, &block, &mut y);
        assert_eq!((y[0], y[1], y[32]), (1.0 * 6.0 - 2.5, -2.5, 2.0 * 2.0));
        assert_eq!((y[128], y[129], y[160]), (7.0 * 98.0 - 9.0, -9.0, 0.0));
    }
}
