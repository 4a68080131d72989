//! One RWKV-7 layer. Read this beside the published formulas (x070).

use crate::{
    batch::Sequence,
    ops::{Act::*, Gates, Heads, Norm, Ops, Product, Shift},
};

/// The weights of a layer.
pub(crate) struct Layer<O: Ops> {
    pub(crate) ln1: Norm<O>,
    pub(crate) att: Att<O>,
    pub(crate) ln2: Norm<O>,
    pub(crate) ffn: Ffn<O>,
}

/// The weights of a time mix.
pub(crate) struct Att<O: Ops> {
    pub(crate) mix: [O::Vector; 6], // x_r x_w x_k x_v x_a x_g
    pub(crate) r: O::Matrix,        // [C, C]
    pub(crate) k: O::Matrix,
    pub(crate) v: O::Matrix,
    pub(crate) o: O::Matrix,
    pub(crate) w1: O::Matrix, // [r, C]
    pub(crate) a1: O::Matrix,
    pub(crate) g1: O::Matrix,
    pub(crate) v1: Option<O::Matrix>,
    pub(crate) gates: Gates<O>,
    pub(crate) r_k: O::Vector,
    pub(crate) ln_x: Norm<O>,
}

/// The weights of a channel mix.
pub(crate) struct Ffn<O: Ops> {
    pub(crate) mix: [O::Vector; 1],
    pub(crate) k: O::Matrix, // [F, C]
    pub(crate) v: O::Matrix, // [C, F]
}

/// The activations of a layer.
pub(crate) struct Scratch<O: Ops> {
    pub(crate) x: O::Acts,          // [T, C] the residual stream
    pub(crate) h: O::Acts,          // [T, C] after a norm
    pub(crate) mixed: [O::Acts; 6], // [T, C] xr xw xk xv xa xg
    pub(crate) low: [O::Acts; 4],   // [T, r] first halves of the LoRAs of w a g v
    pub(crate) heads: Heads<O>,
    pub(crate) y: O::Acts,   // [T, C]
    pub(crate) ffn: O::Acts, // [T, F]
}

/// Runs layer `i` over the tokens of `seqs`: reads and updates `t.x` and the states.
pub(crate) fn layer<O: Ops>(
    o: &O,
    i: usize,
    l: &Layer<O>,
    head_size: usize,
    seqs: &[Sequence],
    states: &mut [O::State],
    t: &mut Scratch<O>,
) {
    // Time mixing: x* = ln1(x) + m* (ln1(x)₋₁ − ln1(x))
    let p = &l.att;
    o.shift(seqs, states, (i, Shift::Att), &l.ln1, &p.mix, &t.x, &mut t.h, &mut t.mixed);
    let [xr, xw, xk, xv, xa, xg] = &t.mixed;
    let [lw, la, lg, lv] = &mut t.low;
    let mut products = vec![
        Product { w: &p.r, x: xr, act: Id, y: &mut t.heads.r },
        Product { w: &p.k, x: xk, act: Id, y: &mut t.heads.k },
        Product { w: &p.v, x: xv, act: Id, y: &mut t.heads.v },
        Product { w: &p.w1, x: xw, act: Tanh, y: lw },
        Product { w: &p.a1, x: xa, act: Id, y: la },
        Product { w: &p.g1, x: xg, act: Sigmoid, y: lg },
    ];
    products.extend(p.v1.as_ref().map(|w| Product { w, x: xv, act: Id, y: lv }));
    o.project(&mut products);
    o.gates(&p.gates, head_size, &t.low, &mut t.heads); // w a g, v towards v_first, kk, k
    o.wkv7(seqs, states, i, &p.ln_x, &p.r_k, head_size, &t.heads, &mut t.y);
    o.project(&mut [Product { w: &p.o, x: &t.y, act: Add, y: &mut t.x }]);

    // Channel mixing: x += V relu(K xk)²
    let [xk, ..] = &mut t.mixed;
    o.shift(seqs, states, (i, Shift::Ffn), &l.ln2, &l.ffn.mix, &t.x, &mut t.h, std::slice::from_mut(xk));
    o.project(&mut [Product { w: &l.ffn.k, x: xk, act: SquaredRelu, y: &mut t.ffn }]);
    o.project(&mut [Product { w: &l.ffn.v, x: &t.ffn, act: Add, y: &mut t.x }]);
}
