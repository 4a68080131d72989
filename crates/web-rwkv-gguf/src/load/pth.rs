//! PyTorch's `.pth` since 1.6: a zip archive with a pickle that names tensors, and their storages.
//! Layout: <https://docs.pytorch.org/docs/stable/notes/serialization.html>

use super::{
    Bytes, Tensor,
    pickle::{self, View},
    zip,
};
use crate::{Error, Result, format::Format};

/// How a zip archive starts.
pub(super) const ARCHIVE: &[u8] = b"PK\x03\x04";

/// How a pickle of PyTorch before 1.6 starts: with a number of its own.
pub(super) const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

pub(super) fn read(file: &str, bytes: &Bytes) -> Result<Vec<(String, Tensor)>> {
    let entries = zip::entries(file, bytes)?;
    let pickle = entries.iter().find_map(|(name, data)| Some((name.strip_suffix("data.pkl")?, data.clone())));
    let Some((folder, pickle)) = pickle else {
        return Err(Error::Missing { file: file.into(), thing: "entry `data.pkl` of PyTorch".into() });
    };
    let entry = |name: &str| entries.get(format!("{folder}{name}").as_str()).cloned();
    if entry("byteorder").is_some_and(|order| bytes.get(order) == Some(b"big")) {
        return Err(Error::UnsupportedModel { file: file.into(), what: "big-endian PyTorch data".into() });
    }
    let mut tensors = vec![];
    let mut copied = 0; // at most the file once more, however many tensors share its storages
    for (name, view) in pickle::tensors(file, &bytes[pickle])? {
        let thing = format!("tensor `{name}`");
        let format = match view.storage {
            "FloatStorage" => Format::F32,
            "HalfStorage" => Format::F16,
            "BFloat16Storage" => Format::BF16,
            other => {
                let found = other.trim_end_matches("Storage").to_string();
                return Err(Error::UnsupportedType { file: file.into(), tensor: name.into(), found });
            }
        };
        let storage =
            entry(&format!("data/{}", view.key)).and_then(|range| bytes.slice(range)).ok_or_else(|| {
                Error::Missing { file: file.into(), thing: format!("storage `{}` of {thing}", view.key) }
            })?;
        if view.len.checked_mul(format.block_bytes()) != Some(storage.len()) {
            let found = format!("{} bytes", storage.len());
            return Err(Error::invalid(file, thing, format!("a storage of {} values", view.len), found));
        }
        let left = bytes.len() - copied;
        let data = values(&view, format.block_bytes(), &storage, left).ok_or_else(|| {
            let found = format!("{:?} with strides {:?} at {}", view.shape, view.stride, view.offset);
            Error::invalid(file, &thing, format!("a part of {} values", view.len), found)
        })?;
        copied += if view.is_plain() { 0 } else { data.len() };
        tensors.push((name.to_owned(), Tensor { shape: view.shape, format, data }));
    }
    Ok(tensors)
}

impl View<'_> {
    /// Whether its rows lie one after another.
    fn is_plain(&self) -> bool {
        let mut step = 1usize;
        self.shape.iter().zip(&self.stride).rev().all(|(&n, &stride)| {
            let plain = n == 1 || stride == step;
            step = step.saturating_mul(n);
            plain
        })
    }
}

/// The values of a view, each of `width` bytes, one row after another: the storage's own bytes if they lie so,
/// and a copy of at most `most` bytes otherwise. `None` if the view does not lie in the storage.
fn values(view: &View<'_>, width: usize, storage: &Bytes, most: usize) -> Option<Bytes> {
    if view.shape.len() != view.stride.len() {
        return None;
    }
    let count = view.shape.iter().try_fold(1, |count: usize, &n| count.checked_mul(n))?;
    let size = count.checked_mul(width)?;
    if view.is_plain() {
        let from = view.offset.checked_mul(width)?;
        return storage.slice(from..from.checked_add(size)?);
    }
    if size > most {
        return None;
    }
    let mut out = Vec::with_capacity(size);
    for i in 0..count {
        let (mut rest, mut at) = (i, view.offset);
        for (&n, &stride) in view.shape.iter().zip(&view.stride).rev() {
            at = at.checked_add((rest % n).checked_mul(stride)?)?;
            rest /= n;
        }
        let from = at.checked_mul(width)?;
        out.extend_from_slice(storage.get(from..from.checked_add(width)?)?);
    }
    Some(out.into())
}
