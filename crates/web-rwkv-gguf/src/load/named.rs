//! Files that hold tensors by name and nothing else, safetensors and PyTorch's: whose names they use, and how their
//! LoRAs lie.

use super::{Bytes, Checkpoint, Dialect, Kind, ModelVersion, Tensor, names, pth, safetensors};
use crate::{Error, Result};

/// Whether a file holds tensors by name, as far as its start tells.
pub(crate) fn is_named(bytes: &[u8]) -> bool {
    let json = bytes.get(8) == Some(&b'{'); // behind eight bytes of length
    json || bytes.starts_with(pth::ARCHIVE) || bytes.starts_with(pth::LEGACY)
}

/// The tensors of a file.
pub(super) struct Named {
    pub(super) tensors: Vec<(String, Tensor)>,
    pub(super) writer: Writer,
}

/// Who wrote a file, where names and shapes do not tell what is in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    PyTorch,
    /// web-rwkv's converter, which exchanges the indices of a trained WKV state.
    Converter,
    Other,
}

impl Named {
    /// Reads a file, told by its content; `None` if it is of neither kind.
    pub(super) fn read(file: &str, bytes: &Bytes) -> Result<Option<Self>> {
        if !is_named(bytes) {
            return Ok(None);
        }
        let mut named = if bytes.starts_with(pth::ARCHIVE) {
            Self { tensors: pth::read(file, bytes)?, writer: Writer::PyTorch }
        } else if bytes.starts_with(pth::LEGACY) {
            let what = "PyTorch's format of before version 1.6 (save the file again with a newer one)";
            return Err(Error::UnsupportedModel { file: file.into(), what: what.into() });
        } else {
            safetensors::read(file, bytes)?
        };
        named.tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (name, Tensor { shape, .. }) in &named.tensors {
            if shape.is_empty() || shape.len() > 4 || shape.contains(&0) {
                let thing = format!("tensor `{name}`");
                return Err(Error::invalid(file, thing, "1 to 4 dimensions, none 0", format!("{shape:?}")));
            }
        }
        Ok(Some(named))
    }

    /// The version of RWKV that the names are of.
    pub(super) fn version(&self) -> ModelVersion {
        names::version(self.tensors.iter().map(|(name, _)| name.as_str()))
    }

    /// Puts the tensors into a checkpoint of their version, under official names and turned as this engine has them.
    pub(super) fn fill(self, checkpoint: &mut Checkpoint) -> Result<()> {
        let version = checkpoint.version;
        let fla = self.tensors.iter().any(|(name, _)| name.starts_with("model."));
        let dialect = if fla && version == ModelVersion::V7 { Dialect::Fla } else { Dialect::Official };
        for (name, tensor) in self.tensors {
            let mut official = names::official(version, &name);
            // Until RWKV-5.2 this was a logarithm, one for each head; web-rwkv calls that of 5.2 by the same name.
            let of_heads = matches!(tensor.shape[..], [_, n] if n > 1);
            if version == ModelVersion::V5 && of_heads && self.writer != Writer::PyTorch {
                official = official.replace(".time_first", ".time_faaaa").into();
            }
            checkpoint.add(dialect, &official, tensor)?;
        }
        let trained = dialect == Dialect::Official && stored_as_trained(checkpoint)?;
        // In a model, a state lies as its LoRAs do.
        let model = checkpoint.tensors.contains_key("emb.weight");
        let converted = if model { !trained } else { self.writer == Writer::Converter };
        for (name, tensor) in &mut checkpoint.tensors {
            let turn = match names::find(version, Dialect::Official, name) {
                Some((_, Kind::Down | Kind::Up | Kind::Ups)) => trained,
                Some((_, Kind::State)) => converted,
                _ => false,
            };
            if turn {
                *tensor = tensor.transposed();
            }
        }
        Ok(())
    }
}

/// Whether the LoRAs are as in official files, `[C, rank]` and `[rank, C]`, and not as this engine
/// and web-rwkv's files have them, the other way around.
fn stored_as_trained(checkpoint: &Checkpoint) -> Result<bool> {
    let Some(c) = checkpoint.tensors.get("emb.weight").and_then(|t| t.shape.last()) else {
        return Ok(true); // no model anyway
    };
    let mut told: Option<(bool, &str)> = None;
    let mut names: Vec<&String> = checkpoint.tensors.keys().collect();
    names.sort_unstable();
    for name in names {
        let shape = &checkpoint.tensors[name].shape;
        let (Some((_, kind)), &[.., rows, columns]) =
            (names::find(checkpoint.version, Dialect::Official, name), &shape[..])
        else {
            continue;
        };
        let trained = match (kind, rows == *c, columns == *c) {
            (Kind::Down, true, false) | (Kind::Up | Kind::Ups, false, true) => true,
            (Kind::Down, false, true) | (Kind::Up | Kind::Ups, true, false) => false,
            _ => continue, // square, or no LoRA
        };
        match told {
            Some((other, first)) if other != trained => {
                let (thing, expected) = (format!("tensor `{name}`"), format!("the orientation of `{first}`"));
                return Err(Error::invalid(&checkpoint.file, thing, expected, format!("{shape:?}")));
            }
            Some(_) => {}
            None => told = Some((trained, name)),
        }
    }
    Ok(told.is_none_or(|(trained, _)| trained))
}
