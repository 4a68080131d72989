//! Many bytes at once: what blocks are taken apart with.

use super::{beside, q4_k::Factors};

/// Bytes in registers.
///
/// # Safety
/// The functions may be called only where the CPU has the instructions of the type; [`Portable`] needs none.
pub(crate) trait Bits: Copy {
    /// In each byte `self >> shift & mask`.
    unsafe fn bits(self, shift: u32, mask: u8) -> Self;
    /// In each byte `self | x << shift`, where nothing of x is shifted out.
    unsafe fn or(self, x: Self, shift: u32) -> Self;
    /// In each byte `self − n`.
    unsafe fn less(self, n: u8) -> Self;
}

/// 32 bytes in registers.
///
/// # Safety
/// As [`Bits`].
pub(crate) trait Bytes: Bits {
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
    unsafe fn load(x: &[u8; 32]) -> Self;
    unsafe fn store(self, y: &mut [u8; 32]);
    /// The low halves of 16 bytes, then the high halves.
    unsafe fn nibbles(x: &[u8; 16]) -> Self;
    /// For each of 32 bits a byte, 1 where it is set.
    unsafe fn spread(bits: [u8; 4]) -> Self;
    /// In each byte, which is below 16, the entry of a table.
    unsafe fn lookup(self, table: &[i8; 16]) -> Self;
}

/// Four bytes of each row of blocks that stand side by side, see [`beside`](super::beside), in registers: of one or more eights
/// of rows, which need not be neighbours.
///
/// # Safety
/// As [`Bits`], and `eights` are blocks of as many eights of rows as there are in a register.
pub(crate) trait Eights: Bits {
    /// A number of each row.
    type Floats: Copy;
    /// The four bytes from `at` of each block, a multiple of four.
    unsafe fn load(_eights: &[*const u8], _at: usize) -> Self {
        unreachable!("rows do not stand side by side")
    }
    /// The f16 numbers in the first and the last two of four bytes.
    unsafe fn f16s(self) -> [Self::Floats; 2] {
        unreachable!("rows do not stand side by side")
    }
    /// The f16 number that each block ends with, `at` bytes from its beginning, a multiple of four.
    unsafe fn last_f16(_eights: &[*const u8], _at: usize) -> Self::Floats {
        unreachable!("rows do not stand side by side")
    }
    /// The first to the fourth bytes, which are signed, as numbers.
    unsafe fn numbers(self) -> [Self::Floats; 4] {
        unreachable!("rows do not stand side by side")
    }
    unsafe fn product(_a: Self::Floats, _b: Self::Floats) -> Self::Floats {
        unreachable!("rows do not stand side by side")
    }
    unsafe fn negative(_x: Self::Floats) -> Self::Floats {
        unreachable!("rows do not stand side by side")
    }
}

/// Bytes on any CPU.
#[derive(Clone, Copy)]
pub(crate) struct Portable([u8; 32]);

impl Bits for Portable {
    unsafe fn bits(self, shift: u32, mask: u8) -> Self {
        Self(self.0.map(|x| x >> shift & mask))
    }

    unsafe fn or(self, x: Self, shift: u32) -> Self {
        Self(std::array::from_fn(|i| self.0[i] | x.0[i] << shift))
    }

    unsafe fn less(self, n: u8) -> Self {
        Self(self.0.map(|x| x.wrapping_sub(n)))
    }
}

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

impl Eights for Portable {
    type Floats = [f32; beside::ROWS];

    unsafe fn load(eights: &[*const u8], at: usize) -> Self {
        // SAFETY: the blocks have as many bytes.
        unsafe { <Self as Bytes>::load(&*eights[0].add(beside::ROWS * at).cast()) }
    }

    unsafe fn f16s(self) -> [Self::Floats; 2] {
        [0, 2].map(|at| std::array::from_fn(|r| super::f16([self.0[4 * r + at], self.0[4 * r + at + 1]])))
    }

    unsafe fn last_f16(eights: &[*const u8], at: usize) -> Self::Floats {
        // SAFETY: as above.
        let halves: &[[u8; 2]; beside::ROWS] = unsafe { &*eights[0].add(beside::ROWS * at).cast() };
        halves.map(super::f16)
    }

    unsafe fn numbers(self) -> [Self::Floats; 4] {
        std::array::from_fn(|i| std::array::from_fn(|r| f32::from(self.0[4 * r + i] as i8)))
    }

    unsafe fn product(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        std::array::from_fn(|r| a[r] * b[r])
    }

    unsafe fn negative(x: Self::Floats) -> Self::Floats {
        x.map(|x| -x)
    }
}
