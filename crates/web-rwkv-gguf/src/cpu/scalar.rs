//! The specification of the kernels of products and of the recurrence: plain loops.

use crate::{
    batch::Sequence,
    ops::{Act, Product},
};

use super::{
    Acts, Cpu, Matrix,
    math::{Exact, Math},
    wkv6,
};

/// Puts sums of a product through its activation and writes them.
#[inline(always)]
pub(super) fn write<'a, M: Math>(act: Act, sums: &[f32], y: impl IntoIterator<Item = &'a mut f32>) {
    let each = sums.iter().zip(y);
    match act {
        Act::Id => each.for_each(|(sum, y)| *y = *sum),
        Act::Tanh => each.for_each(|(sum, y)| *y = M::tanh(*sum)),
        Act::Sigmoid => each.for_each(|(sum, y)| *y = M::sigmoid(*sum)),
        // A NaN stays one.
        Act::SquaredRelu => each.for_each(|(sum, y)| *y = if *sum < 0.0 { 0.0 } else { sum * sum }),
        Act::Add => each.for_each(|(sum, y)| *y += sum),
    }
}

/// `y = act(W x)`, sums in f64.
pub(super) fn project(product: &mut Product<'_, Cpu>) {
    let Matrix { rows, columns, .. } = *product.w;
    let mut row = vec![0.0; columns];
    for i in 0..rows {
        product.w.row(i, &mut row);
        for t in 0..product.x.tokens() {
            let sum: f64 = row.iter().zip(product.x.row(t)).map(|(w, x)| *w as f64 * *x as f64).sum();
            write::<Exact>(product.act, &[sum as f32], [&mut product.y.row_mut(t)[i]]);
        }
    }
}

/// The activations of one head that its recurrence reads, each `[T, C]` with the head at `at`.
pub(super) struct Head<'a> {
    pub(super) r: &'a Acts,
    pub(super) w: &'a Acts,
    pub(super) k: &'a Acts,
    pub(super) v: &'a Acts,
    pub(super) a: &'a Acts,
    pub(super) kk: &'a Acts,
    pub(super) at: usize,
    pub(super) n: usize,
}

/// `S = S diag(w) − (S kk)(kk a)ᵀ + v kᵀ`, `y = S r` for one head of one sequence. `s` is Sᵀ, `[N, N]`.
pub(super) fn wkv7(seq: Sequence, h: &Head<'_>, s: &mut [f32], mut y: impl FnMut(usize, &[f32])) {
    let (mut sa, mut out) = (vec![0.0; h.n], vec![0.0; h.n]);
    for t in seq.tokens() {
        let part = |x: &'_ Acts| -> Vec<f32> { x.row(t)[h.at..h.at + h.n].to_vec() };
        let (r, w, k, v, a, kk) = (part(h.r), part(h.w), part(h.k), part(h.v), part(h.a), part(h.kk));
        for i in 0..h.n {
            sa[i] = -(0..h.n).map(|j| s[j * h.n + i] * kk[j]).sum::<f32>();
        }
        for i in 0..h.n {
            for j in 0..h.n {
                let s = &mut s[j * h.n + i];
                *s = *s * w[j] + sa[i] * (kk[j] * a[j]) + v[i] * k[j];
            }
            out[i] = (0..h.n).map(|j| s[j * h.n + i] * r[j]).sum::<f32>();
        }
        y(t, &out);
    }
}

/// `y = (S + v (u k)ᵀ) r`, `S = S diag(w) + v kᵀ` for one head of one sequence. `s` is Sᵀ, `[N, N]`.
pub(super) fn wkv6(seq: Sequence, h: &wkv6::Head<'_>, s: &mut [f32], mut y: impl FnMut(usize, &[f32])) {
    let (mut w, mut out) = (vec![0.0; h.n], vec![0.0; h.n]);
    for t in seq.tokens() {
        let [r, k, v, u] = h.rkvu(t);
        h.decay::<Exact>(t, &mut w);
        for i in 0..h.n {
            out[i] = (0..h.n).map(|j| (s[j * h.n + i] + v[i] * u[j] * k[j]) * r[j]).sum::<f32>();
            for j in 0..h.n {
                let s = &mut s[j * h.n + i];
                *s = *s * w[j] + v[i] * k[j];
            }
        }
        y(t, &out);
    }
}
