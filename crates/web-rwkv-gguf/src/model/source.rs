//! Takes the weights of a model out of a checkpoint and checks them: after this nothing can be missing or
//! misshapen.

use std::cell::RefCell;

use crate::{
    Error, Result,
    format::{self, Format},
    load::{Checkpoint, Tensor},
    ops::{FileMatrix, Norm, Ops},
};

/// A checkpoint whose tensors become weights of an executor, by official name.
pub(crate) struct Source<'a, O: Ops> {
    checkpoint: &'a Checkpoint,
    ops: &'a O,
    pub(crate) vocab: usize,
    pub(crate) channels: usize,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) head_size: usize,
    /// Epsilon of the layer norms.
    pub(crate) eps: f32,
    /// Format, bytes and number of weights of each matrix that was taken.
    pub(crate) matrices: RefCell<Vec<(Format, usize, usize)>>,
}

impl<'a, O: Ops> Source<'a, O> {
    /// Reads the sizes of the model.
    pub(crate) fn new(checkpoint: &'a Checkpoint, ops: &'a O) -> Result<Self> {
        let file = &checkpoint.file;
        let head_size = checkpoint.head_size.unwrap_or(64);
        let layers = layers(checkpoint);
        let matrices = RefCell::default();
        let eps = checkpoint.layer_norm_eps;
        let mut source =
            Self { checkpoint, ops, vocab: 0, channels: 0, hidden: 0, layers, head_size, eps, matrices };
        [source.vocab, source.channels] = source.pair("emb.weight")?;
        [source.hidden, _] = source.pair("blocks.0.ffn.key.weight")?;
        let channels = source.channels;
        if head_size == 0 || !channels.is_multiple_of(head_size) {
            let expected = format!("a divisor of {channels}");
            return Err(Error::invalid(file, "head size", expected, head_size.to_string()));
        }
        for (thing, expected, found) in [
            ("block count", checkpoint.block_count, layers),
            ("embedding length", checkpoint.embedding_length, channels),
        ] {
            if let Some(n) = expected.filter(|n| *n != found) {
                return Err(Error::invalid(file, thing, n.to_string(), format!("tensors for {found}")));
            }
        }
        Ok(source)
    }

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
    pub(crate) fn pair(&self, name: &str) -> Result<[usize; 2]> {
        let shape = &self.find(name)?.shape;
        shape.as_slice().try_into().map_err(|_| {
            let thing = format!("tensor `{name}`");
            Error::invalid(&self.checkpoint.file, thing, "two dimensions", format!("{shape:?}"))
        })
    }

    /// A vector `[C]`.
    pub(crate) fn vector(&self, name: &str) -> Result<O::Vector> {
        let tensor = self.tensor(name, &[self.channels])?;
        let mut out = vec![0.0; self.channels];
        format::decode(tensor.format, &tensor.data, &mut out);
        self.ops.vector(out)
    }

    pub(crate) fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<O::Matrix> {
        let Tensor { format, data, .. } = self.tensor(name, &[rows, columns])?;
        self.matrices.borrow_mut().push((format, data.len(), rows * columns));
        self.ops.matrix(FileMatrix { format, rows, columns, data })
    }

    pub(crate) fn norm(&self, name: &str, eps: f32) -> Result<Norm<O>> {
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
