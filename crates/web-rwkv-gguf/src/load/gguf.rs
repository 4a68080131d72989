//! GGUF, versions 2 and 3: keys with values, tensor descriptions, the tensors.
//! Layout: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>

use std::{collections::HashMap, ops::Range};

use super::{Bytes, Checkpoint, Dialect, ModelVersion, Tensor};
use crate::{Error, Result, format::Format};

/// Longest key or tensor name; the specification has 64 KiB for keys.
const MAX_NAME: usize = 1 << 16;

pub(super) fn read(checkpoint: &mut Checkpoint, bytes: &Bytes) -> Result<()> {
    let file = checkpoint.file.clone();
    let mut reader = Reader { file: &file, bytes, at: 4 };
    let version: u32 = reader.number("version")?;
    match version {
        2 | 3 => {}
        _ if matches!(version.swap_bytes(), 1..=3) => {
            return Err(Error::UnsupportedModel { file: file.clone(), what: "big-endian GGUF".into() });
        }
        _ => return Err(Error::invalid(&file, "version", "2 or 3", version.to_string())),
    }
    let tensors: u64 = reader.number("number of tensors")?;
    let keys = Keys::read(&mut reader)?;

    let architecture = keys.text("general.architecture")?;
    checkpoint.version = match architecture {
        Some("rwkv7") => ModelVersion::V7,
        Some("rwkv6") => ModelVersion::V6,
        Some(other) => {
            let what = format!("architecture `{other}`");
            return Err(Error::UnsupportedModel { file: file.clone(), what });
        }
        None => {
            return Err(Error::Missing { file: file.clone(), thing: "key `general.architecture`".into() });
        }
    };
    let key = |name: &str| format!("{}.{name}", architecture.unwrap_or_default());
    checkpoint.block_count = keys.count(&key("block_count"))?;
    checkpoint.embedding_length = keys.count(&key("embedding_length"))?;
    checkpoint.head_size = keys.count(&key("wkv.head_size"))?;
    checkpoint.rescale_every = keys.above(-1, &key("rescale_every_n_layers"))?.unwrap_or(0);
    if let Some(eps) = keys.float(&key("attention.layer_norm_epsilon"))? {
        checkpoint.layer_norm_eps = eps;
    }
    checkpoint.vocab = vocab(&keys)?;
    let places = keys.places.iter();
    checkpoint.keys =
        places.filter_map(|(key, place)| Some(((*key).into(), bytes.slice(place.clone())?))).collect();

    let mut infos = Vec::new(); // grows with what the file really has, whatever it claims
    for _ in 0..tensors {
        infos.push(Info::read(&mut reader)?);
    }
    let alignment = keys.count("general.alignment")?.unwrap_or(32);
    if !alignment.is_power_of_two() {
        return Err(Error::invalid(
            &file,
            "key `general.alignment`",
            "a power of two",
            alignment.to_string(),
        ));
    }
    let start = reader.at.checked_next_multiple_of(alignment).unwrap_or(usize::MAX);

    infos.sort_by_key(|info| info.offset);
    let mut end = 0;
    let mut last = "";
    for Info { name, shape, format, offset, size } in &infos {
        let thing = || format!("tensor `{name}`");
        if *offset < end {
            let found = format!("offset {offset}, inside `{last}`");
            return Err(Error::invalid(&file, thing(), "data of its own", found));
        }
        let data = offset
            .checked_add(*size)
            .and_then(|to| Some(start.checked_add(*offset)?..start.checked_add(to)?))
            .and_then(|range| bytes.slice(range))
            .ok_or_else(|| {
                let found = format!("{size} bytes at {start} + {offset} of {}", bytes.len());
                Error::invalid(&file, thing(), "data inside the file", found)
            })?;
        if !offset.is_multiple_of(alignment) {
            let expected = format!("an offset that is a multiple of {alignment}");
            return Err(Error::invalid(&file, thing(), expected, offset.to_string()));
        }
        (end, last) = (offset + size, name);
        checkpoint.add(Dialect::Gguf, name, Tensor { shape: shape.clone(), format: *format, data })?;
    }
    Ok(())
}

