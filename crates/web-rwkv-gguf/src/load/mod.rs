//! Model files: which kind a file is, and its tensors under one set of names.

mod gguf;
mod huge;
pub(crate) mod names;
mod safetensors;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, ErrorKind},
    ops::Range,
    path::Path,
    sync::Arc,
};

use crate::{Error, Result, format::Format};
use names::{Dialect, Kind};

/// The bytes of a file: mapped, or compiled into the program, or owned. Cloning shares them.
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Mapped(Arc<memmap2::Mmap>),
    Read(Arc<memmap2::Mmap>),
    Static(&'static [u8]),
    Owned(Arc<[u8]>),
}

impl Bytes {
    /// Maps a file into memory.
    pub fn map(path: &Path) -> Result<Self> {
        Self::of(path, false)
    }

    /// Reads a file into huge pages, where the system has them; else maps it.
    pub fn read(path: &Path) -> Result<Self> {
        Self::of(path, true)
    }

    fn of(path: &Path, huge: bool) -> Result<Self> {
        // Asked before it is opened, because opening a pipe waits for its writer.
        let kind = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        if !kind.is_file() {
            let (error, found) = match kind.is_dir() {
                true => (ErrorKind::IsADirectory, "a directory"),
                false => (ErrorKind::InvalidInput, "a device or a pipe"),
            };
            return Err(Error::io(path, io::Error::new(error, format!("expected a file, found {found}"))));
        }
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        if let Some(memory) = huge.then(|| huge::read(&file)).flatten() {
            return Ok(Self { range: 0..memory.len(), owner: Owner::Read(Arc::new(memory)) });
        }
        // SAFETY: the file must not be changed while it is mapped; the documentation of
        // `Model::open` says so, as every program that maps its models does.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        Ok(Self { range: 0..map.len(), owner: Owner::Mapped(Arc::new(map)) })
    }

    /// A part of these bytes; `None` if it ends past them.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        let start = self.range.start.checked_add(range.start)?;
        let end = self.range.start.checked_add(range.end)?;
        (start <= end && end <= self.range.end).then(|| Self { owner: self.owner.clone(), range: start..end })
    }

    /// Says that these bytes are not needed soon: those of a file leave the memory.
    pub(crate) fn release(&self) {
        #[cfg(unix)]
        if let Owner::Mapped(map) = &self.owner {
            let (start, len) = (self.range.start, self.range.len());
            // SAFETY: pages of a file that nobody writes are read again, the same, when they are next used.
            let advised =
                unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) };
            drop(advised); // the system may not want to
        }
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let all = match &self.owner {
            Owner::Mapped(map) | Owner::Read(map) => &map[..],
            Owner::Static(bytes) => bytes,
            Owner::Owned(bytes) => bytes,
        };
        &all[self.range.clone()]
    }
}

impl From<&'static [u8]> for Bytes {
    fn from(bytes: &'static [u8]) -> Self {
        Self { range: 0..bytes.len(), owner: Owner::Static(bytes) }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self { range: 0..bytes.len(), owner: Owner::Owned(bytes.into()) }
    }
}

/// A tensor of a file.
#[derive(Clone)]
pub struct Tensor {
    /// Dimensions in numpy's order: values along the last one are neighbours.
    pub shape: Vec<usize>,
    /// How the values are stored.
    pub format: Format,
    /// The rows, one after another.
    pub data: Bytes,
}

impl Tensor {
    /// An owned copy with rows and columns exchanged; for matrices of plain floats only.
    pub(crate) fn transposed(&self) -> Self {
        fn turn<const B: usize>(data: &[u8], columns: usize) -> Vec<u8> {
            let values = data.as_chunks::<B>().0;
            let mut out = Vec::with_capacity(data.len());
            for x in 0..columns {
                for value in values.iter().skip(x).step_by(columns) {
                    out.extend_from_slice(value);
                }
            }
            out
        }
        let &[rows, columns] = &self.shape[..] else { return self.clone() };
        let data = match self.format.block_bytes() {
            2 => turn::<2>(&self.data, columns),
            _ => turn::<4>(&self.data, columns),
        };
        Self { shape: vec![columns, rows], format: self.format, data: data.into() }
    }
}

/// A model file, its tensors under the official names of RWKV: `blocks.0.att.w1`.
///
/// Matrices are `[out, in]`, those of the LoRAs (`w1`, `w2`, ...) too; everything else is flat, `[C]`.
/// Whether the tensors make up a model is not yet known.
pub struct Checkpoint {
    /// Path of the file.
    pub file: String,
    /// The tensors, by name.
    pub tensors: HashMap<String, Tensor>,
    /// The bytes of each token, if the file has a vocabulary; none for a token that no text has.
    pub vocab: Option<Vec<Vec<u8>>>,
    /// Channels of a head, where the file tells.
    pub head_size: Option<usize>,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f32,
    /// Layers, where the file tells.
    pub block_count: Option<usize>,
    /// Channels, where the file tells.
    pub embedding_length: Option<usize>,
    /// The keys of a GGUF, each with its type and value as they stand in the file.
    pub(crate) keys: Vec<(String, Bytes)>,
}

