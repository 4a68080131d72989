//! Which format each tensor of a model gets: the names that llama-quantize has for it, and what they mean for an RWKV.

use crate::{
    Result,
    format::Format,
    load::{Checkpoint, Tensor},
    save::{layer, reencode},
};

/// A choice of formats for the matrices of a model. Vectors and LoRAs stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// Name on the command line.
    pub name: &'static str,
    matrices: Format,
    /// Matrices with a format of their own, by a part of their official name.
    own: &'static [(&'static str, Format)],
}

const fn scheme(name: &'static str, matrices: Format, own: &'static [(&'static str, Format)]) -> Scheme {
    Scheme { name, matrices, own }
}

/// What llama-quantize makes finer. Its further bumps, the M and L of names, match no tensor of an RWKV.
const HEAD: &[(&str, Format)] = &[("head.weight", Format::Q6K)];

/// What gives the most for its bits, as measured: `docs/quantization.md`.
const SENSITIVE: &[(&str, Format)] = &[
    ("emb.weight", Format::Q5K),
    ("att.value.weight", Format::Q5K),
    ("att.output.weight", Format::Q5K),
    ("head.weight", Format::Q5K),
];

impl Scheme {
    /// All schemes.
    pub const ALL: &[Self] = &[
        scheme("f32", Format::F32, &[]),
        scheme("f16", Format::F16, &[]),
        scheme("bf16", Format::BF16, &[]),
        scheme("q8_0", Format::Q8_0, &[]),
        scheme("q6_k", Format::Q6K, &[]),
        scheme("q5_k_m", Format::Q5K, HEAD),
        scheme("q5_k_s", Format::Q5K, HEAD),
        scheme("q5_1", Format::Q5_1, HEAD),
        scheme("q5_0", Format::Q5_0, HEAD),
        scheme("q4_mix", Format::Q4K, SENSITIVE),
        scheme("q4_k_m", Format::Q4K, HEAD),
        scheme("q4_k_s", Format::Q4K, HEAD),
        scheme("q4_1", Format::Q4_1, HEAD),
        scheme("q4_0", Format::Q4_0, HEAD),
        scheme("iq4_nl", Format::IQ4NL, HEAD),
        scheme("iq4_xs", Format::IQ4XS, HEAD),
        scheme("q3_k_l", Format::Q3K, HEAD),
        scheme("q3_k_m", Format::Q3K, HEAD),
        scheme("q3_k_s", Format::Q3K, HEAD),
        scheme("q2_k", Format::Q2K, HEAD),
    ];

    /// The scheme of this name; case does not matter.
    pub fn from_name(name: &str) -> Option<Self> {
        let same = |s: &&Self| s.name.eq_ignore_ascii_case(name);
        Self::ALL.iter().find(same).copied().or_else(|| match &*name.to_ascii_lowercase() {
            "q2_k_s" => Self::from_name("q2_k"),
            "q3_k" => Self::from_name("q3_k_m"),
            "q4_k" => Self::from_name("q4_k_m"),
            "q5_k" => Self::from_name("q5_k_m"),
            _ => None,
        })
    }

    /// The format of a tensor, one that its rows can have.
    pub fn format(&self, name: &str, tensor: &Tensor) -> Format {
        let &[_, columns] = &tensor.shape[..] else { return tensor.format };
        if !name.ends_with(".weight") && self.matrices.group().is_some() {
            return tensor.format; // a LoRA
        }
        let own = self.own.iter().find(|(part, _)| name.contains(part));
        let wanted = own.map_or(self.matrices, |(_, format)| *format);
        wanted.for_rows_of(columns)
    }
}

impl Format {
    /// This format, if rows of so many values fill its blocks. Where they are too short for blocks of 256 it is one of
    /// about the same size that has blocks of 32, as with llama-quantize, and f16 where they do not fill those either.
    pub fn for_rows_of(self, columns: usize) -> Self {
        let shorter = match self {
            Self::Q2K | Self::Q3K | Self::IQ4XS => Self::IQ4NL,
            Self::Q4K => Self::Q5_0,
            Self::Q5K => Self::Q5_1,
            Self::Q6K => Self::Q8_0,
            other => other,
        };
        let fits = |format: &Self| columns.is_multiple_of(format.block_len());
        [self, shorter].into_iter().find(fits).unwrap_or(Self::F16)
    }
}

impl Checkpoint {
    /// Quantizes the matrices of the first `layers` layers in memory; those that are quantized already stay.
    ///
    /// # Errors
    /// For values that the format cannot hold.
    pub fn quantize_layers(&mut self, layers: usize, format: Format) -> Result<()> {
        let scheme = scheme("", format, &[]);
        for (name, tensor) in &mut self.tensors {
            let wanted = scheme.format(name, tensor);
            let inside = layer(name).is_some_and(|i| i < layers);
            if inside && tensor.format.group().is_none() && wanted.group().is_some() {
                *tensor = reencode(&self.file, name, tensor, wanted, None)?;
            }
        }
        Ok(())
    }
}
