//! One RWKV-7 layer. Read this beside the published formulas (x070).

use crate::{
    Result,
    ops::{
        Act::*,
        Gates, Heads,
        Kind::{self, *},
        Norm, Ops, Product, Shift,
    },
};

use super::source::Source;

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

/// Runs layer `i` over the tokens of a batch: reads and updates `t.x` and the states.
pub(crate) fn layer<O: Ops>(
    o: &O,
    b: &mut O::Batch<'_>,
    i: usize,
    l: &Layer<O>,
    head_size: usize,
    t: &mut Scratch<O>,
) {
    // Time mixing: x* = ln1(x) + m* (ln1(x)₋₁ − ln1(x))
    let p = &l.att;
    o.shift(b, (i, Shift::Att), &l.ln1, &p.mix, &t.x, &mut t.h, &mut t.mixed);
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
    o.project(b, &mut products);
    o.gates(b, &p.gates, head_size, &t.low, &mut t.heads); // w a g, v towards v_first, kk, k
    o.wkv7(b, i, &p.ln_x, &p.r_k, head_size, &t.heads, &mut t.y);
    o.tails(b, i, &mut t.x, &mut t.y); // the last layer goes on with what is wanted
    o.project(b, &mut [Product { w: &p.o, x: &t.y, act: Add, y: &mut t.x }]);

    // Channel mixing: x += V relu(K xk)²
    let [xk, ..] = &mut t.mixed;
    o.shift(b, (i, Shift::Ffn), &l.ln2, &l.ffn.mix, &t.x, &mut t.h, std::slice::from_mut(xk));
    o.project(b, &mut [Product { w: &l.ffn.k, x: xk, act: SquaredRelu, y: &mut t.ffn }]);
    o.project(b, &mut [Product { w: &l.ffn.v, x: &t.ffn, act: Add, y: &mut t.x }]);
}

/// The group norm after wkv7 has this epsilon in every RWKV-7.
const LN_X_EPS: f32 = 64e-5;

impl<O: Ops> Layer<O> {
    /// Takes the weights of layer `i`.
    pub(crate) fn load(source: &Source<'_, O>, i: usize) -> Result<Self> {
        let b = format!("blocks.{i}");
        let (channels, hidden) = (source.channels, source.hidden);
        let vector = |name: &str| source.vector(&format!("{b}.{name}"));
        let matrix = |name: &str, rows, columns| source.matrix(&format!("{b}.{name}.weight"), rows, columns);
        let square = |name: &str| matrix(name, channels, channels);
        let norm = |name: &str, eps| source.norm(&format!("{b}.{name}"), eps);
        let lora = |name: char| -> Result<(O::Matrix, O::Matrix)> {
            let [rank, _] = source.pair(&format!("{b}.att.{name}1"))?;
            let down = source.matrix(&format!("{b}.att.{name}1"), rank, channels)?;
            let up = source.matrix(&format!("{b}.att.{name}2"), channels, rank)?;
            Ok((down, up))
        };
        let ((w1, w2), (a1, a2), (g1, g2)) = (lora('w')?, lora('a')?, lora('g')?);
        let (v1, v) = match i {
            0 => (None, None),
            _ => lora('v').and_then(|(v1, v2)| Ok((Some(v1), Some((vector("att.v0")?, v2)))))?,
        };
        let (w0, a0) = (vector("att.w0")?, vector("att.a0")?);
        let gates = Gates { w0, w2, a0, a2, g2, v, k_k: vector("att.k_k")?, k_a: vector("att.k_a")? };
        let x = |c: char| vector(&format!("att.x_{c}"));
        let att = Att {
            mix: [x('r')?, x('w')?, x('k')?, x('v')?, x('a')?, x('g')?],
            r: square("att.receptance")?,
            k: square("att.key")?,
            v: square("att.value")?,
            o: square("att.output")?,
            w1,
            a1,
            g1,
            v1,
            gates,
            r_k: vector("att.r_k")?,
            ln_x: norm("att.ln_x", LN_X_EPS)?,
        };
        let ffn = Ffn {
            mix: [vector("ffn.x_k")?],
            k: matrix("ffn.key", hidden, channels)?,
            v: matrix("ffn.value", channels, hidden)?,
        };
        Ok(Self { ln1: norm("ln1", source.eps)?, att, ln2: norm("ln2", source.eps)?, ffn })
    }

    /// Ranks of the LoRAs of w, a, g, v; layer 0 has no v.
    fn ranks(&self, o: &O) -> [usize; 4] {
        let p = &self.att;
        [Some(&p.w1), Some(&p.a1), Some(&p.g1), p.v1.as_ref()].map(|w| w.map_or(0, |w| o.rows(w)))
    }
}

impl<O: Ops> Scratch<O> {
    /// Activations for the widest of `layers`.
    pub(crate) fn new(o: &O, layers: &[Layer<O>], channels: usize, hidden: usize) -> Self {
        let acts = |kind| move || o.acts(channels, kind);
        let (c, input, scratch) = (acts(Stream), acts(Input), acts(Kind::Scratch));
        let widest = |i: usize| layers.iter().map(|l| l.ranks(o)[i]).max().unwrap_or(0);
        Self {
            x: c(),
            h: scratch(),
            mixed: [(); 6].map(|()| input()),
            low: [0, 1, 2, 3].map(|i| o.acts(widest(i), Input)),
            heads: Heads {
                r: c(),
                w: c(),
                k: c(),
                v: c(),
                a: c(),
                g: c(),
                kk: scratch(),
                v_first: c(),
                nu: scratch(),
            },
            y: input(),
            ffn: o.acts(hidden, Input),
        }
    }

    /// Makes room for so many tokens.
    pub(crate) fn resize(&mut self, o: &O, b: &mut O::Batch<'_>, tokens: usize) -> Result<()> {
        let Heads { r, w, k, v, a, g, kk, v_first, nu } = &mut self.heads;
        let heads = [r, w, k, v, a, g, kk, v_first, nu];
        let own = [&mut self.x, &mut self.h, &mut self.y, &mut self.ffn];
        let mut all = heads.into_iter().chain(own).chain(&mut self.mixed).chain(&mut self.low);
        all.try_for_each(|acts| o.resize(b, acts, tokens))
    }
}
