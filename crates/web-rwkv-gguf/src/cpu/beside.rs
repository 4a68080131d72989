//! Products with weights of which eight rows stand side by side: lanes lie along the rows, and no sum goes across them.

use std::{hint, marker::PhantomData, ptr};

use crate::format::{
    Bits, Eights, Format,
    beside::{Beside, ROWS},
};

use super::{
    across::Packed,
    dot::{eight_parts, prefetch, prefetch_kept},
    level::{Kernel, Lanes, Vector},
    rounded::{Integers, SHARED, Token},
};

/// How far ahead weights are asked for that are read in streams of so many bytes. What is asked for past the end of one is lost.
pub(super) fn ahead(stream: usize) -> usize {
    (stream / 32).clamp(2048, 6144)
}

/// `R` times eight rows of blocks times `T` tokens. With codes u = code + BIAS, and x = x' + lost where x' is rounded,
/// `Σ (code · scale + offset) x` over a group is `scale (Σ u x' + m Σ lost − BIAS Σ x) + offset Σ x`, with the middle m of all u
/// for each of them.
pub(super) struct Few<'a, Q, const R: usize, const T: usize> {
    pub(super) eights: [&'a [[Q; ROWS]]; R],
    pub(super) x: [Token<'a>; T],
    /// See [`ahead`].
    pub(super) ahead: usize,
}

impl<Q: Beside, const R: usize, const T: usize> Kernel for Few<'_, Q, R, T> {
    type Output = [[[f32; ROWS]; R]; T];
    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> Self::Output {
        let Self { eights, x, ahead } = self;
        let (blocks, groups) = (eights[0].len(), Q::LEN / Q::GROUP);
        const { assert!(Q::LEN == 8 * SHARED) };
        // How many eights a register has lanes for.
        let together = V::LANES / ROWS;
        assert!(V::LANES.is_multiple_of(ROWS) && R.is_multiple_of(together));
        assert!(eights.iter().all(|rows| rows.len() == blocks));
        assert!(x.iter().all(|x| x.has(blocks * Q::LEN, Q::GROUP)));
        let (bias, middle) = (f32::from(Q::BIAS), f32::from(Q::BIAS + Q::MIDDLE));
        let mut sums = [[[0.0; ROWS]; R]; T];
        // SAFETY: this runs inside `dispatch`; rows have as many blocks, activations as many values and groups.
        unsafe {
            let mut acc = [[V::splat(0.0); T]; R]; // of registers
            for b in 0..blocks {
                let mut own = [[0.0; 16]; T];
                for (own, x) in own.iter_mut().zip(&x) {
                    for g in (0..groups).step_by(V::Eight::LANES) {
                        let [sum, lost] =
                            [x.sums, x.lost].map(|x| V::Eight::load(x.as_ptr().add(b * groups + g)));
                        let sum = V::Eight::mul(sum, V::Eight::splat(-bias));
                        V::Eight::store(
                            own.as_mut_ptr().add(g),
                            V::Eight::fma(lost, V::Eight::splat(middle), sum),
                        );
                    }
                }
                for r in 0..R / together {
                    // LLVM would read them before the loop, and keep what has no register in memory, eight times as long.
                    let (x, own) = hint::black_box((&x, &own));
                    let mut places = [ptr::null(); R];
                    for (place, rows) in places.iter_mut().zip(&eights[r * together..]) {
                        *place = rows.as_ptr().add(b).cast::<u8>();
                    }
                    let places = &places[..together];
                    let (mut scale, mut offset) = ([V::splat(0.0); 16], [V::splat(0.0); 16]);
                    Q::factors_beside::<V::Int>(places, &mut scale, &mut offset);
                    macro_rules! part {
                        ($i:expr) => {
                            for place in places {
                                prefetch::<V>(
                                    place.wrapping_add(ahead + $i * size_of::<Q>()),
                                    size_of::<Q>(),
                                );
                            }
                            for half in 0..SHARED / Q::GROUP {
                                let mut sums = [[V::zero(); 2]; T];
                                let words = Q::GROUP / 4;
                                for w in half * words..(half + 1) * words {
                                    let codes = Q::biased_beside::<V::Int>(places, $i, w);
                                    for t in 0..T {
                                        let x = x[t].codes.as_ptr().add((8 * b + $i) * SHARED / 2);
                                        sums[t] = V::dot_beside(codes, x, w, sums[t]);
                                    }
                                }
                                let g = $i * (SHARED / Q::GROUP) + half;
                                for t in 0..T {
                                    let x_scale = V::splat(*x[t].scale.as_ptr().add(b * groups + g));
                                    let sum = V::to_float(V::sum_beside(sums[t]));
                                    let sum = V::fma(sum, x_scale, V::splat(own[t][g]));
                                    acc[r][t] = V::fma(sum, scale[g], acc[r][t]);
                                    if Q::OFFSETS {
                                        let x_sum = V::splat(*x[t].sums.as_ptr().add(b * groups + g));
                                        acc[r][t] = V::fma(offset[g], x_sum, acc[r][t]);
                                    }
                                }
                            }
                        };
                    }
                    eight_parts!(part);
                }
            }
            for t in 0..T {
                let sums = sums[t].as_flattened_mut();
                for r in 0..R / together {
                    V::store(sums[r * V::LANES..][..V::LANES].as_mut_ptr(), acc[r][t]);
                }
            }
        }
        sums
    }
}

