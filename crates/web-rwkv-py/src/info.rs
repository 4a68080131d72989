//! What a model is, the options of requests, and the GPUs of this machine.

use std::fmt::Debug;

use pyo3::{PyClass, prelude::*, pyclass::boolean_struct::True, types::PyType};
use web_rwkv_gguf::RnnOption;

/// `getattr(type, name)`, as pickle and copy take it.
type ByName<'py> = (Bound<'py, PyAny>, (Bound<'py, PyType>, String));

/// How to come by a variant again.
fn by_name<'py, T: PyClass<Frozen = True> + Debug + Sync>(slf: &Bound<'py, T>) -> PyResult<ByName<'py>> {
    let getattr = slf.py().import("builtins")?.getattr("getattr")?;
    Ok((getattr, (slf.as_any().get_type(), format!("{:?}", slf.get()))))
}

/// What `Model.run` gives back, for T tokens.
#[pyclass(module = "web_rwkv_py", frozen, eq, eq_int, hash, from_py_object)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

#[pymethods]
impl PyRnnOption {
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<ByName<'py>> {
        by_name(slf)
    }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum StateDevice {
    /// In the memory of this machine.
    Cpu,
    /// In the memory of the GPU that its model runs on.
    Gpu,
}

#[pymethods]
impl StateDevice {
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<ByName<'py>> {
        by_name(slf)
    }
}

/// Which RWKV a model is.
#[pyclass(module = "web_rwkv_py", frozen, eq, eq_int, hash, from_py_object)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ModelVersion {
    V4,
    V5,
    V6,
    V7,
}

#[pymethods]
impl ModelVersion {
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<ByName<'py>> {
        by_name(slf)
    }
}

/// The sizes of a model: a value, which can be compared, copied and pickled.
#[pyclass(module = "web_rwkv_py", frozen, eq, hash, get_all)]
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct ModelInfo {
    /// Version of RWKV.
    version: ModelVersion,
    /// Layers, L.
    num_layer: usize,
    /// Width of the residual stream, C.
    num_emb: usize,
    /// Width of the channel mix, F.
    num_hidden: usize,
    /// Tokens in the vocabulary, V.
    num_vocab: usize,
    /// Heads, H; 1 for RWKV-4, which has none.
    num_head: usize,
    /// Size of a head, N; C for RWKV-4.
    head_size: usize,
}

impl ModelInfo {
    pub(crate) fn of(info: web_rwkv_gguf::ModelInfo) -> Self {
        let web_rwkv_gguf::ModelInfo {
            version,
            num_layer,
            num_emb,
            num_hidden,
            num_vocab,
            num_head,
            head_size,
        } = info;
        let version = match version {
            web_rwkv_gguf::ModelVersion::V4 => ModelVersion::V4,
            web_rwkv_gguf::ModelVersion::V5 => ModelVersion::V5,
            web_rwkv_gguf::ModelVersion::V6 => ModelVersion::V6,
            _ => ModelVersion::V7,
        };
        Self { version, num_layer, num_emb, num_hidden, num_vocab, num_head, head_size }
    }
}

type Sizes = (ModelVersion, usize, usize, usize, usize, usize, usize);

#[pymethods]
impl ModelInfo {
    #[new]
    fn new(
        version: ModelVersion,
        num_layer: usize,
        num_emb: usize,
        num_hidden: usize,
        num_vocab: usize,
        num_head: usize,
        head_size: usize,
    ) -> Self {
        Self { version, num_layer, num_emb, num_hidden, num_vocab, num_head, head_size }
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> (Bound<'py, PyType>, Sizes) {
        let &Self { version, num_layer, num_emb, num_hidden, num_vocab, num_head, head_size } = slf.get();
        (slf.get_type(), (version, num_layer, num_emb, num_hidden, num_vocab, num_head, head_size))
    }

    fn __repr__(&self) -> String {
        let Self { version, num_layer, num_emb, num_hidden, num_vocab, num_head, head_size } = self;
        format!(
            "ModelInfo(version=ModelVersion.{version:?}, num_layer={num_layer}, num_emb={num_emb}, \
             num_hidden={num_hidden}, num_vocab={num_vocab}, num_head={num_head}, head_size={head_size})"
        )
    }
}

/// A GPU of this machine.
#[pyclass(module = "web_rwkv_py", frozen, eq, hash, get_all)]
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct DeviceInfo {
    /// What `Model(device=...)` calls it: "gpu:0".
    device: String,
    /// Its name.
    name: String,
    /// "discrete", "integrated", "virtual", "software" or "other".
    kind: &'static str,
    /// The API that it is reached by, such as "vulkan".
    backend: String,
    /// The driver and its version.
    driver: String,
    /// The best kernels that it can run: "plain", "subgroup" or "matrix".
    tier: String,
    /// Smallest and largest size of a subgroup.
    subgroup: (u32, u32),
    /// Largest buffer that a kernel can see, in bytes.
    binding_limit: u64,
}

#[pymethods]
impl DeviceInfo {
    fn __repr__(&self) -> String {
        format!("<DeviceInfo {}: {}, {}, {}>", self.device, self.name, self.kind, self.backend)
    }
}

/// The GPUs of this machine, the ones that are used first in front. One of kind "software" is a program that plays a
/// GPU, which "auto" never takes.
#[pyfunction]
pub(crate) fn devices(py: Python<'_>) -> Vec<DeviceInfo> {
    let all = py.detach(web_rwkv_gguf::devices).into_iter();
    all.map(|d| DeviceInfo {
        device: format!("gpu:{}", d.index),
        name: d.name,
        kind: d.kind,
        backend: d.backend,
        driver: d.driver,
        tier: d.tier.to_string(),
        subgroup: d.subgroup,
        binding_limit: d.binding_limit,
    })
    .collect()
}
