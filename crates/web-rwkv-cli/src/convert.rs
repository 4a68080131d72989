//! `web-rwkv convert`: a model file of one kind to one of another.

use std::{
    fs,
    io::{Write, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::ValueEnum;
use serde_json::json;
use web_rwkv_gguf::{
    Scheme, Tokenizer,
    load::{Checkpoint, Tensor},
    save::{Choice, Importance, SaveOptions, save},
};

use crate::{Result, model, progress::Progress};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Model, as with --model
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// File to write: GGUF if its name ends in .gguf, safetensors with official names if in .safetensors or .st
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Type of the matrices; as they are if absent, but quantized ones f16 in safetensors
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    to: Option<Float>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Float {
    F32,
    F16,
    Bf16,
}

pub(crate) fn run(common: &model::Args, args: &Args) -> Result<ExitCode> {
    let checkpoint = open(common, &args.input)?;
    let scheme = args.to.map(|to| match to {
        Float::F32 => "f32",
        Float::F16 => "f16",
        Float::Bf16 => "bf16",
    });
    let scheme = scheme.and_then(Scheme::from_name);
    let choice = |name: &str, tensor: &Tensor| match scheme {
        Some(scheme) => scheme.format(name, tensor),
        None => tensor.format,
    };
    write(common, &checkpoint, &args.output, &choice, None)
}

/// The checkpoint in a file, with the vocabulary of `--vocab`.
pub(crate) fn open(common: &model::Args, path: &Path) -> Result<Checkpoint> {
    let common = common.with_model(Some(path)).local()?;
    let checkpoint = common.checkpoint()?;
    Ok(match &common.vocab {
        Some(path) => checkpoint.with_vocab(Tokenizer::open(path)?.into_vocab()),
        None => checkpoint,
    })
}

/// Writes a model file and tells its size.
pub(crate) fn write(
    common: &model::Args,
    checkpoint: &Checkpoint,
    path: &Path,
    format: &Choice<'_>,
    importance: Option<&Importance>,
) -> Result<ExitCode> {
    const UNIT: usize = 1_000_000;
    let mut bar = None;
    let options = SaveOptions { format, importance, threads: common.threads.map(usize::from) };
    save(checkpoint, path, &options, &mut |done, total| {
        bar.get_or_insert_with(|| Progress::new(total / UNIT, "M weights")).set(done / UNIT);
    })?;
    if let Some(bar) = bar {
        bar.finish();
    }
    let bytes = fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?.len();
    let weights: usize = checkpoint.tensors.values().map(|t| t.shape.iter().product::<usize>()).sum();
    let bits = bytes as f64 * 8.0 / weights as f64;
    let mut out = stdout().lock();
    if common.json {
        let file = path.display().to_string();
        writeln!(
            out,
            "{}",
            json!({ "file": file, "bytes": bytes, "weights": weights, "bits_per_weight": bits })
        )?;
    } else {
        let (mib, millions) = (bytes as f64 / f64::from(1 << 20), weights as f64 / 1e6);
        writeln!(out, "{}: {millions:.1} M weights, {mib:.1} MiB, {bits:.2} bits a weight", path.display())?;
    }
    Ok(ExitCode::SUCCESS)
}
