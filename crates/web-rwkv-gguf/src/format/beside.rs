//! Eight rows of blocks side by side, as registers of eight lanes take them: of the first block of each row four bytes, then
//! the next four of each, and two at the end if its bytes are no fours; then the second blocks. Lanes then lie along the rows, and
//! no sum goes across them.

use super::{Bits, Bytes, Eights, Format, Quant};

/// Rows that stand side by side.
pub(crate) const ROWS: usize = 8;

/// Blocks that may stand so.
pub(crate) trait Beside: Quant {
    /// The largest whole scale.
    const WHOLE: usize;

    /// Codes plus BIAS: number `32 i ..` of a block, or what stands in the same places of others.
    ///
    /// # Safety
    /// As [`Bits`], here and below.
    unsafe fn code<B: Bits>(from: impl Source<B>, i: usize) -> B;

    /// Codes `32 i + 4 w ..` plus BIAS, four of each row of the eights.
    ///
    /// # Safety
    /// As [`Eights`], here and below.
    #[inline(always)]
    unsafe fn biased_beside<E: Eights>(eights: &[*const u8], i: usize, w: usize) -> E {
        // SAFETY: the caller's promise is handed on.
        unsafe { Self::code(Fours(eights, w), i) }
    }

    /// Scales of groups, and offsets: each are a number of each row times whole ones, signed bytes, those of groups `4 i ..` in number
    /// i of four. Without offsets the second are of no meaning.
    unsafe fn whole<E: Eights>(eights: &[*const u8]) -> [(E::Floats, [E; 4]); 2];

    /// Writes the scales of each group and, if there are any, the offsets.
    #[inline(always)]
    unsafe fn factors_beside<E: Eights>(
        eights: &[*const u8],
        scale: &mut [E::Floats; 16],
        offset: &mut [E::Floats; 16],
    ) {
        // SAFETY: the caller's promise is handed on.
        unsafe {
            let [scales, offsets] = Self::whole::<E>(eights);
            products(scales, &mut scale[..Self::LEN / Self::GROUP]);
            if Self::OFFSETS {
                products(offsets, &mut offset[..Self::LEN / Self::GROUP]);
            }
        }
    }
}

/// A number of each row times whole ones.
///
/// # Safety
/// As [`Eights`].
#[inline(always)]
unsafe fn products<E: Eights>((d, whole): (E::Floats, [E; 4]), y: &mut [E::Floats]) {
    for i in 0..y.len() / 4 {
        // SAFETY: the caller's promise is handed on.
        unsafe {
            let numbers = whole[i].numbers();
            for j in 0..4 {
                y[4 * i + j] = E::product(numbers[j], d);
            }
        }
    }
}

/// Where bytes of blocks come from that are taken apart alike.
pub(crate) trait Source<B> {
    /// Those `at` bytes from the beginning.
    ///
    /// # Safety
    /// As [`Bits`].
    unsafe fn load(&self, at: usize) -> B;
}

/// Neighbours in a block.
pub(super) struct Row<'a, Q>(pub(super) &'a Q);

impl<B: Bytes, Q> Source<B> for Row<'_, Q> {
    #[inline(always)]
    unsafe fn load(&self, at: usize) -> B {
        assert!(at + 32 <= size_of::<Q>());
        // SAFETY: these bytes lie in the block, and the rest is the caller's promise.
        unsafe { B::load(&*std::ptr::from_ref(self.0).byte_add(at).cast()) }
    }
}

/// Of the blocks of eights four bytes each, those of number `.1` of 32.
struct Fours<'a>(&'a [*const u8], usize);

impl<E: Eights> Source<E> for Fours<'_> {
    #[inline(always)]
    unsafe fn load(&self, at: usize) -> E {
        // SAFETY: the caller's promise is handed on.
        unsafe { E::load(self.0, at + 4 * self.1) }
    }
}

/// Runs `$body` with `$q` as the block type of a format that may stand so, or `$else`.
macro_rules! with_beside {
    ($format:expr, $q:ident => $body:expr, _ => $else:expr) => {
        $crate::format::with_quant!($format, $q => $body, _ => $else; Q4K q4_k, Q5K q5_k, Q6K q6_k)
    };
}
pub(crate) use with_beside;

