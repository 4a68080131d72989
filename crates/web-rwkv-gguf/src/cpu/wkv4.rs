//! wkv4: the recurrence of RWKV-4's time mix, in which every channel is alone.

use crate::ops::{Chunked, Wkv4};

use super::{
    Acts, Cpu,
    math::Math,
    rows::{Row, row},
    wkv_states,
};

/// Channels of a task.
const BLOCK: usize = 64;

pub(super) fn wkv4(
    cpu: &Cpu,
    b: &mut Chunked<'_>,
    layer: usize,
    p: &Wkv4<Cpu>,
    [r, k, v]: [&Acts; 3],
    y: &mut Acts,
) {
    let c = y.width;
    let blocks = c.div_ceil(BLOCK);
    let seqs = wkv_states(b, layer);
    let y = y.shared();
    let work = r.tokens() * c * 60 / (seqs.len() * blocks).max(1);
    cpu.each(seqs.len() * blocks, work, |task| {
        let (seq, state) = seqs[task / blocks];
        let at = task % blocks * BLOCK;
        let n = BLOCK.min(c - at);
        // SAFETY: each task has channels of a state of its own.
        let [a, b, top] = [0, 1, 2].map(|row| unsafe { state.part(row, at, n) });
        for t in seq.tokens() {
            let [r, k, v] = [r, k, v].map(|x| &x.row(t)[at..at + n]);
            // SAFETY: as above, and each sequence has tokens of its own.
            let y = unsafe { y.part(t, at, n) };
            let (u, w) = (&p.u[at..at + n], &p.w[at..at + n]);
            row(cpu.level(), Token { u, w, r, k, v, a: &mut *a, b: &mut *b, top: &mut *top, y });
        }
    });
}

/// One token of some channels. The sums a and b of the formula are kept divided by `e^top`, where top is the largest
/// exponent so far, so that nothing overflows: `a = Σ e^(k−top) v`, `b = Σ e^(k−top)`.
struct Token<'a> {
    u: &'a [f32],
    w: &'a [f32],
    r: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    a: &'a mut [f32],
    b: &'a mut [f32],
    top: &'a mut [f32],
    y: &'a mut [f32],
}

impl Row for Token<'_> {
    #[inline(always)]
    fn run<M: Math>(self) {
        let n = self.u.len();
        let (u, w, r, k, v) = (self.u, &self.w[..n], &self.r[..n], &self.k[..n], &self.v[..n]);
        let (a, b, top, y) = (&mut self.a[..n], &mut self.b[..n], &mut self.top[..n], &mut self.y[..n]);
        for i in 0..n {
            let now = u[i] + k[i];
            let q = top[i].max(now);
            let (before, here) = (M::exp(top[i] - q), M::exp(now - q));
            y[i] = r[i] * (before * a[i] + here * v[i]) / (before * b[i] + here);
            let past = top[i] + w[i];
            let q = past.max(k[i]);
            let (before, here) = (M::exp(past - q), M::exp(k[i] - q));
            a[i] = before * a[i] + here * v[i];
            b[i] = before * b[i] + here;
            top[i] = q;
        }
    }
}
