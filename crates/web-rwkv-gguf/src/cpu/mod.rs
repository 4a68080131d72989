//! The CPU executor.

mod across;
mod acts;
mod beside;
#[cfg(test)]
pub(crate) mod cases;
mod dot;
mod gemm;
mod level;
mod lines;
mod math;
mod pool;
mod profile;
mod project;
mod requantized;
mod rounded;
mod rows;
mod scalar;
mod sparse;
mod wkv4;
mod wkv6;
mod wkv7;

pub use level::Level;

use std::sync::Arc;

use crate::{
    Result,
    batch::{Sequence, Token},
    device::OpTime,
    format::{self, beside::ROWS as EIGHT},
    load::Moves,
    ops::{
        Chunked, Ddlerp, FileMatrix as Matrix, Gates, Heads, Kind, Norm, Ops, Product, Rkv, Shift, Wkv4, Wkv6,
    },
    state::State,
};
use acts::{Acts, Shifted};
use level::{Vector, dispatch};
use lines::Lines;
use pool::Pool;
use profile::{Profile, Timer};
use rows::{AddGated, Decay, Keys, MixOf, Residual, row};

/// Products of fewer operations than this are not worth waking other threads.
const SMALL: usize = 1 << 15;

/// Runs operations on the threads of this machine.
pub(crate) struct Cpu {
    level: Level,
    /// Whether products of many tokens may round activations to 8 bits.
    fast: bool,
    /// See [`Level::folds`].
    folds: bool,
    pool: Pool,
    /// Weights that are not yet where they are read fastest.
    moves: Moves,
    profile: Option<Profile>,
    watch: Option<Watch>,
}

/// `exp((x − largest) / temperature)`, of which softmax gives the shares, to within 2.5e-7 with the best instructions of this
/// machine.
pub(crate) fn exps(x: &[f32], largest: f32, temperature: f32) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    row(Level::best(), rows::Exps { largest, temperature, x, y: &mut y });
    y
}

/// Is told of each product the bytes of the weights, and each row that they are multiplied with.
pub(crate) type Watch = Box<dyn Fn(&[u8], &[f32]) + Send + Sync>;

impl Matrix {
    #[inline(always)]
    fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.columns).expect("checked when the model was opened")
    }

    fn row(&self, i: usize, out: &mut [f32]) {
        format::decode(self.format, self.part(i, 0, self.columns), out);
    }

    /// The bytes of so many values, which are whole blocks.
    #[inline(always)]
    fn bytes(&self, values: usize) -> usize {
        values / self.format.block_len() * self.format.block_bytes()
    }

    /// The bytes of values `at..at + len` of row `i`, which are whole blocks.
    #[inline(always)]
    fn part(&self, i: usize, at: usize, len: usize) -> &[u8] {
        &self.data[i * self.row_bytes() + self.bytes(at)..][..self.bytes(len)]
    }

    /// Its rows in eights.
    #[inline(always)]
    fn eights(&self) -> EightRows<'_> {
        EightRows { w: self, moved: self.data.beside() }
    }
}

/// A matrix of which eight rows stand side by side, or come to.
struct EightRows<'a> {
    w: &'a Matrix,
    moved: Option<&'a [u8]>,
}

impl EightRows<'_> {
    /// Of several eights, by their first rows, the bytes of values `at..at + len`. They are put side by side in `turned` unless they
    /// stand so; those `next` rows behind are asked for then.
    ///
    /// # Safety
    /// This runs inside `dispatch`.
    #[inline(always)]
    unsafe fn parts<'a, V: Vector, const N: usize>(
        &'a self,
        first: [usize; N],
        next: usize,
        (at, len): (usize, usize),
        turned: &'a mut [Lines<u8>; N],
    ) -> [&'a [u8]; N] {
        debug_assert!(first.iter().all(|first| first.is_multiple_of(EIGHT)));
        let &Matrix { format, ref data, .. } = self.w;
        let (apart, at, len) = (self.w.row_bytes(), self.w.bytes(at), self.w.bytes(len));
        if let Some(moved) = self.moved {
            return first.map(|row| &moved[row * apart + EIGHT * at..][..EIGHT * len]);
        }
        for (row, eight) in first.iter().zip(&mut *turned) {
            eight.resize(EIGHT * len);
            let rows = &data[row * apart + at..][..(EIGHT - 1) * apart + len];
            // SAFETY: the caller's promise is handed on.
            unsafe { V::call(beside::Turn { format, rows, apart, next: next * apart, eight }) };
        }
        turned.each_ref().map(|eight| &**eight)
    }
}

