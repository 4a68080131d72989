//! Activations as integers, with a scale for each 32 of them.

use std::marker::PhantomData;

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

/// Integers that activations are rounded to: how they stand in lanes of 32 bits, and how they are multiplied with
/// signed codes.
pub(super) trait Integers: Sync {
    /// How many stand in a lane.
    const PER: usize;
    /// The largest.
    const LARGEST: f32;
    /// What is added to them, since unsigned bytes are multiplied with signed ones only.
    const BIAS: i32;
    /// Makes lanes of 32 numbers.
    fn lanes(codes: &[i16; SHARED], to: impl FnMut(usize, i32));
    /// In each lane the sum of products of x and w, added to `sum`.
    ///
    /// # Safety
    /// As [`Vector`], here and below.
    unsafe fn dot<V: Vector>(x: V::Int, w: V::Int, sum: V::Int) -> V::Int;
    unsafe fn to_float<V: Vector>(sum: V::Int) -> V;
}

/// Two integers of 16 bits in a lane.
pub(super) struct Pairs;

/// Four of 8 bits.
pub(super) struct Quads;

impl Integers for Pairs {
    const PER: usize = 2;
    const LARGEST: f32 = 32767.0;
    const BIAS: i32 = 0;

    #[inline(always)]
    fn lanes(codes: &[i16; SHARED], mut to: impl FnMut(usize, i32)) {
        for (i, &[a, b]) in codes.as_chunks::<2>().0.iter().enumerate() {
            to(i, i32::from(a as u16) | i32::from(b) << 16);
        }
    }

    #[inline(always)]
    unsafe fn dot<V: Vector>(x: V::Int, w: V::Int, sum: V::Int) -> V::Int {
        // SAFETY: the caller's promise is handed on, here and below.
        unsafe { V::dot(w, x, sum) }
    }

    #[inline(always)]
    unsafe fn to_float<V: Vector>(sum: V::Int) -> V {
        // SAFETY: as above.
        unsafe { V::to_float(sum) }
    }
}

impl Integers for Quads {
    const PER: usize = 4;
    const LARGEST: f32 = 127.0;
    const BIAS: i32 = 128;

    #[inline(always)]
    fn lanes(codes: &[i16; SHARED], mut to: impl FnMut(usize, i32)) {
        let bytes = codes.map(|x| (x + Self::BIAS as i16) as u8);
        for (i, quad) in bytes.as_chunks().0.iter().enumerate() {
            to(i, i32::from_le_bytes(*quad));
        }
    }

    #[inline(always)]
    unsafe fn dot<V: Vector>(x: V::Int, w: V::Int, sum: V::Int) -> V::Int {
        // SAFETY: the caller's promise is handed on, here and below.
        unsafe { V::dot_quads(x, w, sum) }
    }

    #[inline(always)]
    unsafe fn to_float<V: Vector>(sum: V::Int) -> V {
        // SAFETY: as above.
        unsafe { V::quads_to_float(sum) }
    }
}

/// Activations of T tokens as integers, `x = code · scale`, in tiles of n tokens; pairs in tiles of one are arranged as
/// [`Vector::dot_codes`] takes them.
pub(super) struct Rounded<I> {
    pub(super) columns: usize,
    codes: Vec<i32>,     // tiles of [K / PER, n]
    scale: Vec<f32>,     // tiles of [K / 32, n]
    sums: [Vec<f32>; 2], // Σ x of 16 columns, tiles of [K / 16, n], and of 32, tiles of [K / 32, n]
    integers: PhantomData<I>,
}

impl<I: Integers> Rounded<I> {
    /// The first `columns` of each row of x, which are whole groups of 32; tiles of at most `most` tokens.
    pub(super) fn new(cpu: &Cpu, x: &Acts, columns: usize, most: usize) -> Self {
        let (tokens, groups, lanes) = (x.tokens(), columns / SHARED, columns / I::PER);
        let floats = |width: usize| vec![0.0; tokens * width];
        let mut y = Self {
            columns,
            codes: vec![0; tokens * lanes],
            scale: floats(groups),
            sums: [floats(2 * groups), floats(groups)],
            integers: PhantomData,
        };
        let (mut tiles, mut t) = (vec![], 0);
        while t < tokens {
            tiles.push((t, tile(tokens - t, most)));
            t += tile(tokens - t, most);
        }
        let codes = Shared::new(&mut y.codes, lanes);
        let scale = Shared::new(&mut y.scale, groups);
        let [sums_16, sums_32] = &mut y.sums;
        let (sums_16, sums_32) = (Shared::new(sums_16, 2 * groups), Shared::new(sums_32, groups));
        cpu.each(tiles.len(), 4 * columns * most, |i| {
            let (t, n) = tiles[i];
            // SAFETY: each task has a tile of its own.
            unsafe {
                let (codes, scale) = (codes.part(t, 0, n * lanes), scale.part(t, 0, n * groups));
                let (sums_16, sums_32) = (sums_16.part(t, 0, n * 2 * groups), sums_32.part(t, 0, n * groups));
                let integers = PhantomData::<I>;
                dispatch(
                    cpu.level(),
                    Quantize { x, t, n, columns, codes, scale, sums_16, sums_32, integers },
                );
            }
        });
        y
    }

    /// The tile of `n` tokens from `t`: `[K / PER, n]`.
    pub(super) fn codes(&self, t: usize, n: usize) -> &[i32] {
        let lanes = self.columns / I::PER;
        &self.codes[t * lanes..][..n * lanes]
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

/// One tile of [`Rounded`].
struct Quantize<'a, I> {
    x: &'a Acts,
    t: usize,
    n: usize,
    columns: usize,
    codes: &'a mut [i32],
    scale: &'a mut [f32],
    sums_16: &'a mut [f32],
    sums_32: &'a mut [f32],
    integers: PhantomData<I>,
}

impl<I: Integers> Kernel for Quantize<'_, I> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let n = self.n;
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
                    let inverse = V::splat(if most > 0.0 { I::LARGEST / most } else { 0.0 });
                    for at in (0..SHARED).step_by(V::LANES) {
                        V::store_codes(
                            codes.as_mut_ptr().add(at),
                            V::mul(V::load(x.as_ptr().add(at)), inverse),
                        );
                    }
                    (most, sums)
                };
                if n == 1 && I::PER == 2 {
                    // SAFETY: this runs inside `dispatch`.
                    unsafe { V::arrange(&mut codes) };
                }
                let to = &mut self.codes[g * SHARED / I::PER * n..][..SHARED / I::PER * n];
                I::lanes(&codes, |lane, code| to[lane * n + i] = code);
                // What is not finite has no code, and must not vanish.
                self.scale[g * n + i] = most / I::LARGEST + 0.0 * (sums[0] + sums[1]);
                self.sums_16[2 * g * n + i] = sums[0];
                self.sums_16[(2 * g + 1) * n + i] = sums[1];
                self.sums_32[g * n + i] = sums[0] + sums[1];
            }
        }
    }
}
