//! GGUF version 3, with the names, shapes and keys that llama.cpp wants of an RWKV.
//! Layout: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use super::{Entry, SaveOptions, Writing, in_order, layer};
use crate::{
    Error, Result,
    format::Format,
    load::{Checkpoint, ModelVersion, Tensor, names},
};

/// Where tensors begin.
const ALIGNMENT: usize = 32;
/// ggml's version of the block layouts.
const QUANTIZATION_VERSION: u32 = 2;

pub(super) fn write(
    checkpoint: &Checkpoint,
    path: &Path,
    options: &SaveOptions<'_>,
    writing: &mut Writing<'_>,
) -> Result<()> {
    let mut keys = match checkpoint.keys.is_empty() {
        true => own_keys(checkpoint)?,
        false => copied_keys(checkpoint),
    };
    let entries = entries(checkpoint, options)?;
    if !checkpoint.keys.iter().any(|(key, _)| key == "tokenizer.ggml.tokens") {
        vocabulary(checkpoint, size(checkpoint, "emb.weight", 0)? as usize, &mut keys)?;
    }
    keys.number("general.quantization_version", QUANTIZATION_VERSION);
    keys.number("general.file_type", file_type(&entries));

    let mut header = b"GGUF".to_vec();
    header.extend(3_u32.to_le_bytes());
    header.extend((entries.len() as u64).to_le_bytes());
    header.extend((keys.count as u64).to_le_bytes());
    header.extend(&keys.bytes);
    let mut offset = 0;
    for entry in &entries {
        text(&mut header, entry.name.as_bytes());
        header.extend((entry.shape.len() as u32).to_le_bytes());
        // The innermost dimension is first.
        entry.shape.iter().rev().for_each(|n| header.extend((*n as u64).to_le_bytes()));
        header.extend(entry.format.ggml().to_le_bytes());
        header.extend((offset as u64).to_le_bytes());
        offset += entry.bytes().next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT), 0);

    let io = |e| Error::io(path, e);
    let mut out = BufWriter::new(File::create(path).map_err(io)?);
    out.write_all(&header).map_err(io)?;
    let total = entries.iter().map(Entry::values).sum();
    for entry in &entries {
        writing.tensor(&checkpoint.file, entry, total, &mut |bytes| out.write_all(bytes))?;
        let padding = entry.bytes().next_multiple_of(ALIGNMENT) - entry.bytes();
        out.write_all(&[0; ALIGNMENT][..padding]).map_err(io)?;
    }
    out.into_inner().map_err(|e| io(e.into_error()))?.sync_all().map_err(io)
}

/// The tensors under llama.cpp's names.
fn entries<'a>(checkpoint: &Checkpoint, options: &SaveOptions<'a>) -> Result<Vec<Entry<'a>>> {
    let head_size = checkpoint.head_size.unwrap_or(64);
    let mut entries: Vec<Entry<'a>> = vec![];
    let mut fused = BTreeMap::new(); // name to place
    for official in in_order(checkpoint) {
        let tensor = &checkpoint.tensors[official];
        let (name, is_fused) =
            names::gguf(checkpoint.version, official).ok_or_else(|| Error::UnsupportedModel {
                file: checkpoint.file.clone(),
                what: format!("tensor `{official}` in GGUF"),
            })?;
        if is_fused {
            // In the order of their letters, which `names` knows.
            let place = *fused.entry(name.clone()).or_insert(entries.len());
            if place == entries.len() {
                let stem = &official[..official.len() - 1];
                let parts: Option<Vec<Tensor>> = names::lerp(checkpoint.version)
                    .chars()
                    .map(|letter| checkpoint.tensors.get(&format!("{stem}{letter}")).cloned())
                    .collect();
                let parts = parts.ok_or_else(|| Error::Missing {
                    file: checkpoint.file.clone(),
                    thing: format!("one of the tensors `{stem}*`"),
                })?;
                let shape = vec![parts.len(), 1, 1, tensor.shape.iter().product()];
                entries.push(Entry { name, shape, format: Format::F32, parts, importance: None });
            }
            continue;
        }
        let format = match tensor.shape.len() {
            1 => Format::F32, // as llama.cpp's operations want them
            _ => (options.format)(official, tensor),
        };
        let importance = options.importance.and_then(|all| all.get(official)).map(Vec::as_slice);
        let shape = match official.ends_with(".att.time_faaaa") {
            true => vec![tensor.shape[0] / head_size, head_size],
            false => tensor.shape.clone(),
        };
        entries.push(Entry { name, shape, format, parts: vec![tensor.clone()], importance });
        // llama.cpp wants what layer 0 does not use, and takes the LoRA of a for it.
        if let (Some(0), Some(number)) = (layer(official), official.strip_prefix("blocks.0.att.a")) {
            let copy = entries.last().expect("just pushed");
            let (shape, parts) = (copy.shape.clone(), copy.parts.clone());
            let name = format!("blk.0.time_mix_v{number}.weight");
            entries.push(Entry { name, shape, format, parts, importance: None });
        }
    }
    Ok(entries)
}

