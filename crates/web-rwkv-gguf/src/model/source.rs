//! Takes the weights of a model out of a checkpoint and checks them: after this nothing can be missing or
//! misshapen.

use std::cell::RefCell;

use crate::{
    Error, Result,
    format::{self, Format},
    load::{Checkpoint, ModelVersion, Tensor},
    ops::{FileMatrix, Norm, Ops},
};

/// A checkpoint whose tensors become weights of an executor, by official name.
pub(crate) struct Source<'a, O: Ops> {
    checkpoint: &'a Checkpoint,
    ops: &'a O,
    pub(crate) version: ModelVersion,
    pub(crate) vocab: usize,
    pub(crate) channels: usize,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) head_size: usize,
    /// Epsilon of the layer norms.
    pub(crate) eps: f32,
    /// After each so many layers the residual stream is halved; 0 for never.
    pub(crate) rescale_every: usize,
    /// Format, bytes and number of weights of each matrix that was taken.
    pub(crate) matrices: RefCell<Vec<(Format, usize, usize)>>,
}

impl<'a, O: Ops> Source<'a, O> {
    /// Reads the sizes of the model.
    pub(crate) fn new(checkpoint: &'a Checkpoint, ops: &'a O) -> Result<Self> {
        let file = &checkpoint.file;
        let &Checkpoint { version, layer_norm_eps: eps, rescale_every, .. } = checkpoint;
        let mut source = Self {
            checkpoint,
            ops,
            version,
            vocab: 0,
            channels: 0,
            hidden: 0,
            layers: layers(checkpoint),
            head_size: 0,
            eps,
            rescale_every,
            matrices: RefCell::default(),
        };
        [source.vocab, source.channels] = source.pair("emb.weight")?;
        [source.hidden, _] = source.pair("blocks.0.ffn.key.weight")?;
        let (channels, layers) = (source.channels, source.layers);
        source.head_size = match (version, checkpoint.head_size) {
            (ModelVersion::V4, _) => channels,
            (_, Some(head_size)) => head_size,
            // Before 5.2 there is one decay for each head.
            (ModelVersion::V5, None) => channels / source.find("blocks.0.att.time_decay")?.shape[0],
            (_, None) => 64,
        };
        let head_size = source.head_size;
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

    /// Whether some layer has a tensor of this name: then each must have it.
    pub(crate) fn has(&self, part: &str) -> bool {
        self.checkpoint.tensors.keys().any(|name| name.ends_with(part))
    }

    /// A vector of these values.
    pub(crate) fn made(&self, values: Vec<f32>) -> Result<O::Vector> {
        self.ops.vector(values)
    }

    /// A vector `[C]`.
    pub(crate) fn vector(&self, name: &str) -> Result<O::Vector> {
        self.vector_of(name, |x| x)
    }

    /// A vector `[C]` of what `f` makes of each value.
    pub(crate) fn vector_of(&self, name: &str, f: fn(f32) -> f32) -> Result<O::Vector> {
        let values = self.values(name, self.channels)?;
        self.ops.vector(values.into_iter().map(f).collect())
    }

    /// A vector `[C]` of what `f` makes of each value, where one number for each head, `[H]`, is one for all its
    /// channels.
    pub(crate) fn of_heads(&self, name: &str, f: fn(f32) -> f32) -> Result<O::Vector> {
        let heads = self.channels / self.head_size;
        if self.find(name)?.shape != [heads] {
            return self.vector_of(name, f);
        }
        let values = self.values(name, heads)?;
        self.ops.vector(values.into_iter().flat_map(|x| std::iter::repeat_n(f(x), self.head_size)).collect())
    }

    fn values(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.tensor(name, &[len])?;
        let mut out = vec![0.0; len];
        format::decode(tensor.format, &tensor.data, &mut out);
        Ok(out)
    }

    pub(crate) fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<O::Matrix> {
        self.matrix_of(self.tensor(name, &[rows, columns])?, rows, columns)
    }

    /// The five matrices that a tensor of this shape holds one after another.
    pub(crate) fn five(
        &self,
        name: &str,
        shape: &[usize],
        rows: usize,
        columns: usize,
    ) -> Result<[O::Matrix; 5]> {
        let tensor = self.tensor(name, shape)?;
        let len = tensor.data.len() / 5;
        let part = |i: usize| {
            let data = tensor.data.slice(i * len..(i + 1) * len).expect("five parts are the whole");
            self.matrix_of(Tensor { data, ..tensor.clone() }, rows, columns)
        };
        Ok([part(0)?, part(1)?, part(2)?, part(3)?, part(4)?])
    }

    fn matrix_of(
        &self,
        Tensor { format, data, .. }: Tensor,
        rows: usize,
        columns: usize,
    ) -> Result<O::Matrix> {
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
