//! An executor that runs two others side by side and stops at the first operation that they disagree on.

use std::{collections::BTreeMap, sync::Mutex};

use crate::{
    Result,
    batch::Token,
    ops::{Chunked, Ddlerp, FileMatrix, Gates, Heads, Kind, Norm, Ops, Product, Rkv, Shift, Wkv4, Wkv6},
    state::State,
};

/// Looks into activations between operations.
pub(crate) trait Peek: Ops<Vector: Clone, Matrix: Clone, Acts: Clone> {
    /// What stands there, `[T, width]`.
    fn peek(&self, b: &mut Self::Batch<'_>, acts: &Self::Acts) -> Vec<f32>;
    /// Puts something there.
    fn poke(&self, b: &mut Self::Batch<'_>, acts: &mut Self::Acts, values: &[f32]);
}

/// `a` is right; `b` may differ from it by a normalized mean square error of `exact`, or `rounded` in what is an input
/// of products, or made of inputs.
pub(crate) struct Lockstep<A, B> {
    a: A,
    b: B,
    exact: f64,
    rounded: f64,
    /// The largest error of each operation.
    seen: Mutex<BTreeMap<String, f64>>,
    /// The states of `b` after the last batch.
    states: Mutex<Vec<State>>,
}

pub(crate) struct Batch<'a, A: Ops + 'a, B: Ops + 'a> {
    a: A::Batch<'a>,
    b: B::Batch<'a>,
    /// The states of `b`, to be taken back when the batch ends.
    states: *mut [State],
}

/// Activations on both sides.
#[derive(Clone)]
pub(crate) struct Both<A, B> {
    a: A,
    b: B,
    kind: Kind,
    /// Behind those of `b`: zeros, which nobody may touch.
    guard: B,
}

/// Activations of a guard.
const GUARD: usize = 32;

/// `Σ (got − want)² / Σ want²`
pub(crate) fn nmse(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - f64::from(*w)).powi(2)).sum();
    error / want.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().max(f64::MIN_POSITIVE)
}

impl<A: Peek + 'static, B: Peek + 'static> Lockstep<A, B> {
    pub(crate) fn new(a: A, b: B, exact: f64, rounded: f64) -> Self {
        Self { a, b, exact, rounded, seen: Mutex::default(), states: Mutex::default() }
    }

    /// The largest error of each operation so far.
    pub(crate) fn seen(&self) -> BTreeMap<String, f64> {
        self.seen.lock().unwrap().clone()
    }

    /// Puts something there on both sides.
    pub(crate) fn fill(&self, b: &mut Batch<'_, A, B>, acts: &mut <Self as Ops>::Acts, values: &[f32]) {
        self.a.poke(&mut b.a, &mut acts.a, values);
        self.b.poke(&mut b.b, &mut acts.b, values);
    }

    /// Compares the states after a batch with those of `b`.
    pub(crate) fn compare_states(&self, want: &[State], limit: f64) {
        let got = self.states.lock().unwrap();
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            self.judge("state", got.as_slice().unwrap(), want.as_slice().unwrap(), limit);
        }
    }

    fn judge(&self, what: &str, got: &[f32], want: &[f32], limit: f64) {
        let error = nmse(got, want);
        assert!(error <= limit, "{what}: NMSE {error:e} is above {limit:e}");
        let mut seen = self.seen.lock().unwrap();
        let most = seen.entry(what.into()).or_default();
        *most = most.max(error);
    }

    /// Compares what an operation has written, and lets `b` go on from what `a` has.
    fn compare(&self, b: &mut Batch<'_, A, B>, what: &str, acts: &mut <Self as Ops>::Acts, limit: f64) {
        let limit = if acts.kind == Kind::Input { self.rounded } else { limit };
        let want = self.a.peek(&mut b.a, &acts.a);
        let got = self.b.peek(&mut b.b, &acts.b);
        self.judge(what, &got, &want, limit);
        let guard = self.b.peek(&mut b.b, &acts.guard);
        assert!(guard.iter().all(|x| *x == 0.0), "{what}: writes behind its activations");
        self.b.poke(&mut b.b, &mut acts.b, &want);
    }
}

type Of<A, B> = Lockstep<A, B>;

fn norms<A: Peek + 'static, B: Peek + 'static>(n: &Norm<Of<A, B>>) -> (Norm<A>, Norm<B>) {
    let ((aw, bw), (ab, bb)) = (n.weight.clone(), n.bias.clone());
    (Norm { weight: aw, bias: ab, eps: n.eps }, Norm { weight: bw, bias: bb, eps: n.eps })
}

