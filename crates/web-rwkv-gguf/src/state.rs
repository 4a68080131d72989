//! The recurrent state of one sequence, as a value: make it, fork it (`clone`), save it, load it.

use std::{
    fmt, fs, mem,
    ops::Deref,
    path::Path,
    sync::{Arc, Mutex, OnceLock},
};

use crate::{
    Error, Result,
    gpu::{Mapped, Slot},
    load::ModelVersion,
};

const MAGIC: &[u8; 8] = b"RWKVSTAT";
const VERSION: u32 = 1;
/// RWKV-4's largest exponent before any token: less than any exponent of a token.
const LOWEST: f32 = -1e38;
const HEADER: usize = 8 + 4 + 4 + 8 + 3 * 4;

/// The recurrent state of one sequence.
///
/// An f32 buffer `[L, N + 2, C]`, C fastest: for each layer row 0 is the token shift of the time mix
/// (its input after ln1), rows 1 to N are the WKV state (row = key index j, column = head · N + value
/// index i; RWKV-7's official PyTorch state is `S[head][i][j]`, that of RWKV-5 and 6 `S[head][j][i]`), row
/// N + 1 is the token shift of the channel mix (its input after ln2).
///
/// RWKV-4 has `[L, 5, C]`: rows 1 to 3 are `aa`, `bb` and `pp`, which starts at -1e38.
///
/// A model that runs on a GPU leaves it there; it is fetched when it is looked at.
#[derive(Clone)]
pub struct State {
    /// The buffer, if there is no slot, or a copy of what is there; zeros if it is not set.
    data: OnceLock<Floats>,
    slot: Option<Arc<Slot>>,
    shape: StateShape,
}

/// The contents of a state.
#[derive(Clone)]
enum Floats {
    Owned(Buffer),
    /// A copy of what is on a GPU, where that has put it.
    Mapped(Arc<Mapped>),
}

impl Deref for Floats {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match self {
            Self::Owned(data) => &data.0,
            Self::Mapped(data) => data,
        }
    }
}

/// Memory of a state, which the next one has: from the system it would come by a page fault for each 4 KB.
struct Buffer(Vec<f32>);

/// Buffers that no state has, the latest last.
static SPARE: Mutex<Vec<Vec<f32>>> = Mutex::new(vec![]);
/// Floats of all of them, which stay when a model is closed: 128 MB.
const MOST_SPARE: usize = 32 << 20;

impl Buffer {
    /// A buffer of any contents.
    fn new(len: usize) -> Self {
        let mut spare = SPARE.lock().expect("no holder panics");
        let found = spare.iter().rposition(|data| data.len() == len).map(|i| spare.remove(i));
        drop(spare);
        Self(found.unwrap_or_else(|| vec![0.0; len]))
    }

    fn zeros(len: usize) -> Self {
        let mut buffer = Self::new(len);
        buffer.0.fill(0.0);
        buffer
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.0.len());
        copy.0.copy_from_slice(&self.0);
        copy
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let data = mem::take(&mut self.0);
        if data.is_empty() {
            return; // somebody else has it
        }
        let mut spare = SPARE.lock().expect("no holder panics");
        spare.push(data);
        let mut floats: usize = spare.iter().map(Vec::capacity).sum();
        while floats > MOST_SPARE {
            floats -= spare.remove(0).capacity();
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// States are equal if their contents are, wherever they are kept; what cannot be fetched equals nothing.
impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let contents = (self.as_slice().ok(), other.as_slice().ok());
        self.shape == other.shape && matches!(contents, (Some(a), Some(b)) if a == b)
    }
}

/// Which model a state belongs to, and its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateShape {
    /// Its layout too, and the tag of that in a file.
    pub(crate) version: ModelVersion,
    pub(crate) fingerprint: u64,
    pub(crate) layers: usize,
    pub(crate) head_size: usize,
    pub(crate) channels: usize,
}

impl StateShape {
    fn rows(&self) -> usize {
        match self.version {
            ModelVersion::V4 => 5,
            _ => self.head_size.saturating_add(2), // it may stand in a file, where it may be anything
        }
    }

