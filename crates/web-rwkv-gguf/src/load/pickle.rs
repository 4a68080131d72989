//! The pickles that `torch.save` writes for a dictionary of tensors. Nothing is called and nothing is imported:
//! what a pickle may name is the list in [`Machine::reduce`] and the storages, and anything else is an error.
//! Opcodes: <https://github.com/python/cpython/blob/main/Lib/pickletools.py>

use std::collections::HashMap;

use crate::{Error, Result};

/// The pickle of a model has some 250 bytes for each tensor, and none has 10,000 tensors; a hostile one makes values of
/// some hundred bytes from each of its own.
const MAX_BYTES: usize = 4 << 20;

/// RWKV's tensors have up to four dimensions.
const MAX_RANK: usize = 8;

/// A tensor of a dictionary: a view of a storage.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct View<'a> {
    /// PyTorch's name of the storage's class: `HalfStorage`.
    pub(super) storage: &'a str,
    /// Name of the storage in the archive.
    pub(super) key: &'a str,
    /// Values of the storage.
    pub(super) len: usize,
    /// Its first value in the storage.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) stride: Vec<usize>,
}

/// The tensors of the dictionary that a pickle is, or of its `state_dict`, by name.
pub(super) fn tensors<'a>(file: &'a str, bytes: &'a [u8]) -> Result<Vec<(&'a str, View<'a>)>> {
    if bytes.len() > MAX_BYTES {
        let (expected, found) = (format!("at most {MAX_BYTES} bytes"), bytes.len().to_string());
        return Err(Error::invalid(file, "pickle", expected, found));
    }
    let mut machine =
        Machine { file, bytes, at: 0, values: vec![], stack: vec![], marks: vec![], memo: HashMap::new() };
    let root = machine.run()?;
    let mut dict = machine.dict(root)?;
    let state = dict.iter().find(|&&(key, _)| matches!(machine.values[key], Value::Text("state_dict")));
    if let Some(&(_, state)) = state {
        dict = machine.dict(state)?;
    }
    let mut tensors = vec![];
    for &(key, value) in dict {
        match (&machine.values[key], &machine.values[value]) {
            (Value::Text(name), Value::Tensor(view)) => tensors.push((*name, View::clone(view))),
            (Value::Text(name), other) => {
                return Err(Error::invalid(file, format!("`{name}`"), "a tensor", other.kind()));
            }
            (other, _) => return Err(Error::invalid(file, "pickle", "names as keys", other.kind())),
        }
    }
    Ok(tensors)
}

/// Which value of the machine.
type Id = usize;

