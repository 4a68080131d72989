//! The names of RWKV's tensors in every kind of file. No other place knows them.

use std::borrow::Cow;

use super::ModelVersion;
use Kind::*;

/// Whose names a file uses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// RWKV's own `.pth` names, which are also this engine's.
    Official,
    /// llama.cpp's.
    Gguf,
    /// flash-linear-attention's of RWKV-7, on Hugging Face.
    Fla,
}

/// What a tensor is, as far as its layout needs to be known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `[C]`, with dimensions of 1 around it.
    Vector,
    /// `[out, in]`
    Matrix,
    /// First matrix of a LoRA: `[rank, C]`, transposed in official files.
    Down,
    /// Second matrix of a LoRA: `[C, rank]`, transposed in official files.
    Up,
    /// Second matrices of the five LoRAs of RWKV-6's token shift: `[5, C, rank]`, each transposed in official files.
    Ups,
    /// `r_k` and the like: `[H, N]`, `[H]` or flat.
    Heads,
    /// The token shift vectors in one: `[6, 1, 1, C]`.
    Lerp,
    /// A trained WKV state: `[H, N, N]`, value index before key index.
    State,
}

/// The vectors in a fused `Lerp`, in their order.
pub(crate) fn lerp(version: ModelVersion) -> &'static str {
    if version == ModelVersion::V7 { "rwkvag" } else { "wkvrg" }
}

/// Tensors of the first layer that nothing reads: there is no earlier value to mix in.
pub(super) const UNUSED: [&str; 3] = ["blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2"];

