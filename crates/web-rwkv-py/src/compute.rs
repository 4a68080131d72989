//! Work without the GIL, which a Python callback watches and Ctrl-C stops.

use std::ops::ControlFlow;

use pyo3::prelude::*;
use web_rwkv_gguf::{Progress, Result};

use crate::error::raise;

/// What the engine tells while it works.
pub(crate) type Tell<'a> = &'a mut dyn FnMut(Progress) -> ControlFlow<()>;

/// Runs `work` with the GIL released. After each chunk it calls `progress(read, total)`, in tokens, with the
/// GIL held; an exception there, or from a signal, stops the work and is raised.
pub(crate) fn compute<T: Send>(
    py: Python<'_>,
    progress: Option<&Py<PyAny>>,
    work: impl FnOnce(Tell<'_>) -> Result<T> + Send,
) -> PyResult<T> {
    let mut raised = None;
    let result = py.detach(|| {
        work(&mut |told: Progress| {
            // Of the end the caller learns anyway, and taking the GIL may have to wait for another thread.
            if progress.is_none() && told.read == told.total {
                return ControlFlow::Continue(());
            }
            let called = Python::attach(|py| {
                py.check_signals()?;
                progress.map(|f| f.call1(py, (told.read, told.total))).transpose()
            });
            match called {
                Ok(_) => ControlFlow::Continue(()),
                Err(e) => {
                    raised = Some(e);
                    ControlFlow::Break(())
                }
            }
        })
    });
    match raised {
        Some(e) => Err(e),
        None => result.map_err(raise),
    }
}
