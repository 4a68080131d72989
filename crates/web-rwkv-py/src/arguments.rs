//! Arguments: texts, tokens, counts and names, as Python may give them.

use std::env;

use numpy::PyUntypedArray;
use pyo3::{
    exceptions::{PyOverflowError, PyTypeError},
    prelude::*,
    types::{PyBool, PyByteArray, PyBytes, PyString},
};
use web_rwkv_gguf::{Device, Result, Tokenizer};

use crate::error::{raise, request};

/// Text as bytes: `str`, `bytes` or `bytearray`.
pub(crate) struct Text(pub(crate) Vec<u8>);

impl<'py> FromPyObject<'_, 'py> for Text {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = obj.cast::<PyString>() {
            Ok(Self(text.to_cow()?.into_owned().into_bytes()))
        } else if let Ok(bytes) = obj.cast::<PyBytes>() {
            Ok(Self(bytes.as_bytes().to_vec()))
        } else if let Ok(bytes) = obj.cast::<PyByteArray>() {
            Ok(Self(bytes.to_vec()))
        } else {
            Err(PyTypeError::new_err(format!("expected str or bytes, found {}", obj.get_type().name()?)))
        }
    }
}

/// Token ids: any iterable of integers, numpy arrays among them.
pub(crate) struct Ids(pub(crate) Vec<u32>);

impl<'py> FromPyObject<'_, 'py> for Ids {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        // A list of Python's own integers: quicker than numpy's, and the same for every dtype and stride.
        let list = obj.cast::<PyUntypedArray>().ok().map(|array| array.call_method0("tolist")).transpose()?;
        let wrong = |found: &Bound<'_, PyAny>| match found.get_type().name() {
            Ok(name) => PyTypeError::new_err(format!("tokens: expected text or integers, found {name}")),
            Err(e) => e,
        };
        let ids = list.as_ref().unwrap_or(&obj);
        let ids = ids.try_iter().map_err(|_| wrong(ids))?.map(|id| {
            let id = id?;
            if id.is_instance_of::<PyBool>() {
                return Err(wrong(&id));
            }
            id.extract::<u32>().map_err(|e| match e.is_instance_of::<PyOverflowError>(obj.py()) {
                true => request("token", "an id of the vocabulary", &id),
                false => wrong(&id),
            })
        });
        Ok(Self(ids.collect::<PyResult<_>>()?))
    }
}

impl Text {
    /// The text as the argument `thing`, where nothing but UTF-8 will do.
    pub(crate) fn utf8(self, thing: &str) -> PyResult<String> {
        String::from_utf8(self.0).map_err(|e| {
            let (error, bytes) = (e.utf8_error(), e.as_bytes());
            let at = error.valid_up_to();
            request(thing, "UTF-8", format!("byte {:#04x} at {at}", bytes[at]))
        })
    }
}

/// A text, which a tokenizer has to read, or token ids.
pub(crate) enum Tokens {
    Text(Vec<u8>),
    Ids(Vec<u32>),
}

impl<'py> FromPyObject<'_, 'py> for Tokens {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match obj.extract::<Text>() {
            Ok(Text(text)) => Ok(Self::Text(text)),
            Err(e) if e.is_instance_of::<PyTypeError>(obj.py()) => Ok(Self::Ids(obj.extract::<Ids>()?.0)),
            Err(e) => Err(e),
        }
    }
}

impl Tokens {
    /// The ids; `tokenizer` is asked for only if there is a text to read.
    pub(crate) fn ids<'a>(self, tokenizer: impl FnOnce() -> Result<&'a Tokenizer>) -> Result<Vec<u32>> {
        match self {
            Self::Text(text) => tokenizer()?.encode(text),
            Self::Ids(ids) => Ok(ids),
        }
    }
}

/// Sequences as an argument: any iterable but a text.
pub(crate) fn sequences(obj: &Bound<'_, PyAny>) -> PyResult<Vec<Tokens>> {
    if obj.extract::<Text>().is_ok() {
        return Err(PyTypeError::new_err("expected several sequences, found one text"));
    }
    obj.try_iter()?.map(|sequence| sequence?.extract()).collect()
}

/// One text, or several, as an argument.
pub(crate) fn texts(obj: &Bound<'_, PyAny>) -> PyResult<Option<Vec<Vec<u8>>>> {
    if obj.is_none() {
        return Ok(None);
    }
    if let Ok(Text(text)) = obj.extract() {
        return Ok(Some(vec![text]));
    }
    let texts = obj.try_iter()?.map(|text| Ok(text?.extract::<Text>()?.0));
    Ok(Some(texts.collect::<PyResult<_>>()?))
}

/// Numbers as arguments, `u64` or `Option<u64>`: for each a function of its name, as PyO3 tells it nothing but the
/// object. A number that does not fit is a RequestError, not PyO3's OverflowError.
macro_rules! numbers {
    ($($name:ident)*) => {
        pub(crate) mod number {
            use super::*;
            $(pub(crate) fn $name<'a, 'py, T>(obj: &'a Bound<'py, PyAny>) -> PyResult<T>
            where
                T: FromPyObject<'a, 'py, Error = PyErr>,
            {
                obj.extract().map_err(|e: PyErr| match e.is_instance_of::<PyOverflowError>(obj.py()) {
                    true => request(stringify!($name), "an unsigned number of 64 bits", obj),
                    false => e,
                })
            })*
        }
    };
}

numbers! { quant quant_nf4 quant_sf4 threads token_chunk_size max_tokens top_k seed }

/// One of `names` as an argument.
fn name(obj: &Bound<'_, PyAny>, thing: &str, names: &[&'static str]) -> PyResult<&'static str> {
    let given = obj.cast::<PyString>()?.to_cow()?;
    let found = names.iter().find(|name| **name == given);
    found.copied().ok_or_else(|| request(thing, &format!("one of {names:?}"), format!("{given:?}")))
}

/// What to compute on.
pub(crate) fn device(obj: &Bound<'_, PyAny>) -> PyResult<Device> {
    obj.cast::<PyString>()?.to_cow()?.parse().map_err(raise)
}

/// The device, or what the environment says of "auto", as for the command.
pub(crate) fn in_environment(device: Device) -> Result<Device> {
    match env::var("WEB_RWKV_DEVICE") {
        Ok(name) if device == Device::Auto => name.parse(),
        _ => Ok(device),
    }
}

/// How vectors are pooled.
pub(crate) fn pool(obj: &Bound<'_, PyAny>) -> PyResult<&'static str> {
    name(obj, "pool", &["last", "mean", "none"])
}

/// As [`pool`], where it may be left open.
pub(crate) fn optional_pool(obj: &Bound<'_, PyAny>) -> PyResult<Option<&'static str>> {
    if obj.is_none() { Ok(None) } else { pool(obj).map(Some) }
}
