//! The operations that a forward pass is made of: each is one fusion boundary, which the CPU runs at
//! once and a GPU records. T tokens, C channels, H heads of N, r the rank of a LoRA. Acts are `[T, width]`.

use std::sync::Arc;

use crate::{
    Result,
    batch::{Sequence, Tails, Token},
    format::Format,
    gpu::Chosen,
    load::Bytes,
    sampler::Choice,
    state::State,
};

/// A weight matrix in the bytes of its file: `rows` rows of `columns` values, one after another, of which eight each may come to stand
/// [side by side](Bytes::beside), too.
#[derive(Clone)]
pub(crate) struct FileMatrix {
    pub(crate) format: Format,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) data: Bytes,
}

/// What a product is put through before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Id,
    Tanh,
    Sigmoid,
    SquaredRelu,
    /// Adds to what stands there: the residual.
    Add,
}

/// What activations are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anything between operations.
    Stream,
    /// What products read: an executor may keep it in 16 bits.
    Input,
    /// Logits.
    Output,
    /// What an executor may need on the way through an operation, and nobody afterwards.
    Scratch,
}

/// Weight and bias of a layer norm or group norm.
pub(crate) struct Norm<O: Ops + ?Sized> {
    pub(crate) weight: O::Vector,
    pub(crate) bias: O::Vector,
    pub(crate) eps: f32,
}

/// `y = act(W x)`, W `[rows, columns]`.
pub(crate) struct Product<'a, O: Ops + ?Sized> {
    pub(crate) w: &'a O::Matrix,
    pub(crate) x: &'a O::Acts,
    pub(crate) act: Act,
    pub(crate) y: &'a mut O::Acts,
}

/// The second halves of the LoRAs of a time mix, and what they act on.
pub(crate) struct Gates<O: Ops + ?Sized> {
    pub(crate) w0: O::Vector,
    pub(crate) w2: O::Matrix, // [C, r]
    pub(crate) a0: O::Vector,
    pub(crate) a2: O::Matrix,
    pub(crate) g2: O::Matrix,
    /// `v0` and `v2`; layer 0 has none.
    pub(crate) v: Option<(O::Vector, O::Matrix)>,
    pub(crate) k_k: O::Vector,
    pub(crate) k_a: O::Vector,
}

/// The activations of a time mix between its projections and its recurrence, each `[T, C]`.
pub(crate) struct Heads<O: Ops + ?Sized> {
    pub(crate) r: O::Acts,
    pub(crate) w: O::Acts,
    pub(crate) k: O::Acts,
    pub(crate) v: O::Acts,
    pub(crate) a: O::Acts,
    pub(crate) g: O::Acts,
    pub(crate) kk: O::Acts,
    /// v of layer 0.
    pub(crate) v_first: O::Acts,
    /// v2 ·; σ(v0 + nu) is how far v goes to `v_first`.
    pub(crate) nu: O::Acts,
}

/// The token shift of RWKV-6, which depends on the token: for w, k, v, r and g.
pub(crate) struct Ddlerp<O: Ops + ?Sized> {
    pub(crate) mix: [O::Vector; 5],
    pub(crate) w2: [O::Matrix; 5], // [C, r]
}

/// The decay and the bonus of RWKV-5 and 6, and the norm of what they make.
pub(crate) struct Wkv6<O: Ops + ?Sized> {
    pub(crate) w0: O::Vector,
    pub(crate) u: O::Vector,
    pub(crate) ln_x: Norm<O>,
}

/// What the recurrence of RWKV-5 and 6 reads, each `[T, C]`.
pub(crate) struct Rkv<'a, O: Ops + ?Sized> {
    pub(crate) r: &'a O::Acts,
    pub(crate) k: &'a O::Acts,
    pub(crate) v: &'a O::Acts,
    /// The part of the decay that depends on the token; RWKV-5 has none.
    pub(crate) w: Option<&'a O::Acts>,
    /// RWKV-5.0 has none.
    pub(crate) g: Option<&'a O::Acts>,
}

