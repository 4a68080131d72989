//! Files that break GGUF in one way each: the right error, quickly, and never a panic.

use std::time::{Duration, Instant};

use web_rwkv_gguf::{Error, load::Checkpoint};

// Types of values, as the specification numbers them.
const U8: u32 = 0;
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const U64: u32 = 10;

/// A file in the making, its parts still apart so that a test can break one.
#[derive(Clone)]
struct Gguf {
    magic: [u8; 4],
    version: [u8; 4],
    keys: Vec<(Vec<u8>, u32, Vec<u8>)>,
    tensors: Vec<Tensor>,
    /// Claimed numbers of tensors and keys, if not the true ones.
    counts: (Option<u64>, Option<u64>),
    data: usize,
}

#[derive(Clone)]
struct Tensor {
    name: Vec<u8>,
    rank: u32,
    dims: Vec<u64>, // innermost first
    format: u32,
    offset: u64,
}

fn text(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

/// The value of an array key.
fn array(kind: u32, len: u64, values: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &len.to_le_bytes(), values].concat()
}

fn texts(all: &[&str]) -> Vec<u8> {
    array(STRING, all.len() as u64, &all.iter().flat_map(text).collect::<Vec<_>>())
}

impl Gguf {
    /// A sound file: five keys and three tensors.
    fn sound() -> Self {
        let file = Self {
            magic: *b"GGUF",
            version: 3u32.to_le_bytes(),
            keys: Vec::new(),
            tensors: Vec::new(),
            counts: (None, None),
            data: 64 * 34 + 2 * 256,
        };
        file.key("general.architecture", STRING, text("rwkv7"))
            .key("rwkv7.block_count", U32, 1u32.to_le_bytes())
            .key("rwkv7.embedding_length", U32, 64u32.to_le_bytes())
            .key("rwkv7.wkv.head_size", U32, 64u32.to_le_bytes())
            .key("rwkv7.attention.layer_norm_epsilon", F32, 1e-3f32.to_le_bytes())
            .tensor("token_embd.weight", &[64, 32], 8, 0)
            .tensor("output_norm.weight", &[64], 0, 64 * 34)
            .tensor("output_norm.bias", &[64], 0, 64 * 34 + 256)
    }

    /// Sets a key, or replaces the one of this name.
    fn key(mut self, name: &str, kind: u32, value: impl AsRef<[u8]>) -> Self {
        self.keys.retain(|(key, ..)| key != name.as_bytes());
        self.also(name, kind, value)
    }