fn gates<A: Peek + 'static, B: Peek + 'static>(p: &Gates<Of<A, B>>) -> (Gates<A>, Gates<B>) {
    let [w0, a0, k_k, k_a] = [&p.w0, &p.a0, &p.k_k, &p.k_a].map(Clone::clone);
    let [w2, a2, g2] = [&p.w2, &p.a2, &p.g2].map(Clone::clone);
    let (va, vb) = p.v.clone().map(|(v0, v2)| ((v0.0, v2.0), (v0.1, v2.1))).unzip();
    (
        Gates { w0: w0.0, w2: w2.0, a0: a0.0, a2: a2.0, g2: g2.0, v: va, k_k: k_k.0, k_a: k_a.0 },
        Gates { w0: w0.1, w2: w2.1, a0: a0.1, a2: a2.1, g2: g2.1, v: vb, k_k: k_k.1, k_a: k_a.1 },
    )
}

/// The activations of each side; what is done to those of `a` must be put back.
fn heads<A: Peek + 'static, B: Peek + 'static>(t: &Heads<Of<A, B>>) -> (Heads<A>, Heads<B>) {
    let Heads { r, w, k, v, a, g, kk, v_first, nu } = t;
    let all = [r, w, k, v, a, g, kk, v_first, nu];
    let [r, w, k, v, a, g, kk, v_first, nu] = all.map(|x| x.a.clone());
    let left = Heads { r, w, k, v, a, g, kk, v_first, nu };
    let [r, w, k, v, a, g, kk, v_first, nu] = all.map(|x| x.b.clone());
    (left, Heads { r, w, k, v, a, g, kk, v_first, nu })
}

impl<A: Peek + 'static, B: Peek + 'static> Ops for Lockstep<A, B> {
    type Vector = (A::Vector, B::Vector);
    type Matrix = (A::Matrix, B::Matrix);
    type Acts = Both<A::Acts, B::Acts>;
    type Batch<'a> = Batch<'a, A, B>;

    fn vector(&self, values: Vec<f32>) -> Result<Self::Vector> {
        Ok((self.a.vector(values.clone())?, self.b.vector(values)?))
    }

    fn matrix(&self, w: FileMatrix) -> Result<Self::Matrix> {
        Ok((self.a.matrix(w.clone())?, self.b.matrix(w)?))
    }

    fn rows(&self, w: &Self::Matrix) -> usize {
        self.a.rows(&w.0)
    }

    fn acts(&self, width: usize, kind: Kind) -> Self::Acts {
        let (a, b) = (self.a.acts(width, kind), self.b.acts(width, kind));
        Both { a, b, kind, guard: self.b.acts(GUARD, kind) }
    }

    fn begin<'a>(&'a self, chunk: Chunked<'a>) -> Result<Self::Batch<'a>> {
        let Chunked { tokens, coming, seqs, states, tails, rows, choices, .. } = chunk;
        // They must outlive the batch; `end` takes them back.
        let own = Box::leak(states.to_vec().into_boxed_slice());
        let place: *mut [State] = own;
        let both = |states| Chunked { tokens, coming, seqs, states, tails, rows, choices, chosen: vec![] };
        let (a, b) = (self.a.begin(both(states))?, self.b.begin(both(own))?);
        Ok(Batch { a, b, states: place })
    }

    fn resize(&self, b: &mut Self::Batch<'_>, acts: &mut Self::Acts, tokens: usize) -> Result<()> {
        self.a.resize(&mut b.a, &mut acts.a, tokens)?;
        self.b.resize(&mut b.b, &mut acts.b, tokens)?;
        self.b.resize(&mut b.b, &mut acts.guard, tokens)
    }

    fn end(&self, b: Self::Batch<'_>, wanted: &[&Self::Acts]) -> Result<Vec<Vec<f32>>> {
        let want = self.a.end(b.a, &wanted.iter().map(|w| &w.a).collect::<Vec<_>>())?;
        let got = self.b.end(b.b, &wanted.iter().map(|w| &w.b).collect::<Vec<_>>())?;
        got.iter().zip(&want).for_each(|(got, want)| self.judge("end", got, want, self.rounded));
        // SAFETY: `begin` made a box of it, and the batch that used it has ended.
        *self.states.lock().unwrap() = unsafe { Box::from_raw(b.states) }.into_vec();
        Ok(want)
    }

    fn end_chosen(&self, b: Self::Batch<'_>) -> Result<Vec<Token>> {
        let ids = |tokens: &[Token]| tokens.iter().map(|t| t.id().unwrap()).collect::<Vec<_>>();
        let (want, got) = (self.a.end_chosen(b.a)?, self.b.end_chosen(b.b)?);
        assert_eq!(ids(&got), ids(&want), "sample");
        // SAFETY: as in `end`.
        *self.states.lock().unwrap() = unsafe { Box::from_raw(b.states) }.into_vec();
        Ok(want)
    }