impl Checkpoint {
    /// Maps a file and reads what is in it, telling its kind by its content.
    ///
    /// The file must not be changed as long as its tensors are in use.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_bytes(&path.display().to_string(), Bytes::map(path)?)
    }

    /// As [`Checkpoint::open`], with the file in huge pages where the system has them: for a model that will run.
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_bytes(&path.display().to_string(), Bytes::read(path)?)
    }

    /// Reads a file from its bytes; `file` is for messages.
    pub fn from_bytes(file: &str, bytes: Bytes) -> Result<Self> {
        let checkpoint = Self {
            file: file.into(),
            tensors: HashMap::new(),
            vocab: None,
            head_size: None,
            layer_norm_eps: 1e-5,
            block_count: None,
            embedding_length: None,
            keys: vec![],
        };
        let mut checkpoint = if bytes.starts_with(b"GGUF") {
            gguf::read(checkpoint, &bytes)?
        } else if bytes.get(8) == Some(&b'{') {
            safetensors::read(checkpoint, &bytes)? // eight bytes of length, then JSON
        } else {
            let found = match &bytes[..bytes.len().min(4)] {
                [] => "an empty file".into(),
                b"PK\x03\x04" => "a zip archive, as PyTorch's .pth files are".into(),
                start => format!("a file that starts with \"{}\"", start.escape_ascii()),
            };
            return Err(Error::invalid(file, "content", "GGUF or safetensors", found));
        };
        checkpoint.tensors.retain(|name, _| !names::UNUSED.contains(&&**name));
        Ok(checkpoint)
    }

    /// The checkpoint with another vocabulary.
    pub fn with_vocab(mut self, vocab: Vec<Vec<u8>>) -> Self {
        self.vocab = Some(vocab);
        self.keys.retain(|(key, _)| !key.starts_with("tokenizer."));
        self
    }

    /// Takes in a tensor that a file calls `name`.
    fn add(&mut self, dialect: Dialect, name: &str, tensor: Tensor) -> Result<()> {
        let (official, kind) = names::find(dialect, name).ok_or_else(|| Error::UnsupportedModel {
            file: self.file.clone(),
            what: format!(
                "tensor `{name}`, which is no part of RWKV-7 (variants like DeepEmbed are not run),"
            ),
        })?;
        let expected = |what: &str| {
            Err(Error::invalid(&self.file, format!("tensor `{name}`"), what, format!("{:?}", tensor.shape)))
        };
        // Dimensions of 1 in front, or between the six vectors and their values, mean nothing.
        let dims: Vec<usize> = tensor.shape.iter().copied().filter(|&n| n != 1).collect();
        match (kind, &tensor.shape[..], &dims[..]) {
            (Kind::Vector, _, [] | [_]) => self.insert(official, vec![dims.iter().product()], tensor),
            (Kind::Heads, _, [] | [_] | [_, _]) => {
                if let (None, Dialect::Official | Dialect::Fla, &[_, n]) =
                    (self.head_size, dialect, &tensor.shape[..])
                {
                    self.head_size = Some(n);
                }
                self.insert(official, vec![dims.iter().product()], tensor)
            }
            (Kind::Lerp, [6, ..], [6] | [6, _]) => {
                let c = dims.get(1).copied().unwrap_or(1);
                let row = tensor.data.len() / 6;
                for (i, letter) in names::LERP.into_iter().enumerate() {
                    let data = tensor.data.slice(i * row..(i + 1) * row).expect("six rows fill the tensor");
                    let part = Tensor { shape: vec![c], format: tensor.format, data };
                    self.insert(format!("{official}{letter}"), vec![c], part)?;
                }
                Ok(())
            }
            (Kind::Matrix | Kind::Down | Kind::Up, [ones @ .., rows, columns], _)
                if ones.iter().all(|&n| n == 1) =>
            {
                self.insert(official, vec![*rows, *columns], tensor)
            }
            // GGUF leaves out outer dimensions of 1.
            (Kind::Matrix | Kind::Down | Kind::Up, [columns], _) => {
                self.insert(official, vec![1, *columns], tensor)
            }
            (Kind::Vector | Kind::Heads, ..) => expected("a vector"),
            (Kind::Lerp, ..) => expected("[6, 1, 1, channels]"),
            (Kind::Matrix | Kind::Down | Kind::Up, ..) => expected("a matrix"),
        }
    }

    fn insert(&mut self, name: String, shape: Vec<usize>, tensor: Tensor) -> Result<()> {
        if self.tensors.contains_key(&name) {
            return Err(Error::invalid(&self.file, format!("tensor `{name}`"), "one", "a second"));
        }
        self.tensors.insert(name, Tensor { shape, ..tensor });
        Ok(())
    }
}
