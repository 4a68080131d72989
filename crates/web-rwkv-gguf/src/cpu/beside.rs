//! Products with weights of which eight rows stand side by side: lanes lie along the rows, and no sum goes across them.

use std::{hint, marker::PhantomData};

use crate::format::{
    Bytes,
    beside::{Beside, ROWS},
};

use super::{
    across::Packed,
    dot::{eight_parts, prefetch},
    level::{Kernel, Lanes, Vector},
    rounded::{Integers, SHARED, Token},
};

/// How far ahead weights are asked for.
const AHEAD: usize = 2048;

/// A number of each of eight rows for each group of a block.
type Factors = [[f32; ROWS]; 16];

/// `R` times eight rows of blocks times `T` tokens. With codes u = code + BIAS, and x = x' + lost where x' is rounded,
/// `Σ (code · scale + offset) x` over a group is `scale (Σ u x' + m Σ lost − BIAS Σ x) + offset Σ x`, with the middle m of all u
/// for each of them.
pub(super) struct Few<'a, Q, const R: usize, const T: usize> {
    pub(super) eights: [&'a [[Q; ROWS]]; R],
    pub(super) x: [Token<'a>; T],
}

impl<Q: Beside, const R: usize, const T: usize> Kernel for Few<'_, Q, R, T> {
    type Output = [[[f32; ROWS]; R]; T];
    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> Self::Output {
        // SAFETY: this runs inside `dispatch`.
        unsafe { self.sums::<V, V::Eight>() }
    }
}

impl<Q: Beside, const R: usize, const T: usize> Few<'_, Q, R, T> {
    #[inline(always)]
    unsafe fn sums<V: Vector<Eight = E>, E: Vector>(self) -> [[[f32; ROWS]; R]; T] {
        let Self { eights, x } = self;
        let (blocks, groups) = (eights[0].len(), Q::LEN / Q::GROUP);
        const { assert!(Q::LEN == 8 * SHARED) };
        assert!(E::LANES == ROWS && eights.iter().all(|rows| rows.len() == blocks));
        assert!(x.iter().all(|x| x.has(blocks * Q::LEN, Q::GROUP)));
        let (bias, middle) = (f32::from(Q::BIAS), f32::from(Q::BIAS + Q::MIDDLE));
        let mut sums = [[[0.0; ROWS]; R]; T];
        // SAFETY: the caller's promise is handed on; rows have as many blocks, activations as many values and groups.
        unsafe {
            let mut acc = [[E::splat(0.0); T]; R];
            let (mut scale, mut offset): (Factors, Factors) = ([[0.0; ROWS]; 16], [[0.0; ROWS]; 16]);
            for b in 0..blocks {
                let mut own = [[0.0; 16]; T];
                for (own, x) in own.iter_mut().zip(&x) {
                    for g in (0..groups).step_by(ROWS) {
                        let [sum, lost] = [x.sums, x.lost].map(|x| E::load(x.as_ptr().add(b * groups + g)));
                        let sum = E::mul(sum, E::splat(-bias));
                        E::store(own.as_mut_ptr().add(g), E::fma(lost, E::splat(middle), sum));
                    }
                }
                for r in 0..R {
                    // LLVM would read them before the loop, and keep what has no register in memory, eight times as long.
                    let (x, own) = hint::black_box((&x, &own));
                    let eight: *const u8 = eights[r].as_ptr().add(b).cast();
                    Q::factors_beside::<V::Bytes>(eight, &mut scale, &mut offset);
                    macro_rules! part {
                        ($i:expr) => {
                            let next = eight.wrapping_add(AHEAD + $i * size_of::<Q>());
                            prefetch::<V>(next, size_of::<Q>());
                            for half in 0..SHARED / Q::GROUP {
                                let mut sums = [E::zero(); T];
                                let words = Q::GROUP / 4;
                                for w in half * words..(half + 1) * words {
                                    let codes = Q::biased_beside::<V::Bytes>(eight, $i, w);
                                    for t in 0..T {
                                        let x = x[t].codes.as_ptr().add((8 * b + $i) * SHARED / 2);
                                        sums[t] = V::dot_beside(codes, x, w, sums[t]);
                                    }
                                }
                                let g = $i * (SHARED / Q::GROUP) + half;
                                for t in 0..T {
                                    let x_scale = E::splat(*x[t].scale.as_ptr().add(b * groups + g));
                                    let sum = E::fma(E::to_float(sums[t]), x_scale, E::splat(own[t][g]));
                                    acc[r][t] = E::fma(sum, E::load(scale[g].as_ptr()), acc[r][t]);
                                    if Q::OFFSETS {
                                        let x_sum = E::splat(*x[t].sums.as_ptr().add(b * groups + g));
                                        acc[r][t] = E::fma(E::load(offset[g].as_ptr()), x_sum, acc[r][t]);
                                    }
                                }
                            }
                        };
                    }
                    eight_parts!(part);
                }
            }
            for t in 0..T {
                for r in 0..R {
                    E::store(sums[t][r].as_mut_ptr(), acc[r][t]);
                }
            }
        }
        sums
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
        let (mut scale, mut offset): (Factors, Factors) = ([[0.0; ROWS]; 16], [[0.0; ROWS]; 16]);
        for (b, block) in blocks.iter().enumerate() {
            // SAFETY: this runs inside `dispatch`, and y has the room.
            unsafe {
                let eight: *const u8 = block.as_ptr().cast();
                Q::factors_beside::<V::Bytes>(eight, &mut scale, &mut offset);
                for i in 0..8 {
                    for w in 0..8 {
                        let g = (32 * i + 4 * w) / Q::GROUP;
                        let scale = V::load(scale[g].as_ptr());
                        let offset =
                            V::fma(scale, V::splat(-f32::from(Q::BIAS)), V::load(offset[g].as_ptr()));
                        let codes = Q::biased_beside::<V::Bytes>(eight, i, w);
                        let values = V::decode_beside(codes, scale, offset);
                        let y = y.as_mut_ptr().add((b * Q::LEN + 32 * i + 4 * w) * width);
                        for (c, value) in values.into_iter().enumerate() {
                            V::store(y.add(c * width), value);
                        }
                    }
                }
            }
        }
    }
}

