//! wkv7: the recurrence of a time mix, one task for each head of each sequence.

use crate::{
    batch::Sequence,
    ops::{Heads, Norm},
    state::State,
};

use super::{
    Acts, Cpu, Level, Shared,
    level::{Kernel, Vector, dispatch},
    scalar,
};

#[allow(clippy::too_many_arguments)]
pub(super) fn wkv7(
    cpu: &Cpu,
    seqs: &[Sequence],
    states: &mut [State],
    layer: usize,
    norm: &Norm<Cpu>,
    r_k: &[f32],
    n: usize,
    t: &Heads<Cpu>,
    y: &mut Acts,
) {
    let c = y.width;
    let heads = c / n;
    let seqs: Vec<_> = seqs
        .iter()
        .filter(|seq| seq.len > 0)
        .map(|&seq| (seq, Shared { data: states[seq.slot].layer(layer).1.as_mut_ptr(), width: c }))
        .collect();
    let y = y.shared();
    let work = t.r.tokens() * c * n * 8 / (seqs.len() * heads).max(1);
    cpu.each(seqs.len() * heads, work, |task| {
        let (seq, state) = seqs[task / heads];
        let at = task % heads * n;
        let head = scalar::Head { r: &t.r, w: &t.w, k: &t.k, v: &t.v, a: &t.a, kk: &t.kk, at, n };
        // The head's columns of Sᵀ side by side: their stride in the state would evict them from the cache.
        let mut s = vec![0.0; n * n];
        for (j, s) in s.chunks_exact_mut(n).enumerate() {
            // SAFETY: each task has a head of a state of its own, here and below.
            s.copy_from_slice(unsafe { state.part(j, at, n) });
        }
        let read_out = |i: usize, sum: &[f32]| {
            // SAFETY: as above.
            let y = unsafe { y.part(i, at, n) };
            scalar::norm(&norm.weight[at..], &norm.bias[at..], norm.eps, sum, y);
            let part = |x: &'_ [f32]| -> *const f32 { x[at..at + n].as_ptr() };
            let of = |x: *const f32, j: usize| -> f32 {
                // SAFETY: `part` checked that n values stand there.
                unsafe { *x.add(j) }
            };
            let (r, k, v, g) = (part(t.r.row(i)), part(t.k.row(i)), part(t.v.row(i)), part(t.g.row(i)));
            let bonus: f32 = (0..n).map(|j| of(r, j) * of(k, j) * r_k[at + j]).sum();
            for (j, y) in y.iter_mut().enumerate() {
                *y = (*y + bonus * of(v, j)) * of(g, j);
            }
        };
        if cpu.level() == Level::Scalar {
            scalar::wkv7(seq, &head, &mut s, n, read_out);
        } else {
            dispatch(cpu.level(), Recurrence { seq, head, s: &mut s, read_out });
        }
        for (j, s) in s.chunks_exact(n).enumerate() {
            // SAFETY: as above.
            unsafe { state.part(j, at, n) }.copy_from_slice(s);
        }
    });
}

struct Recurrence<'a, F> {
    seq: Sequence,
    head: scalar::Head<'a>,
    s: &'a mut [f32], // Sᵀ [N, N]
    read_out: F,
}

impl<F: FnMut(usize, &[f32])> Kernel for Recurrence<'_, F> {
    #[inline(always)]
    unsafe fn run<V: Vector>(mut self) {
        let n = self.head.n;
        let mut y = vec![0.0; n];
        for t in self.seq.tokens() {
            let mut i = 0;
            // SAFETY: `columns` stays inside the first `n` columns.
            unsafe {
                while i + 4 * V::LANES <= n {
                    self.columns::<V, 4>(t, i, &mut y);
                    i += 4 * V::LANES;
                }
                while i + V::LANES <= n {
                    self.columns::<V, 1>(t, i, &mut y);
                    i += V::LANES;
                }
                while i < n {
                    self.columns::<f32, 1>(t, i, &mut y);
                    i += 1;
                }
            }
            (self.read_out)(t, &y);
        }
    }
}

impl<F> Recurrence<'_, F> {
    /// One token for `B` vectors of value indices from `i`.
    #[inline(always)]
    unsafe fn columns<V: Vector, const B: usize>(&mut self, t: usize, i: usize, y: &mut [f32]) {
        let (n, at) = (self.head.n, self.head.at);
        let h = &self.head;
        let part = |x: &'_ Acts| x.row(t)[at..at + n].as_ptr();
        let (r, w, k, v, a, kk) = (part(h.r), part(h.w), part(h.k), part(h.v), part(h.a), part(h.kk));
        assert!(i + B * V::LANES <= n && self.s.len() == n * n && y.len() == n);
        let s = self.s.as_mut_ptr();
        // SAFETY: j < n and i + B · LANES ≤ n, so that every access lies inside what was just checked.
        unsafe {
            let mut sa = [V::splat(0.0); B];
            for j in 0..n {
                let kk = V::splat(-*kk.add(j));
                for (b, sa) in sa.iter_mut().enumerate() {
                    *sa = sa.fma(V::load(s.add(j * n + i + b * V::LANES)), kk);
                }
            }
            let mut out = [V::splat(0.0); B];
            for j in 0..n {
                let [r, w, k, kka] =
                    [*r.add(j), *w.add(j), *k.add(j), *kk.add(j) * *a.add(j)].map(|x| V::splat(x));
                for b in 0..B {
                    let (s, v) = (s.add(j * n + i + b * V::LANES), V::load(v.add(i + b * V::LANES)));
                    let new = V::load(s).mul(w).fma(sa[b], kka).fma(v, k);
                    new.store(s);
                    out[b] = out[b].fma(new, r);
                }
            }
            for (b, out) in out.into_iter().enumerate() {
                out.store(y.as_mut_ptr().add(i + b * V::LANES));
            }
        }
    }
}
