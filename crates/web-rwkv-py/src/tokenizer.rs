//! The class `Tokenizer`.

use std::{path::PathBuf, sync::Arc};

use pyo3::{prelude::*, types::PyBytes};
use web_rwkv_gguf as engine;

use crate::{
    arguments::{Ids, Text},
    error::raise,
    model::Open,
};

/// The tokenizer of the RWKV World models: greedy longest match over a vocabulary.
///
/// `Tokenizer(path)` reads a vocabulary file, either RWKV's text file or JSON; its content tells which.
/// `Model.tokenizer` is the one of a model.
#[pyclass(module = "web_rwkv_py", frozen)]
pub(crate) struct Tokenizer(Source);

enum Source {
    File(engine::Tokenizer),
    Model(Arc<Open>),
}

impl Tokenizer {
    /// The tokenizer of a model; an error if it has none.
    pub(crate) fn of(open: Arc<Open>) -> engine::Result<Self> {
        open.tokenizer()?;
        Ok(Self(Source::Model(open)))
    }

    fn get(&self) -> engine::Result<&engine::Tokenizer> {
        match &self.0 {
            Source::File(tokenizer) => Ok(tokenizer),
            Source::Model(open) => open.tokenizer(),
        }
    }
}

#[pymethods]
impl Tokenizer {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| engine::Tokenizer::open(&path)).map(|t| Self(Source::File(t))).map_err(raise)
    }

    /// The token ids of a text, which may be bytes that are no UTF-8.
    fn encode(&self, py: Python<'_>, text: Text) -> PyResult<Vec<u32>> {
        py.detach(|| self.get()?.encode(text.0)).map_err(raise)
    }

    /// The bytes of token ids; id 0, the end of a document, has none.
    fn decode<'py>(&self, py: Python<'py>, tokens: Ids) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| self.get()?.decode(&tokens.0)).map_err(raise)?;
        Ok(PyBytes::new(py, &bytes))
    }

    fn __repr__(&self) -> PyResult<String> {
        Ok(format!("Tokenizer({} ids)", self.get().map_err(raise)?.vocab_len()))
    }
}
