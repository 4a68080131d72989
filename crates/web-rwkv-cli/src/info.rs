//! `web-rwkv info`: what a model file holds.

use std::{
    collections::BTreeMap,
    io::{Write, stdout},
    path::PathBuf,
    process::ExitCode,
};

use serde_json::json;

use crate::{Result, model};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Model file; `--model` or the embedded model if absent
    #[arg(value_name = "MODEL")]
    file: Option<PathBuf>,
}

pub(crate) fn run(common: &model::Args, args: &Args) -> Result<ExitCode> {
    let common = common.with_model(args.file.as_deref());
    let (model, checkpoint, load) = common.open_with_tensors()?;
    // Format name to tensors, weights and bytes.
    let mut formats = BTreeMap::<_, (usize, usize, usize)>::new();
    for tensor in checkpoint.tensors.values() {
        let entry = formats.entry(tensor.format.name()).or_default();
        entry.0 += 1;
        entry.1 += tensor.shape.iter().product::<usize>();
        entry.2 += tensor.data.len();
    }
    let weights: usize = formats.values().map(|f| f.1).sum();
    let bytes: usize = formats.values().map(|f| f.2).sum();
    let state = 4 * model.init_state().len();
    let i = model.info();
    let load = load.as_secs_f64() * 1e3;
    let mut out = stdout().lock();
    if common.json {
        let formats: serde_json::Map<_, _> = formats
            .iter()
            .map(|(name, (n, w, b))| ((*name).to_owned(), json!({ "tensors": n, "weights": w, "bytes": b })))
            .collect();
        let line = json!({
            "file": model.file(), "version": i.version.to_string(), "layers": i.num_layer, "channels": i.num_emb,
            "hidden": i.num_hidden, "heads": i.num_head, "head_size": i.head_size, "vocab": i.num_vocab,
            "tokenizer": model.tokenizer().is_some(), "weights": weights, "tensor_bytes": bytes, "formats": formats,
            "state_bytes": state, "load_ms": load, "runs_on": model::runs_on(&model),
        });
        writeln!(out, "{line}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mib = |bytes: usize| format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64);
    let place = match (&common.vocab, &checkpoint.vocab) {
        (Some(path), _) => format!("in {}", path.display()),
        (None, Some(_)) => "in the file".into(),
        (None, None) => "not in the file".into(),
    };
    writeln!(out, "{:12}{}", "file", model.file())?;
    writeln!(out, "{:12}{}, {:.1} M weights, {}", "model", i.version, weights as f64 / 1e6, mib(bytes))?;
    writeln!(
        out,
        "{:12}{} layers, {} wide, channel mix {} wide",
        "sizes", i.num_layer, i.num_emb, i.num_hidden
    )?;
    writeln!(out, "{:12}{} of {}", "heads", i.num_head, i.head_size)?;
    writeln!(out, "{:12}{} tokens, {place}", "vocabulary", i.num_vocab)?;
    writeln!(out, "{:12}{}", "state", mib(state))?;
    writeln!(out, "{:12}{load:.1} ms, {}", "loaded in", model::runs_on(&model))?;
    for (name, (tensors, weights, bytes)) in formats {
        writeln!(out, "{name:12}{tensors} tensors, {:.2} M weights, {}", weights as f64 / 1e6, mib(bytes))?;
    }
    Ok(ExitCode::SUCCESS)
}