impl Format {
    /// Whether eight rows may stand side by side.
    pub(crate) fn beside(self) -> bool {
        fn is<Q: Beside>() -> bool {
            true
        }
        with_beside!(self, Q => is::<Q>(), _ => false)
    }

    /// Puts the blocks of eight rows side by side.
    #[cfg(test)]
    pub(crate) fn turn(self, rows: &[u8], eight: &mut [u8]) {
        let (row, block) = (rows.len() / ROWS, self.block_bytes());
        assert_eq!(rows.len(), eight.len());
        for (r, row) in rows.chunks_exact(row).enumerate() {
            for (from, to) in row.chunks_exact(block).zip(eight.chunks_exact_mut(ROWS * block)) {
                let (words, rest) = from.as_chunks::<4>();
                let (eights, rests) = to.split_at_mut(ROWS * 4 * words.len());
                for (word, to) in words.iter().zip(eights.as_chunks_mut::<{ 4 * ROWS }>().0) {
                    to[4 * r..][..4].copy_from_slice(word);
                }
                rests[rest.len() * r..][..rest.len()].copy_from_slice(rest);
            }
        }
    }

    /// The inverse of `turn`, for one of the rows.
    #[cfg(test)]
    pub(crate) fn row_of(self, eight: &[u8], r: usize) -> Vec<u8> {
        let block = self.block_bytes();
        let mut row = Vec::with_capacity(eight.len() / ROWS);
        for from in eight.chunks_exact(ROWS * block) {
            let rest = block % 4;
            let (eights, rests) = from.split_at(ROWS * (block - rest));
            eights.as_chunks::<{ 4 * ROWS }>().0.iter().for_each(|word| row.extend(&word[4 * r..][..4]));
            row.extend(&rests[rest * r..][..rest]);
        }
        row
    }
}

/// Blocks of eight rows.
#[inline(always)]
pub(crate) fn cast<Q: Beside>(bytes: &[u8]) -> &[[Q; ROWS]] {
    super::cast::<Q>(bytes).as_chunks().0
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::format::Portable;

    #[test]
    fn eight_rows_have_the_codes_and_factors_of_each() {
        fn check<Q: Beside>(format: Format) {
            let mut rows = vec![0; ROWS * 2 * size_of::<Q>()];
            ChaCha8Rng::seed_from_u64(3).fill_bytes(&mut rows);
            let mut eight = vec![0; rows.len()];
            format.turn(&rows, &mut eight);
            for (r, row) in rows.chunks_exact(2 * size_of::<Q>()).enumerate() {
                assert_eq!(format.row_of(&eight, r), row);
                for (block, eight) in super::super::cast::<Q>(row).iter().zip(cast::<Q>(&eight)) {
                    let eight: *const u8 = eight.as_ptr().cast();
                    let (mut scale, mut offset) = ([0.0; 16], [0.0; 16]);
                    let (mut scales, mut offsets) = ([[0.0; ROWS]; 16], [[0.0; ROWS]; 16]);
                    // SAFETY: portable bytes need no instructions, and there are eight rows.
                    unsafe {
                        block.factors::<Portable>(&mut scale, &mut offset);
                        Q::factors_beside::<Portable>(&[eight], &mut scales, &mut offsets);
                    }
                    let same = |(a, b): (&[f32; ROWS], &f32)| a[r] == *b || a[r].is_nan() && b.is_nan();
                    assert!(scales.iter().zip(&scale).all(same) && offsets.iter().zip(&offset).all(same));
                    for i in 0..8 {
                        let (mut codes, mut four) = ([0; 32], [0; 32]);
                        // SAFETY: as above.
                        unsafe { block.biased::<Portable>(i).store(&mut codes) };
                        for (w, codes) in codes.chunks_exact(4).enumerate() {
                            // SAFETY: as above.
                            unsafe { Q::biased_beside::<Portable>(&[eight], i, w).store(&mut four) };
                            assert_eq!(four[4 * r..][..4], *codes);
                        }
                    }
                }
            }
        }
        for &format in Format::ALL.iter().filter(|format| format.beside()) {
            with_beside!(format, Q => check::<Q>(format), _ => unreachable!());
        }
    }
}