/// llama.cpp's number for files whose weights are mostly of one format, as those of the matrices here are.
fn file_type(entries: &[Entry<'_>]) -> u32 {
    let mut values = BTreeMap::<u32, usize>::new();
    for entry in entries.iter().filter(|e| e.shape.len() == 2) {
        let number = match entry.format {
            Format::F32 => 0,
            Format::F16 => 1,
            Format::Q4_0 => 2,
            Format::Q4_1 => 3,
            Format::Q8_0 => 7,
            Format::Q5_0 => 8,
            Format::Q5_1 => 9,
            Format::Q2K => 10,
            Format::Q3K => 12,
            Format::Q4K => 15,
            Format::Q5K => 17,
            Format::Q6K => 18,
            Format::IQ4NL => 25,
            Format::IQ4XS => 30,
            Format::BF16 => 32,
        };
        *values.entry(number).or_default() += entry.values();
    }
    values.into_iter().max_by_key(|(_, n)| *n).map_or(0, |(number, _)| number)
}

/// Keys with their values, as they stand in a file.
#[derive(Default)]
struct Keys {
    bytes: Vec<u8>,
    count: usize,
}

impl Keys {
    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        text(&mut self.bytes, key.as_bytes());
        self.count += 1;
        &mut self.bytes
    }

    fn number(&mut self, key: &str, n: u32) {
        let out = self.key(key);
        out.extend(4_u32.to_le_bytes());
        out.extend(n.to_le_bytes());
    }

    fn text(&mut self, key: &str, value: &str) {
        let out = self.key(key);
        out.extend(8_u32.to_le_bytes());
        text(out, value.as_bytes());
    }

    /// The head of an array, whose values follow.
    fn array(&mut self, key: &str, kind: u32, len: usize) -> &mut Vec<u8> {
        let out = self.key(key);
        out.extend(9_u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((len as u64).to_le_bytes());
        out
    }
}

fn text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

/// The keys of the GGUF that the checkpoint was read from, but for those that tell of the file itself.
fn copied_keys(checkpoint: &Checkpoint) -> Keys {
    const OF_THE_FILE: [&str; 3] = ["general.alignment", "general.quantization_version", "general.file_type"];
    let mut keys = Keys::default();
    for (key, value) in checkpoint.keys.iter().filter(|(key, _)| !OF_THE_FILE.contains(&key.as_str())) {
        keys.key(key).extend_from_slice(value);
    }
    keys
}

/// The keys that llama.cpp's converter writes for an RWKV-7 or 6.
fn own_keys(checkpoint: &Checkpoint) -> Result<Keys> {
    let size = |name: &str, dimension| size(checkpoint, name, dimension);
    let stem = Path::new(&checkpoint.file).file_stem().unwrap_or_default().to_string_lossy();
    let rank = |letter: char| size(&format!("blocks.0.att.{letter}1"), 0);
    let layers = checkpoint.tensors.keys().filter_map(|name| layer(name)).max().map_or(0, |n| n + 1);
    let mut keys = Keys::default();
    let (architecture, own) = match checkpoint.version {
        ModelVersion::V7 => {
            let value = size("blocks.1.att.v1", 0).or_else(|_| rank('a'))?;
            let ranks = [("decay", rank('w')?), ("iclr", rank('a')?), ("value_residual_mix", value)];
            let ranks = ranks.into_iter().chain([("gate", rank('g')?)]);
            ("rwkv7", ranks.map(|(lora, n)| (format!("attention.{lora}_lora_rank"), n)).collect::<Vec<_>>())
        }
        ModelVersion::V6 => {
            let mix = size("blocks.0.att.time_maa_w1", 0)? / 5;
            let decay = size("blocks.0.att.time_decay_w1", 0)?;
            let rescale = checkpoint.rescale_every as u32;
            let own = [("time_mix_extra_dim", mix), ("time_decay_extra_dim", decay)].into_iter();
            let own = own.chain([("rescale_every_n_layers", rescale)]);
            ("rwkv6", own.map(|(key, n)| (key.to_owned(), n)).collect())
        }
        other => {
            return Err(Error::UnsupportedModel {
                file: checkpoint.file.clone(),
                what: format!("{other} in GGUF, for which llama.cpp has no names,"),
            });
        }
    };
    keys.text("general.architecture", architecture);
    keys.text("general.type", "model");
    keys.text("general.name", &stem);
    let sizes = [
        ("context_length", 1 << 20),
        ("embedding_length", size("emb.weight", 1)?),
        ("block_count", layers as u32),
        ("feed_forward_length", size("blocks.0.ffn.key.weight", 0)?),
        ("attention.head_count", 0),
        ("wkv.head_size", checkpoint.head_size.unwrap_or(64) as u32),
    ];
    for (key, n) in sizes.map(|(key, n)| (key.to_owned(), n)).into_iter().chain(own) {
        keys.number(&format!("{architecture}.{key}"), n);
    }
    let out = keys.key(&format!("{architecture}.attention.layer_norm_epsilon"));
    out.extend(6_u32.to_le_bytes());
    out.extend(checkpoint.layer_norm_eps.to_le_bytes());
    Ok(keys)
}

/// A dimension of a tensor.
fn size(checkpoint: &Checkpoint, name: &str, dimension: usize) -> Result<u32> {
    let size = checkpoint.tensors.get(name).and_then(|t| t.shape.get(dimension));
    size.map(|n| *n as u32)
        .ok_or_else(|| Error::Missing { file: checkpoint.file.clone(), thing: format!("tensor `{name}`") })
}

/// The tokens, escaped as in a Python bytes literal; llama.cpp opens no RWKV without them.
fn vocabulary(checkpoint: &Checkpoint, len: usize, keys: &mut Keys) -> Result<()> {
    const NORMAL: i32 = 1;
    const CONTROL: i32 = 3;
    const UNUSED: i32 = 5;
    let vocab = checkpoint.vocab.as_ref().ok_or_else(|| Error::Missing {
        file: checkpoint.file.clone(),
        thing: "the vocabulary, which GGUF needs,".into(),
    })?;
    if vocab.len() > len {
        let expected = format!("at most {len} tokens, as the embedding has");
        return Err(Error::invalid(&checkpoint.file, "vocabulary", expected, vocab.len().to_string()));
    }
    let bytes = |id: usize| vocab.get(id).map(Vec::as_slice).unwrap_or_default();
    keys.text("tokenizer.ggml.model", "rwkv");
    let out = keys.array("tokenizer.ggml.tokens", 8, len);
    for id in 0..len {
        match (id, bytes(id)) {
            (0, _) => text(out, b"<s>"),
            (_, []) => text(out, format!("[PAD{id}]").as_bytes()),
            (_, token) => text(out, escaped(token).as_bytes()),
        }
    }
    let out = keys.array("tokenizer.ggml.token_type", 5, len);
    for id in 0..len {
        let kind = match (id, bytes(id)) {
            (0, _) => CONTROL,
            (_, []) => UNUSED,
            _ => NORMAL,
        };
        out.extend(kind.to_le_bytes());
    }
    keys.number("tokenizer.ggml.bos_token_id", 0);
    keys.number("tokenizer.ggml.eos_token_id", 0);
    if let Some(id) = vocab.iter().rposition(|token| token == b"\n\n") {
        keys.number("tokenizer.ggml.eot_token_id", id as u32);
    }
    keys.text("tokenizer.chat_template", "rwkv-world");
    Ok(())
}

/// What stands between the quotes of the Python literal of these bytes.
fn escaped(token: &[u8]) -> String {
    let both = token.contains(&b'\'') && token.contains(&b'"');
    let escape = |byte: &u8| match byte {
        b'\\' => r"\\".into(),
        b'\n' => r"\n".into(),
        b'\r' => r"\r".into(),
        b'\t' => r"\t".into(),
        b'\'' if both => r"\'".into(),
        b' '..=b'~' => char::from(*byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    token.iter().map(escape).collect()
}
