//! Activations as integers, with a scale for each 32 of them, or more.

use std::{array::from_fn, marker::PhantomData};

use super::{
    Acts, Cpu, Level, Shared,
    dot::prefetch_kept,
    level::{Kernel, Vector, dispatch},
    lines::Lines,
};

/// Activations that share a scale.
pub(super) const SHARED: usize = 32;

/// Of so many tokens that are left, how many a tile takes that has registers for `most`.
pub(super) fn tile(left: usize, most: usize) -> usize {
    match left {
        // Sums of one token or two are so few that they wait for each other.
        7 | 8 | 11 if most >= 4 => 4,
        5 if most >= 4 => 3,
        _ => [12, 6, 4, 3, 2].into_iter().find(|n| *n <= left.min(most)).unwrap_or(1),
    }
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
    const LARGEST: i32;
    /// What is added to them, since unsigned bytes are multiplied with signed ones only.
    const BIAS: i32;
    /// Registers of rows of a tile, and its tokens, of registers with so many lanes.
    fn tile(lanes: usize) -> (usize, usize);
    /// Writes the lanes of 32 numbers.
    fn lanes(codes: &[i16; SHARED], to: &mut [i32]);
    /// In each lane the sum of products of x and w, added to `sum`.
    ///
    /// # Safety
    /// As [`Vector`], here and below.
    unsafe fn dot<V: Vector>(x: V::Int, w: V::Int, sum: V::Int) -> V::Int;
    unsafe fn to_float<V: Vector>(sum: V::Int) -> V;
    unsafe fn add<V: Vector>(x: V::Int, w: V::Int) -> V::Int;
    unsafe fn negate<V: Vector>(sum: V::Int) -> V::Int;
}

/// Two integers of 16 bits in a lane.
pub(super) struct Pairs;

/// Four of 8 bits.
pub(super) struct Quads;

impl Integers for Pairs {
    const PER: usize = 2;
    const LARGEST: i32 = 32767;
    const BIAS: i32 = 0;

    #[inline(always)]
    fn tile(lanes: usize) -> (usize, usize) {
        // There are twice as many registers as lanes.
        if lanes == 16 { (3, 6) } else { (2, 4) }
    }

