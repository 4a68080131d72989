//! wkv6: the recurrence of the time mixes of RWKV-5 and 6, one task for each head of each sequence.

use crate::{
    batch::Sequence,
    ops::{Chunked, Rkv, Wkv6},
};

use super::{
    Acts, Cpu, Level, Shared,
    level::{Kernel, Lanes, Vector, dispatch},
    math::{Exact, Fast, Math},
    rows::{Norm, Row},
    scalar, wkv_states,
};

pub(super) fn wkv6(
    cpu: &Cpu,
    b: &mut Chunked<'_>,
    layer: usize,
    p: &Wkv6<Cpu>,
    n: usize,
    t: &Rkv<'_, Cpu>,
    y: &mut Acts,
) {
    let c = y.width;
    let heads = c / n;
    let seqs = wkv_states(b, layer);
    let y = y.shared();
    let work = t.r.tokens() * c * n * 6 / (seqs.len() * heads).max(1);
    cpu.each(seqs.len() * heads, work, |task| {
        let (seq, state) = seqs[task / heads];
        let head = Head { p, t, at: task % heads * n, n };
        // The head's columns of Sᵀ side by side: their stride in the state would evict them from the cache.
        let mut s = vec![0.0; n * n];
        for (j, s) in s.chunks_exact_mut(n).enumerate() {
            // SAFETY: each task has a head of a state of its own, here and below.
            s.copy_from_slice(unsafe { state.part(j, head.at, n) });
        }
        if cpu.level() == Level::Scalar {
            scalar::wkv6(seq, &head, &mut s, |i, x| head.write::<Exact>(i, x, y));
        } else {
            dispatch(cpu.level(), Recurrence { seq, head: &head, s: &mut s, y });
        }
        for (j, s) in s.chunks_exact(n).enumerate() {
            // SAFETY: as above.
            unsafe { state.part(j, head.at, n) }.copy_from_slice(s);
        }
    });
}

/// One head: its weights and its part of the activations.
pub(super) struct Head<'a> {
    p: &'a Wkv6<Cpu>,
    t: &'a Rkv<'a, Cpu>,
    at: usize,
    pub(super) n: usize,
}

impl Head<'_> {
    fn part<'b>(&self, x: &'b [f32]) -> &'b [f32] {
        &x[self.at..self.at + self.n]
    }

    /// r, k, v and u of a token.
    pub(super) fn rkvu(&self, t: usize) -> [&[f32]; 4] {
        let [r, k, v] = [self.t.r, self.t.k, self.t.v].map(|x| self.part(x.row(t)));
        [r, k, v, self.part(&self.p.u)]
    }

    /// `w = exp(−exp(w0 + w))`
    #[inline(always)]
    pub(super) fn decay<M: Math>(&self, t: usize, w: &mut [f32]) {
        let w0 = self.part(&self.p.w0);
        match self.t.w {
            Some(more) => {
                let more = self.part(more.row(t));
                w.iter_mut().zip(w0).zip(more).for_each(|((w, w0), more)| *w = M::exp(-M::exp(w0 + more)));
            }
            None => w.iter_mut().zip(w0).for_each(|(w, w0)| *w = M::exp(-M::exp(*w0))),
        }
    }

    /// `y = norm(x) silu(g)`
    #[inline(always)]
    fn write<M: Math>(&self, t: usize, x: &[f32], y: Shared<f32>) {
        // SAFETY: one task alone has this head of this token.
        let y = unsafe { y.part(t, self.at, self.n) };
        let norm = &self.p.ln_x;
        let (weight, bias) = (self.part(&norm.weight), self.part(&norm.bias));
        Norm { weight, bias, eps: norm.eps, x, y: &mut *y }.run::<M>();
        if let Some(g) = self.t.g {
            y.iter_mut().zip(self.part(g.row(t))).for_each(|(y, g)| *y *= g * M::sigmoid(*g));
        }
    }
}

struct Recurrence<'a> {
    seq: Sequence,
    head: &'a Head<'a>,
    s: &'a mut [f32], // Sᵀ [N, N]
    y: Shared<f32>,
}

impl Kernel for Recurrence<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(mut self) {
        let n = self.head.n;
        let (mut w, mut y) = (vec![0.0; n], vec![0.0; n]);
        for t in self.seq.tokens() {
            if self.head.t.w.is_some() || t == self.seq.start {
                self.head.decay::<Fast>(t, &mut w);
            }
            let mut i = 0;
            // SAFETY: `columns` stays inside the first `n` columns.
            unsafe {
                while i + 4 * V::LANES <= n {
                    self.columns::<V, 4>(t, i, &w, &mut y);
                    i += 4 * V::LANES;
                }
                while i + V::LANES <= n {
                    self.columns::<V, 1>(t, i, &w, &mut y);
                    i += V::LANES;
                }
                while i < n {
                    self.columns::<f32, 1>(t, i, &w, &mut y);
                    i += 1;
                }
            }
            self.head.write::<Fast>(t, &y, self.y);
        }
    }
}

impl Recurrence<'_> {
    /// One token for `B` vectors of value indices from `i`.
    #[inline(always)]
    unsafe fn columns<V: Lanes, const B: usize>(&mut self, t: usize, i: usize, w: &[f32], y: &mut [f32]) {
        let n = self.head.n;
        let [r, k, v, u] = self.head.rkvu(t);
        let bonus = Fast::sum(n, |j| r[j] * u[j] * k[j]);
        assert!(
            i + B * V::LANES <= n && self.s.len() == n * n && y.len() == n && w.len() == n && v.len() == n
        );
        let s = self.s.as_mut_ptr();
        // SAFETY: j < n and i + B · LANES ≤ n, so that every access lies inside what was just checked.
        unsafe {
            let mut value = [V::splat(0.0); B];
            let mut out = [V::splat(0.0); B];
            for b in 0..B {
                value[b] = V::load(v.as_ptr().add(i + b * V::LANES));
                out[b] = V::mul(value[b], V::splat(bonus));
            }
            for j in 0..n {
                let [r, k, w] = [r[j], k[j], w[j]].map(|x| V::splat(x));
                for b in 0..B {
                    let s = s.add(j * n + i + b * V::LANES);
                    let old = V::load(s);
                    out[b] = V::fma(old, r, out[b]);
                    V::store(s, V::fma(old, w, V::mul(value[b], k)));
                }
            }
            for (b, out) in out.into_iter().enumerate() {
                V::store(y.as_mut_ptr().add(i + b * V::LANES), out);
            }
        }
    }
}
