//! Text to tokens and back: the greedy longest match of the RWKV World tokenizer, for any vocabulary.
//!
//! It gives the ids of `rwkv/rwkv_tokenizer.py` in the PyPI package `rwkv` (`TRIE_TOKENIZER`).

use std::path::Path;

use crate::{Error, Result};

/// Ids that a vocabulary file may use, so that a wild id cannot ask for all memory. The World vocabulary
/// has 65530.
const MAX_IDS: usize = 1 << 22;

/// No token ends at this node.
const NONE: u32 = u32::MAX;

/// A node of the trie. Its children are the nodes from `first` up to `first` of the next node.
struct Node {
    first: u32,
    token: u32,
}

/// A vocabulary, and the byte trie that finds the longest token at each place in a text.
pub struct Tokenizer {
    vocab: Vec<Vec<u8>>,
    nodes: Vec<Node>, // breadth first, the root is 0, then one more to end the last node's children
    labels: Vec<u8>,  // [nodes], the byte that leads to the node; ascending among siblings
    singles: Vec<u32>, // [256], the node after a first byte; 0 is none
    pairs: Vec<u32>,  // [256 * 256], the node after the first two bytes; 0 is none
}

impl Tokenizer {
    /// A tokenizer for the tokens of `vocab`, where the index is the id and an empty entry is no token.
    /// Where two ids have the same bytes, the later one is used.
    pub fn new(vocab: Vec<Vec<u8>>) -> Self {
        let order: Vec<usize> = (0..vocab.len()).collect();
        Self::build(vocab, &order)
    }

    /// Reads a vocabulary file, either of lines `id literal length` with Python literals (`'..'`, `".."`,
    /// `b'..'`), or a JSON object: ids to strings or arrays of bytes, or strings to ids. The content tells
    /// which. Where two ids have the same bytes, the one that comes later in the file is used.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read, [`Error::Invalid`] with the line or the key at fault.
    pub fn open(path: &Path) -> Result<Self> {
        let data = std::fs::read(path).map_err(|source| Error::io(path, source))?;
        Self::from_bytes(&path.display().to_string(), &data)
    }

    /// Reads a vocabulary file from its bytes, as [`Tokenizer::open`] does; `file` is for messages.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the line or the key at fault.
    pub fn from_bytes(file: &str, data: &[u8]) -> Result<Self> {
        let mut entries = Entries { vocab: Vec::new(), order: Vec::new(), file };
        if data.trim_ascii_start().starts_with(b"{") {
            entries.json(data)?;
        } else {
            entries.lines(data)?;
        }
        if entries.order.is_empty() {
            return Err(Error::Missing { file: file.into(), thing: "every token of the vocabulary".into() });
        }
        Ok(Self::build(entries.vocab, &entries.order))
    }

    /// The ids of `text`, which need not be UTF-8.
    ///
    /// # Errors
    /// [`Error::Untokenizable`] at the first byte where no token matches.
    pub fn encode(&self, text: impl AsRef<[u8]>) -> Result<Vec<u32>> {
        let text = text.as_ref();
        let mut tokens = Vec::with_capacity(text.len() / 3);
        let mut offset = 0;
        while let Some(&byte) = text.get(offset) {
            let (token, len) = self.longest(&text[offset..]);
            if token == NONE {
                return Err(Error::Untokenizable { byte, offset });
            }
            tokens.push(token);
            offset += len;
        }
        Ok(tokens)
    }

