//! Operations that take one token, or one head of one, by itself. Each is written once over [`Math`].

use super::{
    Level,
    level::{Kernel, Vector, dispatch},
    math::{Exact, Fast, Math},
};

/// An operation on one row.
pub(super) trait Row {
    /// Must be `#[inline(always)]`.
    fn run<M: Math>(self);
}

/// Runs an operation at a level.
pub(super) fn row(level: Level, row: impl Row) {
    if level == Level::Scalar { row.run::<Exact>() } else { dispatch(level, AtLevel(row)) }
}

struct AtLevel<R>(R);

impl<R: Row> Kernel for AtLevel<R> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        self.0.run::<Fast>();
    }
}

/// `y = (x − mean) / √(var + eps) · weight + bias`
pub(super) struct Norm<'a> {
    pub(super) weight: &'a [f32],
    pub(super) bias: &'a [f32],
    pub(super) eps: f32,
    pub(super) x: &'a [f32],
    pub(super) y: &'a mut [f32],
}

impl Norm<'_> {
    /// Runs with what becomes of each result.
    #[inline(always)]
    fn run_with<M: Math>(self, result: impl Fn(usize, f32) -> f32) {
        let n = self.x.len();
        let (x, y) = (self.x, &mut self.y[..n]);
        let (weight, bias) = (&self.weight[..n], &self.bias[..n]);
        let mean = M::sum(n, |i| x[i]) / n as f32;
        let var = M::sum(n, |i| (x[i] - mean) * (x[i] - mean)) / n as f32;
        let scale = 1.0 / (var + self.eps).sqrt();
        for i in 0..n {
            y[i] = result(i, (x[i] - mean) * scale * weight[i] + bias[i]);
        }
    }
}

impl Row for Norm<'_> {
    #[inline(always)]
    fn run<M: Math>(self) {
        self.run_with::<M>(|_, y| y);
    }
}

/// `y = exp((x − largest) / temperature)`
pub(super) struct Exps<'a> {
    pub(super) largest: f32,
    pub(super) temperature: f32,
    pub(super) x: &'a [f32],
    pub(super) y: &'a mut [f32],
}

impl Row for Exps<'_> {
    #[inline(always)]
    fn run<M: Math>(self) {
        let Self { largest, temperature, x, y } = self;
        y.iter_mut().zip(x).for_each(|(y, x)| *y = M::exp((x - largest) / temperature));
    }
}

/// `y = h + m (before − h)`
pub(super) struct Mix<'a> {
    pub(super) mix: &'a [f32],
    pub(super) h: &'a [f32],
    pub(super) before: &'a [f32],
    pub(super) y: &'a mut [f32],
}

impl Row for Mix<'_> {
    #[inline(always)]
    fn run<M: Math>(self) {
        let n = self.h.len();
        let (mix, h, before, y) = (&self.mix[..n], self.h, &self.before[..n], &mut self.y[..n]);
        for i in 0..n {
            y[i] = h[i] + mix[i] * (before[i] - h[i]);
        }
    }
}

/// `y = h + (m + y)(before − h)`
pub(super) struct MixOf<'a> {
    pub(super) mix: &'a [f32],
    pub(super) h: &'a [f32],
    pub(super) before: &'a [f32],
    pub(super) y: &'a mut [f32],
}

impl Row for MixOf<'_> {
    #[inline(always)]
    fn run<M: Math>(self) {
        let n = self.h.len();
        let (mix, h, before, y) = (&self.mix[..n], self.h, &self.before[..n], &mut self.y[..n]);
        for i in 0..n {
            y[i] = h[i] + (mix[i] + y[i]) * (before[i] - h[i]);
        }
    }
}

/// `x = (x + g y) scale`
pub(super) struct AddGated<'a> {
    pub(super) g: &'a [f32],
    pub(super) y: &'a [f32],
    pub(super) scale: f32,
    pub(super) x: &'a mut [f32],
}

impl Row for AddGated<'_> {
    #[inline(always)]
    fn run<M: Math>(self) {
        let n = self.x.len();
        let (g, y) = (&self.g[..n], &self.y[..n]);
        for i in 0..n {
            self.x[i] = (self.x[i] + g[i] * y[i]) * self.scale;
        }
    }
}

/// `w = exp(−e^-½ σ(w0 + w))`
pub(super) struct Decay<'a> {
    pub(super) w0: &'a [f32],
    pub(super) w: &'a mut [f32],
}

impl Row for Decay<'_> {
    #[inline(always)]
    fn run<M: Math>(self) {
        let most = -(-0.5f32).exp();
        for (w, w0) in self.w.iter_mut().zip(self.w0) {
            *w = M::exp(most * M::sigmoid(w0 + *w));
        }
    }
}

/// `v += (v_first − v) σ(v0 + nu)`
pub(super) struct Residual<'a> {
    pub(super) v0: &'a [f32],
    pub(super) nu: &'a [f32],
    pub(super) v_first: &'a [f32],
    pub(super) v: &'a mut [f32],
}

impl Row for Residual<'_> {
    #[inline(always)]
    fn run<M: Math>(self) {
        let n = self.v0.len();
        let (v0, nu, first, v) = (self.v0, &self.nu[..n], &self.v_first[..n], &mut self.v[..n]);
        for i in 0..n {
            v[i] += (first[i] - v[i]) * M::sigmoid(v0[i] + nu[i]);
        }
    }
}

/// `a = σ(a0 + a)`, `kk = k k_k / max(‖k k_k‖, 1e-12)` per head of size N, `k = k (1 + (a − 1) k_a)`
pub(super) struct Keys<'a> {
    pub(super) a0: &'a [f32],
    pub(super) k_k: &'a [f32],
    pub(super) k_a: &'a [f32],
    pub(super) head_size: usize,
    pub(super) a: &'a mut [f32],
    pub(super) k: &'a mut [f32],
    pub(super) kk: &'a mut [f32],
}

impl Row for Keys<'_> {
    #[inline(always)]
    fn run<M: Math>(self) {
        let n = self.a0.len();
        let (a0, k_k, k_a) = (self.a0, &self.k_k[..n], &self.k_a[..n]);
        let (a, k, kk) = (&mut self.a[..n], &mut self.k[..n], &mut self.kk[..n]);
        for i in 0..n {
            a[i] = M::sigmoid(a0[i] + a[i]);
            kk[i] = k[i] * k_k[i];
            k[i] *= 1.0 + (a[i] - 1.0) * k_a[i];
        }
        for kk in kk.chunks_exact_mut(self.head_size) {
            let norm = M::sum(kk.len(), |i| kk[i] * kk[i]).sqrt().max(1e-12);
            kk.iter_mut().for_each(|x| *x /= norm);
        }
    }
}

/// `y = (norm(x) + (Σ r k r_k) v) g` for one head, where x is what the recurrence gave.
pub(super) struct ReadOut<'a> {
    pub(super) norm: Norm<'a>,
    pub(super) r: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) r_k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) g: &'a [f32],
}

impl Row for ReadOut<'_> {
    #[inline(always)]
    fn run<M: Math>(self) {
        let n = self.norm.x.len();
        let (r, k, r_k) = (&self.r[..n], &self.k[..n], &self.r_k[..n]);
        let (v, g) = (&self.v[..n], &self.g[..n]);
        let bonus = M::sum(n, |i| r[i] * k[i] * r_k[i]);
        self.norm.run_with::<M>(|i, y| (y + bonus * v[i]) * g[i]);
    }
}