/// Activations that tasks write to, each to places of its own.
struct Shared<T> {
    data: *mut T,
    len: usize,
    width: usize,
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: whoever makes slices of it answers for their being disjoint.
unsafe impl<T> Sync for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Send for Shared<T> {}

impl<T> Shared<T> {
    fn new(data: &mut [T], width: usize) -> Self {
        Self { data: data.as_mut_ptr(), len: data.len(), width }
    }

    /// Part `at..at + len` of row `t`.
    ///
    /// # Safety
    /// No other slice that lives meanwhile may overlap it.
    ///
    /// # Panics
    /// If it does not lie inside.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    unsafe fn part(&self, t: usize, at: usize, len: usize) -> &mut [T] {
        // SAFETY: it lies inside, and the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.place(t, at, len), len) }
    }

    /// Where `len` values from `at` on of row `t` begin, which may go on in the next rows.
    ///
    /// # Panics
    /// If they do not lie inside.
    #[inline(always)]
    fn place(&self, t: usize, at: usize, len: usize) -> *mut T {
        let start = t * self.width + at;
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: it lies inside.
        unsafe { self.data.add(start) }
    }
}

impl Cpu {
    pub(crate) fn new(level: Level, threads: usize) -> Self {
        assert!(level.is_available());
        Self {
            level,
            fast: false,
            folds: level.folds(),
            pool: Pool::new(threads),
            moves: Moves::default(),
            profile: None,
            watch: None,
        }
    }

    /// The same, with products of many tokens that may round activations to 8 bits.
    pub(crate) fn fast(self, fast: bool) -> Self {
        Self { fast, ..self }
    }

    /// The same, of which each chunk moves some weights.
    pub(crate) fn moving(self, moves: Moves) -> Self {
        Self { moves, ..self }
    }

    /// The same, which times its operations.
    pub(crate) fn profiled(self, profile: bool) -> Self {
        Self { profile: profile.then(Profile::default), ..self }
    }

    /// The times since the last call.
    pub(crate) fn op_times(&self) -> Vec<OpTime> {
        self.profile.as_ref().map(Profile::take).unwrap_or_default()
    }

    /// An operation that takes from now until what is given is dropped.
    fn timer(&self, name: &str) -> Option<Timer<'_>> {
        self.profile.as_ref().map(|profile| profile.start(name))
    }

    /// The same, which tells of its products.
    pub(crate) fn watched(self, watch: Option<Watch>) -> Self {
        Self { watch, ..self }
    }

    pub(crate) fn level(&self) -> Level {
        self.level
    }

    pub(crate) fn is_fast(&self) -> bool {
        self.fast
    }

    pub(crate) fn threads(&self) -> usize {
        self.pool.threads()
    }

    fn norm(&self, norm: &Norm<Self>, x: &[f32], y: &mut [f32]) {
        row(self.level, rows::Norm { weight: &norm.weight, bias: &norm.bias, eps: norm.eps, x, y });
    }

    /// Runs `f` once for each of `n` rows of `work` operations, in parallel if that is worth it.
    fn each(&self, n: usize, work: usize, f: impl Fn(usize) + Sync) {
        let tasks = if n * work < SMALL { 1 } else { n.min(8 * self.threads()) };
        self.pool.run(tasks.min(n), |task| (n * task / tasks..n * (task + 1) / tasks).for_each(&f));
    }
}

impl Ops for Cpu {
    type Vector = Vec<f32>;
    type Matrix = Matrix;
    type Acts = Acts;
    type Batch<'a> = Chunked<'a>;

    fn vector(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }

    fn matrix(&self, weights: Matrix) -> Result<Matrix> {
        Ok(weights)
    }

    fn rows(&self, w: &Matrix) -> usize {
        w.rows
    }

    fn acts(&self, width: usize, kind: Kind) -> Acts {
        Acts::new(width, kind)
    }

    fn resize(&self, _: &mut Chunked<'_>, acts: &mut Acts, tokens: usize) -> Result<()> {
        acts.resize(tokens);
        Ok(())
    }

    fn begin<'a>(&'a self, chunk: Chunked<'a>) -> Result<Chunked<'a>> {
        self.moves.step(chunk.tokens.len(), self.threads(), &|format, rows, eight| {
            let apart = rows.len() / EIGHT;
            dispatch(self.level, beside::Turn { format, rows, apart, next: 0, eight });
        });
        chunk.states.iter_mut().try_for_each(State::to_host)?;
        Ok(chunk)
    }

    fn end(&self, _: Chunked<'_>, wanted: &[&Acts]) -> Result<Vec<Vec<f32>>> {
        Ok(wanted.iter().map(|acts| acts.values().to_vec()).collect())
    }

    fn end_chosen(&self, b: Chunked<'_>) -> Result<Vec<Token>> {
        Ok(b.chosen)
    }

