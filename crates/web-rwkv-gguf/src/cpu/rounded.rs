//! Activations as integers, with a scale for each 32 of them.

use std::marker::PhantomData;

use super::{
    Acts, Cpu, Shared,
    level::{Kernel, Vector, dispatch},
    lines::Lines,
};

/// Activations that share a scale.
pub(super) const SHARED: usize = 32;

/// Of so many tokens that are left, how many a tile takes that has registers for `most`.
pub(super) fn tile(left: usize, most: usize) -> usize {
    [12, 6, 4, 2].into_iter().find(|n| *n <= left.min(most)).unwrap_or(1)
}

/// Runs `$kernel` for each tile of `$n` tokens from `$t`, at most `$most`, in a range. The sizes up to `$most` are listed, but
/// for 1, since each has a kernel of its own.
macro_rules! tiles {
    ([$($size:literal),+] of $most:expr, $tokens:expr, |$t:ident, $n:ident| $kernel:expr) => {
        let std::ops::Range { start: mut $t, end } = $tokens;
        while $t < end {
            $t += match $crate::cpu::rounded::tile(end - $t, $most) {
                $($size => {
                    const $n: usize = $size;
                    $kernel;
                    $n
                })+
                _ => {
                    const $n: usize = 1;
                    $kernel;
                    $n
                }
            };
        }
    };
}
pub(super) use tiles;

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

/// How the 32 numbers of a group stand.
#[derive(Clone, Copy)]
pub(super) enum Order {
    /// As they are, those of at most so many tokens in turn.
    Tiles(usize),
    /// A token as [`Vector::dot_codes`] takes it.
    Along,
    /// As [`Vector::dot_beside`] does.
    Beside,
}

/// Activations of T tokens as integers, `x = code · scale`, in tiles of n tokens.
pub(super) struct Rounded<I> {
    pub(super) columns: usize,
    codes: Lines<i32>, // tiles of [K / PER, n]
    // For each 16 columns, tiles of [K / 16, n], and for each 32, tiles of [K / 32, n]:
    scale: [Vec<f32>; 2],
    sums: [Vec<f32>; 2], // Σ x
    lost: [Vec<f32>; 2], // Σ (x − code · scale)
    integers: PhantomData<I>,
}

impl<I: Integers> Rounded<I> {
    /// The first `columns` of each row of x, which are whole groups of 32.
    pub(super) fn new(cpu: &Cpu, x: &Acts, columns: usize, order: Order) -> Self {
        let most = if let Order::Tiles(most) = order { most } else { 1 };
        let (tokens, groups, lanes) = (x.tokens(), columns / SHARED, columns / I::PER);
        let floats = || [vec![0.0; tokens * 2 * groups], vec![0.0; tokens * groups]];
        let mut codes = Lines::default();
        codes.resize(tokens * lanes);
        let mut y =
            Self { columns, codes, scale: floats(), sums: floats(), lost: floats(), integers: PhantomData };
        let (mut tiles, mut t) = (vec![], 0);
        while t < tokens {
            tiles.push((t, tile(tokens - t, most)));
            t += tile(tokens - t, most);
        }
        let codes = Shared::new(&mut y.codes, lanes);
        let shared = |[x, y]: &mut [Vec<f32>; 2]| [Shared::new(x, 2 * groups), Shared::new(y, groups)];
        let (scale, sums, lost) = (shared(&mut y.scale), shared(&mut y.sums), shared(&mut y.lost));
        cpu.each(tiles.len(), 4 * columns * most, |i| {
            let (t, n) = tiles[i];
            // SAFETY: each task has a tile of its own.
            unsafe {
                let (codes, integers) = (codes.part(t, 0, n * lanes), PhantomData::<I>);
                let scale = [scale[0].part(t, 0, 2 * n * groups), scale[1].part(t, 0, n * groups)];
                let sums = [sums[0].part(t, 0, 2 * n * groups), sums[1].part(t, 0, n * groups)];
                let lost = [lost[0].part(t, 0, 2 * n * groups), lost[1].part(t, 0, n * groups)];
                dispatch(
                    cpu.level(),
                    Quantize { x, t, n, columns, order, codes, scale, sums, lost, integers },
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

    /// Scales of groups of 16 or 32 columns, `[K / group, n]`.
    pub(super) fn scale(&self, t: usize, n: usize, group: usize) -> &[f32] {
        self.part(&self.scale, t, n, group)
    }

    /// Sums over groups of 16 or 32 columns, `[K / group, n]`.
    pub(super) fn sums(&self, t: usize, n: usize, group: usize) -> &[f32] {
        self.part(&self.sums, t, n, group)
    }

    /// What rounding took from those sums.
    pub(super) fn lost(&self, t: usize, n: usize, group: usize) -> &[f32] {
        self.part(&self.lost, t, n, group)
    }

    fn part<'a>(&self, of: &'a [Vec<f32>; 2], t: usize, n: usize, group: usize) -> &'a [f32] {
        let groups = self.columns / group;
        &of[usize::from(group == SHARED)][t * groups..][..n * groups]
    }
}

impl Rounded<Pairs> {
    /// A token of tiles of one, from a column on, with groups of `group`.
    pub(super) fn token(&self, t: usize, first: usize, group: usize) -> Token<'_> {
        Token {
            codes: &self.codes(t, 1)[first / Pairs::PER..],
            scale: &self.scale(t, 1, group)[first / group..],
            sums: &self.sums(t, 1, group)[first / group..],
            lost: &self.lost(t, 1, group)[first / group..],
        }
    }
}

/// One token of [`Rounded`].
#[derive(Clone, Copy, Default)]
pub(super) struct Token<'a> {
    pub(super) codes: &'a [i32],
    pub(super) scale: &'a [f32],
    pub(super) sums: &'a [f32],
    pub(super) lost: &'a [f32],
}

impl Token<'_> {
    /// Whether there are as many columns, in groups of `group`.
    #[inline(always)]
    pub(super) fn has(&self, columns: usize, group: usize) -> bool {
        let groups = self.scale.len().min(self.sums.len()).min(self.lost.len());
        self.codes.len() >= columns / Pairs::PER && groups >= columns / group
    }
}