/// Puts blocks of eight rows side by side, which begin `apart` bytes behind one another.
pub(super) struct Turn<'a> {
    pub(super) format: Format,
    pub(super) rows: &'a [u8],
    pub(super) apart: usize,
    /// How many bytes behind these the next rows are, which are asked for.
    pub(super) next: usize,
    pub(super) eight: &'a mut [u8],
}

impl Kernel for Turn<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { format, rows, apart, next, eight } = self;
        let (words, rest) = (format.block_bytes() / 4, format.block_bytes() % 4);
        assert!(V::Eight::LANES == ROWS && words >= ROWS);
        for (i, to) in eight.chunks_exact_mut(ROWS * format.block_bytes()).enumerate() {
            let from = &rows[i * format.block_bytes()..];
            let (to, rests) = to.split_at_mut(ROWS * 4 * words);
            assert!(from.len() >= (ROWS - 1) * apart + format.block_bytes());
            for word in (0..words).step_by(ROWS) {
                let word = word.min(words - ROWS);
                // SAFETY: this runs inside `dispatch`; so many words are in a block, and as many of eight in both.
                unsafe {
                    let (from, to) = (from.as_ptr().add(4 * word), to.as_mut_ptr().add(ROWS * 4 * word));
                    V::Eight::transpose(from.cast(), apart, to.cast(), ROWS * 4);
                }
            }
            for r in 0..ROWS {
                // SAFETY: this runs inside `dispatch`.
                unsafe {
                    prefetch_kept::<V>(from.as_ptr().wrapping_add(r * apart + next), format.block_bytes())
                };
                rests[rest * r..][..rest].copy_from_slice(&from[r * apart + 4 * words..][..rest]);
            }
        }
    }
}

/// Decodes blocks of eight rows: `[K, ROWS]`, of which each begins `width` numbers behind the one before.
pub(super) struct Decode<'a, Q> {
    pub(super) blocks: &'a [[Q; ROWS]],
    pub(super) y: &'a mut [f32],
    pub(super) width: usize,
}

impl<Q: Beside> Kernel for Decode<'_, Q> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { blocks, y, width } = self;
        assert!(V::LANES == ROWS && y.len() >= (blocks.len() * Q::LEN - 1) * width + ROWS);
        for (b, block) in blocks.iter().enumerate() {
            // SAFETY: this runs inside `dispatch`, and y has the room.
            unsafe {
                let (mut scale, mut offset) = ([V::splat(0.0); 16], [V::splat(0.0); 16]);
                let eight = &[block.as_ptr().cast()];
                Q::factors_beside::<V::Int>(eight, &mut scale, &mut offset);
                for i in 0..8 {
                    for w in 0..8 {
                        let g = (32 * i + 4 * w) / Q::GROUP;
                        let offset = V::fma(scale[g], V::splat(-f32::from(Q::BIAS)), offset[g]);
                        let codes = Q::biased_beside::<V::Int>(eight, i, w).numbers();
                        let y = y.as_mut_ptr().add((b * Q::LEN + 32 * i + 4 * w) * width);
                        for (c, code) in codes.into_iter().enumerate() {
                            V::store(y.add(c * width), V::fma(code, scale[g], offset));
                        }
                    }
                }
            }
        }
    }
}

/// What [`Vector::scale_quads`] multiplies codes up to `largest` with, as pairs of the same.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn quarters<V: Vector>(x: V, largest: usize) -> V::Int {
    // SAFETY: the caller's promise is handed on.
    unsafe {
        let x = V::mul(x, V::splat((4 * largest) as f32));
        V::round_pairs(x, x)
    }
}

