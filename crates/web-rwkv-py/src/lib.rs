//! The Python module `web_rwkv_py`: a thin seam over the engine `web_rwkv_gguf`.
//!
//! Everything that can be checked is checked in the engine; here arguments are converted, the GIL is
//! released around every computation, and errors become exceptions. `python/web_rwkv_py/__init__.pyi` is the
//! typed interface.

mod arguments;
mod compute;
mod error;
mod extract;
mod generate;
mod info;
mod model;
mod state;
mod tokenizer;

/// The compiled part of `web_rwkv_py`, which gives its names on.
///
/// Every class is frozen and what changes stands behind a lock, so it needs no GIL. A free-threaded Python cannot
/// load the abi3 wheel: building with one (3.14t is the first that PyO3 supports) makes a wheel of its own, as
/// PyO3 then passes over its feature abi3-py39.
#[pyo3::pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use crate::{
        extract::{Extraction, Field, Timings},
        generate::Generation,
        info::{DeviceInfo, ModelInfo, ModelVersion, PyRnnOption, StateDevice, devices},
        model::Model,
        state::State,
        tokenizer::Tokenizer,
    };

    /// Version of the package.
    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "Python's name for it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
