//! The recurrent state of one sequence, as a value: make it, fork it (`clone`), save it, load it.

use std::{fs, path::Path};

use crate::{Error, Result};

const MAGIC: &[u8; 8] = b"RWKVSTAT";
const VERSION: u32 = 1;
/// Layout tag of RWKV-7: `[L, N + 2, C]`, see [`State`].
const LAYOUT: u32 = 7;
const HEADER: usize = 8 + 4 + 4 + 8 + 3 * 4;

/// The recurrent state of one sequence.
///
/// An f32 buffer `[L, N + 2, C]`, C fastest: for each layer row 0 is the token shift of the time mix
/// (its input after ln1), rows 1 to N are the WKV state (row = key index j, column = head · N + value
/// index i; the official PyTorch state is `S[head][i][j]`), row N + 1 is the token shift of the channel
/// mix (its input after ln2).
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    data: Vec<f32>,
    shape: StateShape,
}

/// Which model a state belongs to, and its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateShape {
    pub(crate) fingerprint: u64,
    pub(crate) layers: usize,
    pub(crate) head_size: usize,
    pub(crate) channels: usize,
}

impl StateShape {
    fn rows(&self) -> usize {
        self.head_size + 2
    }

    fn len(&self) -> Option<usize> {
        self.layers.checked_mul(self.rows())?.checked_mul(self.channels)
    }
}

impl State {
    /// The state before any token: zeros.
    pub(crate) fn zero(shape: StateShape) -> Self {
        let len = shape.len().expect("the sizes of an open model fit in memory");
        Self { data: vec![0.0; len], shape }
    }

    pub(crate) fn shape(&self) -> StateShape {
        self.shape
    }

    /// The buffer, `[L, N + 2, C]`.
    pub fn as_slice(&self) -> &[f32] {
        &self.data
    }

    /// The buffer itself, without a copy.
    pub fn into_vec(self) -> Vec<f32> {
        self.data
    }

    /// The sizes `[L, N + 2, C]`.
    pub fn dims(&self) -> [usize; 3] {
        [self.shape.layers, self.shape.rows(), self.shape.channels]
    }

    /// Replaces the contents by a buffer of the same layout.
    pub fn set(&mut self, data: Vec<f32>) -> Result<()> {
        if data.len() != self.data.len() {
            return Err(Error::Request {
                thing: "state buffer".into(),
                expected: format!("{} floats", self.data.len()),
                found: data.len().to_string(),
            });
        }
        self.data = data;
        Ok(())
    }

    /// The rows of a layer: time-mix shift `[C]`, WKV state `[N, C]`, channel-mix shift `[C]`.
    pub(crate) fn layer(&mut self, layer: usize) -> (&mut [f32], &mut [f32], &mut [f32]) {
        let (rows, c) = (self.shape.rows(), self.shape.channels);
        let layer = &mut self.data[layer * rows * c..][..rows * c];
        let (att, rest) = layer.split_at_mut(c);
        let (wkv, ffn) = rest.split_at_mut(rest.len() - c);
        (att, wkv, ffn)
    }

    /// Writes the state to a file: magic, version, layout tag, fingerprint of the model, sizes, floats;
    /// everything little-endian.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut out = Vec::with_capacity(HEADER + 4 * self.data.len());
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend(LAYOUT.to_le_bytes());
        out.extend(self.shape.fingerprint.to_le_bytes());
        for n in [self.shape.layers, self.shape.head_size, self.shape.channels] {
            out.extend((n as u32).to_le_bytes());
        }
        out.extend(self.data.iter().flat_map(|x| x.to_le_bytes()));
        fs::write(path.as_ref(), out).map_err(|e| Error::io(path.as_ref(), e))
    }

    /// Reads a state that a model of the same fingerprint has saved.
    pub(crate) fn load(path: &Path, shape: StateShape) -> Result<Self> {
        let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
        let file = path.display().to_string();
        let invalid = |thing: &str, expected: String, found: String| {
            Err(Error::Invalid { file: file.clone(), thing: thing.into(), expected, found })
        };
        if bytes.get(..8) != Some(MAGIC) || bytes.len() < HEADER {
            return invalid("file", "a state of RWKV".into(), "something else".into());
        }
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        if u32_at(8) != VERSION {
            return invalid("version", VERSION.to_string(), u32_at(8).to_string());
        }
        if u32_at(12) != LAYOUT {
            return invalid("layout", LAYOUT.to_string(), u32_at(12).to_string());
        }
        let found = StateShape {
            fingerprint: u64::from_le_bytes(bytes[16..24].try_into().expect("8 bytes")),
            layers: u32_at(24) as usize,
            head_size: u32_at(28) as usize,
            channels: u32_at(32) as usize,
        };
        if found != shape {
            let name = |s: StateShape| {
                format!("model {:016x} of {} layers, width {}", s.fingerprint, s.layers, s.channels)
            };
            return invalid("state", name(shape), name(found));
        }
        let len = shape.len().expect("the sizes of an open model fit in memory");
        let (floats, rest) = bytes[HEADER..].as_chunks::<4>();
        if floats.len() != len || !rest.is_empty() {
            return invalid("length", (HEADER + 4 * len).to_string(), bytes.len().to_string());
        }
        Ok(Self { data: floats.iter().map(|b| f32::from_le_bytes(*b)).collect(), shape })
    }
}
