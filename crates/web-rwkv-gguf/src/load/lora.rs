//! LoRA files as RWKV-PEFT saves them: next to `X.lora_A` `[rank, in]` and `X.lora_B` `[out, rank]`, which add to
//! `X.weight`, tensors that were trained as a whole.

use std::{collections::BTreeMap, num::NonZeroUsize, path::Path, thread};

use super::{Bytes, Checkpoint, Tensor, named::Named};
use crate::{
    Error, Result,
    format::{self, Format, to_f16},
};

/// Both halves of a LoRA.
type Halves = [Option<Tensor>; 2];

impl Checkpoint {
    /// Adds a LoRA file of RWKV-PEFT, safetensors or `.pth`, to the weights: `W += alpha / rank · B A`; tensors that
    /// were trained as a whole replace the model's.
    ///
    /// What it changes is then in memory: of f32 weights as f32, of others, quantized ones too, as f16.
    ///
    /// # Errors
    /// For a file that cannot be read or is no LoRA, or of whose tensors one does not fit the model.
    pub fn merge_lora(&mut self, path: &Path, alpha: f32) -> Result<()> {
        let file = path.display().to_string();
        let named = Named::read(&file, &Bytes::map(path)?)?.ok_or_else(|| {
            Error::invalid(&file, "content", "a LoRA in safetensors or PyTorch's .pth", "something else")
        })?;
        if self.rescale_every != 0 {
            let what = format!("a LoRA on {}, which halves its stream (take the official file),", self.file);
            return Err(Error::UnsupportedModel { file, what });
        }
        let mut loras = BTreeMap::<String, Halves>::new();
        let mut whole = vec![];
        for (name, tensor) in named.tensors {
            match (name.strip_suffix(".lora_A"), name.strip_suffix(".lora_B")) {
                (Some(stem), _) => loras.entry(stem.into()).or_default()[0] = Some(tensor),
                (_, Some(stem)) => loras.entry(stem.into()).or_default()[1] = Some(tensor),
                (None, None) => whole.push((name, tensor)),
            }
        }
        if loras.is_empty() {
            return Err(Error::Missing { file, thing: "any `lora_A`".into() });
        }
        for (name, tensor) in self.trained(&file, Named { tensors: whole, ..named })? {
            self.tensors.insert(name, tensor);
        }
        for (stem, halves) in loras {
            self.add_lora(&file, &stem, halves, alpha)?;
        }
        Ok(())
    }

    /// The tensors of a file that take the place of this model's.
    fn trained(&self, file: &str, named: Named) -> Result<Vec<(String, Tensor)>> {
        let mut other = Self::empty(file);
        other.version = self.version;
        named.fill(&mut other)?;
        for (name, tensor) in &other.tensors {
            let expected = self.tensors.get(name).map(|tensor| &tensor.shape);
            if expected != Some(&tensor.shape) {
                let expected = expected.map_or_else(
                    || format!("a tensor of {}", self.file),
                    |shape| format!("{shape:?} as in {}", self.file),
                );
                let found = format!("{:?}", tensor.shape);
                return Err(Error::invalid(file, format!("tensor `{name}`"), expected, found));
            }
        }
        Ok(other.tensors.into_iter().collect())
    }

    fn add_lora(&mut self, file: &str, stem: &str, [a, b]: Halves, alpha: f32) -> Result<()> {
        let missing =
            |half: &str| Error::Missing { file: file.into(), thing: format!("tensor `{stem}.{half}`") };
        let (a, b) = (a.ok_or_else(|| missing("lora_A"))?, b.ok_or_else(|| missing("lora_B"))?);
        let name = format!("{stem}.weight");
        let weight = self.tensors.get_mut(&name).filter(|w| w.shape.len() == 2).ok_or_else(|| {
            let expected = format!("a LoRA of a matrix of {}", self.file);
            Error::invalid(file, format!("tensor `{stem}.lora_A`"), expected, format!("one of `{name}`"))
        })?;
        let (rows, columns, rank) = (weight.shape[0], weight.shape[1], a.shape[0]);
        for (half, tensor, shape) in [("lora_A", &a, [rank, columns]), ("lora_B", &b, [rows, rank])] {
            if tensor.shape != shape {
                let thing = format!("tensor `{stem}.{half}`");
                let expected = format!("{shape:?}, for {:?} of {}", weight.shape, self.file);
                return Err(Error::invalid(file, thing, expected, format!("{:?}", tensor.shape)));
            }
        }
        *weight = merged(weight, &floats(&a), &floats(&b), alpha / rank as f32);
        Ok(())
    }
}

/// `W + scale · B A`, with A `[rank, columns]` and B `[rows, rank]`.
fn merged(weight: &Tensor, a: &[f32], b: &[f32], scale: f32) -> Tensor {
    let (rows, columns) = (weight.shape[0], weight.shape[1]);
    let rank = a.len() / columns;
    let format = if weight.format == Format::F32 { Format::F32 } else { Format::F16 };
    let (from, to) = (weight.data.len() / rows, format.block_bytes() * columns);
    let mut data = vec![0; rows * to];
    let some = rows.div_ceil(thread::available_parallelism().map_or(1, NonZeroUsize::get));
    thread::scope(|s| {
        for (part, out) in data.chunks_mut(some * to).enumerate() {
            s.spawn(move || {
                let mut row = vec![0.0; columns];
                for (i, out) in (part * some..).zip(out.chunks_exact_mut(to)) {
                    format::decode(weight.format, &weight.data[i * from..(i + 1) * from], &mut row);
                    for (b, a) in b[i * rank..(i + 1) * rank].iter().zip(a.chunks_exact(columns)) {
                        let b = b * scale;
                        row.iter_mut().zip(a).for_each(|(w, a)| *w += b * a);
                    }
                    match format {
                        Format::F32 => {
                            out.as_chunks_mut().0.iter_mut().zip(&row).for_each(|(y, x)| *y = x.to_le_bytes())
                        }
                        _ => out.as_chunks_mut().0.iter_mut().zip(&row).for_each(|(y, x)| *y = to_f16(*x)),
                    }
                }
            });
        }
    });
    Tensor { shape: weight.shape.clone(), format, data: data.into() }
}

/// The values of a tensor of floats.
fn floats(tensor: &Tensor) -> Vec<f32> {
    let mut out = vec![0.0; tensor.shape.iter().product()];
    format::decode(tensor.format, &tensor.data, &mut out);
    out
}
