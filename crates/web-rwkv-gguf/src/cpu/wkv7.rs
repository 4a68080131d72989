//! wkv7: the recurrence of a time mix, one task for each head of each sequence.

use crate::{
    batch::Sequence,
    ops::{self, Chunked, Heads},
};

use super::{
    Acts, Cpu, Level, Shared,
    level::{Kernel, Lanes, Vector, dispatch},
    math::{Exact, Fast, Math},
    rows::{Norm, ReadOut, Row},
    scalar, wkv_states,
};

#[allow(clippy::too_many_arguments)]
pub(super) fn wkv7(
    cpu: &Cpu,
    b: &mut Chunked<'_>,
    layer: usize,
    norm: &ops::Norm<Cpu>,
    r_k: &[f32],
    n: usize,
    t: &Heads<Cpu>,
    y: &mut Acts,
) {
    let c = y.width;
    let heads = c / n;
    let seqs = wkv_states(b, layer);
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
        let out = Out { norm, r_k, t, y, at, n };
        if cpu.level() == Level::Scalar {
            scalar::wkv7(seq, &head, &mut s, |i, x| out.write::<Exact>(i, x));
        } else {
            dispatch(cpu.level(), Recurrence { seq, head, s: &mut s, out });
        }
        for (j, s) in s.chunks_exact(n).enumerate() {
            // SAFETY: as above.
            unsafe { state.part(j, at, n) }.copy_from_slice(s);
        }
    });
}

/// What becomes of the head's read-out.
struct Out<'a> {
    norm: &'a ops::Norm<Cpu>,
    r_k: &'a [f32],
    t: &'a Heads<Cpu>,
    y: Shared<f32>,
    at: usize,
    n: usize,
}

impl Out<'_> {
    #[inline(always)]
    fn write<M: Math>(&self, i: usize, x: &[f32]) {
        let (head, t) = (self.at..self.at + self.n, self.t);
        // SAFETY: this task alone has this head of this token.
        let y = unsafe { self.y.part(i, self.at, self.n) };
        let (weight, bias) = (&self.norm.weight[head.clone()], &self.norm.bias[head.clone()]);
        ReadOut {
            norm: Norm { weight, bias, eps: self.norm.eps, x, y },
            r: &t.r.row(i)[head.clone()],
            k: &t.k.row(i)[head.clone()],
            r_k: &self.r_k[head.clone()],
            v: &t.v.row(i)[head.clone()],
            g: &t.g.row(i)[head],
        }
        .run::<M>();
    }
}

struct Recurrence<'a> {
    seq: Sequence,
    head: scalar::Head<'a>,
    s: &'a mut [f32], // Sᵀ [N, N]
    out: Out<'a>,
}

impl Kernel for Recurrence<'_> {
    type Output = ();
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
            self.out.write::<Fast>(t, &y);
        }
    }
}

impl Recurrence<'_> {
    /// One token for `B` vectors of value indices from `i`.
    #[inline(always)]
    unsafe fn columns<V: Lanes, const B: usize>(&mut self, t: usize, i: usize, y: &mut [f32]) {
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
                    *sa = V::fma(V::load(s.add(j * n + i + b * V::LANES)), kk, *sa);
                }
            }
            let mut out = [V::splat(0.0); B];
            for j in 0..n {
                let [r, w, k, kka] =
                    [*r.add(j), *w.add(j), *k.add(j), *kk.add(j) * *a.add(j)].map(|x| V::splat(x));
                for b in 0..B {
                    let (s, v) = (s.add(j * n + i + b * V::LANES), V::load(v.add(i + b * V::LANES)));
                    let new = V::fma(v, k, V::fma(sa[b], kka, V::mul(V::load(s), w)));
                    V::store(s, new);
                    out[b] = V::fma(new, r, out[b]);
                }
            }
            for (b, out) in out.into_iter().enumerate() {
                V::store(y.as_mut_ptr().add(i + b * V::LANES), out);
            }
        }
    }
}