    fn sample(&self, b: &mut Self::Batch<'_>, logits: &Self::Acts) {
        self.a.sample(&mut b.a, &logits.a);
        self.b.sample(&mut b.b, &logits.b);
    }

    fn embed(&self, b: &mut Self::Batch<'_>, emb: &Self::Matrix, ln0: &Norm<Self>, x: &mut Self::Acts) {
        let (na, nb) = norms(ln0);
        self.a.embed(&mut b.a, &emb.0, &na, &mut x.a);
        self.b.embed(&mut b.b, &emb.1, &nb, &mut x.b);
        self.compare(b, "embed", x, self.exact);
    }

    fn shift(
        &self,
        b: &mut Self::Batch<'_>,
        at: (usize, Shift),
        norm: &Norm<Self>,
        mix: &[Self::Vector],
        x: &Self::Acts,
        h: &mut Self::Acts,
        y: &mut [Self::Acts],
    ) {
        let (na, nb) = norms(norm);
        let (ma, mb): (Vec<_>, Vec<_>) = mix.iter().cloned().unzip();
        let (mut ya, mut yb): (Vec<_>, Vec<_>) = y.iter().map(|y| (y.a.clone(), y.b.clone())).unzip();
        self.a.shift(&mut b.a, at, &na, &ma, &x.a, &mut h.a, &mut ya);
        self.b.shift(&mut b.b, at, &nb, &mb, &x.b, &mut h.b, &mut yb);
        if h.kind != Kind::Scratch {
            self.compare(b, "shift, h", h, self.exact);
        }
        for (y, (ya, yb)) in y.iter_mut().zip(ya.into_iter().zip(yb)) {
            (y.a, y.b) = (ya, yb);
            self.compare(b, "shift", y, self.exact);
        }
    }

