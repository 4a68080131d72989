//! One layer of RWKV-4.

use crate::{
    Result,
    ops::{Act::*, Norm, Ops, Product, Shift, Wkv4},
};

use super::{
    before_v7::{Ffn, Scratch},
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
    mix: [O::Vector; 3], // r k v
    r: O::Matrix,        // [C, C]
    k: O::Matrix,
    v: O::Matrix,
    o: O::Matrix,
    wkv: Wkv4<O>,
}

/// Projections that read something of their own.
pub(crate) const MIXED: usize = 3;

/// Runs layer `i` over the tokens of a batch: reads and updates `x` and the states.
pub(crate) fn layer<O: Ops>(o: &O, b: &mut O::Batch<'_>, i: usize, l: &Layer<O>, t: &mut Scratch<O>) {
    // Time mixing: x* = m* ln1(x) + (1 − m*) ln1(x)₋₁
    let p = &l.att;
    o.shift(b, (i, Shift::Att), &l.ln1, &p.mix, &t.x, &mut t.h, &mut t.mixed);
    let [xr, xk, xv] = &t.mixed[..] else { unreachable!("there are three") };
    o.project(
        b,
        &mut [
            Product { w: &p.r, x: xr, act: Sigmoid, y: &mut t.r },
            Product { w: &p.k, x: xk, act: Id, y: &mut t.k },
            Product { w: &p.v, x: xv, act: Id, y: &mut t.v },
        ],
    );
    o.wkv4(b, i, &p.wkv, [&t.r, &t.k, &t.v], &mut t.y);
    o.tails(b, i, &mut t.x, &mut t.y);
    o.project(b, &mut [Product { w: &p.o, x: &t.y, act: Add, y: &mut t.x }]);

    l.ffn.run(o, b, i, &l.ln2, t);
}

impl<O: Ops> Layer<O> {
    /// Takes the weights of layer `i`.
    pub(crate) fn load(source: &Source<'_, O>, i: usize) -> Result<Self> {
        let c = source.channels;
        let name = |name: &str| format!("blocks.{i}.{name}");
        let square = |part: &str| source.matrix(&name(&format!("att.{part}.weight")), c, c);
        // This engine mixes the other way around.
        let mix = |part: &str| source.vector_of(&name(part), |m| 1.0 - m);
        let wkv = Wkv4 {
            u: source.vector(&name("att.time_first"))?,
            w: source.vector_of(&name("att.time_decay"), |w| -w.exp())?,
        };
        let att = Att {
            mix: [mix("att.time_mix_r")?, mix("att.time_mix_k")?, mix("att.time_mix_v")?],
            r: square("receptance")?,
            k: square("key")?,
            v: square("value")?,
            o: square("output")?,
            wkv,
        };
        let ffn = Ffn::load(source, i, [mix("ffn.time_mix_k")?, mix("ffn.time_mix_r")?])?;
        let norm = |part: &str| source.norm(&name(part), source.eps);
        Ok(Self { ln1: norm("ln1")?, att, ln2: norm("ln2")?, ffn })
    }
}