/// The description of a tensor.
struct Info<'a> {
    name: &'a str,
    shape: Vec<usize>,
    format: Format,
    offset: usize,
    size: usize,
}

impl<'a> Info<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self> {
        let file = reader.file;
        let name = reader.name("tensor name")?;
        let thing = format!("tensor `{name}`");
        let rank: u32 = reader.number(&thing)?;
        if !matches!(rank, 1..=4) {
            return Err(Error::invalid(file, thing, "1 to 4 dimensions", rank.to_string()));
        }
        let mut shape = (0..rank).map(|_| reader.size(&thing)).collect::<Result<Vec<_>>>()?;
        shape.reverse(); // GGUF has the innermost dimension first
        let id: u32 = reader.number(&thing)?;
        let offset = reader.size(&thing)?;
        let format = Format::from_ggml(id).ok_or_else(|| Error::UnsupportedType {
            file: file.into(),
            tensor: name.into(),
            found: ggml_type(id),
        })?;
        let invalid = |expected: String| Error::invalid(file, &thing, expected, format!("{shape:?}"));
        if shape.contains(&0) {
            return Err(invalid("dimensions that are not 0".into()));
        }
        let (&row, rows) = shape.split_last().expect("there are 1 to 4 dimensions");
        if !row.is_multiple_of(format.block_len()) {
            return Err(invalid(format!(
                "rows of a multiple of {} values for {}",
                format.block_len(),
                format.name()
            )));
        }
        let size = format
            .row_bytes(row)
            .and_then(|bytes| rows.iter().try_fold(bytes, |size, &n| size.checked_mul(n)))
            .ok_or_else(|| invalid("a size below 2^64".into()))?;
        Ok(Self { name, shape, format, offset, size })
    }
}

/// The vocabulary: each token's bytes, from the text of a Python bytes literal.
fn vocab(keys: &Keys) -> Result<Option<Vec<Vec<u8>>>> {
    /// Values of `tokenizer.ggml.token_type` for tokens that no text has.
    const CONTROL: i32 = 3;
    const UNUSED: i32 = 5;

    let Some(tokens) = keys.texts("tokenizer.ggml.tokens")? else { return Ok(None) };
    let file = keys.file;
    match keys.text("tokenizer.ggml.model")? {
        Some("rwkv") => {}
        Some(other) => {
            return Err(Error::UnsupportedModel { file: file.into(), what: format!("tokenizer `{other}`") });
        }
        None => return Err(Error::Missing { file: file.into(), thing: "key `tokenizer.ggml.model`".into() }),
    }
    let types = keys.integers("tokenizer.ggml.token_type")?;
    if let Some(types) = types.filter(|types| types.len() != tokens.len()) {
        let (expected, found) = (tokens.len().to_string(), types.len().to_string());
        return Err(Error::invalid(file, "key `tokenizer.ggml.token_type`", expected, found));
    }
    let token = |(id, text): (usize, &&[u8])| {
        let kind = types.and_then(|types| types.get(id)).map(|&bytes| i32::from_le_bytes(bytes));
        if id == 0 || matches!(kind, Some(CONTROL | UNUSED)) {
            return Ok(Vec::new());
        }
        unescape(text).ok_or_else(|| {
            let thing = format!("token {id}");
            Error::invalid(file, thing, "the text of a bytes literal", format!("`{}`", text.escape_ascii()))
        })
    };
    tokens.iter().enumerate().map(token).collect::<Result<_>>().map(Some)
}

/// The bytes that the inside of a Python bytes literal stands for.
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        out.push(match byte {
            b'\\' => match *rest.next()? {
                b'n' => b'\n',
                b't' => b'\t',
                b'r' => b'\r',
                b'x' => {
                    let mut digit = || (*rest.next()? as char).to_digit(16);
                    (digit()? * 16 + digit()?) as u8
                }
                same @ (b'\\' | b'\'' | b'"') => same,
                _ => return None,
            },
            plain => plain,
        });
    }
    Some(out)
}