/// Versions of RWKV, then official, GGUF and fla name, `N` for the layer; empty if a dialect has no such tensor.
#[rustfmt::skip]
const TABLE: &[(&str, &str, &str, &str, Kind)] = &[
    ("4567", "emb.weight", "token_embd.weight", "model.embeddings.weight", Matrix),
    ("4567", "blocks.0.ln0.weight", "token_embd_norm.weight", "model.layers.0.pre_norm.weight", Vector),
    ("4567", "blocks.0.ln0.bias", "token_embd_norm.bias", "model.layers.0.pre_norm.bias", Vector),
    ("4567", "blocks.N.ln1.weight", "blk.N.attn_norm.weight", "model.layers.N.attn_norm.weight", Vector),
    ("4567", "blocks.N.ln1.bias", "blk.N.attn_norm.bias", "model.layers.N.attn_norm.bias", Vector),
    ("4567", "blocks.N.ln2.weight", "blk.N.attn_norm_2.weight", "model.layers.N.ffn_norm.weight", Vector),
    ("4567", "blocks.N.ln2.bias", "blk.N.attn_norm_2.bias", "model.layers.N.ffn_norm.bias", Vector),
    ("7", "blocks.N.att.x_", "blk.N.time_mix_lerp_fused.weight", "", Lerp),
    ("7", "blocks.N.att.x_r", "", "model.layers.N.attn.x_r", Vector),
    ("7", "blocks.N.att.x_w", "", "model.layers.N.attn.x_w", Vector),
    ("7", "blocks.N.att.x_k", "", "model.layers.N.attn.x_k", Vector),
    ("7", "blocks.N.att.x_v", "", "model.layers.N.attn.x_v", Vector),
    ("7", "blocks.N.att.x_a", "", "model.layers.N.attn.x_a", Vector),
    ("7", "blocks.N.att.x_g", "", "model.layers.N.attn.x_g", Vector),
    ("7", "blocks.N.att.w0", "blk.N.time_mix_w0.weight", "model.layers.N.attn.w_lora.lora.2.bias", Vector),
    ("7", "blocks.N.att.w1", "blk.N.time_mix_w1.weight", "model.layers.N.attn.w_lora.lora.0.weight", Down),
    ("7", "blocks.N.att.w2", "blk.N.time_mix_w2.weight", "model.layers.N.attn.w_lora.lora.2.weight", Up),
    ("7", "blocks.N.att.a0", "blk.N.time_mix_a0.weight", "model.layers.N.attn.a_lora.lora.2.bias", Vector),
    ("7", "blocks.N.att.a1", "blk.N.time_mix_a1.weight", "model.layers.N.attn.a_lora.lora.0.weight", Down),
    ("7", "blocks.N.att.a2", "blk.N.time_mix_a2.weight", "model.layers.N.attn.a_lora.lora.2.weight", Up),
    ("7", "blocks.N.att.v0", "blk.N.time_mix_v0.weight", "model.layers.N.attn.v_lora.lora.2.bias", Vector),
    ("7", "blocks.N.att.v1", "blk.N.time_mix_v1.weight", "model.layers.N.attn.v_lora.lora.0.weight", Down),
    ("7", "blocks.N.att.v2", "blk.N.time_mix_v2.weight", "model.layers.N.attn.v_lora.lora.2.weight", Up),
    ("7", "blocks.N.att.g1", "blk.N.time_mix_g1.weight", "model.layers.N.attn.g_lora.lora.0.weight", Down),
    ("7", "blocks.N.att.g2", "blk.N.time_mix_g2.weight", "model.layers.N.attn.g_lora.lora.2.weight", Up),
    ("7", "blocks.N.att.k_k", "blk.N.time_mix_k_k.weight", "model.layers.N.attn.k_k", Vector),
    ("7", "blocks.N.att.k_a", "blk.N.time_mix_k_a.weight", "model.layers.N.attn.k_a", Vector),
    ("7", "blocks.N.att.r_k", "blk.N.time_mix_r_k.weight", "model.layers.N.attn.r_k", Heads),
    ("4567", "blocks.N.att.receptance.weight", "blk.N.time_mix_receptance.weight", "model.layers.N.attn.r_proj.weight", Matrix),
    ("4567", "blocks.N.att.key.weight", "blk.N.time_mix_key.weight", "model.layers.N.attn.k_proj.weight", Matrix),
    ("4567", "blocks.N.att.value.weight", "blk.N.time_mix_value.weight", "model.layers.N.attn.v_proj.weight", Matrix),
    ("4567", "blocks.N.att.output.weight", "blk.N.time_mix_output.weight", "model.layers.N.attn.o_proj.weight", Matrix),
    ("567", "blocks.N.att.ln_x.weight", "blk.N.time_mix_ln.weight", "model.layers.N.attn.g_norm.weight", Vector),
    ("567", "blocks.N.att.ln_x.bias", "blk.N.time_mix_ln.bias", "model.layers.N.attn.g_norm.bias", Vector),
    ("7", "blocks.N.ffn.x_k", "blk.N.channel_mix_lerp_k.weight", "model.layers.N.ffn.x_k", Vector),
    ("4567", "blocks.N.ffn.key.weight", "blk.N.channel_mix_key.weight", "model.layers.N.ffn.key.weight", Matrix),
    ("4567", "blocks.N.ffn.value.weight", "blk.N.channel_mix_value.weight", "model.layers.N.ffn.value.weight", Matrix),
    ("6", "blocks.N.att.time_maa_", "blk.N.time_mix_lerp_fused.weight", "", Lerp),
    ("6", "blocks.N.att.time_maa_x", "blk.N.time_mix_lerp_x.weight", "", Vector),
    ("6", "blocks.N.att.time_maa_w", "blk.N.time_mix_lerp_w.weight", "", Vector),
    ("6", "blocks.N.att.time_maa_k", "blk.N.time_mix_lerp_k.weight", "", Vector),
    ("6", "blocks.N.att.time_maa_v", "blk.N.time_mix_lerp_v.weight", "", Vector),
    ("6", "blocks.N.att.time_maa_r", "blk.N.time_mix_lerp_r.weight", "", Vector),
    ("6", "blocks.N.att.time_maa_g", "blk.N.time_mix_lerp_g.weight", "", Vector),
    ("6", "blocks.N.att.time_maa_w1", "blk.N.time_mix_w1.weight", "", Down),
    ("6", "blocks.N.att.time_maa_w2", "blk.N.time_mix_w2.weight", "", Ups),
    ("6", "blocks.N.att.time_decay", "blk.N.time_mix_decay.weight", "", Vector),
    ("6", "blocks.N.att.time_decay_w1", "blk.N.time_mix_decay_w1.weight", "", Down),
    ("6", "blocks.N.att.time_decay_w2", "blk.N.time_mix_decay_w2.weight", "", Up),
    ("6", "blocks.N.att.time_faaaa", "blk.N.time_mix_first.weight", "", Heads),
    ("56", "blocks.N.att.gate.weight", "blk.N.time_mix_gate.weight", "", Matrix),
    ("6", "blocks.N.ffn.time_maa_k", "blk.N.channel_mix_lerp_k.weight", "", Vector),
    ("6", "blocks.N.ffn.time_maa_r", "blk.N.channel_mix_lerp_r.weight", "", Vector),
    ("456", "blocks.N.ffn.receptance.weight", "blk.N.channel_mix_receptance.weight", "", Matrix),
    ("45", "blocks.N.att.time_mix_k", "", "", Vector),
    ("45", "blocks.N.att.time_mix_v", "", "", Vector),
    ("45", "blocks.N.att.time_mix_r", "", "", Vector),
    ("5", "blocks.N.att.time_mix_g", "", "", Vector),
    ("5", "blocks.N.att.time_decay", "", "", Heads),
    ("5", "blocks.N.att.time_first", "", "", Heads),
    ("5", "blocks.N.att.time_faaaa", "", "", Heads),
    ("4", "blocks.N.att.time_decay", "", "", Vector),
    ("4", "blocks.N.att.time_first", "", "", Vector),
    ("45", "blocks.N.ffn.time_mix_k", "", "", Vector),
    ("45", "blocks.N.ffn.time_mix_r", "", "", Vector),
    ("567", "blocks.N.att.time_state", "", "", State),
    ("4567", "ln_out.weight", "output_norm.weight", "model.norm.weight", Vector),
    ("4567", "ln_out.bias", "output_norm.bias", "model.norm.bias", Vector),
    ("4567", "head.weight", "output.weight", "lm_head.weight", Matrix),
];