/// One tile of [`Rounded`].
struct Quantize<'a, I> {
    x: &'a Acts,
    t: usize,
    n: usize,
    columns: usize,
    order: Order,
    codes: &'a mut [i32],
    scale: [&'a mut [f32]; 2],
    sums: [&'a mut [f32]; 2],
    lost: [&'a mut [f32]; 2],
    integers: PhantomData<I>,
}

impl<I: Integers> Kernel for Quantize<'_, I> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(mut self) {
        let n = self.n;
        for i in 0..n {
            let x = &self.x.row(self.t + i)[..self.columns];
            for (g, x) in x.as_chunks::<SHARED>().0.iter().enumerate() {
                let mut codes = [0; SHARED];
                // SAFETY: x and the codes have 32 values, and LANES divides 16.
                unsafe {
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
                    // What is not finite has no code, and must not vanish.
                    let scale = most / I::LARGEST + 0.0 * (sums[0] + sums[1]);
                    let inverse = if most > 0.0 { I::LARGEST / most } else { 0.0 };
                    let mut lost = [0.0; 2];
                    for (half, total) in lost.iter_mut().enumerate() {
                        let mut sum = V::splat(0.0);
                        for at in (0..SHARED / 2).step_by(V::LANES) {
                            let at = half * SHARED / 2 + at;
                            let x = V::load(x.as_ptr().add(at));
                            let code = V::round(V::mul(x, V::splat(inverse)));
                            V::store_codes(codes.as_mut_ptr().add(at), code);
                            sum = V::fma(V::fma(code, V::splat(-scale), x), V::splat(1.0), sum);
                        }
                        *total = V::sum(sum);
                    }
                    let at = [2 * g * n + i, (2 * g + 1) * n + i, g * n + i];
                    put(&mut self.scale, at, [scale; 3]);
                    put(&mut self.sums, at, [sums[0], sums[1], sums[0] + sums[1]]);
                    put(&mut self.lost, at, [lost[0], lost[1], lost[0] + lost[1]]);
                    match self.order {
                        Order::Tiles(_) => (),
                        Order::Along => V::arrange(&mut codes),
                        Order::Beside => V::arrange_beside(&mut codes),
                    }
                }
                let to = &mut self.codes[g * SHARED / I::PER * n..][..SHARED / I::PER * n];
                I::lanes(&codes, |lane, code| to[lane * n + i] = code);
            }
        }
    }
}

/// Puts what belongs to the halves of a group and to the whole of it.
#[inline(always)]
fn put([halves, all]: &mut [&mut [f32]; 2], at: [usize; 3], x: [f32; 3]) {
    halves[at[0]] = x[0];
    halves[at[1]] = x[1];
    all[at[2]] = x[2];
}
