//! The names of RWKV-7's tensors in every kind of file. No other place knows them.

use Kind::*;

/// Whose names a file uses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// RWKV's own `.pth` names, which are also this engine's.
    Official,
    /// llama.cpp's.
    Gguf,
    /// flash-linear-attention's, on Hugging Face.
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
    /// `r_k`: `[H, N]` or flat.
    Heads,
    /// The six token shift vectors in one: `[6, 1, 1, C]`.
    Lerp,
}

/// The vectors in a fused `Lerp`, in their order.
pub(crate) const LERP: [char; 6] = ['r', 'w', 'k', 'v', 'a', 'g'];

/// Tensors of the first layer that nothing reads: there is no earlier value to mix in.
pub(super) const UNUSED: [&str; 3] = ["blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2"];

/// Official, GGUF and fla name, `N` for the layer; empty if a dialect has no such tensor.
#[rustfmt::skip]
const TABLE: &[(&str, &str, &str, Kind)] = &[
    ("emb.weight", "token_embd.weight", "model.embeddings.weight", Matrix),
    ("blocks.0.ln0.weight", "token_embd_norm.weight", "model.layers.0.pre_norm.weight", Vector),
    ("blocks.0.ln0.bias", "token_embd_norm.bias", "model.layers.0.pre_norm.bias", Vector),
    ("blocks.N.ln1.weight", "blk.N.attn_norm.weight", "model.layers.N.attn_norm.weight", Vector),
    ("blocks.N.ln1.bias", "blk.N.attn_norm.bias", "model.layers.N.attn_norm.bias", Vector),
    ("blocks.N.ln2.weight", "blk.N.attn_norm_2.weight", "model.layers.N.ffn_norm.weight", Vector),
    ("blocks.N.ln2.bias", "blk.N.attn_norm_2.bias", "model.layers.N.ffn_norm.bias", Vector),
    ("blocks.N.att.x_", "blk.N.time_mix_lerp_fused.weight", "", Lerp),
    ("blocks.N.att.x_r", "", "model.layers.N.attn.x_r", Vector),
    ("blocks.N.att.x_w", "", "model.layers.N.attn.x_w", Vector),
    ("blocks.N.att.x_k", "", "model.layers.N.attn.x_k", Vector),
    ("blocks.N.att.x_v", "", "model.layers.N.attn.x_v", Vector),
    ("blocks.N.att.x_a", "", "model.layers.N.attn.x_a", Vector),
    ("blocks.N.att.x_g", "", "model.layers.N.attn.x_g", Vector),
    ("blocks.N.att.w0", "blk.N.time_mix_w0.weight", "model.layers.N.attn.w_lora.lora.2.bias", Vector),
    ("blocks.N.att.w1", "blk.N.time_mix_w1.weight", "model.layers.N.attn.w_lora.lora.0.weight", Down),
    ("blocks.N.att.w2", "blk.N.time_mix_w2.weight", "model.layers.N.attn.w_lora.lora.2.weight", Up),
    ("blocks.N.att.a0", "blk.N.time_mix_a0.weight", "model.layers.N.attn.a_lora.lora.2.bias", Vector),
    ("blocks.N.att.a1", "blk.N.time_mix_a1.weight", "model.layers.N.attn.a_lora.lora.0.weight", Down),
    ("blocks.N.att.a2", "blk.N.time_mix_a2.weight", "model.layers.N.attn.a_lora.lora.2.weight", Up),
    ("blocks.N.att.v0", "blk.N.time_mix_v0.weight", "model.layers.N.attn.v_lora.lora.2.bias", Vector),
    ("blocks.N.att.v1", "blk.N.time_mix_v1.weight", "model.layers.N.attn.v_lora.lora.0.weight", Down),
    ("blocks.N.att.v2", "blk.N.time_mix_v2.weight", "model.layers.N.attn.v_lora.lora.2.weight", Up),
    ("blocks.N.att.g1", "blk.N.time_mix_g1.weight", "model.layers.N.attn.g_lora.lora.0.weight", Down),
    ("blocks.N.att.g2", "blk.N.time_mix_g2.weight", "model.layers.N.attn.g_lora.lora.2.weight", Up),
    ("blocks.N.att.k_k", "blk.N.time_mix_k_k.weight", "model.layers.N.attn.k_k", Vector),
    ("blocks.N.att.k_a", "blk.N.time_mix_k_a.weight", "model.layers.N.attn.k_a", Vector),
    ("blocks.N.att.r_k", "blk.N.time_mix_r_k.weight", "model.layers.N.attn.r_k", Heads),
    ("blocks.N.att.receptance.weight", "blk.N.time_mix_receptance.weight", "model.layers.N.attn.r_proj.weight", Matrix),
    ("blocks.N.att.key.weight", "blk.N.time_mix_key.weight", "model.layers.N.attn.k_proj.weight", Matrix),
    ("blocks.N.att.value.weight", "blk.N.time_mix_value.weight", "model.layers.N.attn.v_proj.weight", Matrix),
    ("blocks.N.att.output.weight", "blk.N.time_mix_output.weight", "model.layers.N.attn.o_proj.weight", Matrix),
    ("blocks.N.att.ln_x.weight", "blk.N.time_mix_ln.weight", "model.layers.N.attn.g_norm.weight", Vector),
    ("blocks.N.att.ln_x.bias", "blk.N.time_mix_ln.bias", "model.layers.N.attn.g_norm.bias", Vector),
    ("blocks.N.ffn.x_k", "blk.N.channel_mix_lerp_k.weight", "model.layers.N.ffn.x_k", Vector),
    ("blocks.N.ffn.key.weight", "blk.N.channel_mix_key.weight", "model.layers.N.ffn.key.weight", Matrix),
    ("blocks.N.ffn.value.weight", "blk.N.channel_mix_value.weight", "model.layers.N.ffn.value.weight", Matrix),
    ("ln_out.weight", "output_norm.weight", "model.norm.weight", Vector),
    ("ln_out.bias", "output_norm.bias", "model.norm.bias", Vector),
    ("head.weight", "output.weight", "lm_head.weight", Matrix),
];

