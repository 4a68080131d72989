//! 32 bytes at once: what blocks are taken apart with.

use super::{beside, q4_k::Factors};

/// 32 bytes in registers.
///
/// # Safety
/// The functions may be called only where the CPU has the instructions of the type; [`Portable`] needs none.
pub(crate) trait Bytes: Copy {
    /// The f16 number in two little-endian bytes.
    unsafe fn f16(x: [u8; 2]) -> f32;
    /// Those that four bytes each begin with.
    #[inline(always)]
    unsafe fn f16s(x: [[u8; 4]; 8], y: &mut [f32; 8]) {
        *y = x.map(|[a, b, ..]| super::f16([a, b]));
    }
    /// `y = x · by`, which is an f16 number.
    unsafe fn scaled(x: [i8; 8], by: [u8; 2], y: &mut [f32; 8]);
    /// See [`Factors::unpack`], which says what it is.
    #[inline(always)]
    unsafe fn factors(x: &Factors, scale: &mut [f32; 8], offset: &mut [f32; 8]) {
        // SAFETY: the caller's promise is handed on.
        unsafe { x.unpack::<Self>(scale, offset) };
    }
    /// Those of blocks of eight rows that begin with them, see [`beside`]: `scale[g][r]`, here and below.
    #[inline(always)]
    unsafe fn factors_beside(
        eight: *const u8,
        scale: &mut [[f32; beside::ROWS]; 8],
        offset: &mut [[f32; beside::ROWS]; 8],
    ) {
        // SAFETY: the caller's promise is handed on.
        unsafe {
            for (r, bytes) in beside::bytes_of(eight, 0).iter().enumerate() {
                let (mut own, mut other) = ([0.0; 8], [0.0; 8]);
                Self::factors(Factors::of(bytes), &mut own, &mut other);
                for g in 0..8 {
                    (scale[g][r], offset[g][r]) = (own[g], other[g]);
                }
            }
        }
    }
    /// `y = x · by`, for four times four x of eight rows, and a `by` of each.
    #[inline(always)]
    unsafe fn scaled_beside(
        x: &[[[i8; 4]; beside::ROWS]; 4],
        by: &[[u8; 2]; beside::ROWS],
        y: &mut [[f32; beside::ROWS]; 16],
    ) {
        for (g, y) in y.iter_mut().enumerate() {
            for (r, y) in y.iter_mut().enumerate() {
                *y = super::f16(by[r]) * f32::from(x[g / 4][r][g % 4]);
            }
        }
    }
    unsafe fn load(x: &[u8; 32]) -> Self;
    unsafe fn store(self, y: &mut [u8; 32]);
    /// In each byte `self >> shift & mask`.
    unsafe fn bits(self, shift: u32, mask: u8) -> Self;
    /// In each byte `self | x << shift`, where nothing of x is shifted out.
    unsafe fn or(self, x: Self, shift: u32) -> Self;
    /// In each byte `self − n`.
    unsafe fn less(self, n: u8) -> Self;
    /// The low halves of 16 bytes, then the high halves.
    unsafe fn nibbles(x: &[u8; 16]) -> Self;
    /// For each of 32 bits a byte, 1 where it is set.
    unsafe fn spread(bits: [u8; 4]) -> Self;
    /// In each byte, which is below 16, the entry of a table.
    unsafe fn lookup(self, table: &[i8; 16]) -> Self;
}

/// Bytes on any CPU.
#[derive(Clone, Copy)]
pub(crate) struct Portable([u8; 32]);

impl Bytes for Portable {
    unsafe fn f16(x: [u8; 2]) -> f32 {
        super::f16(x)
    }

    unsafe fn scaled(x: [i8; 8], by: [u8; 2], y: &mut [f32; 8]) {
        let by = super::f16(by);
        *y = x.map(|x| by * f32::from(x));
    }

    unsafe fn load(x: &[u8; 32]) -> Self {
        Self(*x)
    }

    unsafe fn store(self, y: &mut [u8; 32]) {
        *y = self.0;
    }

    unsafe fn bits(self, shift: u32, mask: u8) -> Self {
        Self(self.0.map(|x| x >> shift & mask))
    }

    unsafe fn or(self, x: Self, shift: u32) -> Self {
        Self(std::array::from_fn(|i| self.0[i] | x.0[i] << shift))
    }

    unsafe fn less(self, n: u8) -> Self {
        Self(self.0.map(|x| x.wrapping_sub(n)))
    }

    unsafe fn nibbles(x: &[u8; 16]) -> Self {
        Self(std::array::from_fn(|i| x[i % 16] >> (i / 16 * 4) & 15))
    }

    unsafe fn spread(bits: [u8; 4]) -> Self {
        Self(std::array::from_fn(|i| bits[i / 8] >> (i % 8) & 1))
    }

    unsafe fn lookup(self, table: &[i8; 16]) -> Self {
        Self(self.0.map(|x| table[x as usize] as u8))
    }
}