    #[inline(always)]
    fn lanes(codes: &[i16; SHARED], to: &mut [i32]) {
        for (to, &[a, b]) in to.iter_mut().zip(codes.as_chunks::<2>().0) {
            *to = i32::from(a as u16) | i32::from(b) << 16;
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

    #[inline(always)]
    unsafe fn add<V: Vector>(x: V::Int, w: V::Int) -> V::Int {
        // SAFETY: as above.
        unsafe { V::add_pairs(x, w) }
    }

    #[inline(always)]
    unsafe fn negate<V: Vector>(sum: V::Int) -> V::Int {
        // SAFETY: as above.
        unsafe { V::negate(sum) }
    }
}

impl Integers for Quads {
    const PER: usize = 4;
    const LARGEST: i32 = 127;
    const BIAS: i32 = 128;

    #[inline(always)]
    fn tile(_lanes: usize) -> (usize, usize) {
        (2, 6)
    }

    #[inline(always)]
    fn lanes(codes: &[i16; SHARED], to: &mut [i32]) {
        for (to, quad) in to.iter_mut().zip(codes.as_chunks::<4>().0) {
            let byte = |i: usize| i32::from((quad[i] + Self::BIAS as i16) as u8) << (8 * i);
            *to = byte(0) | byte(1) | byte(2) | byte(3);
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

    #[inline(always)]
    unsafe fn add<V: Vector>(x: V::Int, w: V::Int) -> V::Int {
        // SAFETY: as above.
        unsafe { V::add_quads(x, w) }
    }

    #[inline(always)]
    unsafe fn negate<V: Vector>(sum: V::Int) -> V::Int {
        // SAFETY: as above.
        unsafe { V::negate_quads(sum) }
    }
}

/// How numbers stand.
#[derive(Clone, Copy)]
pub(super) enum Order {
    /// As they are, those of the tokens of a tile in turn.
    Tiles,
    /// A token as [`Vector::dot_codes`] takes it.
    Along,
    /// As [`Vector::dot_beside`] does.
    Beside,
}

/// How finely activations are rounded.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Grain {
    /// Columns that share a scale: 16, which two in turn do, 32 or more.
    pub(super) span: usize,
    /// Columns that share an offset of weights, whose sums are kept: 16, 32, or a span.
    pub(super) group: usize,
    /// What magnitudes of integers that share a scale may add up to.
    pub(super) room: i32,
    /// What the root of the sum of their squares may be.
    pub(super) norm: i32,
    /// The largest integer.
    pub(super) largest: i32,
    /// Whether two products are folded into one.
    pub(super) folded: bool,
}

impl Grain {
    /// How many scales, and how many sums, so many columns have. Both are of powers of two: a short tile has no time for divisions.
    pub(super) fn of(&self, columns: usize) -> [usize; 2] {
        debug_assert!(self.span.is_power_of_two() && self.group.is_power_of_two());
        [self.span, self.group].map(|n| columns >> n.trailing_zeros())
    }

    /// With folded products, if so, of codes up to `code`: a sum of both has to fit. Spans of 16 are not folded.
    pub(super) fn folded(self, folded: bool, code: i32) -> Self {
        if folded && self.span >= SHARED {
            Self { largest: self.largest - code, folded, ..self }
        } else {
            self
        }
    }
}

/// The step of integers that share a scale, from the largest of `n` numbers and the squares of all in units of that: none is larger than
/// the first limit, nor the root of the sum of their squares than the second, each rounded up by a half.
pub(super) fn step(most: f32, squares: f32, limits: [i32; 2], n: usize) -> f32 {
    let [largest, norm] = limits.map(|limit| limit as f32);
    (most / largest).max(most * squares.sqrt() / (norm - (n as f32).sqrt()))
}

/// The inverse of what is not negative; of what is too small to matter, zero.
pub(super) fn inverse(x: f32) -> f32 {
    if x > 1e-35 { 1.0 / x } else { 0.0 }
}

/// Of `steps` lanes, how many are multiplied together with those half as many behind,
/// `x w + x' w' = (x + w') (x' + w) − x x' − w w'`: about two of three, so that a CPU that does four operations in a cycle, of
/// which two are products, is kept busy.
#[inline(always)]
pub(super) const fn folds(steps: usize) -> usize {
    (steps + 1) / 3
}

/// Activations of T tokens as integers, `x = code · scale`, in tiles of n tokens.
pub(super) struct Rounded<I> {
    pub(super) columns: usize,
    pub(super) grain: Grain,
    codes: Lines<i32>, // tiles of [K / 32, n, 32 / PER]
    scale: Lines<f32>, // tiles of [K / span, n]
    sums: Lines<f32>,  // tiles of [K / group, n], Σ x
    cross: Lines<i32>, // tiles of [K / span, n], less what folded products with codes that are zero give
    lost: Lines<f32>,  // as `sums`, Σ (x − code · scale), not of tiles
    integers: PhantomData<I>,
}

impl<I: Integers> Rounded<I> {
    /// The first `columns` of each row of x, which are whole groups of 32.
    pub(super) fn new(cpu: &Cpu, x: &Acts, columns: usize, order: Order, grain: Grain) -> Self {
        let tokens = x.tokens();
        let (lanes, [spans, groups]) = (columns / I::PER, grain.of(columns));
        // Of tiles nobody asks what was lost.
        let (most, losses) = match order {
            Order::Tiles => (I::tile(cpu.level().lanes()).1, 0),
            Order::Along | Order::Beside => (1, groups),
        };
        let crosses = if grain.folded { spans } else { 0 };
        let mut y = Self {
            columns,
            grain,
            codes: Lines::new(tokens * lanes),
            scale: Lines::new(tokens * spans),
            sums: Lines::new(tokens * groups),
            cross: Lines::new(tokens * crosses),
            lost: Lines::new(tokens * losses),
            integers: PhantomData,
        };
        let (mut tiles, mut t) = (vec![], 0);
        while t < tokens {
            tiles.push((t, tile(tokens - t, most)));
            t += tile(tokens - t, most);
        }
        let (codes, scale) = (Shared::new(&mut y.codes, lanes), Shared::new(&mut y.scale, spans));
        let (sums, lost) = (Shared::new(&mut y.sums, groups), Shared::new(&mut y.lost, losses));
        let cross = Shared::new(&mut y.cross, crosses);
        cpu.each(tiles.len(), 4 * columns * most, |i| {
            let (t, n) = tiles[i];
            // SAFETY: each task has a tile of its own.
            unsafe {
                let (codes, scale) = (codes.part(t, 0, n * lanes), scale.part(t, 0, n * spans));
                let (sums, lost) = (sums.part(t, 0, n * groups), lost.part(t, 0, n * losses));
                let (cross, integers) = (cross.part(t, 0, n * crosses), PhantomData::<I>);
                let level = cpu.level();
                dispatch(
                    level,
                    Quantize {
                        x,
                        level,
                        t,
                        n,
                        columns,
                        order,
                        grain,
                        codes,
                        scale,
                        sums,
                        cross,
                        lost,
                        integers,
                    },
                );
            }
        });
        y
    }

    /// The tile of `n` tokens from `t`: `[K / 32, n, 32 / PER]`.
    pub(super) fn codes(&self, t: usize, n: usize) -> &[i32] {
        let lanes = self.columns / I::PER;
        &self.codes[t * lanes..][..n * lanes]
    }

    /// Its scales, `[K / span, n]`.
    pub(super) fn scale(&self, t: usize, n: usize) -> &[f32] {
        let [spans, _] = self.grain.of(self.columns);
        &self.scale[t * spans..][..n * spans]
    }

    /// What its sums begin with, `[K / span, n]`, where products are folded.
    pub(super) fn cross(&self, t: usize, n: usize) -> &[i32] {
        let [spans, _] = self.grain.of(self.columns);
        &self.cross[t * spans..][..n * spans]
    }

    /// Its sums, `[K / group, n]`.
    pub(super) fn sums(&self, t: usize, n: usize) -> &[f32] {
        let [_, groups] = self.grain.of(self.columns);
        &self.sums[t * groups..][..n * groups]
    }
}

impl Rounded<Pairs> {
    /// A token of tiles of one, from a column on.
    pub(super) fn token(&self, t: usize, first: usize) -> Token<'_> {
        let ([_, groups], [first_span, first_group]) = (self.grain.of(self.columns), self.grain.of(first));
        Token {
            codes: &self.codes(t, 1)[first / Pairs::PER..],
            scale: &self.scale(t, 1)[first_span..],
            sums: &self.sums(t, 1)[first_group..],
            lost: &self.lost[t * groups..][..groups][first_group..],
        }
    }
}

/// One token of [`Rounded`], of which groups have a scale each.
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
    level: Level,
    t: usize,
    n: usize,
    columns: usize,
    order: Order,
    grain: Grain,
    codes: &'a mut [i32],
    scale: &'a mut [f32],
    sums: &'a mut [f32],
    cross: &'a mut [i32],
    lost: &'a mut [f32],
    integers: PhantomData<I>,
}

/// How many steps are found at a time, since they do not wait for each other.
const SCALES: usize = 8;

impl<I: Integers> Kernel for Quantize<'_, I> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(mut self) {
        let (x, shared, mut room) = (self.x, self.grain.span.max(SHARED), vec![]);
        for i in 0..self.n {
            let row = &x.read(self.level, self.t + i, &mut room)[..self.columns];
            for (part, x) in row.chunks(SCALES * shared).enumerate() {
                // SAFETY: this runs inside `dispatch`.
                unsafe {
                    let inverses = self.steps::<V>(i, part * SCALES, x);
                    self.round::<V>(i, part * SCALES, x, inverses);
                }
            }
        }
    }
}