/// A value of a key. Of the types that this engine does not read, only the name is kept.
enum Value<'a> {
    Integer(i128),
    Float(f64),
    Text(&'a [u8]),
    Texts(Vec<&'a [u8]>),
    Integers(&'a [[u8; 4]]),
    Other(&'static str),
}

impl Value<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Text(_) => "a string",
            Self::Texts(_) => "an array of strings",
            Self::Integers(_) => "an array of i32",
            Self::Other(name) => name,
        }
    }
}

/// The keys of a file and their values.
struct Keys<'a> {
    file: &'a str,
    values: HashMap<&'a str, Value<'a>>,
    /// Where the type and value of each key stand, in the order of the file.
    places: Vec<(&'a str, Range<usize>)>,
}

impl<'a> Keys<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self> {
        let (mut values, mut places) = (HashMap::new(), vec![]);
        let count: u64 = reader.number("number of keys")?;
        for _ in 0..count {
            let key = reader.name("key")?;
            let thing = format!("key `{key}`");
            let start = reader.at;
            let value = reader.value(&thing)?;
            places.push((key, start..reader.at));
            if values.insert(key, value).is_some() {
                return Err(Error::invalid(reader.file, thing, "one", "a second"));
            }
        }
        Ok(Self { file: reader.file, values, places })
    }

    fn wrong(&self, key: &str, expected: &str, found: impl Into<String>) -> Error {
        Error::invalid(self.file, format!("key `{key}`"), expected, found)
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => match std::str::from_utf8(text) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(self.wrong(key, "UTF-8", format!("`{}`", text.escape_ascii()))),
            },
            Some(other) => Err(self.wrong(key, "a string", other.kind())),
        }
    }

    /// A whole number above `least`.
    fn above(&self, least: i128, key: &str) -> Result<Option<usize>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(&Value::Integer(n)) => match usize::try_from(n) {
                Ok(size) if n > least => Ok(Some(size)),
                _ => Err(self.wrong(key, &format!("a number above {least}"), n.to_string())),
            },
            Some(other) => Err(self.wrong(key, "an integer", other.kind())),
        }
    }

    /// A whole number above 0.
    fn count(&self, key: &str) -> Result<Option<usize>> {
        self.above(0, key)
    }

    /// A number above 0.
    fn float(&self, key: &str) -> Result<Option<f32>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(&Value::Float(x)) if (x as f32) > 0.0 && (x as f32).is_finite() => Ok(Some(x as f32)),
            Some(&Value::Float(x)) => Err(self.wrong(key, "a number above 0", x.to_string())),
            Some(other) => Err(self.wrong(key, "a float", other.kind())),
        }
    }

    fn texts(&self, key: &str) -> Result<Option<&[&'a [u8]]>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Texts(texts)) => Ok(Some(texts)),
            Some(other) => Err(self.wrong(key, "an array of strings", other.kind())),
        }
    }

    fn integers(&self, key: &str) -> Result<Option<&'a [[u8; 4]]>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Integers(all)) => Ok(Some(all)),
            Some(other) => Err(self.wrong(key, "an array of i32", other.kind())),
        }
    }
}

/// Reads a file from front to back.
struct Reader<'a> {
    file: &'a str,
    bytes: &'a [u8],
    at: usize,
}

/// A number of a fixed size, little-endian.
trait Number: Sized {
    fn read(reader: &mut Reader, thing: &str) -> Result<Self>;
}

