//! Model files: which kind a file is, and its tensors under one set of names.

mod gguf;
mod huge;
mod lora;
pub(crate) mod moving;
mod named;
pub(crate) mod names;
mod pickle;
mod pth;
mod safetensors;
mod zip;

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io::{self, ErrorKind},
    ops::Range,
    path::Path,
    sync::Arc,
};

use memmap2::Mmap;

use crate::{
    Error, Result,
    format::{Format, beside::ROWS},
};
pub(crate) use moving::Moves;
use moving::Moving;
use named::Named;
pub(crate) use named::is_named;
use names::{Dialect, Kind};

/// Which RWKV a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ModelVersion {
    /// RWKV-4.
    V4,
    /// RWKV-5.0, 5.1 and 5.2.
    V5,
    /// RWKV-6 (x060).
    V6,
    /// RWKV-7 (x070).
    V7,
}

impl ModelVersion {
    /// Every version.
    pub(crate) const ALL: &[Self] = &[Self::V4, Self::V5, Self::V6, Self::V7];

    /// 4 to 7.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V5 => 5,
            Self::V6 => 6,
            Self::V7 => 7,
        }
    }
}

impl fmt::Display for ModelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RWKV-{}", self.number())
    }
}

/// The bytes of a file: mapped, or on their way from there into other memory, or compiled into the program, or owned. Cloning shares
/// them.
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Mapped(Arc<Mapped>),
    Moving(Arc<Moving>),
    Static(&'static [u8]),
    Owned(Arc<[u8]>),
}

/// A file, and its bytes in memory.
struct Mapped {
    file: File,
    map: Mmap,
}

impl Bytes {
    /// Maps a file into memory.
    pub fn map(path: &Path) -> Result<Self> {
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
        // SAFETY: the file must not be changed while it is mapped; the documentation of
        // `Model::open` says so, as every program that maps its models does.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        huge::ask(&map);
        Ok(Self { range: 0..map.len(), owner: Owner::Mapped(Arc::new(Mapped { file, map })) })
    }

    /// Whether eight rows of blocks each come to stand side by side, see [`format::beside`](crate::format::beside).
    pub(crate) fn is_beside(&self) -> bool {
        matches!(&self.owner, Owner::Moving(moving) if moving.eights.is_some())
    }

    /// The rows side by side, once they stand so.
    pub(crate) fn beside(&self) -> Option<&[u8]> {
        match &self.owner {
            Owner::Moving(moving) if moving.eights.is_some() => Some(&moving.moved()?[self.range.clone()]),
            _ => None,
        }
    }

    /// A part of these bytes; `None` if it ends past them.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        let start = self.range.start.checked_add(range.start)?;
        let end = self.range.start.checked_add(range.end)?;
        (start <= end && end <= self.range.end).then(|| Self { owner: self.owner.clone(), range: start..end })
    }

    /// Where they come from, unless they were made.
    fn source(&self) -> Option<huge::Source<'_>> {
        match &self.owner {
            Owner::Mapped(mapped) => Some(huge::Source::File(&mapped.file)),
            Owner::Static(bytes) => Some(huge::Source::Static(bytes)),
            _ => None,
        }
    }

    /// Says that these bytes are not needed soon: those of a file leave the memory.
    pub(crate) fn release(&self) {
        #[cfg(unix)]
        if let Owner::Mapped(mapped) = &self.owner {
            let (start, len) = (self.range.start, self.range.len());
            // SAFETY: pages of a file that nobody writes are read again, the same, when they are next used.
            let advised =
                unsafe { mapped.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) };
            drop(advised); // the system may not want to
        }
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let all = match &self.owner {
            Owner::Mapped(mapped) => &mapped.map[..],
            Owner::Moving(moving) => moving.in_order(),
            Owner::Static(bytes) => bytes,
            Owner::Owned(bytes) => bytes,
        };
        &all[self.range.clone()]
    }
}

impl From<Arc<Moving>> for Bytes {
    fn from(moving: Arc<Moving>) -> Self {
        Self { range: 0..moving.in_order().len(), owner: Owner::Moving(moving) }
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
    /// An owned copy with the last two dimensions exchanged; for plain floats only.
    pub(crate) fn transposed(&self) -> Self {
        fn turn<const B: usize>(data: &[u8], rows: usize, columns: usize) -> Vec<u8> {
            let mut out = Vec::with_capacity(data.len());
            for matrix in data.as_chunks::<B>().0.chunks_exact(rows * columns) {
                for x in 0..columns {
                    for value in matrix.iter().skip(x).step_by(columns) {
                        out.extend_from_slice(value);
                    }
                }
            }
            out
        }
        let &[ref outer @ .., rows, columns] = &self.shape[..] else { return self.clone() };
        let data = match self.format.block_bytes() {
            2 => turn::<2>(&self.data, rows, columns),
            _ => turn::<4>(&self.data, rows, columns),
        };
        Self { shape: [outer, &[columns, rows]].concat(), format: self.format, data: data.into() }
    }
}

/// A model file, its tensors under the official names of RWKV: `blocks.0.att.w1`.
///
/// Matrices are `[out, in]`, those of the LoRAs (`w1`, `w2`, ...) too: `time_maa_w2` of RWKV-6 is `[5, C, rank]`.
/// A trained state, `time_state`, is `[H, N, N]`; everything else is flat, `[C]`. Whether the tensors make up a model is not yet known.
pub struct Checkpoint {
    /// Path of the file.
    pub file: String,
    /// Whose names the tensors have.
    pub version: ModelVersion,
    /// The tensors, by name.
    pub tensors: HashMap<String, Tensor>,
    /// The bytes of each token, if the file has a vocabulary; none for a token that no text has.
    pub vocab: Option<Vec<Vec<u8>>>,
    /// Channels of a head, where the file tells.
    pub head_size: Option<usize>,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f32,
    /// The residual stream is halved after each so many layers, because the weights behind them expect it; 0 for
    /// never.
    pub rescale_every: usize,
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

