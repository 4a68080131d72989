//! wkv7: the recurrence of a time mix, one task for each head of each sequence.

use crate::{
    batch::Sequence,
    ops::{self, Chunked, Heads},
};

use super::{
    Acts, Cpu, Level, Shared,
    dot::prefetch_kept,
    level::{Kernel, Lanes, Vector, dispatch},
    lines::Lines,
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
    let head = |at| scalar::Head { r: &t.r, w: &t.w, k: &t.k, v: &t.v, a: &t.a, kk: &t.kk, at, n };
    let out = |at| Out { norm, r_k, t, y, at, n };
    let work = t.r.tokens() * c * n * 8 / (seqs.len() * heads).max(1);
    if t.r.tokens() == seqs.len() && cpu.level() != Level::Scalar {
        // Single tokens take a head's columns of Sᵀ as they stand in the state, and a thread takes several heads, since it
        // asks for the next one's ahead.
        let parts = heads.min(2 * cpu.threads());
        return cpu.each(seqs.len() * parts, work * heads / parts, |task| {
            let ((seq, state), part) = (seqs[task / parts], task % parts);
            for at in (heads * part / parts..heads * (part + 1) / parts).map(|head| head * n) {
                let s = state.place(0, at, (n - 1) * c + n);
                dispatch(cpu.level(), Recurrence { seq, head: head(at), s, stride: c, out: out(at) });
            }
        });
    }
    cpu.each(seqs.len() * heads, work, |task| {
        let (seq, state) = seqs[task / heads];
        let at = task % heads * n;
        // More tokens take them side by side: their stride in the state would evict them from the cache.
        let mut s = Lines::new(n * n);
        for (j, s) in s.chunks_exact_mut(n).enumerate() {
            // SAFETY: each task has a head of a state of its own, here and below.
            s.copy_from_slice(unsafe { state.part(j, at, n) });
        }
        let (head, out) = (head(at), out(at));
        if cpu.level() == Level::Scalar {
            scalar::wkv7(seq, &head, &mut s, |i, x| out.write::<Exact>(i, x));
        } else {
            dispatch(cpu.level(), Recurrence { seq, head, s: s.as_mut_ptr(), stride: n, out });
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
    s: *mut f32, // Sᵀ [N, N], which this task alone has
    stride: usize,
    out: Out<'a>,
}

impl Kernel for Recurrence<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let n = self.head.n;
        let (mut sa, mut kka, mut y) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
        macro_rules! columns {
            ($method:ident($($x:expr),*)) => {
                let mut i = 0;
                while i + 4 * V::LANES <= n {
                    self.$method::<V, 4>(i, $($x),*);
                    i += 4 * V::LANES;
                }
                while i + V::LANES <= n {
                    self.$method::<V, 1>(i, $($x),*);
                    i += V::LANES;
                }
                while i < n {
                    self.$method::<f32, 1>(i, $($x),*);
                    i += 1;
                }
            };
        }
        // SAFETY: these stay inside the first `n` columns.
        unsafe {
            columns!(first(&mut sa));
            for t in self.seq.tokens() {
                if t + 1 < self.seq.tokens().end {
                    self.fetch::<V>(t + 1);
                }
                let (kk, a) = (self.part(self.head.kk, t), self.part(self.head.a, t));
                kka.iter_mut().zip(kk).zip(a).for_each(|((y, kk), a)| *y = -kk * a);
                columns!(token(t, &kka, &mut sa, &mut y));
                self.out.write::<Fast>(t, &y);
            }
        }
    }
}

impl Recurrence<'_> {
    fn part<'b>(&self, x: &'b Acts, t: usize) -> &'b [f32] {
        &x.row(t)[self.head.at..][..self.head.n]
    }

    /// Asks for all of a token, which is far from the last one.
    #[inline(always)]
    unsafe fn fetch<V: Vector>(&self, t: usize) {
        let Heads { r, w, k, v, a, g, kk, .. } = self.out.t;
        for x in [r, w, k, v, a, kk, g] {
            let row = self.part(x, t);
            // SAFETY: the caller's promise is handed on.
            unsafe { prefetch_kept::<V>(row.as_ptr().cast(), size_of_val(row)) };
        }
    }

    /// `sa = S kk` of the first token, for `B` vectors of value indices from `i`.
    #[inline(always)]
    unsafe fn first<V: Lanes, const B: usize>(&self, i: usize, sa: &mut [f32]) {
        let kk = self.part(self.head.kk, self.seq.start);
        assert!(i + B * V::LANES <= sa.len() && sa.len() == kk.len());
        // SAFETY: S has as many rows as kk numbers, and as many columns.
        unsafe {
            let mut sums = [V::splat(0.0); B];
            for (j, kk) in kk.iter().enumerate() {
                let s = self.s.add(j * self.stride + i);
                V::fetch(s.wrapping_add(self.head.n), B);
                for (b, sum) in sums.iter_mut().enumerate() {
                    *sum = V::fma(V::load(s.add(b * V::LANES)), V::splat(*kk), *sum);
                }
            }
            for (b, sum) in sums.into_iter().enumerate() {
                V::store(sa.as_mut_ptr().add(i + b * V::LANES), sum);
            }
        }
    }

    /// One token for `B` vectors of value indices from `i`; `sa`, which is `S kk`, becomes that of the next token, and `kka` is `−kk a`.
    #[inline(always)]
    unsafe fn token<V: Lanes, const B: usize>(
        &self,
        i: usize,
        t: usize,
        kka: &[f32],
        sa: &mut [f32],
        y: &mut [f32],
    ) {
        let h = &self.head;
        let next = (t + 1).min(self.seq.tokens().end - 1);
        let part = |x, t| self.part(x, t).as_ptr();
        let (r, w, k, v) = (part(h.r, t), part(h.w, t), part(h.k, t), part(h.v, t));
        let (kka, kk_next) = (&kka[..h.n], part(h.kk, next));
        assert!(i + B * V::LANES <= h.n && sa.len() == h.n && y.len() == h.n);
        // SAFETY: i + B · LANES ≤ n, and S has as many rows and columns.
        unsafe {
            let (mut out, mut sums) = ([V::splat(0.0); B], [V::splat(0.0); B]);
            // Before the loop, since S might be where they are for all that LLVM knows.
            let (mut before, mut values) = (out, out);
            for b in 0..B {
                before[b] = V::load(sa.as_ptr().add(i + b * V::LANES));
                values[b] = V::load(v.add(i + b * V::LANES));
            }
            for j in 0..h.n {
                let (r, w, k) = (V::splat(*r.add(j)), V::splat(*w.add(j)), V::splat(*k.add(j)));
                let (kka, kk_next) = (V::splat(kka[j]), V::splat(*kk_next.add(j)));
                for b in 0..B {
                    let s = self.s.add(j * self.stride + i + b * V::LANES);
                    let new = V::fma(values[b], k, V::fma(before[b], kka, V::mul(V::load(s), w)));
                    V::store(s, new);
                    out[b] = V::fma(new, r, out[b]);
                    sums[b] = V::fma(new, kk_next, sums[b]);
                }
            }
            for b in 0..B {
                V::store(y.as_mut_ptr().add(i + b * V::LANES), out[b]);
                V::store(sa.as_mut_ptr().add(i + b * V::LANES), sums[b]);
            }
        }
    }
}
