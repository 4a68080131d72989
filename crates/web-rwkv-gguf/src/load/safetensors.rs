//! Safetensors: a length, a JSON header, the tensors. Official names or fla's.

use safetensors::{Dtype, SafeTensors};

use super::{Bytes, Checkpoint, Dialect, Kind, Tensor, names};
use crate::{Error, Result, format::Format};

pub(super) fn read(mut checkpoint: Checkpoint, bytes: &Bytes) -> Result<Checkpoint> {
    let file = checkpoint.file.clone();
    let invalid = |e: safetensors::SafeTensorError| {
        Error::invalid(&file, "header", "that of a safetensors file", e.to_string())
    };
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(invalid)?;
    let infos = metadata.tensors();
    let mut found: Vec<_> = infos.iter().map(|(name, info)| (name.as_str(), *info)).collect();
    found.sort_unstable_by_key(|&(name, _)| name);

    let names = found.iter().map(|&(name, _)| name);
    if let Some(generation) = names::generation(names.clone()) {
        return Err(Error::UnsupportedModel { file, what: generation.into() });
    }
    let fla = names.clone().any(|name| name.starts_with("model."));
    let dialect = if fla { Dialect::Fla } else { Dialect::Official };

    let start = header + 8; // past the length of the header
    for (name, info) in found {
        let thing = || format!("tensor `{name}`");
        let format = match info.dtype {
            Dtype::F32 => Format::F32,
            Dtype::F16 => Format::F16,
            Dtype::BF16 => Format::BF16,
            other => {
                return Err(Error::UnsupportedType { file, tensor: name.into(), found: other.to_string() });
            }
        };
        let shape = info.shape.clone();
        if shape.is_empty() || shape.len() > 4 || shape.contains(&0) {
            return Err(Error::invalid(&file, thing(), "1 to 4 dimensions, none 0", format!("{shape:?}")));
        }
        let (from, to) = info.data_offsets;
        let data = bytes.slice(start + from..start + to).ok_or_else(|| {
            Error::invalid(&file, thing(), "data inside the file", format!("bytes {from} to {to}"))
        })?;
        checkpoint.add(dialect, name, Tensor { shape, format, data })?;
    }
    if dialect == Dialect::Official && stored_as_trained(&checkpoint)? {
        for (name, tensor) in &mut checkpoint.tensors {
            if matches!(names::find(dialect, name), Some((_, Kind::Down | Kind::Up))) {
                *tensor = tensor.transposed();
            }
        }
    }
    Ok(checkpoint)
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
        let (Some((_, kind)), &[rows, columns]) =
            (names::find(Dialect::Official, name), &checkpoint.tensors[name].shape[..])
        else {
            continue;
        };
        let trained = match (kind, rows == *c, columns == *c) {
            (Kind::Down, true, false) | (Kind::Up, false, true) => true,
            (Kind::Down, false, true) | (Kind::Up, true, false) => false,
            _ => continue, // square, or no LoRA
        };
        match told {
            Some((other, first)) if other != trained => {
                let (thing, found) = (format!("tensor `{name}`"), format!("[{rows}, {columns}]"));
                return Err(Error::invalid(
                    &checkpoint.file,
                    thing,
                    format!("the orientation of `{first}`"),
                    found,
                ));
            }
            Some(_) => {}
            None => told = Some((trained, name)),
        }
    }
    Ok(told.is_none_or(|(trained, _)| trained))
}
