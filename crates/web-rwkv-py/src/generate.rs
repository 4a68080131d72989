//! The class `Generation`.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::prelude::*;
use web_rwkv_gguf as engine;

use crate::{compute::compute, model::Open};

/// A text that is being written: an iterator over its pieces, as `Model.stream` gives it.
#[pyclass(module = "web_rwkv_py", frozen)]
pub(crate) struct Generation {
    open: Arc<Open>,
    writing: Mutex<Writing>,
}

struct Writing {
    generation: engine::Generation,
    /// Bytes that end within a character.
    pending: Vec<u8>,
    told: String,
}

impl Generation {
    pub(crate) fn new(open: Arc<Open>, generation: engine::Generation) -> Self {
        let (pending, told) = (vec![], String::new());
        Self { open, writing: Mutex::new(Writing { generation, pending, told }) }
    }

    /// What `ask` gives of the text, once no other thread is writing.
    fn ask<T: Send>(&self, py: Python<'_>, ask: impl FnOnce(&mut Writing) -> T + Send) -> T {
        py.detach(|| ask(&mut self.writing.lock()))
    }
}

impl Writing {
    /// The next whole characters; `None` at the end.
    fn next(&mut self, model: &engine::Model) -> engine::Result<Option<String>> {
        loop {
            let more = self.generation.next(model)?;
            let at_end = more.is_none();
            self.pending.extend(more.unwrap_or_default());
            let whole = if at_end { self.pending.len() } else { whole(&self.pending) };
            if whole > 0 {
                let piece = String::from_utf8_lossy(&self.pending[..whole]).into_owned();
                self.pending.drain(..whole);
                self.told.push_str(&piece);
                return Ok(Some(piece));
            }
            if at_end {
                return Ok(None);
            }
        }
    }
}

/// Length of `bytes` without a character at its end that has only begun.
fn whole(bytes: &[u8]) -> usize {
    let begun = |n: &usize| {
        let tail = std::str::from_utf8(&bytes[bytes.len() - n..]);
        tail.is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
    };
    bytes.len() - (1..=bytes.len().min(3)).find(begun).unwrap_or(0)
}

#[pymethods]
impl Generation {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Ctrl-C works while the prompt is read; what was read of it stays read.
    pub(crate) fn __next__(&self, py: Python<'_>) -> PyResult<Option<String>> {
        compute(py, None, |tell| {
            let mut writing = self.writing.lock();
            writing.generation.read_prompt(&self.open.engine, tell)?;
            writing.next(&self.open.engine)
        })
    }

    /// The text so far: all pieces together. Bytes that are no UTF-8 stand as U+FFFD.
    #[getter]
    pub(crate) fn text(&self, py: Python<'_>) -> String {
        self.ask(py, |writing| writing.told.clone())
    }

    /// The tokens so far, those of a stop text included.
    #[getter]
    fn tokens(&self, py: Python<'_>) -> Vec<u32> {
        self.ask(py, |writing| writing.generation.tokens().to_vec())
    }

    /// Whether a stop text or the end of the document has come, rather than the limit.
    #[getter]
    fn stopped(&self, py: Python<'_>) -> bool {
        self.ask(py, |writing| writing.generation.stopped())
    }
}