/// The bonus and the decay of RWKV-4.
pub(crate) struct Wkv4<O: Ops + ?Sized> {
    pub(crate) u: O::Vector,
    pub(crate) w: O::Vector,
}

/// Which of the two token shifts of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shift {
    Att,
    Ffn,
}

/// Tokens that go through the model together, and the states that they go on from.
#[derive(Default)]
pub(crate) struct Chunked<'a> {
    pub(crate) tokens: &'a [u32],
    /// Which of `tokens` a GPU has yet to choose, and the row of what it chooses.
    #[cfg_attr(not(feature = "gpu"), allow(dead_code))]
    pub(crate) coming: &'a [(usize, Arc<Chosen>, usize)],
    pub(crate) seqs: &'a [Sequence],
    pub(crate) states: &'a mut [State],
    /// What is left of the tokens for the end of the last layer, if not all.
    pub(crate) tails: Option<&'a Tails>,
    /// Rows that are wanted: hidden vectors, logits.
    #[cfg_attr(not(feature = "gpu"), allow(dead_code))] // a GPU makes room for them
    pub(crate) rows: [&'a [usize]; 2],
    /// How a token is chosen by each row of logits, if that is wanted instead of them.
    pub(crate) choices: &'a [Choice],
    /// What `sample` has chosen, where it computes at once.
    pub(crate) chosen: Vec<Token>,
}

/// An executor: makes weights and activations, and runs operations on them for the tokens of a batch.
pub(crate) trait Ops {
    type Vector;
    type Matrix;
    type Acts;
    /// A chunk of tokens on its way through the model.
    type Batch<'a>
    where
        Self: 'a;

    fn vector(&self, values: Vec<f32>) -> Result<Self::Vector>;

    fn matrix(&self, weights: FileMatrix) -> Result<Self::Matrix>;

    /// Rows of a matrix.
    fn rows(&self, w: &Self::Matrix) -> usize;

    /// Activations of no tokens.
    fn acts(&self, width: usize, kind: Kind) -> Self::Acts;

    /// Tokens that an executor takes at a time without harm, even if fewer are asked for.
    fn least_chunk(&self) -> usize {
        1
    }

    /// Begins a chunk.
    fn begin<'a>(&'a self, chunk: Chunked<'a>) -> Result<Self::Batch<'a>>;