fn is_of(versions: &str, version: ModelVersion) -> bool {
    versions.bytes().any(|digit| u32::from(digit - b'0') == version.number())
}

/// The official name and the kind of a tensor, if this version of RWKV has it.
pub(super) fn find(version: ModelVersion, dialect: Dialect, name: &str) -> Option<(String, Kind)> {
    TABLE.iter().find_map(|&(versions, official, gguf, fla, kind)| {
        let template = match dialect {
            // The stem of the fused vectors is a prefix, not a tensor of official files.
            Dialect::Official if kind == Lerp => return None,
            Dialect::Official => official,
            Dialect::Gguf => gguf,
            Dialect::Fla => fla,
        };
        if template.is_empty() || !is_of(versions, version) {
            return None;
        }
        let Some((start, end)) = template.split_once('N') else {
            return (template == name).then(|| (official.into(), kind));
        };
        let layer = name.strip_prefix(start)?.strip_suffix(end)?;
        // The number must be written in one way only, or two names would be one tensor.
        let plain = layer.parse::<u32>().ok()?.to_string() == layer;
        plain.then(|| (official.replacen('N', layer, 1), kind))
    })
}

/// llama.cpp's name for a tensor, and whether it is fused of several.
pub(crate) fn gguf(version: ModelVersion, official: &str) -> Option<(String, bool)> {
    TABLE.iter().find_map(|&(versions, template, gguf, _, kind)| {
        if gguf.is_empty() || !is_of(versions, version) {
            return None;
        }
        let layer = match template.split_once('N') {
            None => (template == official).then_some("")?,
            Some((start, end)) => {
                let rest = official.strip_prefix(start)?;
                let rest =
                    if kind == Lerp { rest.strip_suffix(|c| lerp(version).contains(c))? } else { rest };
                rest.strip_suffix(end).filter(|layer| layer.bytes().all(|b| b.is_ascii_digit()))?
            }
        };
        Some((gguf.replacen('N', layer, 1), kind == Lerp))
    })
}

/// The shape of a tensor in official files, and whether rows and columns are exchanged there.
pub(crate) fn official_shape(
    version: ModelVersion,
    name: &str,
    shape: &[usize],
    head_size: Option<usize>,
) -> (Vec<usize>, bool) {
    // Until RWKV-5.2 there is one number for each head.
    let head_size = head_size.or((version != ModelVersion::V5).then_some(64));
    let kind = find(version, Dialect::Official, name).map(|(_, kind)| kind);
    match (kind, shape) {
        (Some(Down | Up | Ups), &[ref outer @ .., rows, columns]) => {
            ([outer, &[columns, rows]].concat(), true)
        }
        (Some(Heads), &[len]) => match head_size.filter(|n| len.is_multiple_of(*n)) {
            Some(n) => (vec![len / n, n], false),
            None => (vec![len], false),
        },
        (Some(Vector), &[len]) if version == ModelVersion::V4 && !name.contains("mix") => (vec![len], false),
        (Some(Vector), &[len]) if !name.contains("ln") => (vec![1, 1, len], false),
        _ => (shape.to_vec(), false),
    }
}

/// The version of RWKV whose tensors these are; 7 where nothing tells.
pub(super) fn version<'a>(names: impl Iterator<Item = &'a str> + Clone) -> ModelVersion {
    let has = |parts: &[&str]| names.clone().any(|name| parts.iter().any(|part| name.contains(part)));
    if !has(&["time_decay"]) {
        ModelVersion::V7
    } else if has(&["time_decay_w1", "time_maa"]) {
        ModelVersion::V6
    } else if has(&["ln_x"]) {
        ModelVersion::V5
    } else {
        ModelVersion::V4
    }
}

/// transformers' names of RWKV-4 to 6 are the official ones but for these parts.
const TRANSFORMERS: [(&str, &str); 10] = [
    ("rwkv.embeddings.", "emb."),
    ("rwkv.ln_out.", "ln_out."),
    ("rwkv.blocks.", "blocks."),
    (".pre_ln.", ".ln0."),
    (".attention.", ".att."),
    (".feed_forward.", ".ffn."),
    (".time_mix_key", ".time_mix_k"),
    (".time_mix_value", ".time_mix_v"),
    (".time_mix_receptance", ".time_mix_r"),
    (".time_mix_gate", ".time_mix_g"),
];

/// web-rwkv's names of RWKV-6 are the official ones but for these parts.
const WEB_RWKV: [(&str, &str); 2] = [(".time_first", ".time_faaaa"), (".time_mix_", ".time_maa_")];

/// The official name of a tensor of RWKV-4 to 6 that transformers or web-rwkv named.
pub(super) fn official(version: ModelVersion, name: &str) -> Cow<'_, str> {
    let transformers = if name.starts_with("rwkv.") { &TRANSFORMERS[..] } else { &[] };
    let web_rwkv = if version == ModelVersion::V6 { &WEB_RWKV[..] } else { &[] };
    let parts = transformers.iter().chain(web_rwkv);
    parts.fold(Cow::Borrowed(name), |name, (part, to)| match name.contains(part) {
        true => name.replace(part, to).into(),
        false => name,
    })
}