/// Packs blocks of eight rows in number `register` of `packed`, from lane `lane` on.
pub(super) struct Pack<'a, Q, I> {
    pub(super) blocks: &'a [[Q; ROWS]],
    pub(super) packed: &'a mut Packed,
    pub(super) register: usize,
    pub(super) lane: usize,
    pub(super) integers: PhantomData<I>,
}

impl<Q: Beside, I: Integers> Kernel for Pack<'_, Q, I> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { blocks, packed, register, lane, .. } = self;
        assert!(V::Eight::LANES == ROWS && lane + ROWS <= V::LANES);
        let (groups, words) = (Q::LEN / Q::GROUP, 4 / I::PER);
        let (codes, scales, offsets) = packed.register::<I>(register, V::LANES);
        let codes = codes.chunks_exact_mut(words * Q::LEN / 4 * V::LANES);
        let factors =
            scales.chunks_exact_mut(groups * V::LANES).zip(offsets.chunks_exact_mut(groups * V::LANES));
        let (mut scale, mut offset): (Factors, Factors) = ([[0.0; ROWS]; 16], [[0.0; ROWS]; 16]);
        for ((block, codes), (scales, offsets)) in blocks.iter().zip(codes).zip(factors) {
            let eight: *const u8 = block.as_ptr().cast();
            // SAFETY: this runs inside `dispatch`, here and below.
            unsafe { Q::factors_beside::<V::Bytes>(eight, &mut scale, &mut offset) };
            let factors = scales.chunks_exact_mut(V::LANES).zip(offsets.chunks_exact_mut(V::LANES));
            for (g, (scales, offsets)) in factors.enumerate() {
                for r in 0..ROWS {
                    scales[lane + r] = scale[g][r];
                    offsets[lane + r] = offset[g][r] + f32::from(Q::MIDDLE) * scale[g][r];
                }
            }
            for (n, to) in codes.chunks_exact_mut(words * V::LANES).enumerate() {
                let mut four = [0; 4 * ROWS];
                // SAFETY: as above, and each word has a lane for each row.
                unsafe {
                    let codes = Q::biased_beside::<V::Bytes>(eight, n / 8, n % 8);
                    codes.less(Q::BIAS + Q::MIDDLE).store(&mut four);
                    let four: *const i8 = four.as_ptr().cast();
                    if I::PER == 4 {
                        V::Eight::store_ints(to.as_mut_ptr().add(lane), V::Eight::load_ints(four.cast()));
                    } else {
                        for (to, pairs) in to.chunks_exact_mut(V::LANES).zip(V::Eight::widen_quads(four)) {
                            V::Eight::store_ints(to.as_mut_ptr().add(lane), pairs);
                        }
                    }
                }
            }
        }
        if lane + ROWS == V::LANES {
            // SAFETY: as above.
            unsafe { packed.sum_up::<V, I>(register) };
        }
    }
}