    fn len(&self) -> Option<usize> {
        self.layers.checked_mul(self.rows())?.checked_mul(self.channels)
    }
}

impl fmt::Display for StateShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, fingerprint, layers, channels, .. } = self;
        write!(f, "model {fingerprint:016x}, {version} of {layers} layers, width {channels}")
    }
}

impl State {
    /// The state before any token: zeros, but for RWKV-4's largest exponents.
    pub(crate) fn zero(shape: StateShape) -> Self {
        let mut state = Self { data: OnceLock::new(), slot: None, shape };
        if shape.version == ModelVersion::V4 {
            state.data = OnceLock::from(Floats::Owned(Buffer::zeros(state.len())));
            (0..shape.layers).for_each(|i| state.layer(i).1[2 * shape.channels..].fill(LOWEST));
        }
        state
    }

    /// The state itself, leaving another in its place.
    pub(crate) fn take(&mut self) -> Self {
        let shape = self.shape;
        mem::replace(self, Self { data: OnceLock::new(), slot: None, shape })
    }

    /// A state of these contents, which are as many as it has.
    pub(crate) fn of(shape: StateShape, data: Vec<f32>) -> Self {
        Self { data: OnceLock::from(Floats::Owned(Buffer(data))), slot: None, shape }
    }

    /// How many floats the state has.
    #[allow(clippy::len_without_is_empty)] // no state is empty
    pub fn len(&self) -> usize {
        self.shape.len().expect("the sizes of an open model, or of what was read, fit in memory")
    }

    /// Whether the state is kept on a GPU.
    pub fn is_on_gpu(&self) -> bool {
        self.slot.is_some()
    }

    /// Fetches the state to this machine's memory, where it is then kept.
    ///
    /// # Errors
    /// For a GPU that was lost.
    pub fn to_host(&mut self) -> Result<()> {
        self.as_slice()?;
        if self.slot.is_some() {
            *self = Self::of(self.shape, self.take().into_vec()?);
        }
        Ok(())
    }

    pub(crate) fn shape(&self) -> StateShape {
        self.shape
    }

    /// The buffer, `[L, N + 2, C]`, RWKV-4's `[L, 5, C]`; one that is on a GPU is fetched once.
    ///
    /// # Errors
    /// For a GPU that was lost.
    pub fn as_slice(&self) -> Result<&[f32]> {
        if self.data.get().is_none() {
            let data = match &self.slot {
                Some(slot) => Floats::Mapped(slot.read()?),
                None => Floats::Owned(Buffer::zeros(self.len())),
            };
            self.data.get_or_init(|| data);
        }
        Ok(self.data.get().expect("set above"))
    }

    /// The buffer itself, without a copy but for a state that is on a GPU.
    ///
    /// # Errors
    /// As [`State::as_slice`].
    pub fn into_vec(self) -> Result<Vec<f32>> {
        self.as_slice()?;
        Ok(match self.data.into_inner().expect("fetched above") {
            Floats::Owned(mut data) => mem::take(&mut data.0),
            Floats::Mapped(data) => data.to_vec(),
        })
    }

    /// The sizes `[L, N + 2, C]`; RWKV-4's `[L, 5, C]`.
    pub fn dims(&self) -> [usize; 3] {
        [self.shape.layers, self.shape.rows(), self.shape.channels]
    }

    /// Replaces the contents by a buffer of the same layout.
    pub fn set(&mut self, data: Vec<f32>) -> Result<()> {
        if data.len() != self.len() {
            return Err(Error::Request {
                thing: "state buffer".into(),
                expected: format!("{} floats", self.len()),
                found: data.len().to_string(),
            });
        }
        *self = Self::of(self.shape, data);
        Ok(())
    }

