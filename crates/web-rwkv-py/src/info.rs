//! What a model is, and the options of requests.

use pyo3::prelude::*;
use web_rwkv_gguf::RnnOption;

use crate::error::no_gpu;

/// What `Model.run` gives back, for T tokens.
#[pyclass(module = "web_rwkv_py", frozen, eq, eq_int, hash, from_py_object)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PyRnnOption {
    /// Logits after the last token, `[V]`.
    Last,
    /// Logits after every token, `[T * V]`.
    Full,
    /// Hidden vector after ln_out of the last token, `[C]`; the head is not computed.
    EmbedLast,
    /// Hidden vectors after ln_out of every token, `[T * C]`; the head is not computed.
    EmbedFull,
}

impl From<PyRnnOption> for RnnOption {
    fn from(option: PyRnnOption) -> Self {
        match option {
            PyRnnOption::Last => Self::Last,
            PyRnnOption::Full => Self::Full,
            PyRnnOption::EmbedLast => Self::EmbedLast,
            PyRnnOption::EmbedFull => Self::EmbedFull,
        }
    }
}

/// Where a state is kept.
#[pyclass(module = "web_rwkv_py", frozen, eq, eq_int, hash, from_py_object)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum StateDevice {
    /// In host memory.
    Cpu,
    /// In the memory of the GPU.
    Gpu,
}

impl StateDevice {
    /// An error for a device that this build does not have.
    pub(crate) fn check(self) -> PyResult<()> {
        if self == Self::Gpu { Err(no_gpu()) } else { Ok(()) }
    }
}

/// Which RWKV a model is.
#[pyclass(module = "web_rwkv_py", frozen, eq, eq_int, hash)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[allow(dead_code, reason = "names that programs compare with; the engine runs V7")]
pub(crate) enum ModelVersion {
    V4,
    V5,
    V6,
    V7,
}

/// The sizes of a model.
#[pyclass(module = "web_rwkv_py", frozen, get_all)]
pub(crate) struct ModelInfo {
    /// Version of RWKV.
    version: Py<ModelVersion>,
    /// Layers, L.
    num_layer: usize,
    /// Width of the residual stream, C.
    num_emb: usize,
    /// Width of the channel mix, F.
    num_hidden: usize,
    /// Tokens in the vocabulary, V.
    num_vocab: usize,
    /// Heads, H.
    num_head: usize,
    /// Size of a head, N.
    head_size: usize,
}

impl ModelInfo {
    pub(crate) fn new(py: Python<'_>, info: web_rwkv_gguf::ModelInfo) -> PyResult<Self> {
        let web_rwkv_gguf::ModelInfo {
            num_layer, num_emb, num_hidden, num_vocab, num_head, head_size, ..
        } = info;
        let version = Py::new(py, ModelVersion::V7)?;
        Ok(Self { version, num_layer, num_emb, num_hidden, num_vocab, num_head, head_size })
    }
}

#[pymethods]
impl ModelInfo {
    fn __repr__(&self) -> String {
        let Self { num_layer, num_emb, num_hidden, num_vocab, num_head, head_size, .. } = self;
        format!(
            "ModelInfo(version=ModelVersion.V7, num_layer={num_layer}, num_emb={num_emb}, \
             num_hidden={num_hidden}, num_vocab={num_vocab}, num_head={num_head}, head_size={head_size})"
        )
    }
}