/// Writes what [`Vector::scale_quads`] makes of codes less their middle: those of a group, which is the first or the second half of part `i`
/// of the blocks, or all of it.
///
/// # Safety
/// As [`Vector`] and [`Beside`], and blocks of as many rows as there are lanes have room there.
#[inline(always)]
pub(super) unsafe fn scale_group<V: Vector, Q: Beside>(
    places: &[*const u8],
    i: usize,
    half: usize,
    times: V::Int,
    offset: V::Int,
    to: *mut i32,
) {
    let words = Q::GROUP / 4;
    for w in half * words..(half + 1) * words {
        // SAFETY: the caller's promise is handed on.
        unsafe {
            let quads = Q::biased_beside::<V::Int>(places, i, w).less(Q::BIAS + Q::MIDDLE);
            let [first, last] = V::scale_quads(quads, Q::LARGEST.ilog2(), times, offset);
            let to = to.add((8 * i + w) * 2 * V::LANES);
            V::store_ints(to, first);
            V::store_ints(to.add(V::LANES), last);
        }
    }
}

/// Packs blocks of as many eights of rows as there are in a register as number `register` of `packed`; the others are not looked at.
pub(super) struct Pack<'a, Q, I> {
    pub(super) eights: [&'a [[Q; ROWS]]; 2],
    /// How many bytes behind these the rows of the next register are, which are asked for.
    pub(super) next: usize,
    pub(super) packed: &'a mut Packed,
    pub(super) register: usize,
    pub(super) integers: PhantomData<I>,
}

impl<Q: Beside, I: Integers> Kernel for Pack<'_, Q, I> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { eights, next, packed, register, .. } = self;
        let (groups, spans, steps) = (Q::LEN / Q::GROUP, Q::LEN / packed.grain.span, Q::LEN / I::PER);
        let (codes, scales, offsets) = packed.register::<I>(register, V::LANES);
        for b in 0..eights[0].len() {
            let places: [*const u8; 2] = [eights[0][b].as_ptr().cast(), eights[1][b].as_ptr().cast()];
            let places = &places[..V::LANES / ROWS];
            // SAFETY: this runs inside `dispatch`, and all eights have as many blocks.
            unsafe {
                for place in places {
                    prefetch::<V>(place.wrapping_add(next), ROWS * size_of::<Q>());
                }
                let (mut scale, mut offset) = ([V::splat(0.0); 16], [V::splat(0.0); 16]);
                Q::factors_beside::<V::Int>(places, &mut scale, &mut offset);
                let [(common, whole), _] = Q::whole::<V::Int>(places);
                let scales = &mut scales[b * spans * V::LANES..][..spans * V::LANES];
                for (scales, own) in scales.chunks_exact_mut(V::LANES).zip(scale) {
                    V::store(scales.as_mut_ptr(), if I::PER == 2 { common } else { own });
                }
                if Q::OFFSETS {
                    let offsets = &mut offsets[b * groups * V::LANES..][..groups * V::LANES];
                    for (g, offsets) in offsets.chunks_exact_mut(V::LANES).enumerate() {
                        let offset = V::fma(scale[g], V::splat(f32::from(Q::MIDDLE)), offset[g]);
                        V::store(offsets.as_mut_ptr(), offset);
                    }
                }
                let codes = codes[b * steps * V::LANES..][..steps * V::LANES].as_mut_ptr();
                macro_rules! part {
                    ($i:expr) => {
                        for half in 0..SHARED / Q::GROUP {
                            let g = $i * (SHARED / Q::GROUP) + half;
                            if I::PER == 2 {
                                let times = quarters(whole[g / 4].numbers()[g % 4], Q::LARGEST);
                                scale_group::<V, Q>(places, $i, half, times, V::zero(), codes);
                            } else {
                                let words = Q::GROUP / 4;
                                for w in half * words..(half + 1) * words {
                                    let quads = Q::biased_beside::<V::Int>(places, $i, w);
                                    let to = codes.add((8 * $i + w) * V::LANES);
                                    V::store_ints(to, quads.less(Q::BIAS + Q::MIDDLE));
                                }
                            }
                        }
                    };
                }
                eight_parts!(part);
            }
        }
        // SAFETY: as above.
        unsafe { packed.sum_up::<V, I>(register) };
    }
}