enum Value<'a> {
    Whole(i64),
    Text(&'a str),
    Global(&'a str, &'a str),
    Tuple(Vec<Id>),
    List,
    Dict(Vec<(Id, Id)>),
    Storage {
        class: &'a str,
        key: &'a str,
        len: usize,
    },
    Tensor(Box<View<'a>>),
    /// None, booleans, floats: nothing that a tensor is made of.
    Other(&'static str),
}

impl Value<'_> {
    fn kind(&self) -> String {
        match self {
            Self::Whole(_) => "a number".into(),
            Self::Text(_) => "a string".into(),
            Self::Global(module, name) => format!("`{module}.{name}`"),
            Self::Tuple(_) => "a tuple".into(),
            Self::List => "a list".into(),
            Self::Dict(_) => "a dictionary".into(),
            Self::Storage { .. } => "a storage".into(),
            Self::Tensor(_) => "a tensor".into(),
            Self::Other(kind) => (*kind).into(),
        }
    }
}

/// A stack machine. Values stay in one list, so that nothing nests in memory however deep a pickle nests.
struct Machine<'a> {
    file: &'a str,
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

impl<'a> Machine<'a> {
    fn wrong(&self, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::invalid(self.file, format!("pickle at byte {}", self.at), expected, found)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest
            .get(..len)
            .ok_or_else(|| self.wrong(format!("{len} bytes"), format!("{} to the end", rest.len())))?;
        self.at += len;
        Ok(taken)
    }

    /// A number of up to eight bytes, little-endian.
    fn number(&mut self, len: usize) -> Result<usize> {
        let mut wide = [0; 8];
        wide[..len].copy_from_slice(self.take(len)?);
        usize::try_from(u64::from_le_bytes(wide))
            .map_err(|_| self.wrong("a size that fits memory", "another"))
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|&b| b == b'\n').ok_or_else(|| self.wrong("a line", "none"))?;
        let line = self.text(len)?;
        self.at += 1;
        Ok(line)
    }

    fn text(&mut self, len: usize) -> Result<&'a str> {
        let text = self.take(len)?;
        std::str::from_utf8(text).map_err(|_| self.wrong("UTF-8", format!("`{}`", text.escape_ascii())))
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.pop() {
            Some(id) if self.stack.len() >= floor => Ok(id),
            _ => Err(self.wrong("a value on the stack", "none")),
        }
    }

    /// What was pushed since the last mark.
    fn since_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| self.wrong("a mark", "none"))?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&self) -> Result<Id> {
        self.stack.last().copied().ok_or_else(|| self.wrong("a value on the stack", "none"))
    }

    fn dict(&self, id: Id) -> Result<&[(Id, Id)]> {
        match &self.values[id] {
            Value::Dict(items) => Ok(items),
            other => Err(self.wrong("a dictionary", other.kind())),
        }
    }

    fn tuple(&self, id: Id) -> Result<&[Id]> {
        match &self.values[id] {
            Value::Tuple(items) => Ok(items),
            other => Err(self.wrong("a tuple", other.kind())),
        }
    }

    fn size(&self, id: Id) -> Result<usize> {
        match &self.values[id] {
            Value::Whole(n) => usize::try_from(*n).map_err(|_| self.wrong("a size", n.to_string())),
            other => Err(self.wrong("a number", other.kind())),
        }
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>> {
        let sizes = self.tuple(id)?;
        if sizes.len() > MAX_RANK {
            return Err(self.wrong(format!("at most {MAX_RANK} dimensions"), sizes.len().to_string()));
        }
        sizes.iter().map(|&id| self.size(id)).collect()
    }

    fn set(&mut self, items: &[Id]) -> Result<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.wrong("keys with values", "a key without"));
        }
        let id = self.top()?;
        match &mut self.values[id] {
            Value::Dict(dict) => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            other => {
                let kind = other.kind();
                return Err(self.wrong("a dictionary", kind));
            }
        }
        Ok(())
    }

    /// Runs to the end; what is then on the stack.
    fn run(&mut self) -> Result<Id> {
        loop {
            match self.take(1)?[0] {
                b'.' => return self.pop(),
                0x80 => match self.take(1)?[0] {
                    2..=5 => {}
                    other => return Err(self.wrong("protocol 2 to 5", other.to_string())),
                },
                0x95 => _ = self.take(8)?, // the length of a frame
                b'(' => self.marks.push(self.stack.len()),
                b'0' => _ = self.pop()?,
                b'N' => self.push(Value::Other("None")),
                0x88 | 0x89 => self.push(Value::Other("a boolean")),
                b'G' => {
                    self.take(8)?;
                    self.push(Value::Other("a float"));
                }
                b'J' => {
                    let bytes = self.take(4)?.try_into().expect("4 bytes");
                    self.push(Value::Whole(i32::from_le_bytes(bytes).into()));
                }
                b'K' => self.whole(1)?,
                b'M' => self.whole(2)?,
                0x8a => {
                    let len = self.number(1)?;
                    let last = len.checked_sub(1).and_then(|last| self.bytes.get(self.at + last));
                    let negative = last.is_some_and(|&byte| byte >= 0x80);
                    if len > 8 || negative {
                        return Err(self.wrong("a number of 63 bits", format!("one of {len} bytes")));
                    }
                    self.whole(len)?;
                }
                b'X' => self.string(4)?,
                0x8c => self.string(1)?,
                0x8d => self.string(8)?,
                b')' => self.push(Value::Tuple(vec![])),
                b'}' => self.push(Value::Dict(vec![])),
                b']' => self.push(Value::List),
                b'a' => _ = self.pop()?, // onto a list, which nobody reads
                b'e' => _ = self.since_mark()?,
                op @ 0x85..=0x87 => {
                    let mut items = vec![];
                    for _ in 0x84..op {
                        items.push(self.pop()?);
                    }
                    items.reverse();
                    self.push(Value::Tuple(items));
                }
                b't' => {
                    let items = self.since_mark()?;
                    self.push(Value::Tuple(items));
                }
                b'd' => {
                    let items = self.since_mark()?;
                    self.push(Value::Dict(vec![]));
                    self.set(&items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set(&[key, value])?;
                }
                b'u' => {
                    let items = self.since_mark()?;
                    self.set(&items)?;
                }
                b'q' => self.remember(1)?,
                b'r' => self.remember(4)?,
                0x94 => _ = self.memo.insert(self.memo.len(), self.top()?),
                b'h' => self.recall(1)?,
                b'j' => self.recall(4)?,
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Value::Global(module, name));
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    match (&self.values[module], &self.values[name]) {
                        (&Value::Text(module), &Value::Text(name)) => self.push(Value::Global(module, name)),
                        (other, _) => return Err(self.wrong("a module and a name", other.kind())),
                    }
                }
                b'Q' => self.persistent()?,
                b'R' => self.reduce()?,
                b'b' => _ = self.pop()?, // attributes of a dictionary, such as `_metadata`
                other => return Err(self.wrong("an opcode of plain data", format!("{other:#04x}"))),
            }
        }
    }

    fn whole(&mut self, len: usize) -> Result<()> {
        let n = self.number(len)?;
        self.push(Value::Whole(n as i64)); // fewer than 64 bits
        Ok(())
    }

    fn string(&mut self, len: usize) -> Result<()> {
        let len = self.number(len)?;
        let text = self.text(len)?;
        self.push(Value::Text(text));
        Ok(())
    }

    fn remember(&mut self, len: usize) -> Result<()> {
        let key = self.number(len)?;
        self.memo.insert(key, self.top()?);
        Ok(())
    }

    fn recall(&mut self, len: usize) -> Result<()> {
        let key = self.number(len)?;
        let id =
            *self.memo.get(&key).ok_or_else(|| self.wrong("a remembered value", format!("number {key}")))?;
        self.stack.push(id);
        Ok(())
    }

    /// A storage, from `("storage", class, key, device, length)`.
    fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        let items = self.tuple(id)?;
        let &[kind, class, key, _, len] = items else {
            return Err(self.wrong("a storage of five parts", format!("{} parts", items.len())));
        };
        let storage = match (&self.values[kind], &self.values[class], &self.values[key]) {
            (Value::Text("storage"), &Value::Global("torch", class), &Value::Text(key)) => {
                Value::Storage { class, key, len: self.size(len)? }
            }
            (_, class, _) => return Err(self.wrong("a storage of torch", class.kind())),
        };
        self.push(storage);
        Ok(())
    }

    /// What a function makes of its arguments, for the three that a dictionary of tensors needs.
    fn reduce(&mut self) -> Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let arguments = self.tuple(arguments)?;
        let made = match (&self.values[function], arguments) {
            (Value::Global("collections", "OrderedDict"), []) => Value::Dict(vec![]),
            (Value::Global("torch._utils", "_rebuild_tensor_v2"), &[storage, offset, shape, stride, ..]) => {
                let &Value::Storage { class, key, len } = &self.values[storage] else {
                    return Err(self.wrong("a storage", self.values[storage].kind()));
                };
                let (offset, shape, stride) = (self.size(offset)?, self.sizes(shape)?, self.sizes(stride)?);
                Value::Tensor(Box::new(View { storage: class, key, len, offset, shape, stride }))
            }
            (Value::Global("torch._utils", "_rebuild_parameter"), &[tensor, ..]) => {
                self.stack.push(tensor);
                return Ok(());
            }
            (other, _) => return Err(self.wrong("plain tensors", other.kind())),
        };
        self.push(made);
        Ok(())
    }
}