    fn sample(&self, b: &mut Chunked<'_>, logits: &Acts) {
        let _timer = self.timer("sample");
        let rows = b.choices.iter().enumerate();
        b.chosen = rows.map(|(i, choice)| Token::Known(choice.take(logits.row(i)))).collect();
    }

    fn embed(&self, b: &mut Chunked<'_>, emb: &Matrix, ln0: &Norm<Self>, x: &mut Acts) {
        let _timer = self.timer("embed");
        let tokens = b.tokens;
        let x = x.shared();
        self.each(tokens.len(), 8 * emb.columns, |t| {
            // SAFETY: each task has tokens of its own.
            let x = unsafe { x.part(t, 0, x.width) };
            let mut values = vec![0.0; x.len()];
            emb.row(tokens[t] as usize, &mut values);
            self.norm(ln0, &values, x);
        });
    }

    fn shift(
        &self,
        b: &mut Chunked<'_>,
        (layer, shift): (usize, Shift),
        norm: &Norm<Self>,
        mix: &[Vec<f32>],
        x: &Acts,
        h: &mut Acts,
        y: &mut [Acts],
    ) {
        let _timer = self.timer("shift");
        let (tokens, width) = (x.tokens(), x.width);
        let mut rows = Lines::new((tokens + b.seqs.len()) * width);
        let out = Shared::new(&mut rows, width);
        self.each(tokens, 8 * width, |t| {
            // SAFETY: each task has tokens of its own.
            self.norm(norm, x.row(t), unsafe { out.part(t, 0, width) });
        });
        let mut before: Vec<_> = (0..tokens).map(|t| t.wrapping_sub(1)).collect();
        for (i, seq) in b.seqs.iter().enumerate().filter(|(_, s)| s.len > 0) {
            let (att, _, ffn) = b.states[seq.slot].layer(layer);
            let last = match shift {
                Shift::Att => att,
                Shift::Ffn => ffn,
            };
            before[seq.start] = tokens + i;
            rows[(tokens + i) * width..][..width].copy_from_slice(last);
            last.copy_from_slice(&rows[(seq.start + seq.len - 1) * width..][..width]);
        }
        if h.kind != Kind::Scratch {
            h.resize(tokens);
            h.rows_mut().copy_from_slice(&rows[..tokens * width]);
        }
        let shifted = Arc::new(Shifted { rows, before });
        if project::rounds(self, tokens) && y.iter().all(|y| y.kind == Kind::Input) {
            y.iter_mut().zip(mix).for_each(|(y, mix)| y.mix(mix, &shifted));
            return;
        }
        let y: Vec<_> = y.iter_mut().map(|y| y.with(tokens)).collect();
        self.each(tokens, 2 * y.len() * width, |t| {
            for (y, mix) in y.iter().zip(mix) {
                // SAFETY: as above.
                shifted.mix(self.level, t, mix, unsafe { y.part(t, 0, width) });
            }
        });
    }