    fn project(&self, b: &mut Self::Batch<'_>, products: &mut [Product<'_, Self>]) {
        let (mut pa, mut pb) = (vec![], vec![]);
        for Product { w, x, act, y } in products.iter_mut() {
            let Both { a, b, .. } = &mut **y;
            pa.push(Product::<A> { w: &w.0, x: &x.a, act: *act, y: a });
            pb.push(Product::<B> { w: &w.1, x: &x.b, act: *act, y: b });
        }
        self.a.project(&mut b.a, &mut pa);
        self.b.project(&mut b.b, &mut pb);
        for p in products {
            self.compare(b, &format!("product, {:?}", p.act), p.y, self.rounded);
        }
    }

    fn gates(
        &self,
        b: &mut Self::Batch<'_>,
        p: &Gates<Self>,
        n: usize,
        low: &[Self::Acts; 4],
        t: &mut Heads<Self>,
    ) {
        let (pa, pb) = gates(p);
        let (la, lb) = (low.each_ref().map(|x| x.a.clone()), low.each_ref().map(|x| x.b.clone()));
        let (mut ta, mut tb) = heads(t);
        self.a.gates(&mut b.a, &pa, n, &la, &mut ta);
        self.b.gates(&mut b.b, &pb, n, &lb, &mut tb);
        // `b` may leave k, kk and v_first to its wkv7, and then needs k as it was.
        (t.k.a, t.kk.a, t.v_first.a, t.nu.a) = (ta.k, ta.kk, ta.v_first, ta.nu);
        for (to, a) in [(&mut t.w, ta.w), (&mut t.v, ta.v), (&mut t.a, ta.a), (&mut t.g, ta.g)] {
            to.a = a;
            self.compare(b, "gates", to, self.rounded);
        }
    }

    fn wkv7(
        &self,
        b: &mut Self::Batch<'_>,
        layer: usize,
        norm: &Norm<Self>,
        r_k: &Self::Vector,
        n: usize,
        t: &Heads<Self>,
        y: &mut Self::Acts,
    ) {
        let (na, nb) = norms(norm);
        let (ta, tb) = heads(t);
        self.a.wkv7(&mut b.a, layer, &na, &r_k.0, n, &ta, &mut y.a);
        self.b.wkv7(&mut b.b, layer, &nb, &r_k.1, n, &tb, &mut y.b);
        self.compare(b, "wkv7", y, self.exact);
    }

    fn tails(&self, b: &mut Self::Batch<'_>, layer: usize, x: &mut Self::Acts, y: &mut Self::Acts) {
        self.a.tails(&mut b.a, layer, &mut x.a, &mut y.a);
        self.b.tails(&mut b.b, layer, &mut x.b, &mut y.b);
        self.compare(b, "tails", x, 0.0);
        self.compare(b, "tails", y, 0.0);
    }

    fn norm_rows(
        &self,
        b: &mut Self::Batch<'_>,
        norm: &Norm<Self>,
        rows: &[usize],
        x: &Self::Acts,
        y: &mut Self::Acts,
    ) {
        let (na, nb) = norms(norm);
        self.a.norm_rows(&mut b.a, &na, rows, &x.a, &mut y.a);
        self.b.norm_rows(&mut b.b, &nb, rows, &x.b, &mut y.b);
        self.compare(b, "norm_rows", y, self.exact);
    }

    fn ddlerp(
        &self,
        b: &mut Self::Batch<'_>,
        p: &Ddlerp<Self>,
        h: &Self::Acts,
        before: &Self::Acts,
        low: &[Self::Acts; 5],
        y: &mut [Self::Acts],
    ) {
        let ((ma, mb), (wa, wb)) = (sides(&p.mix), sides(&p.w2));
        let (la, lb) = (low.each_ref().map(|x| x.a.clone()), low.each_ref().map(|x| x.b.clone()));
        let (mut ya, mut yb): (Vec<_>, Vec<_>) = y.iter().map(|y| (y.a.clone(), y.b.clone())).unzip();
        self.a.ddlerp(&mut b.a, &Ddlerp { mix: ma, w2: wa }, &h.a, &before.a, &la, &mut ya);
        self.b.ddlerp(&mut b.b, &Ddlerp { mix: mb, w2: wb }, &h.b, &before.b, &lb, &mut yb);
        for (y, (ya, yb)) in y.iter_mut().zip(ya.into_iter().zip(yb)) {
            (y.a, y.b) = (ya, yb);
            self.compare(b, "ddlerp", y, self.rounded);
        }
    }

    fn wkv6(
        &self,
        b: &mut Self::Batch<'_>,
        layer: usize,
        p: &Wkv6<Self>,
        n: usize,
        t: &Rkv<'_, Self>,
        y: &mut Self::Acts,
    ) {
        let (na, nb) = norms(&p.ln_x);
        let (pa, pb) = (
            Wkv6 { w0: p.w0.0.clone(), u: p.u.0.clone(), ln_x: na },
            Wkv6 { w0: p.w0.1.clone(), u: p.u.1.clone(), ln_x: nb },
        );
        let Rkv { r, k, v, w, g } = *t;
        let ta = Rkv { r: &r.a, k: &k.a, v: &v.a, w: w.map(|w| &w.a), g: g.map(|g| &g.a) };
        let tb = Rkv { r: &r.b, k: &k.b, v: &v.b, w: w.map(|w| &w.b), g: g.map(|g| &g.b) };
        self.a.wkv6(&mut b.a, layer, &pa, n, &ta, &mut y.a);
        self.b.wkv6(&mut b.b, layer, &pb, n, &tb, &mut y.b);
        self.compare(b, "wkv6", y, self.exact);
    }

    fn wkv4(
        &self,
        b: &mut Self::Batch<'_>,
        layer: usize,
        p: &Wkv4<Self>,
        rkv: [&Self::Acts; 3],
        y: &mut Self::Acts,
    ) {
        let (pa, pb) =
            (Wkv4 { u: p.u.0.clone(), w: p.w.0.clone() }, Wkv4 { u: p.u.1.clone(), w: p.w.1.clone() });
        self.a.wkv4(&mut b.a, layer, &pa, rkv.map(|x| &x.a), &mut y.a);
        self.b.wkv4(&mut b.b, layer, &pb, rkv.map(|x| &x.b), &mut y.b);
        self.compare(b, "wkv4", y, self.exact);
    }

    fn add_gated(
        &self,
        b: &mut Self::Batch<'_>,
        g: &Self::Acts,
        y: &Self::Acts,
        scale: f32,
        x: &mut Self::Acts,
    ) {
        self.a.add_gated(&mut b.a, &g.a, &y.a, scale, &mut x.a);
        self.b.add_gated(&mut b.b, &g.b, &y.b, scale, &mut x.b);
        self.compare(b, "add_gated", x, self.exact);
    }
}

/// The sides of several pairs.
fn sides<A: Clone, B: Clone, const N: usize>(pairs: &[(A, B); N]) -> ([A; N], [B; N]) {
    (pairs.each_ref().map(|x| x.0.clone()), pairs.each_ref().map(|x| x.1.clone()))
}