impl<I: Integers> Quantize<'_, I> {
    /// Fills in scales and sums of some values x of token `i`, which are whole numbers of those that share a scale, from number `first`
    /// on. Gives the inverses of their steps.
    ///
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    unsafe fn steps<V: Vector>(&mut self, i: usize, first: usize, x: &[f32]) -> [f32; SCALES] {
        let Grain { span, group, room, norm, largest, .. } = self.grain;
        let (n, shared) = (self.n, span.max(SHARED));
        let [spans, groups] = self.grain.of(shared);
        // Each may be rounded up by a half.
        let room = (room - shared as i32) as f32;
        let (mut most, mut magnitudes, mut totals) = ([0.0; SCALES], [0.0; SCALES], [0.0; SCALES]);
        // SAFETY: the caller's promise is handed on; there are groups of multiples of 16 values, and LANES divides 16.
        unsafe {
            for (c, x) in x.chunks_exact(shared).enumerate() {
                let (mut top, mut all) = (V::splat(0.0), V::splat(0.0));
                for (g, x) in x.chunks_exact(group).enumerate() {
                    let mut sum = V::splat(0.0);
                    for x in x.chunks_exact(V::LANES) {
                        let x = V::load(x.as_ptr());
                        top = V::max_abs(top, x);
                        all = V::fma(V::max_abs(V::splat(0.0), x), V::splat(1.0), all);
                        sum = V::fma(x, V::splat(1.0), sum);
                    }
                    let sum = V::sum(sum);
                    self.sums[((first + c) * groups + g) * n + i] = sum;
                    totals[c] += sum;
                }
                (most[c], magnitudes[c]) = (V::largest(top), V::sum(all));
            }
            let mut inverses = [0.0; SCALES];
            for (c, x) in x.chunks_exact(shared).enumerate() {
                let mut squares = V::splat(0.0);
                if norm < i32::MAX {
                    let unit = V::splat(inverse(most[c]));
                    for x in x.chunks_exact(V::LANES) {
                        let x = V::mul(V::load(x.as_ptr()), unit);
                        squares = V::fma(x, x, squares);
                    }
                }
                let step = step(most[c], V::sum(squares), [largest, norm], shared).max(magnitudes[c] / room);
                inverses[c] = inverse(step);
                for s in 0..spans {
                    // What is not finite has no code, and must not vanish.
                    self.scale[((first + c) * spans + s) * n + i] = step + 0.0 * totals[c];
                }
            }
            inverses
        }
    }

    /// Rounds these values; those of the next token, if there is one, are asked for.
    ///
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    unsafe fn round<V: Vector>(&mut self, i: usize, first: usize, x: &[f32], inverses: [f32; SCALES]) {
        let Grain { span, group, folded, .. } = self.grain;
        let (n, shared, next) = (self.n, span.max(SHARED), self.t + i + 1);
        let [spans, groups] = self.grain.of(shared);
        // Of 16 pairs of codes those that are folded with the pairs half as many behind.
        let mask: [i32; SHARED / 2] =
            from_fn(|i| if 2 * i < I::PER * folds(SHARED / I::PER) { 0x1_0001 } else { 0 });
        for (c, x) in x.chunks_exact(shared).enumerate() {
            let (at, inverse) = (first + c, inverses[c]);
            // SAFETY: the caller's promise is handed on, and LANES divides 16.
            unsafe {
                if next < self.x.tokens() {
                    let next = self.x.place(next).wrapping_add(at * shared);
                    prefetch_kept::<V>(next.cast(), size_of_val(x));
                }
                if !matches!(self.order, Order::Tiles) {
                    let scale = self.scale[at * spans * n + i];
                    for (g, x) in x.chunks_exact(group).enumerate() {
                        let mut lost = V::splat(0.0);
                        for x in x.chunks_exact(V::LANES) {
                            let x = V::load(x.as_ptr());
                            let code = V::round(V::mul(x, V::splat(inverse)));
                            lost = V::fma(V::fma(code, V::splat(-scale), x), V::splat(1.0), lost);
                        }
                        self.lost[(at * groups + g) * n + i] = V::sum(lost);
                    }
                }
                let (mut cross, bias) = (V::zero(), V::splat_int(&(0x1_0001 * I::BIAS)));
                for (k, x) in x.as_chunks::<SHARED>().0.iter().enumerate() {
                    let mut codes = [0; SHARED];
                    for at in (0..SHARED).step_by(V::LANES) {
                        let x = V::mul(V::load(x.as_ptr().add(at)), V::splat(inverse));
                        V::store_codes(codes.as_mut_ptr().add(at), x);
                    }
                    match self.order {
                        Order::Tiles => (),
                        Order::Along => V::arrange(&mut codes),
                        Order::Beside => V::arrange_beside(&mut codes),
                    }
                    let lanes = SHARED / I::PER;
                    let to = (at * (shared / SHARED) + k) * n + i;
                    I::lanes(&codes, &mut self.codes[to * lanes..][..lanes]);
                    if folded {
                        let [x, mates] = [0, SHARED / 2].map(|at| codes.as_ptr().add(at));
                        let biased = V::add_pairs(V::load_sixteen(x), bias);
                        let firsts = V::mul_pairs(biased, V::load_ints(mask.as_ptr()));
                        cross = V::dot(firsts, V::load_sixteen(mates), cross);
                    }
                }
                if folded {
                    let mut lanes = [0_i32; 16];
                    V::store_ints(lanes.as_mut_ptr(), cross);
                    self.cross[at * n + i] = lanes.iter().fold(0, |sum, x| sum.wrapping_sub(*x));
                }
            }
        }
    }
}