    /// The bytes of `tokens`, one after the other. Id 0, the end of a document, adds nothing where the
    /// vocabulary does not give it bytes.
    ///
    /// # Errors
    /// [`Error::Token`] for an id that the vocabulary does not have.
    pub fn decode(&self, tokens: &[u32]) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(tokens.len() * 4);
        for &token in tokens {
            match self.token(token) {
                Some(token) => bytes.extend_from_slice(token),
                None if token == 0 => {}
                None => return Err(Error::Token { token, vocab: self.vocab_len() }),
            }
        }
        Ok(bytes)
    }

    /// The bytes of a token; `None` for an id that the vocabulary does not have.
    pub fn token(&self, id: u32) -> Option<&[u8]> {
        self.vocab.get(id as usize).map(Vec::as_slice).filter(|token| !token.is_empty())
    }

    /// The bytes of each token, none for an id that the vocabulary does not have.
    pub fn into_vocab(self) -> Vec<Vec<u8>> {
        self.vocab
    }

    /// The number of ids, gaps included: one more than the highest id.
    pub fn vocab_len(&self) -> usize {
        self.vocab.len()
    }

    /// Every token that `text` begins with, shortest first, with its length in bytes.
    pub(crate) fn prefixes<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (u32, usize)> + 'a {
        let mut node = 0;
        let path = text.iter().map_while(move |&byte| {
            node = self.child(node, byte)?;
            Some(self.nodes[node as usize].token)
        });
        path.zip(1..).filter(|(token, _)| *token != NONE)
    }

    /// Tokens go in by `order`, and of two with the same bytes the later one stays.
    fn build(vocab: Vec<Vec<u8>>, order: &[usize]) -> Self {
        // Backwards, so that of the same bytes the last come first, and stay.
        let tokens = order.iter().rev().map(|&id| (vocab[id].as_slice(), id as u32));
        let mut sorted: Vec<_> = tokens.filter(|(token, _)| !token.is_empty()).collect();
        // The first eight bytes as a number decide most.
        sorted.sort_by_cached_key(|&(token, _)| {
            let mut first = [0; 8];
            first.iter_mut().zip(token).for_each(|(to, byte)| *to = *byte);
            (u64::from_be_bytes(first), token)
        });
        sorted.dedup_by_key(|(token, _)| *token);

        let (mut nodes, mut labels) = (Vec::new(), vec![0]);
        let mut ranges = Vec::from_iter(std::iter::once(0..sorted.len())); // [nodes], the tokens at or below the node
        let mut level_end = 1;
        let mut depth = 0;
        while nodes.len() < ranges.len() {
            if nodes.len() == level_end {
                (level_end, depth) = (ranges.len(), depth + 1);
            }
            let mut range = ranges[nodes.len()].clone();
            // A token sorts before those that it begins.
            let here = sorted[range.clone()].first().filter(|(token, _)| token.len() == depth);
            let token = here.map_or(NONE, |&(_, id)| id);
            range.start += usize::from(here.is_some());
            nodes.push(Node { first: ranges.len() as u32, token });
            for siblings in sorted[range.clone()].chunk_by(|(a, _), (b, _)| a[depth] == b[depth]) {
                labels.push(siblings[0].0[depth]);
                ranges.push(range.start..range.start + siblings.len());
                range.start += siblings.len();
            }
        }
        nodes.push(Node { first: ranges.len() as u32, token: NONE });

        let (singles, pairs) = (vec![0; 1 << 8], vec![0; 1 << 16]);
        let mut tokenizer = Self { vocab, nodes, labels, singles, pairs };
        for a in 0..=u8::MAX {
            let Some(single) = tokenizer.child(0, a) else { continue };
            tokenizer.singles[a as usize] = single;
            for b in 0..=u8::MAX {
                let pair = tokenizer.child(single, b).unwrap_or(0);
                tokenizer.pairs[usize::from(a) << 8 | usize::from(b)] = pair;
            }
        }
        tokenizer
    }

    fn child(&self, node: u32, byte: u8) -> Option<u32> {
        let first = self.nodes[node as usize].first;
        let end = self.nodes[node as usize + 1].first;
        let child = self.labels[first as usize..end as usize].binary_search(&byte).ok()?;
        Some(first + child as u32)
    }

    /// The longest token that begins `text`, which is not empty, and its length; or `NONE`.
    fn longest(&self, text: &[u8]) -> (u32, usize) {
        let single = self.singles[text[0] as usize];
        // The root, where no token ends, stands for a byte that begins no token.
        let mut best = (self.nodes[single as usize].token, 1);
        let Some(&second) = text.get(1) else { return best };
        let mut next = Some(self.pairs[usize::from(text[0]) << 8 | usize::from(second)]).filter(|&n| n != 0);
        let mut len = 2;
        while let Some(node) = next {
            let token = self.nodes[node as usize].token;
            if token != NONE {
                best = (token, len);
            }
            next = text.get(len).and_then(|&byte| self.child(node, byte));
            len += 1;
        }
        best
    }
}

/// The tokens of a file as they are read.
struct Entries<'a> {
    vocab: Vec<Vec<u8>>,
    order: Vec<usize>, // ids, by their first place in the file
    file: &'a str,
}

