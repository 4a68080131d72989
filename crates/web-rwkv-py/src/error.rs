//! Errors of the engine as the exceptions that `web_rwkv_py/__init__.py` defines.

use pyo3::{PyErr, import_exception};
use web_rwkv_gguf::Error;

import_exception!(web_rwkv_py, DeviceError);
import_exception!(web_rwkv_py, InvalidModelError);
import_exception!(web_rwkv_py, ModelFileError);
import_exception!(web_rwkv_py, RequestError);

/// The exception for an error of the engine.
pub(crate) fn raise(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Io { file, source } => match source.raw_os_error() {
            // As `OSError(errno, strerror, filename)`, which sets the attributes of these names.
            Some(code) => {
                let text = source.to_string();
                let reason = text.strip_suffix(&format!(" (os error {code})")).unwrap_or(&text);
                ModelFileError::new_err((code, reason.to_owned(), file))
            }
            None => ModelFileError::new_err(message),
        },
        Error::Invalid { .. }
        | Error::Missing { .. }
        | Error::UnsupportedType { .. }
        | Error::UnsupportedModel { .. } => InvalidModelError::new_err(message),
        Error::Device { .. } => DeviceError::new_err(message),
        // Token, Untokenizable, Request and Stopped; and what is yet to come is a request that failed.
        _ => RequestError::new_err(message),
    }
}

/// A request that never reached the engine.
pub(crate) fn request(thing: &str, expected: &str, found: impl ToString) -> PyErr {
    let (thing, expected, found) = (thing.into(), expected.into(), found.to_string());
    raise(Error::Request { thing, expected, found })
}
