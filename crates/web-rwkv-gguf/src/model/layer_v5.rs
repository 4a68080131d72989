//! One layer of RWKV-5: 5.0 has no gate; before 5.2, decay and bonus are one number for each head.

use crate::{
    Result,
    ops::{Act::*, Norm, Ops, Product, Rkv, Shift, Wkv6},
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
    mix: Vec<O::Vector>, // r k v, and g from 5.1 on
    r: O::Matrix,        // [C, C]
    k: O::Matrix,
    v: O::Matrix,
    g: Option<O::Matrix>,
    o: O::Matrix,
    wkv: Wkv6<O>,
}

/// Projections that read something of their own.
pub(crate) const MIXED: usize = 4;

/// Runs layer `i` over the tokens of a batch: reads and updates `x` and the states.
pub(crate) fn layer<O: Ops>(
    o: &O,
    b: &mut O::Batch<'_>,
    i: usize,
    l: &Layer<O>,
    head_size: usize,
    t: &mut Scratch<O>,
) {
    // Time mixing: x* = m* ln1(x) + (1 − m*) ln1(x)₋₁
    let p = &l.att;
    o.shift(b, (i, Shift::Att), &l.ln1, &p.mix, &t.x, &mut t.h, &mut t.mixed[..p.mix.len()]);
    let [xr, xk, xv, xg] = &t.mixed[..] else { unreachable!("there are four") };
    let mut products = vec![
        Product { w: &p.r, x: xr, act: Id, y: &mut t.r },
        Product { w: &p.k, x: xk, act: Id, y: &mut t.k },
        Product { w: &p.v, x: xv, act: Id, y: &mut t.v },
    ];
    products.extend(p.g.as_ref().map(|w| Product { w, x: xg, act: Id, y: &mut t.g }));
    o.project(b, &mut products);
    let rkv = Rkv { r: &t.r, k: &t.k, v: &t.v, w: None, g: p.g.as_ref().map(|_| &t.g) };
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
        let norm = |part: &str, eps| source.norm(&name(part), eps);
        let square = |part: &str| source.matrix(&name(&format!("att.{part}.weight")), c, c);
        // This engine mixes the other way around.
        let mix = |part: &str| source.vector_of(&name(part), |m| 1.0 - m);
        let gate = source.has(".att.gate.weight") || source.has(".att.time_mix_g");
        let letters = if gate { "rkvg" } else { "rkv" };
        let u = match source.has(".att.time_faaaa") {
            true => source.of_heads(&name("att.time_faaaa"), |u| u)?,
            false => source.of_heads(&name("att.time_first"), f32::exp)?,
        };
        let w0 = source.of_heads(&name("att.time_decay"), |w| w)?;
        let att = Att {
            mix: letters.chars().map(|m| mix(&format!("att.time_mix_{m}"))).collect::<Result<_>>()?,
            r: square("receptance")?,
            k: square("key")?,
            v: square("value")?,
            g: gate.then(|| square("gate")).transpose()?,
            o: square("output")?,
            wkv: Wkv6 { w0, u, ln_x: norm("att.ln_x", ln_x_eps(source.head_size))? },
        };
        let ffn = Ffn::load(source, i, [mix("ffn.time_mix_k")?, mix("ffn.time_mix_r")?])?;
        Ok(Self { ln1: norm("ln1", source.eps)?, att, ln2: norm("ln2", source.eps)?, ffn })
    }
}

/// Epsilon of the group norm after the recurrence. BlinkDL's trainer divides its input by 8, which is to multiply
/// the epsilon of 1e-5 by 64; its models, all that are published, have heads of 64. Others, such as rwkv.cpp's tiny
/// ones, were trained without.
fn ln_x_eps(head_size: usize) -> f32 {
    if head_size == 64 { 64e-5 } else { 1e-5 }
}