    /// Makes room for `tokens` rows, before the first operation; what they hold is left as it is. What is made of fewer rows
    /// has as many as those.
    fn resize(&self, b: &mut Self::Batch<'_>, acts: &mut Self::Acts, tokens: usize) -> Result<()>;

    /// Whether the operations of a chunk like this one are recorded already.
    fn is_recorded(&self, _: &Self::Batch<'_>) -> bool {
        false
    }

    /// Lets the recorded operations run, after which some activations are wanted. True if they should be recorded again,
    /// ahead of the next chunk.
    fn submit(&self, _: &mut Self::Batch<'_>, _wanted: &[&Self::Acts]) -> bool {
        false
    }

    /// Ends a chunk: what stands in some activations, `[T, width]` each. The states are then the new ones.
    fn end(&self, b: Self::Batch<'_>, wanted: &[&Self::Acts]) -> Result<Vec<Vec<f32>>>;

    /// Ends a chunk: what its `sample` chooses. The states are then the new ones.
    fn end_chosen(&self, b: Self::Batch<'_>) -> Result<Vec<Token>>;

    /// Steps of decoding that may run before the tokens of the first are seen, with so many sequences.
    fn ahead(&self, _sequences: usize) -> usize {
        0
    }

    /// Whether a chunk may have tokens that are still to be chosen there.
    fn can_await(&self, _: &Chosen) -> bool {
        false
    }

    /// `x = ln0(emb[tokens])`.
    fn embed(&self, b: &mut Self::Batch<'_>, emb: &Self::Matrix, ln0: &Norm<Self>, x: &mut Self::Acts);

    /// `h = norm(x)`, then for each m of `mix` `y = h + m (h₋₁ − h)`, where h₋₁ is the token before in the
    /// sequence; the first one's is in the state, which keeps the last one's.
    /// `at` is the layer and which shift of it.
    #[allow(clippy::too_many_arguments)]
    fn shift(
        &self,
        b: &mut Self::Batch<'_>,
        at: (usize, Shift),
        norm: &Norm<Self>,
        mix: &[Self::Vector],
        x: &Self::Acts,
        h: &mut Self::Acts,
        y: &mut [Self::Acts],
    );

    /// Several independent products.
    fn project(&self, b: &mut Self::Batch<'_>, products: &mut [Product<'_, Self>]);

    /// From the LoRAs' first halves `[w, a, g, v]`, each `[T, r]`:
    /// `w = exp(−e^-½ σ(w0 + w2 ·))`, `a = σ(a0 + a2 ·)`, `g = g2 ·`,
    /// `v += (v_first − v) σ(v0 + v2 ·)` (layer 0: `v_first = v`),
    /// `kk = k k_k / max(‖k k_k‖, 1e-12)` per head, `k = k (1 + (a − 1) k_a)`.
    fn gates(
        &self,
        b: &mut Self::Batch<'_>,
        p: &Gates<Self>,
        head_size: usize,
        low: &[Self::Acts; 4],
        t: &mut Heads<Self>,
    );

    /// Per head, token after token, `S = S diag(w) − (S kk)(kk a)ᵀ + v kᵀ` and `y = S r`; then
    /// `y = (norm(y) + (Σ r k r_k) v) g`.
    #[allow(clippy::too_many_arguments)]
    fn wkv7(
        &self,
        b: &mut Self::Batch<'_>,
        layer: usize,
        norm: &Norm<Self>,
        r_k: &Self::Vector,
        head_size: usize,
        t: &Heads<Self>,
        y: &mut Self::Acts,
    );

    /// After the recurrence of `layer`: if it is the last, and only last tokens are wanted, those that are not needed for them
    /// leave the batch, `x` and `y`. See [`Tails`].
    fn tails(&self, b: &mut Self::Batch<'_>, layer: usize, x: &mut Self::Acts, y: &mut Self::Acts);

    /// `y = norm(x[rows])`.
    fn norm_rows(
        &self,
        b: &mut Self::Batch<'_>,
        norm: &Norm<Self>,
        rows: &[usize],
        x: &Self::Acts,
        y: &mut Self::Acts,
    );

    /// For each of the five `y = h + (mix + w2 low)(before − h)`, where `before` is h of the token before.
    fn ddlerp(
        &self,
        b: &mut Self::Batch<'_>,
        p: &Ddlerp<Self>,
        h: &Self::Acts,
        before: &Self::Acts,
        low: &[Self::Acts; 5],
        y: &mut [Self::Acts],
    );

    /// Per head, token after token, `y = (S + v (u k)ᵀ) r`, then `S = S diag(w) + v kᵀ`, with
    /// `w = exp(−exp(w0 + t.w))`; then `y = norm(y) silu(g)`, without g `y = norm(y)`.
    fn wkv6(
        &self,
        b: &mut Self::Batch<'_>,
        layer: usize,
        p: &Wkv6<Self>,
        head_size: usize,
        t: &Rkv<'_, Self>,
        y: &mut Self::Acts,
    );

    /// Per channel, token after token, `y = r (a + e^(u + k) v) / (b + e^(u + k))`, then `a = e^w a + e^k v` and
    /// `b = e^w b + e^k`. The state's rows are a and b over `e^top`, and top.
    fn wkv4(
        &self,
        b: &mut Self::Batch<'_>,
        layer: usize,
        p: &Wkv4<Self>,
        rkv: [&Self::Acts; 3],
        y: &mut Self::Acts,
    );

    /// Chooses a token by each row of logits, as the choices of the chunk say: see [`Choice::take`].
    fn sample(&self, b: &mut Self::Batch<'_>, logits: &Self::Acts);

    /// `x = (x + g y) scale`.
    fn add_gated(
        &self,
        b: &mut Self::Batch<'_>,
        g: &Self::Acts,
        y: &Self::Acts,
        scale: f32,
        x: &mut Self::Acts,
    );
}