    /// The rows of a layer: time-mix shift `[C]`, WKV state `[N, C]` (RWKV-4's `[3, C]`), channel-mix shift `[C]`.
    pub(crate) fn layer(&mut self, layer: usize) -> (&mut [f32], &mut [f32], &mut [f32]) {
        let (rows, c) = (self.shape.rows(), self.shape.channels);
        let Some(Floats::Owned(data)) = self.data.get_mut() else {
            unreachable!("the CPU fetches states before it runs")
        };
        let layer = &mut data.0[layer * rows * c..][..rows * c];
        let (att, rest) = layer.split_at_mut(c);
        let (wkv, ffn) = rest.split_at_mut(rest.len() - c);
        (att, wkv, ffn)
    }

    /// The state as bytes: magic, version, layout tag, fingerprint of the model, sizes, floats; everything
    /// little-endian.
    ///
    /// # Errors
    /// As [`State::as_slice`].
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let data = self.as_slice()?;
        let mut out = Vec::with_capacity(HEADER + 4 * data.len());
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend(self.shape.version.number().to_le_bytes());
        out.extend(self.shape.fingerprint.to_le_bytes());
        for n in [self.shape.layers, self.shape.head_size, self.shape.channels] {
            out.extend((n as u32).to_le_bytes());
        }
        out.resize(HEADER + 4 * data.len(), 0);
        let (floats, _) = out[HEADER..].as_chunks_mut::<4>();
        floats.iter_mut().zip(data).for_each(|(b, x)| *b = x.to_le_bytes());
        Ok(out)
    }

    /// A state from the bytes that [`State::to_bytes`] gives; `name` stands for the file in errors. Which
    /// model it is of is checked where it is used.
    ///
    /// # Errors
    /// For bytes that are no state.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self> {
        let invalid =
            |thing: &str, expected: String, found: String| Err(Error::invalid(name, thing, expected, found));
        let Some((header, data)) = bytes.split_first_chunk::<HEADER>().filter(|(h, _)| h.starts_with(MAGIC))
        else {
            return invalid("file", "a state of RWKV".into(), "something else".into());
        };
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        if u32_at(8) != VERSION {
            return invalid("version", VERSION.to_string(), u32_at(8).to_string());
        }
        let Some(version) = ModelVersion::ALL.iter().copied().find(|v| v.number() == u32_at(12)) else {
            return invalid("layout", "that of RWKV-4 to 7".into(), u32_at(12).to_string());
        };
        let shape = StateShape {
            version,
            fingerprint: u64::from_le_bytes(header[16..24].try_into().expect("8 bytes")),
            layers: u32_at(24) as usize,
            head_size: u32_at(28) as usize,
            channels: u32_at(32) as usize,
        };
        let (floats, rest) = data.as_chunks::<4>();
        if shape.len() != Some(floats.len()) || !rest.is_empty() {
            let [layers, rows, channels] = [shape.layers, shape.rows(), shape.channels];
            let expected = format!("{layers} x {rows} x {channels} floats");
            return invalid("length", expected, format!("{} bytes", data.len()));
        }
        Ok(Self::of(shape, floats.iter().map(|b| f32::from_le_bytes(*b)).collect()))
    }

    /// Writes [`State::to_bytes`] to a file.
    ///
    /// # Errors
    /// If the file cannot be written, and as [`State::as_slice`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        fs::write(path.as_ref(), self.to_bytes()?).map_err(|e| Error::io(path.as_ref(), e))
    }

    /// Reads the file of a state.
    ///
    /// # Errors
    /// For a file that cannot be read, and as [`State::from_bytes`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let bytes = fs::read(path.as_ref()).map_err(|e| Error::io(path.as_ref(), e))?;
        Self::from_bytes(&path.as_ref().display().to_string(), &bytes)
    }
}

/// What the GPU executor does with states.
#[cfg(feature = "gpu")]
impl State {
    /// Whether the state is known to be zeros.
    pub(crate) fn is_zero(&self) -> bool {
        self.slot.is_none() && self.data.get().is_none()
    }

    pub(crate) fn slot(&self) -> Option<&Arc<Slot>> {
        self.slot.as_ref()
    }

    /// From now on the state is what a slot holds.
    pub(crate) fn settle(&mut self, slot: Arc<Slot>) {
        (self.data, self.slot) = (OnceLock::new(), Some(slot));
    }
}