    /// Reads a file from its bytes; `file` is for messages.
    pub fn from_bytes(file: &str, bytes: Bytes) -> Result<Self> {
        let mut checkpoint = Self::empty(file);
        if bytes.starts_with(b"GGUF") {
            gguf::read(&mut checkpoint, &bytes)?;
        } else if let Some(named) = Named::read(file, &bytes)? {
            checkpoint.version = named.version();
            named.fill(&mut checkpoint)?;
        } else {
            let found = match &bytes[..bytes.len().min(4)] {
                [] => "an empty file".into(),
                start => format!("a file that starts with \"{}\"", start.escape_ascii()),
            };
            return Err(Error::invalid(file, "content", "GGUF, safetensors or PyTorch's .pth", found));
        }
        checkpoint.tensors.retain(|name, _| !names::UNUSED.contains(&&**name));
        Ok(checkpoint)
    }

    /// What a CPU runs: tensors come to be in huge pages where the system has them, but for the embeddings, of which a token needs
    /// one row. If a file's pages are huge they stay where it is mapped, and else they move; so do all of them if rows of matrices are
    /// to stand side by side, which is said by `beside` and which only a CPU's executor knows to read.
    pub(crate) fn in_huge_pages(&self, beside: bool) -> (Self, Moves) {
        let mut tensors = self.tensors.clone();
        let mut mapped: Vec<_> = tensors
            .iter_mut()
            .filter(|(name, tensor)| *name != "emb.weight" && tensor.data.source().is_some())
            .map(|(_, Tensor { shape, format, data })| {
                let eights = match shape[..] {
                    [rows, columns]
                        if beside && format.beside() && columns > 0 && rows.is_multiple_of(ROWS) =>
                    {
                        format.row_bytes(columns).map(|row| (*format, ROWS * row))
                    }
                    _ => None,
                };
                (data, eights)
            })
            .collect();
        mapped.sort_by_key(|(data, _)| data.range.start);
        if !mapped.is_sorted_by(|(a, _), (b, _)| a.range.end <= b.range.start) {
            mapped.clear(); // what shares bytes would be read more than once
        }
        let is_mapped = huge::are_mapped(&mapped.iter().map(|(data, _)| &data[..]).collect::<Vec<_>>());
        if is_mapped && mapped.iter().all(|(_, eights)| eights.is_none()) {
            mapped.clear();
        }
        let moves = Moves::new(mapped);
        (Self { tensors, vocab: None, keys: vec![], file: self.file.clone(), ..*self }, moves)
    }

    /// What a file of no tensors is.
    pub(crate) fn empty(file: &str) -> Self {
        Self {
            file: file.into(),
            version: ModelVersion::V7,
            tensors: HashMap::new(),
            vocab: None,
            head_size: None,
            layer_norm_eps: 1e-5,
            rescale_every: 0,
            block_count: None,
            embedding_length: None,
            keys: vec![],
        }
    }

    /// The checkpoint with another vocabulary.
    pub fn with_vocab(mut self, vocab: Vec<Vec<u8>>) -> Self {
        self.vocab = Some(vocab);
        self.keys.retain(|(key, _)| !key.starts_with("tokenizer."));
        self
    }

    /// Takes in a tensor that a file calls `name`.
    fn add(&mut self, dialect: Dialect, name: &str, tensor: Tensor) -> Result<()> {
        let version = self.version;
        let (official, kind) =
            names::find(version, dialect, name).ok_or_else(|| Error::UnsupportedModel {
                file: self.file.clone(),
                what: format!(
                    "tensor `{name}`, which is no part of {version} (variants like DeepEmbed are not run),"
                ),
            })?;
        let expected = |what: &str| {
            Err(Error::invalid(&self.file, format!("tensor `{name}`"), what, format!("{:?}", tensor.shape)))
        };
        // Dimensions of 1 in front, or between the fused vectors and their values, mean nothing.
        let dims: Vec<usize> = tensor.shape.iter().copied().filter(|&n| n != 1).collect();
        let lerp = names::lerp(version);
        match (kind, &tensor.shape[..], &dims[..]) {
            (Kind::Vector, _, [] | [_]) => self.insert(official, vec![dims.iter().product()], tensor),
            (Kind::Heads, shape, [] | [_] | [_, _]) => {
                if let (None, Dialect::Official | Dialect::Fla, &[_, n]) = (self.head_size, dialect, shape) {
                    self.head_size = (n > 1).then_some(n);
                }
                self.insert(official, vec![dims.iter().product()], tensor)
            }
            (Kind::Lerp, &[count, ..], [first, rest @ ..])
                if count == lerp.len() && *first == count && rest.len() <= 1 =>
            {
                let c = rest.first().copied().unwrap_or(1);
                let row = tensor.data.len() / count;
                for (i, letter) in lerp.chars().enumerate() {
                    let data = tensor.data.slice(i * row..(i + 1) * row).expect("the rows fill the tensor");
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
            (Kind::Ups, [5, _, _], _) | (Kind::State, [_, _, _], _) => {
                self.insert(official, tensor.shape.clone(), tensor)
            }
            (Kind::Vector | Kind::Heads, ..) => expected("a vector"),
            (Kind::Lerp, ..) => expected(&format!("[{}, 1, 1, channels]", lerp.len())),
            (Kind::Matrix | Kind::Down | Kind::Up, ..) => expected("a matrix"),
            (Kind::Ups, ..) => expected("five matrices"),
            (Kind::State, ..) => expected("[heads, size, size]"),
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
