//! Safetensors: a length, a JSON header, the tensors.

use safetensors::{Dtype, SafeTensors};

use super::{
    Bytes, Tensor,
    named::{Named, Writer},
};
use crate::{Error, Result, format::Format};

pub(super) fn read(file: &str, bytes: &Bytes) -> Result<Named> {
    let invalid = |e: safetensors::SafeTensorError| {
        Error::invalid(file, "header", "that of a safetensors file", e.to_string())
    };
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(invalid)?;
    let infos = metadata.tensors();
    let mut found: Vec<_> = infos.iter().map(|(name, info)| (name.as_str(), *info)).collect();
    found.sort_unstable_by_key(|&(name, _)| name);

    let start = header + 8; // past the length of the header
    let mut tensors = vec![];
    for (name, info) in found {
        let format = match info.dtype {
            Dtype::F32 => Format::F32,
            Dtype::F16 => Format::F16,
            Dtype::BF16 => Format::BF16,
            other => {
                let (tensor, found) = (name.into(), other.to_string());
                return Err(Error::UnsupportedType { file: file.into(), tensor, found });
            }
        };
        let (from, to) = info.data_offsets;
        let data = bytes.slice(start + from..start + to).ok_or_else(|| {
            let found = format!("bytes {from} to {to}");
            Error::invalid(file, format!("tensor `{name}`"), "data inside the file", found)
        })?;
        tensors.push((name.to_owned(), Tensor { shape: info.shape.clone(), format, data }));
    }
    // web-rwkv's converter makes everything f16 and says so; trainers write bf16 or f32.
    let marked = metadata.metadata().as_ref().is_some_and(|m| m.get("format").is_some_and(|f| f == "pt"));
    let converted = marked && tensors.iter().all(|(_, tensor)| tensor.format == Format::F16);
    Ok(Named { tensors, writer: if converted { Writer::Converter } else { Writer::Other } })
}
