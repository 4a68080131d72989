//! What RWKV-4, 5 and 6 share: the channel mix with its receptance, and the activations.

use crate::{
    Result,
    ops::{
        Act::*,
        Kind::{self, *},
        Norm, Ops, Product, Shift,
    },
};

use super::source::Source;

/// The weights of a channel mix.
pub(crate) struct Ffn<O: Ops> {
    mix: [O::Vector; 2], // k r
    k: O::Matrix,        // [F, C]
    v: O::Matrix,        // [C, F]
    r: O::Matrix,        // [C, C]
    /// What the residual stream is multiplied by after this layer.
    scale: f32,
}

impl<O: Ops> Ffn<O> {
    /// Takes the weights of layer `i`, whose token shift is `mix` of k and r.
    pub(crate) fn load(source: &Source<'_, O>, i: usize, mix: [O::Vector; 2]) -> Result<Self> {
        let (c, f) = (source.channels, source.hidden);
        let matrix = |name: &str, rows, columns| {
            source.matrix(&format!("blocks.{i}.ffn.{name}.weight"), rows, columns)
        };
        let halve = source.rescale_every != 0 && (i + 1).is_multiple_of(source.rescale_every);
        let scale = if halve { 0.5 } else { 1.0 };
        Ok(Self {
            mix,
            k: matrix("key", f, c)?,
            v: matrix("value", c, f)?,
            r: matrix("receptance", c, c)?,
            scale,
        })
    }

    /// `x += σ(R xr) · V relu(K xk)²`
    pub(crate) fn run(&self, o: &O, b: &mut O::Batch<'_>, i: usize, ln2: &Norm<O>, t: &mut Scratch<O>) {
        o.shift(b, (i, Shift::Ffn), ln2, &self.mix, &t.x, &mut t.h, &mut t.mixed[..2]);
        o.project(
            b,
            &mut [
                Product { w: &self.k, x: &t.mixed[0], act: SquaredRelu, y: &mut t.ffn },
                Product { w: &self.r, x: &t.mixed[1], act: Sigmoid, y: &mut t.r },
            ],
        );
        o.project(b, &mut [Product { w: &self.v, x: &t.ffn, act: Id, y: &mut t.v }]);
        o.add_gated(b, &t.r, &t.v, self.scale, &mut t.x);
    }
}

/// The activations of a layer.
pub(crate) struct Scratch<O: Ops> {
    pub(crate) x: O::Acts,          // [T, C] the residual stream
    pub(crate) h: O::Acts,          // [T, C] after a norm
    pub(crate) mixed: Vec<O::Acts>, // [T, C] each, what the projections read
    pub(crate) r: O::Acts,          // [T, C], and so on to g
    pub(crate) k: O::Acts,
    pub(crate) v: O::Acts,
    pub(crate) g: O::Acts,
    pub(crate) y: O::Acts,   // [T, C] what the recurrence makes
    pub(crate) ffn: O::Acts, // [T, F]
}

impl<O: Ops> Scratch<O> {
    /// Activations of which `mixed` are what projections read.
    pub(crate) fn new(o: &O, channels: usize, hidden: usize, mixed: usize) -> Self {
        let (c, input) = (|| o.acts(channels, Stream), || o.acts(channels, Input));
        let mixed = (0..mixed).map(|_| input()).collect();
        let ffn = o.acts(hidden, Input);
        let h = o.acts(channels, Kind::Scratch);
        Self { x: c(), h, mixed, r: c(), k: c(), v: c(), g: c(), y: input(), ffn }
    }

    /// Makes room for so many tokens.
    pub(crate) fn resize(&mut self, o: &O, b: &mut O::Batch<'_>, tokens: usize) -> Result<()> {
        let Self { x, h, mixed, r, k, v, g, y, ffn } = self;
        let mut all = [x, h, r, k, v, g, y, ffn].into_iter().chain(mixed);
        all.try_for_each(|acts| o.resize(b, acts, tokens))
    }
}