impl Entries<'_> {
    /// A repeated id takes the later bytes and keeps its place, as a Python dictionary does.
    fn add(&mut self, id: usize, token: Vec<u8>) {
        if id >= self.vocab.len() {
            self.vocab.resize(id + 1, Vec::new());
        }
        if self.vocab[id].is_empty() && !token.is_empty() {
            self.order.push(id);
        }
        self.vocab[id] = token;
    }

    fn lines(&mut self, data: &[u8]) -> Result<()> {
        for (number, line) in data.split(|&byte| byte == b'\n').enumerate() {
            let invalid = |expected: &str, found: String| {
                Error::invalid(self.file, format!("line {}", number + 1), expected, found)
            };
            let line =
                std::str::from_utf8(line).map_err(|error| invalid("UTF-8", error.to_string()))?.trim_end();
            if line.is_empty() {
                continue;
            }
            let parts = line.split_once(' ').and_then(|(id, rest)| Some((id, rest.rsplit_once(' ')?)));
            let (id, (literal, len)) =
                parts.ok_or_else(|| invalid("`id literal length`", format!("`{line}`")))?;
            let id = id.parse().ok().filter(|&id| id < MAX_IDS);
            let id = id.ok_or_else(|| invalid(&format!("an id below {MAX_IDS}"), format!("`{line}`")))?;
            let token = python_literal(literal.trim())
                .ok_or_else(|| invalid("a Python string or bytes literal", format!("`{literal}`")))?;
            if len.parse() != Ok(token.len()) {
                return Err(invalid(&format!("length {len}"), format!("{} bytes in {literal}", token.len())));
            }
            self.add(id, token);
        }
        Ok(())
    }

    fn json(&mut self, data: &[u8]) -> Result<()> {
        use serde_json::Value;
        let object: serde_json::Map<String, Value> = serde_json::from_slice(data).map_err(|error| {
            Error::invalid(self.file, format!("line {}", error.line()), "a JSON object", error.to_string())
        })?;
        for (key, value) in object {
            let byte = |byte: &Value| byte.as_u64().and_then(|byte| u8::try_from(byte).ok());
            let (id, token) = match &value {
                Value::Number(id) => (id.as_u64(), Some(key.clone().into_bytes())),
                Value::String(token) => (key.parse().ok(), Some(token.clone().into_bytes())),
                Value::Array(bytes) => (key.parse().ok(), bytes.iter().map(byte).collect()),
                _ => (None, None),
            };
            let id = id.and_then(|id| usize::try_from(id).ok()).filter(|&id| id < MAX_IDS);
            let Some((id, token)) = id.zip(token) else {
                let expected = format!("an id below {MAX_IDS} with a string or an array of bytes");
                return Err(Error::invalid(self.file, format!("key `{key}`"), expected, value.to_string()));
            };
            self.add(id, token);
        }
        Ok(())
    }
}

/// The bytes of a Python string (as UTF-8) or bytes literal, read as Python reads it, save for `\N{..}`.
fn python_literal(literal: &str) -> Option<Vec<u8>> {
    let text = literal.strip_prefix(['b', 'B']);
    let is_bytes = text.is_some();
    let text = text.unwrap_or(literal);
    let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    let mut rest = text[1..].strip_suffix(quote)?;
    let mut out = Vec::with_capacity(rest.len());
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c == quote || is_bytes && !c.is_ascii() {
            return None;
        }
        // A backslash that ends the text here escapes the closing quote.
        let escape = if c == '\\' { Some(rest.chars().next()?) } else { None };
        let (used, code) = match escape {
            None => (0, c as u32),
            Some(e @ ('\\' | '\'' | '"')) => (1, e as u32),
            Some('a') => (1, 0x07),
            Some('b') => (1, 0x08),
            Some('t') => (1, 0x09),
            Some('n') => (1, 0x0a),
            Some('v') => (1, 0x0b),
            Some('f') => (1, 0x0c),
            Some('r') => (1, 0x0d),
            Some('0'..='7') => {
                let digits = rest.bytes().take(3).take_while(|digit| matches!(digit, b'0'..=b'7')).count();
                (digits, u32::from_str_radix(&rest[..digits], 8).ok()?)
            }
            Some(e) if e == 'x' || !is_bytes && matches!(e, 'u' | 'U') => {
                let end = if e == 'x' {
                    3
                } else if e == 'u' {
                    5
                } else {
                    9
                };
                let digits =
                    rest.get(1..end).filter(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit()))?;
                (end, u32::from_str_radix(digits, 16).ok()?)
            }
            Some('N') if !is_bytes => return None,
            Some(_) => (0, '\\' as u32), // Python keeps the backslash of what is no escape
        };
        rest = &rest[used..];
        if is_bytes {
            out.push(code as u8); // octal escapes above 0o377 wrap, as in Python
        } else {
            out.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Some(out)
}