macro_rules! numbers {
    ($($t:ty)*) => { $(
        impl Number for $t {
            fn read(reader: &mut Reader, thing: &str) -> Result<Self> {
                let mut bytes = [0; size_of::<$t>()];
                bytes.copy_from_slice(reader.take(size_of::<$t>(), thing)?);
                Ok(<$t>::from_le_bytes(bytes))
            }
        }
    )* };
}
numbers!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize, thing: &str) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.get(..len).ok_or_else(|| {
            Error::invalid(self.file, thing, format!("{len} bytes"), format!("{} to the end", rest.len()))
        })?;
        self.at += len;
        Ok(taken)
    }

    fn number<T: Number>(&mut self, thing: &str) -> Result<T> {
        T::read(self, thing)
    }

    /// A 64-bit number that has to do with memory.
    fn size(&mut self, thing: &str) -> Result<usize> {
        let n: u64 = self.number(thing)?;
        usize::try_from(n)
            .map_err(|_| Error::invalid(self.file, thing, "a size that fits memory", n.to_string()))
    }

    fn text(&mut self, thing: &str) -> Result<&'a [u8]> {
        let len = self.size(thing)?;
        self.take(len, thing)
    }

    fn name(&mut self, thing: &str) -> Result<&'a str> {
        let len = self.size(thing)?;
        if len > MAX_NAME {
            let expected = format!("at most {MAX_NAME} bytes");
            return Err(Error::invalid(self.file, thing, expected, len.to_string()));
        }
        let name = self.take(len, thing)?;
        std::str::from_utf8(name)
            .map_err(|_| Error::invalid(self.file, thing, "UTF-8", format!("`{}`", name.escape_ascii())))
    }

    fn value(&mut self, thing: &str) -> Result<Value<'a>> {
        let kind: u32 = self.number(thing)?;
        Ok(match kind {
            0 => Value::Integer(self.number::<u8>(thing)?.into()),
            1 => Value::Integer(self.number::<i8>(thing)?.into()),
            2 => Value::Integer(self.number::<u16>(thing)?.into()),
            3 => Value::Integer(self.number::<i16>(thing)?.into()),
            4 => Value::Integer(self.number::<u32>(thing)?.into()),
            5 => Value::Integer(self.number::<i32>(thing)?.into()),
            6 => Value::Float(self.number::<f32>(thing)?.into()),
            7 => match self.number::<u8>(thing)? {
                0 | 1 => Value::Other("a boolean"),
                other => return Err(Error::invalid(self.file, thing, "a boolean", other.to_string())),
            },
            8 => Value::Text(self.text(thing)?),
            9 => self.array(thing)?,
            10 => Value::Integer(self.number::<u64>(thing)?.into()),
            11 => Value::Integer(self.number::<i64>(thing)?.into()),
            12 => Value::Float(self.number(thing)?),
            other => return Err(Error::invalid(self.file, thing, "a value type", other.to_string())),
        })
    }

    fn array(&mut self, thing: &str) -> Result<Value<'a>> {
        let kind: u32 = self.number(thing)?;
        let len = self.size(thing)?;
        let width = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => {
                let mut texts = Vec::new(); // grows with what the file really has
                for _ in 0..len {
                    texts.push(self.text(thing)?);
                }
                return Ok(Value::Texts(texts));
            }
            9 => return Err(Error::invalid(self.file, thing, "an array of plain values", "one of arrays")),
            other => return Err(Error::invalid(self.file, thing, "an array type", other.to_string())),
        };
        let size = len.checked_mul(width).ok_or_else(|| {
            Error::invalid(self.file, thing, "an array inside the file", format!("{len} values"))
        })?;
        let values = self.take(size, thing)?;
        Ok(match kind {
            5 => Value::Integers(values.as_chunks().0),
            _ => Value::Other("an array of other values"),
        })
    }
}

/// The name of a type of ggml that this engine has no kernels for.
fn ggml_type(id: u32) -> String {
    let name = match id {
        9 => "q8_1",
        15 => "q8_k",
        16 => "iq2_xxs",
        17 => "iq2_xs",
        18 => "iq3_xxs",
        19 => "iq1_s",
        21 => "iq3_s",
        22 => "iq2_s",
        24 => "i8",
        25 => "i16",
        26 => "i32",
        27 => "i64",
        28 => "f64",
        29 => "iq1_m",
        34 => "tq1_0",
        35 => "tq2_0",
        39 => "mxfp4",
        40 => "nvfp4",
        _ => return format!("ggml type {id}"),
    };
    name.into()
}
