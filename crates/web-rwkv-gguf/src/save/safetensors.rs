//! Safetensors with official names and shapes, the LoRAs as they are trained.

use std::{borrow::Cow, path::Path, sync::Mutex};

use safetensors::{Dtype, SafeTensorError, View, serialize_to_file};

use super::{Entry, SaveOptions, Writing, in_order};
use crate::{
    Error, Result,
    format::Format,
    load::{Checkpoint, Tensor, names},
};

pub(super) fn write(
    checkpoint: &Checkpoint,
    path: &Path,
    options: &SaveOptions<'_>,
    writing: &mut Writing<'_>,
) -> Result<()> {
    if checkpoint.rescale_every != 0 {
        let what = "a model that halves its stream, in safetensors (take the official file),";
        return Err(Error::UnsupportedModel { file: checkpoint.file.clone(), what: what.into() });
    }
    let mut entries = vec![];
    for name in in_order(checkpoint) {
        let tensor = &checkpoint.tensors[name];
        let wanted = (options.format)(name, tensor);
        let format = if wanted.group().is_some() { Format::F16 } else { wanted };
        let (version, head_size) = (checkpoint.version, checkpoint.head_size);
        let (shape, turned) = names::official_shape(version, name, &tensor.shape, head_size);
        let entry =
            Entry { name: name.clone(), shape, format, parts: vec![tensor.clone()], importance: None };
        entries.push((entry, turned));
    }
    let total = entries.iter().map(|(entry, _)| entry.values()).sum();
    // The crate asks for one tensor after another and takes no error for an answer: the first one waits here.
    let source = Mutex::new((writing, Ok(())));
    let views = entries.iter().map(|(entry, turned)| {
        let view = Lazy { file: &checkpoint.file, entry, turned: *turned, total, source: &source };
        (entry.name.as_str(), view)
    });
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    serialize_to_file(views, metadata, path).map_err(|e| match e {
        SafeTensorError::IoError(e) => Error::io(path, e),
        other => {
            Error::invalid(&checkpoint.file, "tensors", "those of a safetensors file", other.to_string())
        }
    })?;
    let mut source = source.lock().expect("no holder panics");
    std::mem::replace(&mut source.1, Ok(()))
}

/// A tensor whose bytes are made when they are written.
struct Lazy<'a, 'w> {
    file: &'a str,
    entry: &'a Entry<'a>,
    turned: bool,
    total: usize,
    source: &'a Mutex<(&'a mut Writing<'w>, Result<()>)>,
}

impl View for Lazy<'_, '_> {
    fn dtype(&self) -> Dtype {
        match self.entry.format {
            Format::F16 => Dtype::F16,
            Format::BF16 => Dtype::BF16,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.entry.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut source = self.source.lock().expect("no holder panics");
        let mut bytes = Vec::with_capacity(self.data_len());
        if source.1.is_ok() {
            source.1 = source.0.tensor(self.file, self.entry, self.total, &mut |part| {
                bytes.extend_from_slice(part);
                Ok(())
            });
        }
        bytes.resize(self.data_len(), 0);
        if self.turned {
            let part = &self.entry.parts[0];
            let (shape, format) = (part.shape.clone(), self.entry.format);
            bytes = Tensor { shape, format, data: bytes.into() }.transposed().data.to_vec();
        }
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.entry.bytes()
    }
}
