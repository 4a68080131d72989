//! Products in f32 for many tokens with inputs of which many are zero, as after `relu²`: each token leaves out the columns that it
//! has a zero for.

use super::{
    Acts, Cpu, Shared,
    dot::prefetch_kept,
    gemm::PANEL,
    level::{Kernel, Vector, dispatch},
};

/// Columns of a word of masks: their weights of a panel stay in the first-level cache.
pub(super) const WORD: usize = 64;

/// How many tokens ahead inputs are asked for.
const AHEAD: usize = 2;

/// Registers of a panel, at most.
const REGISTERS: usize = PANEL / 4;

/// Which inputs are not zero: a bit for each, `[columns / 64, T]`.
pub(super) struct Masks {
    words: Vec<u64>,
    tokens: usize,
}

impl Masks {
    /// The masks of x, if of ten inputs so many are zero.
    pub(super) fn new(cpu: &Cpu, x: &Acts, columns: usize, of_ten: usize) -> Option<Self> {
        let enough = |zeros: usize, of: usize| 10 * zeros >= of_ten * of;
        // One token tells whether it is worth looking.
        let row = &x.row(x.tokens() / 2)[..columns];
        if !enough(row.iter().filter(|x| **x == 0.0).count(), columns) {
            return None;
        }
        let tokens = x.tokens();
        let mut words = vec![0; tokens * columns.div_ceil(WORD)];
        let masks = Shared::new(&mut words, tokens);
        cpu.each(tokens, columns, |t| {
            dispatch(cpu.level, Row { x: &x.row(t)[..columns], masks, t });
        });
        let set: usize = words.iter().map(|mask| mask.count_ones() as usize).sum();
        enough(tokens * columns - set, tokens * columns).then_some(Self { words, tokens })
    }
}

/// Makes the masks of token t.
struct Row<'a> {
    x: &'a [f32],
    masks: Shared<u64>,
    t: usize,
}

impl Kernel for Row<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for (i, x) in self.x.chunks(WORD).enumerate() {
            let mut word = 0;
            for (bit, x) in x.iter().enumerate() {
                word |= u64::from(*x != 0.0) << bit;
            }
            // SAFETY: each task has tokens of its own.
            unsafe { self.masks.part(i, self.t, 1)[0] = word };
        }
    }
}

/// `sums += x wᵀ` of at most 64 columns for all tokens, where `first` says that nothing was summed yet.
pub(super) struct Columns<'a> {
    pub(super) w: &'a [f32], // [columns, PANEL]
    pub(super) x: &'a Acts,
    pub(super) masks: &'a Masks,
    /// The first column, a multiple of 64.
    pub(super) at: usize,
    pub(super) sums: &'a mut [f32], // [T, PANEL]
    pub(super) first: bool,
}

impl Kernel for Columns<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { w, x, masks: Masks { words, tokens }, at, sums, first } = self;
        let (registers, columns) = (PANEL / V::LANES, w.len() / PANEL);
        let masks = &words[at / WORD * tokens..][..*tokens];
        for ((t, sums), &mask) in sums.chunks_exact_mut(PANEL).enumerate().zip(masks) {
            let x = &x.data[t * x.width + at..][..columns];
            assert!(mask.checked_shr(columns as u32).unwrap_or(0) == 0);
            // SAFETY: this runs inside `dispatch`; x and w have a column for each bit, and sums have all registers.
            unsafe {
                let ahead = x.as_ptr().wrapping_add(AHEAD * self.x.width).cast::<u8>();
                prefetch_kept::<V>(ahead, 4 * columns);
                let (x, w, sums) = (x.as_ptr(), w.as_ptr(), sums.as_mut_ptr());
                let mut acc = [V::splat(0.0); REGISTERS];
                let acc = &mut acc[..registers];
                if !first {
                    for (r, acc) in acc.iter_mut().enumerate() {
                        *acc = V::load(sums.add(r * V::LANES));
                    }
                }
                let mut mask = mask;
                while mask != 0 {
                    let k = mask.trailing_zeros() as usize;
                    let (x, w) = (V::splat(*x.add(k)), w.add(k * PANEL));
                    for (r, acc) in acc.iter_mut().enumerate() {
                        *acc = V::fma(V::load(w.add(r * V::LANES)), x, *acc);
                    }
                    mask &= mask - 1;
                }
                for (r, acc) in acc.iter().enumerate() {
                    V::store(sums.add(r * V::LANES), *acc);
                }
            }
        }
    }
}