    /// Adds a key, whether or not it is there.
    fn also(mut self, name: impl AsRef<[u8]>, kind: u32, value: impl AsRef<[u8]>) -> Self {
        self.keys.push((name.as_ref().to_vec(), kind, value.as_ref().to_vec()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.keys.retain(|(key, ..)| key != name.as_bytes());
        self
    }

    fn tensor(mut self, name: impl AsRef<[u8]>, dims: &[u64], format: u32, offset: u64) -> Self {
        let name = name.as_ref().to_vec();
        self.tensors.push(Tensor { name, rank: dims.len() as u32, dims: dims.to_vec(), format, offset });
        self
    }

    /// Adds a tensor with data of its own at the end.
    fn append(mut self, name: impl AsRef<[u8]>, dims: &[u64], format: u32, size: usize) -> Self {
        let offset = self.data.next_multiple_of(32) as u64;
        self.data = offset as usize + size;
        self.tensor(name, dims, format, offset)
    }

    fn edit(mut self, edit: impl FnOnce(&mut Self)) -> Self {
        edit(&mut self);
        self
    }

    /// Edits the first tensor, a Q8_0 matrix of 32 rows of 64.
    fn first(self, edit: impl FnOnce(&mut Tensor)) -> Self {
        self.edit(|file| edit(&mut file.tensors[0]))
    }

    fn vocab(self, tokens: &[&str]) -> Self {
        self.key("tokenizer.ggml.model", STRING, text("rwkv")).key(
            "tokenizer.ggml.tokens",
            ARRAY,
            texts(tokens),
        )
    }

    fn types(self, types: &[i32]) -> Self {
        let values: Vec<u8> = types.iter().flat_map(|t| t.to_le_bytes()).collect();
        self.key("tokenizer.ggml.token_type", ARRAY, array(I32, types.len() as u64, &values))
    }

    fn header(&self) -> Vec<u8> {
        let mut out = [self.magic, self.version].concat();
        out.extend(self.counts.0.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.counts.1.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.keys {
            out.extend([&text(key), &kind.to_le_bytes()[..], value].concat());
        }
        for t in &self.tensors {
            out.extend(text(&t.name));
            out.extend(t.rank.to_le_bytes());
            out.extend(t.dims.iter().flat_map(|n| n.to_le_bytes()));
            out.extend([&t.format.to_le_bytes()[..], &t.offset.to_le_bytes()].concat());
        }
        out
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend((0..self.data).map(|i| i as u8));
        out
    }
}

/// Reads a file, which must take no time.
fn read(bytes: impl Into<Vec<u8>>) -> web_rwkv_gguf::Result<Checkpoint> {
    let bytes = bytes.into();
    let start = Instant::now();
    let result = Checkpoint::from_bytes("bad.gguf", bytes.into());
    assert!(start.elapsed() < Duration::from_secs(1), "took {:?}", start.elapsed());
    result
}

/// The error of a file, after its kind: `Invalid: bad.gguf: ...`.
fn error(bytes: impl Into<Vec<u8>>) -> String {
    let Err(error) = read(bytes) else { return "none".into() };
    let kind = match error {
        Error::Invalid { .. } => "Invalid",
        Error::Missing { .. } => "Missing",
        Error::UnsupportedType { .. } => "UnsupportedType",
        Error::UnsupportedModel { .. } => "UnsupportedModel",
        _ => "other",
    };
    format!("{kind}: {error}")
}

/// Files and what their errors begin with, after the file name.
fn check(cases: Vec<(&str, &str, Vec<u8>)>) {
    let mut failures = Vec::new();
    for (kind, expected, bytes) in cases {
        let (wanted, found) = (format!("{kind}: bad.gguf: {expected}"), error(bytes));
        if !found.starts_with(&wanted) {
            failures.push(format!("expected {wanted}\n   found {found:.300}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn huge(n: u64) -> [u8; 8] {
    n.to_le_bytes()
}

#[test]
fn sound_files_open() {
    let file = read(Gguf::sound().bytes()).unwrap();
    assert_eq!(file.tensors.len(), 3);
    assert_eq!(file.tensors["emb.weight"].shape, [32, 64]);
    assert_eq!(file.tensors["emb.weight"].data.len(), 32 * 2 * 34);
    assert_eq!(file.tensors["ln_out.bias"].data[..2], [(64 * 34 + 256) as u8, (64 * 34 + 257) as u8]);
    assert_eq!((file.block_count, file.embedding_length, file.head_size), (Some(1), Some(64), Some(64)));
    assert_eq!((file.layer_norm_eps, file.vocab), (1e-3, None));

    let sound = Gguf::sound;
    let others = [
        ("version 2", sound().edit(|f| f.version = 2u32.to_le_bytes())),
        (
            "gaps between tensors",
            sound().append("output.weight", &[3, 1], 0, 12 + 1).append("token_embd_norm.bias", &[64], 0, 256),
        ),
        ("no tensors", sound().edit(|f| f.tensors.clear())),
        ("sizes as u64", sound().key("rwkv7.block_count", U64, huge(1))),
        (
            "unread keys",
            sound().key("x", BOOL, [1]).key("y", ARRAY, array(U8, 3, &[1, 2, 3])).key(
                "z",
                ARRAY,
                texts(&["a", "b"]),
            ),
        ),
    ];
    for (what, file) in others {
        assert_eq!(error(file.bytes()), "none", "{what}");
    }
    let wide = sound().key("general.alignment", U32, 8u32.to_le_bytes()).edit(|f| f.data = 0);
    let mut bytes = wide.header();
    bytes.resize(bytes.len().next_multiple_of(8) + 64 * 34 + 512, 0);
    assert_eq!(error(bytes), "none", "alignment 8");
}

#[test]
fn fused_vectors_come_apart() {
    for (arch, letters, stem) in [("rwkv7", "rwkvag", "x"), ("rwkv6", "wkvrg", "time_maa")] {
        let count = letters.len();
        let file = Gguf::sound().key("general.architecture", STRING, text(arch));
        let file = file.append("blk.1.time_mix_lerp_fused.weight", &[8, 1, 1, count as u64], 0, count * 32);
        let first = (file.data - count * 32) as u8;
        let file = read(file.bytes()).unwrap();
        for (i, letter) in letters.chars().enumerate() {
            let x = &file.tensors[&format!("blocks.1.att.{stem}_{letter}")];
            assert_eq!((&x.shape[..], x.data.len()), (&[8][..], 32));
            assert_eq!(x.data[0].wrapping_sub(first), (i as u8) * 32, "{stem}_{letter}");
        }
    }
}

#[test]
fn fillers_of_the_first_layer_are_dropped() {
    let file = Gguf::sound().append("blk.0.time_mix_v1.weight", &[64, 2], 1, 256).append(
        "blk.1.time_mix_v1.weight",
        &[64, 2],
        1,
        256,
    );
    let file = read(file.bytes()).unwrap();
    assert!(!file.tensors.contains_key("blocks.0.att.v1"));
    assert_eq!(file.tensors["blocks.1.att.v1"].shape, [2, 64]);
}

#[test]
fn tokens_are_bytes() {
    let tokens = ["<s>", "a", r"\n\t\r", r"\x00\xfF", r"\\n", r#"\'\""#, "é", "[PAD7]", ""];
    let vocab = |file: Gguf| read(file.bytes()).unwrap().vocab.unwrap();
    let found = vocab(Gguf::sound().vocab(&tokens).types(&[3, 1, 1, 1, 1, 1, 1, 5, 1]));
    let expected: [&[u8]; 9] = [b"", b"a", b"\n\t\r", b"\0\xff", b"\\n", b"'\"", "é".as_bytes(), b"", b""];
    assert_eq!(found, expected);
    assert_eq!(vocab(Gguf::sound().vocab(&tokens))[7], b"[PAD7]");
}

#[test]
fn start_of_the_file() {
    let sound = Gguf::sound;
    check(vec![
        ("Invalid", "content: expected GGUF, safetensors or PyTorch's .pth, found an empty file", vec![]),
        (
            "Invalid",
            "content: expected GGUF, safetensors or PyTorch's .pth, found a file that starts with \"G\"",
            b"G".to_vec(),
        ),
        ("Invalid", "zip archive: expected a directory of entries", b"PK\x03\x04....".to_vec()),
        ("Invalid", "content: ", sound().edit(|f| f.magic = *b"GGML").bytes()),
        ("Invalid", "version: expected 4 bytes, found 0", b"GGUF".to_vec()),
        ("Invalid", "version: expected 2 or 3, found 0", sound().edit(|f| f.version = [0; 4]).bytes()),
        ("Invalid", "version: expected 2 or 3, found 1", sound().edit(|f| f.version = [1, 0, 0, 0]).bytes()),
        ("Invalid", "version: expected 2 or 3, found 4", sound().edit(|f| f.version = [4, 0, 0, 0]).bytes()),
        ("UnsupportedModel", "big-endian GGUF", sound().edit(|f| f.version = [0, 0, 0, 3]).bytes()),
        ("Invalid", "number of tensors: expected 8 bytes, found 0", b"GGUF\x03\0\0\0".to_vec()),
        ("Invalid", "number of keys: expected 8 bytes", b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
    ]);
}

#[test]
fn keys() {
    let sound = Gguf::sound;
    let more = |n| sound().edit(|f| f.counts.1 = Some(n)).edit(|f| f.tensors.clear());
    let with = |kind, value: &[u8]| sound().key("k", kind, value).edit(|f| f.tensors.clear()).header();
    let name = |name: &[u8]| sound().also(name, U8, [0]).bytes();
    check(vec![
        ("Invalid", "key: expected 8 bytes, found 0 to the end", more(6).header()),
        ("Invalid", "key: expected 8 bytes, found 0 to the end", more(u64::MAX).header()),
        ("Invalid", "key `rwkv7.block_count`: expected one, found a second", {
            sound().also("rwkv7.block_count", U32, [0; 4]).bytes()
        }),
        ("Invalid", "key `k`: expected one", sound().also("k", U8, [0]).also("k", BOOL, [0]).bytes()),
        ("Invalid", "key: expected UTF-8, found `\\xff`", name(b"\xff")),
        ("Invalid", "key: expected at most 65536 bytes, found 65537", name(&[b'k'; 65537])),
        ("Invalid", "key `k`: expected a value type, found 13", with(13, &[0; 8])),
        ("Invalid", "key `k`: expected a value type, found 4294967295", with(u32::MAX, &[0; 8])),
        ("Invalid", "key `k`: expected a boolean, found 2", with(BOOL, &[2])),
        ("Invalid", "key `k`: expected 4 bytes, found 3", with(U32, &[0; 3])),
        ("Invalid", "key `k`: expected 8 bytes, found 7", with(U64, &[0; 7])),
        ("Invalid", "key `k`: expected 8 bytes, found 7", with(STRING, &[0; 7])),
        (
            "Invalid",
            "key `k`: expected 5 bytes, found 4",
            with(STRING, &[5, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]),
        ),
        ("Invalid", "key `k`: expected 18446744073709551615 bytes, found 0", with(STRING, &huge(u64::MAX))),
        ("Invalid", "key `k`: expected an array type, found 13", with(ARRAY, &array(13, 1, &[0; 8]))),
        ("Invalid", "key `k`: expected an array of plain values, found one of arrays", {
            with(ARRAY, &array(ARRAY, 1, &array(U8, 1, &[0])))
        }),
        ("Invalid", "key `k`: expected an array of plain values", {
            with(ARRAY, &array(ARRAY, 1, &[]).repeat(100_000)) // would overflow the stack if followed
        }),
        ("Invalid", "key `k`: expected an array inside the file", with(ARRAY, &array(U64, u64::MAX, &[]))),
        ("Invalid", "key `k`: expected an array inside the file", with(ARRAY, &array(U32, 1 << 62, &[]))),
        ("Invalid", "key `k`: expected 1099511627776 bytes", with(ARRAY, &array(U8, 1 << 40, &[]))),
        ("Invalid", "key `k`: expected 8 bytes, found 0", with(ARRAY, &array(STRING, u64::MAX, &[]))),
        ("Invalid", "key `k`: expected 8 bytes, found 0", with(ARRAY, &array(STRING, 3, &text("ab")))),
        ("Invalid", "key `k`: expected 4 bytes, found 3", with(ARRAY, &[0; 3])),
    ]);
}

#[test]
fn keys_that_are_read() {
    let set = |key, kind, value: &[u8]| Gguf::sound().key(key, kind, value).bytes();
    let eps = "rwkv7.attention.layer_norm_epsilon";
    check(vec![
        ("Missing", "key `general.architecture`", Gguf::sound().without("general.architecture").bytes()),
        ("UnsupportedModel", "architecture `llama`", set("general.architecture", STRING, &text("llama"))),
        ("UnsupportedModel", "architecture `rwkv6qwen2`", {
            set("general.architecture", STRING, &text("rwkv6qwen2"))
        }),
        ("UnsupportedModel", "tensor `blk.0.time_mix_w0.weight`, which is no part of RWKV-6", {
            let six = Gguf::sound().key("general.architecture", STRING, text("rwkv6"));
            six.append("blk.0.time_mix_w0.weight", &[8], 0, 32).bytes()
        }),
        ("Invalid", "key `rwkv7.rescale_every_n_layers`: expected a number above -1, found -1", {
            set("rwkv7.rescale_every_n_layers", I32, &[255; 4])
        }),
        ("UnsupportedModel", "architecture `arwkv7`", set("general.architecture", STRING, &text("arwkv7"))),
        ("Invalid", "key `general.architecture`: expected a string, found an integer", {
            set("general.architecture", U32, &[7; 4])
        }),
        ("Invalid", "key `general.architecture`: expected UTF-8", {
            set("general.architecture", STRING, &text(b"\xc3"))
        }),
        ("Invalid", "key `rwkv7.block_count`: expected an integer, found a string", {
            set("rwkv7.block_count", STRING, &text("24"))
        }),
        ("Invalid", "key `rwkv7.block_count`: expected a number above 0, found 0", {
            set("rwkv7.block_count", U32, &[0; 4])
        }),
        ("Invalid", "key `rwkv7.embedding_length`: expected a number above 0, found -1", {
            set("rwkv7.embedding_length", I32, &[255; 4])
        }),
        ("Invalid", "key `rwkv7.embedding_length`: expected an integer, found an array of other values", {
            set("rwkv7.embedding_length", ARRAY, &array(U32, 1, &[1; 4]))
        }),
        ("Invalid", "key `rwkv7.wkv.head_size`: expected an integer, found a float", {
            set("rwkv7.wkv.head_size", F32, &64f32.to_le_bytes())
        }),
        ("Invalid", "key `rwkv7.attention.layer_norm_epsilon`: expected a float, found an integer", {
            set(eps, U32, &[1; 4])
        }),
        ("Invalid", "key `rwkv7.attention.layer_norm_epsilon`: expected a number above 0, found NaN", {
            set(eps, F32, &f32::NAN.to_le_bytes())
        }),
        ("Invalid", "key `rwkv7.attention.layer_norm_epsilon`: expected a number above 0, found -1", {
            set(eps, F32, &(-1f32).to_le_bytes())
        }),
        ("Invalid", "key `general.alignment`: expected a power of two, found 24", {
            set("general.alignment", U32, &24u32.to_le_bytes())
        }),
        (
            "Invalid",
            "key `general.alignment`: expected a number above 0",
            set("general.alignment", U32, &[0; 4]),
        ),
        ("Invalid", "key `general.alignment`: expected an integer", set("general.alignment", BOOL, &[1])),
        ("Invalid", "tensor `token_embd.weight`: expected data inside the file", {
            set("general.alignment", U64, &huge(1 << 63))
        }),
    ]);
}

#[test]
fn vocabularies() {
    let sound = Gguf::sound;
    let token = |token| sound().vocab(&["<s>", token]).bytes();
    let tokens = "tokenizer.ggml.tokens";
    check(vec![
        ("Missing", "key `tokenizer.ggml.model`", {
            sound().vocab(&["<s>"]).without("tokenizer.ggml.model").bytes()
        }),
        ("UnsupportedModel", "tokenizer `gpt2`", {
            sound().vocab(&["<s>"]).key("tokenizer.ggml.model", STRING, text("gpt2")).bytes()
        }),
        ("Invalid", "key `tokenizer.ggml.model`: expected a string", {
            sound().vocab(&["<s>"]).key("tokenizer.ggml.model", U8, [1]).bytes()
        }),
        ("Invalid", "key `tokenizer.ggml.tokens`: expected an array of strings, found a string", {
            sound().vocab(&[]).key(tokens, STRING, text("a")).bytes()
        }),
        ("Invalid", "key `tokenizer.ggml.tokens`: expected an array of strings, found an array of i32", {
            sound().vocab(&[]).key(tokens, ARRAY, array(I32, 1, &[0; 4])).bytes()
        }),
        ("Invalid", "key `tokenizer.ggml.token_type`: expected 2, found 1", {
            sound().vocab(&["<s>", "a"]).types(&[3]).bytes()
        }),
        ("Invalid", "key `tokenizer.ggml.token_type`: expected an array of i32, found an array of other", {
            sound().vocab(&["<s>"]).key("tokenizer.ggml.token_type", ARRAY, array(U8, 1, &[3])).bytes()
        }),
        ("Invalid", "token 1: expected the text of a bytes literal, found `\\\\`", token("\\")),
        ("Invalid", "token 1: ", token(r"\x")),
        ("Invalid", "token 1: ", token(r"\x4")),
        ("Invalid", "token 1: ", token(r"\xg0")),
        ("Invalid", "token 1: ", token(r"\q")),
    ]);
}

#[test]
fn descriptions_of_tensors() {
    let sound = Gguf::sound;
    let first = |edit: fn(&mut Tensor)| sound().first(edit).bytes();
    let shape = |dims: &'static [u64]| {
        sound().first(|t| (t.rank, t.dims) = (dims.len() as u32, dims.to_vec())).bytes()
    };
    let more = |n| sound().edit(|f| (f.counts.0, f.data) = (Some(n), 0)).header();
    check(vec![
        ("Invalid", "tensor name: expected 8 bytes, found 0", more(4)),
        ("Invalid", "tensor name: expected 8 bytes, found 0", more(u64::MAX)),
        ("Invalid", "tensor name: expected UTF-8, found `\\xfe`", first(|t| t.name = vec![0xfe])),
        ("Invalid", "tensor name: expected at most 65536 bytes", first(|t| t.name = vec![b'a'; 70_000])),
        ("Invalid", "tensor `token_embd.weight`: expected 1 to 4 dimensions, found 0", shape(&[])),
        ("Invalid", "tensor `token_embd.weight`: expected 1 to 4 dimensions, found 5", shape(&[1; 5])),
        ("Invalid", "tensor `token_embd.weight`: expected 1 to 4 dimensions, found 4294967295", {
            first(|t| t.rank = u32::MAX)
        }),
        (
            "Invalid",
            "tensor `token_embd.weight`: expected dimensions that are not 0, found [32, 0]",
            shape(&[0, 32]),
        ),
        (
            "Invalid",
            "tensor `token_embd.weight`: expected dimensions that are not 0, found [0, 64]",
            shape(&[64, 0]),
        ),
        (
            "Invalid",
            "tensor `token_embd.weight`: expected rows of a multiple of 32 values for q8_0, found [32, 65]",
            { shape(&[65, 32]) },
        ),
        ("Invalid", "tensor `token_embd.weight`: expected rows of a multiple of 256 values for q4_k", {
            first(|t| t.format = 12)
        }),
        ("Invalid", "tensor `token_embd.weight`: expected a size below 2^64", shape(&[1 << 63, 2])),
        ("Invalid", "tensor `token_embd.weight`: expected a size below 2^64", shape(&[1 << 32, 1 << 32])),
        (
            "Invalid",
            "tensor `token_embd.weight`: expected a size below 2^64",
            shape(&[64, 1 << 21, 1 << 21, 1 << 21]),
        ),
        ("UnsupportedType", "tensor `token_embd.weight`: type iq2_xxs ", first(|t| t.format = 16)),
        ("UnsupportedType", "tensor `token_embd.weight`: type nvfp4 ", first(|t| t.format = 40)),
        ("UnsupportedType", "tensor `token_embd.weight`: type ggml type 4 ", first(|t| t.format = 4)),
        ("UnsupportedType", "tensor `token_embd.weight`: type ggml type 4294967295 ", {
            first(|t| t.format = u32::MAX)
        }),
    ]);
}

#[test]
fn data_of_tensors() {
    let sound = Gguf::sound;
    let at = |tensor: usize, offset| sound().edit(|f| f.tensors[tensor].offset = offset).bytes();
    check(vec![
        ("Invalid", "tensor `output_norm.bias`: expected data inside the file", at(2, 64 * 34 + 257)),
        ("Invalid", "tensor `output_norm.bias`: expected data inside the file", at(2, 1 << 40)),
        ("Invalid", "tensor `output_norm.bias`: expected data inside the file", at(2, u64::MAX)),
        ("Invalid", "tensor `output_norm.bias`: expected data inside the file", at(2, u64::MAX - 255)),
        ("Invalid", "tensor `output_norm.bias`: expected data inside the file", at(2, u64::MAX - 300)),
        (
            "Invalid",
            "tensor `output_norm.bias`: expected data of its own, found offset 2176, inside `output_norm",
            { at(2, 64 * 34) },
        ),
        ("Invalid", "tensor `output_norm.bias`: expected data of its own", at(2, 64 * 34 + 255)),
        ("Invalid", "tensor `output_norm.bias`: expected data of its own", at(2, 100)),
        ("Invalid", "tensor `output_norm.bias`: expected an offset that is a multiple of 32, found 2440", {
            sound().edit(|f| (f.tensors[2].offset, f.data) = (64 * 34 + 264, f.data + 32)).bytes()
        }),
        (
            "Invalid",
            "tensor `output_norm.bias`: expected an offset that is a multiple of 1024, found 2432",
            {
                let wide = sound().key("general.alignment", U32, 1024u32.to_le_bytes());
                wide.edit(|f| (f.tensors[1].offset, f.data) = (3072, 8192)).bytes()
            },
        ),
        ("Invalid", "tensor `token_embd.weight`: expected data inside the file", {
            sound().edit(|f| f.data = 64 * 34 - 1).bytes()
        }),
        ("Invalid", "tensor `token_embd.weight`: expected data inside the file", sound().header()),
        ("Invalid", "tensor `token_embd.weight`: expected data inside the file", {
            sound().first(|t| t.dims = vec![64, 1 << 40]).bytes()
        }),
    ]);
}

#[test]
fn tensors_of_other_models() {
    let add = |name: &str, dims: &[u64]| {
        Gguf::sound().append(name, dims, 0, dims.iter().product::<u64>() as usize * 4).bytes()
    };
    check(vec![
        (
            "UnsupportedModel",
            "tensor `blk.0.attn_q.weight`, which is no part",
            add("blk.0.attn_q.weight", &[4]),
        ),
        ("UnsupportedModel", "tensor `blocks.0.ffn.s_emb.weight`", add("blocks.0.ffn.s_emb.weight", &[4])),
        ("UnsupportedModel", "tensor `emb.weight`", add("emb.weight", &[4, 4])),
        ("UnsupportedModel", "tensor ``", add("", &[4])),
        ("UnsupportedModel", "tensor `blk.00.attn_norm.bias`", add("blk.00.attn_norm.bias", &[4])),
        ("UnsupportedModel", "tensor `blk.+1.attn_norm.bias`", add("blk.+1.attn_norm.bias", &[4])),
        ("UnsupportedModel", "tensor `blk.N.attn_norm.bias`", add("blk.N.attn_norm.bias", &[4])),
        (
            "UnsupportedModel",
            "tensor `blk.4294967296.attn_norm.bias`",
            add("blk.4294967296.attn_norm.bias", &[4]),
        ),
        ("Invalid", "tensor `ln_out.bias`: expected one, found a second", add("output_norm.bias", &[64])),
        ("Invalid", "tensor `blocks.0.att.v0`: expected one, found a second", {
            let name = "blk.0.time_mix_v0.weight";
            Gguf::sound().append(name, &[4], 0, 16).append(name, &[4], 0, 16).bytes()
        }),
        ("Invalid", "tensor `token_embd_norm.bias`: expected a vector, found [2, 4]", {
            add("token_embd_norm.bias", &[4, 2])
        }),
        ("Invalid", "tensor `blk.0.time_mix_key.weight`: expected a matrix, found [2, 4, 4]", {
            add("blk.0.time_mix_key.weight", &[4, 4, 2])
        }),
        (
            "Invalid",
            "tensor `blk.0.time_mix_lerp_fused.weight`: expected [6, 1, 1, channels], found [5, 1, 1, 4]",
            { add("blk.0.time_mix_lerp_fused.weight", &[4, 1, 1, 5]) },
        ),
        ("Invalid", "tensor `blk.0.time_mix_lerp_fused.weight`: ", {
            add("blk.0.time_mix_lerp_fused.weight", &[4, 2, 1, 6])
        }),
    ]);
}

/// Whatever is cut off or flipped, there is no panic, and what opens is consistent.
#[test]
fn every_prefix_and_every_flipped_bit() {
    let file = Gguf::sound().vocab(&["<s>", "a", r"\n"]).types(&[3, 1, 1]);
    let (header, bytes) = (file.header().len(), file.bytes());
    for len in 0..bytes.len() {
        assert_ne!(error(&bytes[..len]), "none", "the first {len} bytes");
    }
    for bit in 0..header * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Ok(file) = read(bytes) else { continue };
        for (name, t) in &file.tensors {
            let (row, rows) = t.shape.split_last().unwrap();
            let size = t.format.row_bytes(*row).unwrap() * rows.iter().product::<usize>();
            assert_eq!(size, t.data.len(), "`{name}` with bit {bit} flipped");
        }
    }
}