    fn project(&self, _: &mut Chunked<'_>, products: &mut [Product<'_, Self>]) {
        if let Some(watch) = &self.watch {
            for p in &*products {
                let mut room = vec![];
                for t in 0..p.x.tokens() {
                    watch(&p.w.data, &p.x.read(self.level, t, &mut room)[..p.w.columns]);
                }
            }
        }
        let _timer = self.profile.as_ref().map(|profile| profile.start_products(products));
        products.iter_mut().for_each(|p| p.y.resize(p.x.tokens()));
        if self.level == Level::Scalar {
            return products.iter_mut().for_each(scalar::project);
        }
        project::project(self, products);
    }

    fn gates(
        &self,
        b: &mut Chunked<'_>,
        p: &Gates<Self>,
        head_size: usize,
        low: &[Acts; 4],
        t: &mut Heads<Self>,
    ) {
        use crate::ops::Act::Id;
        let [lw, la, lg, lv] = low;
        let mut products = vec![
            Product { w: &p.w2, x: lw, act: Id, y: &mut t.w },
            Product { w: &p.a2, x: la, act: Id, y: &mut t.a },
            Product { w: &p.g2, x: lg, act: Id, y: &mut t.g },
        ];
        products.extend(p.v.as_ref().map(|(_, w)| Product { w, x: lv, act: Id, y: &mut t.nu }));
        self.project(b, &mut products);
        let _timer = self.timer("gates");
        let (w, a, k, v) = (t.w.shared(), t.a.shared(), t.k.shared(), t.v.shared());
        let (kk, v_first) = (t.kk.shared(), t.v_first.shared());
        self.each(t.r.tokens(), 40 * t.r.width, |i| {
            // SAFETY: each task has tokens of its own.
            let [w, a, k, v, kk, v_first] =
                [&w, &a, &k, &v, &kk, &v_first].map(|x| unsafe { x.part(i, 0, x.width) });
            row(self.level, Decay { w0: &p.w0, w });
            match &p.v {
                None => v_first.copy_from_slice(v),
                Some((v0, _)) => row(self.level, Residual { v0, nu: t.nu.row(i), v_first, v }),
            }
            row(self.level, Keys { a0: &p.a0, k_k: &p.k_k, k_a: &p.k_a, head_size, a, k, kk });
        });
    }

    fn wkv7(
        &self,
        b: &mut Chunked<'_>,
        layer: usize,
        norm: &Norm<Self>,
        r_k: &Vec<f32>,
        head_size: usize,
        t: &Heads<Self>,
        y: &mut Acts,
    ) {
        let _timer = self.timer("wkv7");
        wkv7::wkv7(self, b, layer, norm, r_k, head_size, t, y);
    }

    fn tails(&self, b: &mut Chunked<'_>, layer: usize, x: &mut Acts, y: &mut Acts) {
        let Some(tails) = b.tails.take_if(|tails| tails.layer == layer) else { return };
        let _timer = self.timer("tails");
        for acts in [x, y] {
            for (to, row) in tails.rows.iter().enumerate() {
                let from = *row as usize * acts.width;
                acts.data.copy_within(from..from + acts.width, to * acts.width);
            }
            acts.resize(tails.rows.len());
        }
        b.seqs = &tails.seqs;
    }

    fn norm_rows(&self, _: &mut Chunked<'_>, norm: &Norm<Self>, rows: &[usize], x: &Acts, y: &mut Acts) {
        let _timer = self.timer("norm_rows");
        y.resize(rows.len());
        for (i, &t) in rows.iter().enumerate() {
            self.norm(norm, x.row(t), y.row_mut(i));
        }
    }

    fn ddlerp(
        &self,
        b: &mut Chunked<'_>,
        p: &Ddlerp<Self>,
        h: &Acts,
        before: &Acts,
        low: &[Acts; 5],
        y: &mut [Acts],
    ) {
        let products = p.w2.iter().zip(low).zip(&mut *y);
        let products = products.map(|((w, x), y)| Product { w, x, act: crate::ops::Act::Id, y });
        self.project(b, &mut products.collect::<Vec<_>>());
        let _timer = self.timer("ddlerp");
        let y: Vec<_> = y.iter_mut().map(Acts::shared).collect();
        self.each(h.tokens(), 3 * y.len() * h.width, |t| {
            let mut room = vec![];
            let before = before.read(self.level, t, &mut room);
            for (y, mix) in y.iter().zip(&p.mix) {
                // SAFETY: each task has tokens of its own.
                let y = unsafe { y.part(t, 0, h.width) };
                row(self.level, MixOf { mix, h: h.row(t), before, y });
            }
        });
    }

    fn wkv6(
        &self,
        b: &mut Chunked<'_>,
        layer: usize,
        p: &Wkv6<Self>,
        head_size: usize,
        t: &Rkv<'_, Self>,
        y: &mut Acts,
    ) {
        let _timer = self.timer("wkv6");
        wkv6::wkv6(self, b, layer, p, head_size, t, y);
    }

    fn wkv4(&self, b: &mut Chunked<'_>, layer: usize, p: &Wkv4<Self>, rkv: [&Acts; 3], y: &mut Acts) {
        let _timer = self.timer("wkv4");
        wkv4::wkv4(self, b, layer, p, rkv, y);
    }

    fn add_gated(&self, _: &mut Chunked<'_>, g: &Acts, y: &Acts, scale: f32, x: &mut Acts) {
        let _timer = self.timer("add_gated");
        let x = x.shared();
        self.each(y.tokens(), 3 * x.width, |t| {
            // SAFETY: each task has tokens of its own.
            let x = unsafe { x.part(t, 0, x.width) };
            row(self.level, AddGated { g: g.row(t), y: y.row(t), scale, x });
        });
    }
}

/// The sequences that have tokens, and the WKV state of a layer of each.
fn wkv_states(b: &mut Chunked<'_>, layer: usize) -> Vec<(Sequence, Shared<f32>)> {
    let mut slots: Vec<_> = b.seqs.iter().filter(|seq| seq.len > 0).map(|seq| seq.slot).collect();
    slots.sort_unstable();
    assert!(slots.windows(2).all(|two| two[0] != two[1]), "a sequence has a state of its own");
    let seqs = b.seqs.iter().filter(|seq| seq.len > 0);
    seqs.map(|&seq| {
        let (att, wkv, _) = b.states[seq.slot].layer(layer);
        (seq, Shared::new(wkv, att.len()))
    })
    .collect()
}
