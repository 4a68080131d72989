//! One RWKV-6 layer. Read this beside the published formulas (x060).

use crate::{
    Result,
    ops::{Act::*, Ddlerp, Kind::*, Norm, Ops, Product, Rkv, Shift, Wkv6},
};

use super::{
    before_v7::{self, Ffn},
    source::Source,
};

/// The weights of a layer.
pub(crate) struct Layer<O: Ops> {
    ln1: Norm<O>,
    att: Att<O>,
    ln2: Norm<O>,
    ffn: Ffn<O>,
}

/// The weights of a time mix.
struct Att<O: Ops> {
    mix: [O::Vector; 2], // x, and 1: the token before as it is
    w1: [O::Matrix; 5],  // [rank, C], for w k v r g
    ddlerp: Ddlerp<O>,
    r: O::Matrix, // [C, C]
    k: O::Matrix,
    v: O::Matrix,
    g: O::Matrix,
    o: O::Matrix,
    decay_w1: O::Matrix, // [rank, C]
    decay_w2: O::Matrix, // [C, rank]
    wkv: Wkv6<O>,
}

/// The activations of a layer.
pub(crate) struct Scratch<O: Ops> {
    pub(crate) t: before_v7::Scratch<O>,
    both: [O::Acts; 2], // [T, C] what the token shift depends on, and h of the token before
    low: [O::Acts; 5],  // [T, rank] first halves of its LoRAs
    decay: O::Acts,     // [T, rank] first half of the decay's
    w: O::Acts,         // [T, C]
}

/// Runs layer `i` over the tokens of a batch: reads and updates `x` and the states.
pub(crate) fn layer<O: Ops>(
    o: &O,
    b: &mut O::Batch<'_>,
    i: usize,
    l: &Layer<O>,
    head_size: usize,
    scratch: &mut Scratch<O>,
) {
    // Time mixing: x* = h + (m* + tanh(xx w1*) w2*)(h₋₁ − h), where h = ln1(x) and xx = h + mx (h₋₁ − h)
    let (p, Scratch { t, both, low, decay, w }) = (&l.att, scratch);
    o.shift(b, (i, Shift::Att), &l.ln1, &p.mix, &t.x, &mut t.h, both);
    let [xx, before] = &*both;
    let first = p.w1.iter().zip(&mut *low);
    o.project(b, &mut first.map(|(w, y)| Product { w, x: xx, act: Tanh, y }).collect::<Vec<_>>());
    o.ddlerp(b, &p.ddlerp, &t.h, before, low, &mut t.mixed);
    let [xw, xk, xv, xr, xg] = &t.mixed[..] else { unreachable!("there are five") };
    o.project(
        b,
        &mut [
            Product { w: &p.r, x: xr, act: Id, y: &mut t.r },
            Product { w: &p.k, x: xk, act: Id, y: &mut t.k },
            Product { w: &p.v, x: xv, act: Id, y: &mut t.v },
            Product { w: &p.g, x: xg, act: Id, y: &mut t.g },
            Product { w: &p.decay_w1, x: xw, act: Tanh, y: decay },
        ],
    );
    o.project(b, &mut [Product { w: &p.decay_w2, x: decay, act: Id, y: w }]);
    let rkv = Rkv { r: &t.r, k: &t.k, v: &t.v, w: Some(w), g: Some(&t.g) };
    o.wkv6(b, i, &p.wkv, head_size, &rkv, &mut t.y);
    o.tails(b, i, &mut t.x, &mut t.y);
    o.project(b, &mut [Product { w: &p.o, x: &t.y, act: Add, y: &mut t.x }]);

    l.ffn.run(o, b, i, &l.ln2, t);
}

impl<O: Ops> Layer<O> {
    /// Takes the weights of layer `i`.
    pub(crate) fn load(source: &Source<'_, O>, i: usize) -> Result<Self> {
        let c = source.channels;
        let name = |name: &str| format!("blocks.{i}.{name}");
        let vector = |part: &str| source.vector(&name(part));
        let norm = |part: &str, eps| source.norm(&name(part), eps);
        let square = |part: &str| source.matrix(&name(&format!("att.{part}.weight")), c, c);
        let maa = |letter: char| vector(&format!("att.time_maa_{letter}"));
        let [five, _] = source.pair(&name("att.time_maa_w1"))?;
        let [decay, _] = source.pair(&name("att.time_decay_w1"))?;
        let rank = five / 5;
        let ddlerp = Ddlerp {
            mix: [maa('w')?, maa('k')?, maa('v')?, maa('r')?, maa('g')?],
            w2: source.five(&name("att.time_maa_w2"), &[5, c, rank], c, rank)?,
        };
        let wkv = Wkv6 {
            w0: vector("att.time_decay")?,
            u: vector("att.time_faaaa")?,
            ln_x: norm("att.ln_x", LN_X_EPS)?,
        };
        let att = Att {
            mix: [maa('x')?, source.made(vec![1.0; c])?],
            w1: source.five(&name("att.time_maa_w1"), &[5 * rank, c], rank, c)?,
            ddlerp,
            r: square("receptance")?,
            k: square("key")?,
            v: square("value")?,
            g: square("gate")?,
            o: square("output")?,
            decay_w1: source.matrix(&name("att.time_decay_w1"), decay, c)?,
            decay_w2: source.matrix(&name("att.time_decay_w2"), c, decay)?,
            wkv,
        };
        let mix = [vector("ffn.time_maa_k")?, vector("ffn.time_maa_r")?];
        let (ln1, ln2) = (norm("ln1", source.eps)?, norm("ln2", source.eps)?);
        Ok(Self { ln1, att, ln2, ffn: Ffn::load(source, i, mix)? })
    }
}

/// The group norm after wkv6 has this epsilon in every RWKV-6.
const LN_X_EPS: f32 = 64e-5;

impl<O: Ops> Scratch<O> {
    /// Activations for the widest of `layers`.
    pub(crate) fn new(o: &O, layers: &[Layer<O>], channels: usize, hidden: usize) -> Self {
        let widest = |w: fn(&Att<O>) -> &O::Matrix| {
            o.acts(layers.iter().map(|l| o.rows(w(&l.att))).max().unwrap_or(0), Input)
        };
        let input = || o.acts(channels, Input);
        Self {
            t: before_v7::Scratch {
                h: o.acts(channels, Stream), // which ddlerp reads
                ..before_v7::Scratch::new(o, channels, hidden, 5)
            },
            both: [input(), input()],
            low: [(); 5].map(|()| widest(|p| &p.w1[0])),
            decay: widest(|p| &p.decay_w1),
            w: o.acts(channels, Stream),
        }
    }

    /// Makes room for so many tokens.
    pub(crate) fn resize(&mut self, o: &O, b: &mut O::Batch<'_>, tokens: usize) -> Result<()> {
        let Self { t, both, low, decay, w } = self;
        t.resize(o, b, tokens)?;
        both.iter_mut().chain(low).chain([decay, w]).try_for_each(|acts| o.resize(b, acts, tokens))
    }
}
