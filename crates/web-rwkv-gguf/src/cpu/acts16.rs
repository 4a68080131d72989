//! Activations in 16 bits, with a scale for each 32 of them.

use super::{
    Acts, Cpu, Shared,
    level::{Kernel, Vector, dispatch},
};

/// Activations that share a scale.
pub(super) const SHARED: usize = 32;

/// Of so many tokens that are left, how many a tile takes that has registers for `most`.
pub(super) fn tile(left: usize, most: usize) -> usize {
    [6, 4, 2].into_iter().find(|n| *n <= left.min(most)).unwrap_or(1)
}

/// Activations of T tokens in 16 bits, `x = code · scale`, in tiles of n tokens; in tiles of one they are arranged as
/// [`Vector::dot_codes`] takes them.
pub(super) struct Acts16 {
    pub(super) columns: usize,
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
    pub(super) fn codes(&self, t: usize, n: usize) -> &[i16] {
        &self.codes[t * self.columns..][..n * self.columns]
    }

    /// `[K / 32, n]`
    pub(super) fn scale(&self, t: usize, n: usize) -> &[f32] {
        let groups = self.columns / SHARED;
        &self.scale[t * groups..][..n * groups]
    }

    /// Sums over groups of 16 or 32 columns, `[K / group, n]`.
    pub(super) fn sums(&self, t: usize, n: usize, group: usize) -> &[f32] {
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
                // SAFETY: x and the codes have 32 values, and LANES divides 16.
                let (most, sums) = unsafe {
                    let mut most = V::splat(0.0);
                    let mut sums = [0.0; 2];
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
                    (most, sums)
                };
                if n == 1 {
                    // SAFETY: this runs inside `dispatch`.
                    unsafe { V::arrange(&mut codes) };
                }
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