/// The official name and the kind of a tensor, if RWKV-7 has it.
pub(super) fn find(dialect: Dialect, name: &str) -> Option<(String, Kind)> {
    TABLE.iter().find_map(|&(official, gguf, fla, kind)| {
        let template = match dialect {
            // The stem of the fused vectors is a prefix, not a tensor of official files.
            Dialect::Official if kind == Lerp => return None,
            Dialect::Official => official,
            Dialect::Gguf => gguf,
            Dialect::Fla => fla,
        };
        if template.is_empty() {
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
pub(crate) fn gguf(official: &str) -> Option<(String, bool)> {
    TABLE.iter().find_map(|&(template, gguf, _, kind)| {
        let layer = match template.split_once('N') {
            None => (template == official).then_some("")?,
            Some((start, end)) => {
                let rest = official.strip_prefix(start)?;
                let rest = if kind == Lerp { rest.strip_suffix(LERP)? } else { rest };
                rest.strip_suffix(end).filter(|layer| layer.bytes().all(|b| b.is_ascii_digit()))?
            }
        };
        (!gguf.is_empty()).then(|| (gguf.replacen('N', layer, 1), kind == Lerp))
    })
}

/// The shape of a tensor in official files, and whether rows and columns are exchanged there.
pub(crate) fn official_shape(name: &str, shape: &[usize], head_size: usize) -> (Vec<usize>, bool) {
    let kind = find(Dialect::Official, name).map(|(_, kind)| kind);
    match (kind, shape) {
        (Some(Down | Up), &[rows, columns]) => (vec![columns, rows], true),
        (Some(Heads), &[len]) if len.is_multiple_of(head_size) => (vec![len / head_size, head_size], false),
        (Some(Vector), &[len]) if !name.contains("ln") => (vec![1, 1, len], false),
        _ => (shape.to_vec(), false),
    }
}

/// The generation of RWKV, other than 7, whose tensors these are.
pub(super) fn generation<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<&'static str> {
    let has = |parts: &[&str]| names.clone().any(|name| parts.iter().any(|part| name.contains(part)));
    if !has(&["time_decay"]) {
        None
    } else if has(&["time_decay_w1", "time_maa"]) {
        Some("RWKV-6")
    } else if has(&["ln_x"]) {
        Some("RWKV-5")
    } else {
        Some("RWKV-4")
    }
}
