//! The weights of a model, taken from a checkpoint and checked: after this nothing can be missing or
//! misshapen.

use crate::{
    Error, Result,
    cpu::{Cpu, Matrix},
    format,
    load::{Checkpoint, Tensor},
    ops::{Gates, Norm, Ops},
};

use super::layer_v7::{Att, Ffn, Layer};

/// The group norm after wkv7 has this epsilon in every RWKV-7.
const LN_X_EPS: f32 = 64e-5;

/// The weights of an RWKV-7.
pub(crate) struct Weights<O: Ops> {
    pub(crate) emb: O::Matrix, // [V, C]
    pub(crate) ln0: Norm<O>,
    pub(crate) layers: Vec<Layer<O>>,
    pub(crate) ln_out: Norm<O>,
    pub(crate) head: O::Matrix, // [V, C]
}

/// The sizes of an RWKV-7.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) layers: usize,
    pub(crate) channels: usize,
    pub(crate) hidden: usize,
    pub(crate) vocab: usize,
    pub(crate) head_size: usize,
    /// Ranks of the LoRAs of w, a, g, v.
    pub(crate) ranks: [usize; 4],
}

/// Takes tensors out of a checkpoint by official name.
struct Source<'a> {
    checkpoint: &'a Checkpoint,
    channels: usize,
}

impl Source<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let tensor = self.find(name)?;
        if tensor.shape != shape {
            let (file, thing) = (&self.checkpoint.file, format!("tensor `{name}`"));
            return Err(Error::invalid(file, thing, format!("{shape:?}"), format!("{:?}", tensor.shape)));
        }
        Ok(tensor.clone())
    }

    fn find(&self, name: &str) -> Result<&Tensor> {
        self.checkpoint.tensors.get(name).ok_or_else(|| Error::Missing {
            file: self.checkpoint.file.clone(),
            thing: format!("tensor `{name}`"),
        })
    }

    /// Sizes of a tensor of two dimensions.
    fn pair(&self, name: &str) -> Result<[usize; 2]> {
        let shape = &self.find(name)?.shape;
        shape.as_slice().try_into().map_err(|_| {
            let thing = format!("tensor `{name}`");
            Error::invalid(&self.checkpoint.file, thing, "two dimensions", format!("{shape:?}"))
        })
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.tensor(name, &[self.channels])?;
        let mut out = vec![0.0; self.channels];
        format::decode(tensor.format, &tensor.data, &mut out);
        Ok(out)
    }

    fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix> {
        let Tensor { format, data, .. } = self.tensor(name, &[rows, columns])?;
        Ok(Matrix { format, rows, columns, data })
    }

    fn norm(&self, name: &str, eps: f32) -> Result<Norm<Cpu>> {
        let (weight, bias) = (self.vector(&format!("{name}.weight"))?, self.vector(&format!("{name}.bias"))?);
        Ok(Norm { weight, bias, eps })
    }
}

/// One more than the highest layer that a tensor is of. Each layer up to there must then be whole: a file that
/// lacks something is damaged, not a smaller model.
fn layers(checkpoint: &Checkpoint) -> usize {
    let layer = |name: &String| name.strip_prefix("blocks.")?.split('.').next()?.parse::<usize>().ok();
    checkpoint.tensors.keys().filter_map(layer).max().map_or(0, |highest| highest.saturating_add(1))
}

impl Weights<Cpu> {
    /// Checks every tensor of the checkpoint and takes it.
    pub(crate) fn new(checkpoint: &Checkpoint) -> Result<(Self, Sizes)> {
        let file = &checkpoint.file;
        let mut source = Source { checkpoint, channels: 0 };
        let [vocab, channels] = source.pair("emb.weight")?;
        source.channels = channels;
        let [hidden, _] = source.pair("blocks.0.ffn.key.weight")?;
        let layers = layers(checkpoint);
        let head_size = checkpoint.head_size.unwrap_or(64);
        if head_size == 0 || !channels.is_multiple_of(head_size) {
            return Err(Error::invalid(
                file,
                "head size",
                format!("a divisor of {channels}"),
                head_size.to_string(),
            ));
        }
        for (thing, expected, found) in [
            ("block count", checkpoint.block_count, layers),
            ("embedding length", checkpoint.embedding_length, channels),
        ] {
            if expected.is_some_and(|n| n != found) {
                let expected = expected.map_or_else(String::new, |n| n.to_string());
                return Err(Error::invalid(file, thing, expected, format!("tensors for {found}")));
            }
        }
        let mut ranks = [0; 4];
        let eps = checkpoint.layer_norm_eps;
        let mut blocks = vec![]; // grows with what the file really has, whatever its names claim
        for i in 0..layers {
            let b = format!("blocks.{i}");
            let vector = |name: &str| source.vector(&format!("{b}.{name}"));
            let matrix =
                |name: &str, rows, columns| source.matrix(&format!("{b}.{name}.weight"), rows, columns);
            let square = |name: &str| matrix(name, channels, channels);
            let mut lora = |which: usize, name: char| -> Result<(Matrix, Matrix)> {
                let [rank, _] = source.pair(&format!("{b}.att.{name}1"))?;
                ranks[which] = ranks[which].max(rank);
                let down = source.matrix(&format!("{b}.att.{name}1"), rank, channels)?;
                let up = source.matrix(&format!("{b}.att.{name}2"), channels, rank)?;
                Ok((down, up))
            };
            let ((w1, w2), (a1, a2), (g1, g2)) = (lora(0, 'w')?, lora(1, 'a')?, lora(2, 'g')?);
            let v = if i == 0 { None } else { Some(lora(3, 'v')?) };
            let (v1, v2) = v.map_or((None, None), |(v1, v2)| (Some(v1), Some(v2)));
            let gates = Gates {
                w0: vector("att.w0")?,
                w2,
                a0: vector("att.a0")?,
                a2,
                g2,
                v: v2.map(|v2| Ok::<_, Error>((vector("att.v0")?, v2))).transpose()?,
                k_k: vector("att.k_k")?,
                k_a: vector("att.k_a")?,
            };
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
                ln_x: source.norm(&format!("{b}.att.ln_x"), LN_X_EPS)?,
            };
            let ffn = Ffn {
                mix: [vector("ffn.x_k")?],
                k: matrix("ffn.key", hidden, channels)?,
                v: matrix("ffn.value", channels, hidden)?,
            };
            let norm = |name: &str| source.norm(&format!("{b}.{name}"), eps);
            blocks.push(Layer { ln1: norm("ln1")?, att, ln2: norm("ln2")?, ffn });
        }
        let weights = Self {
            emb: source.matrix("emb.weight", vocab, channels)?,
            ln0: source.norm("blocks.0.ln0", eps)?,
            layers: blocks,
            ln_out: source.norm("ln_out", eps)?,
            head: source.matrix("head.weight", vocab, channels)?,
        };
        Ok((weights, Sizes { layers, channels, hidden, vocab, head_size, ranks }))
    }
}
