//! The layers of a model, whatever its version.

use crate::{Result, load::ModelVersion, ops::Ops};

use super::{Sizes, before_v7, layer_v4, layer_v5, layer_v6, layer_v7, source::Source};

/// The weights of all layers.
pub(crate) enum Layers<O: Ops> {
    V4(Vec<layer_v4::Layer<O>>),
    V5(Vec<layer_v5::Layer<O>>),
    V6(Vec<layer_v6::Layer<O>>),
    V7(Vec<layer_v7::Layer<O>>),
}

/// The activations that they share.
pub(crate) enum Scratch<O: Ops> {
    BeforeV6(before_v7::Scratch<O>),
    V6(layer_v6::Scratch<O>),
    V7(layer_v7::Scratch<O>),
}

impl<O: Ops> Layers<O> {
    /// Takes the weights of every layer.
    pub(crate) fn load(source: &Source<'_, O>) -> Result<Self> {
        fn all<L>(count: usize, load: impl Fn(usize) -> Result<L>) -> Result<Vec<L>> {
            let mut layers = vec![]; // grows with what the file really has, whatever its names claim
            for i in 0..count {
                layers.push(load(i)?);
            }
            Ok(layers)
        }
        let count = source.layers;
        Ok(match source.version {
            ModelVersion::V4 => Self::V4(all(count, |i| layer_v4::Layer::load(source, i))?),
            ModelVersion::V5 => Self::V5(all(count, |i| layer_v5::Layer::load(source, i))?),
            ModelVersion::V6 => Self::V6(all(count, |i| layer_v6::Layer::load(source, i))?),
            ModelVersion::V7 => Self::V7(all(count, |i| layer_v7::Layer::load(source, i))?),
        })
    }

    /// Activations of no tokens yet.
    pub(crate) fn scratch(&self, o: &O, &Sizes { channels, hidden, .. }: &Sizes) -> Scratch<O> {
        let before_v6 = |mixed| Scratch::BeforeV6(before_v7::Scratch::new(o, channels, hidden, mixed));
        match self {
            Self::V4(_) => before_v6(layer_v4::MIXED),
            Self::V5(_) => before_v6(layer_v5::MIXED),
            Self::V6(layers) => Scratch::V6(layer_v6::Scratch::new(o, layers, channels, hidden)),
            Self::V7(layers) => Scratch::V7(layer_v7::Scratch::new(o, layers, channels, hidden)),
        }
    }

    /// Runs the tokens of a batch through all layers: reads and updates `x` and the states.
    pub(crate) fn run(&self, o: &O, b: &mut O::Batch<'_>, head_size: usize, t: &mut Scratch<O>) {
        match (self, t) {
            (Self::V4(layers), Scratch::BeforeV6(t)) => {
                layers.iter().enumerate().for_each(|(i, l)| layer_v4::layer(o, b, i, l, t));
            }
            (Self::V5(layers), Scratch::BeforeV6(t)) => {
                layers.iter().enumerate().for_each(|(i, l)| layer_v5::layer(o, b, i, l, head_size, t));
            }
            (Self::V6(layers), Scratch::V6(t)) => {
                layers.iter().enumerate().for_each(|(i, l)| layer_v6::layer(o, b, i, l, head_size, t));
            }
            (Self::V7(layers), Scratch::V7(t)) => {
                layers.iter().enumerate().for_each(|(i, l)| layer_v7::layer(o, b, i, l, head_size, t));
            }
            _ => unreachable!("the activations are those of these layers"),
        }
    }
}

impl<O: Ops> Scratch<O> {
    /// The residual stream, `[T, C]`.
    pub(crate) fn x(&mut self) -> &mut O::Acts {
        match self {
            Self::BeforeV6(t) => &mut t.x,
            Self::V6(t) => &mut t.t.x,
            Self::V7(t) => &mut t.x,
        }
    }

    /// Makes room for so many tokens.
    pub(crate) fn resize(&mut self, o: &O, b: &mut O::Batch<'_>, tokens: usize) -> Result<()> {
        match self {
            Self::BeforeV6(t) => t.resize(o, b, tokens),
            Self::V6(t) => t.resize(o, b, tokens),
            Self::V7(t) => t.resize(o, b, tokens),
        }
    }
}
