//! `web-rwkv embed`: texts to vectors.

use std::{
    io::{Write, stdout},
    process::ExitCode,
};

use clap::ValueEnum;
use serde::Serialize;
use web_rwkv_gguf::{RnnInput, RnnInputBatch, RnnOption};

use crate::{Result, model, progress::Progress};

/// Texts that go through the model together.
const TOGETHER: usize = 16;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Texts; the lines of standard input if absent
    texts: Vec<String>,
    /// What becomes of the vectors of a text's tokens
    #[arg(long, value_enum, default_value_t = Pool::Last)]
    pool: Pool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Pool {
    /// The vector after the last token
    Last,
    /// The mean over all tokens
    Mean,
    /// The vector of every token
    None,
}

#[derive(Serialize)]
struct Line<'a> {
    text: &'a str,
    tokens: usize,
    #[serde(flatten)]
    vectors: Vectors,
}

#[derive(Serialize)]
enum Vectors {
    /// `[C]`
    #[serde(rename = "embedding")]
    One(Vec<f32>),
    /// `[T, C]`
    #[serde(rename = "embeddings")]
    Every(Vec<Vec<f32>>),
}

pub(crate) fn run(common: &model::Args, args: &Args) -> Result<ExitCode> {
    let texts = if args.texts.is_empty() {
        let bytes = model::stdin()?;
        let text = String::from_utf8(bytes).map_err(|e| format!("standard input: {e}"))?;
        text.lines().map(str::to_owned).collect()
    } else {
        args.texts.clone()
    };
    let (model, _) = common.open()?;
    let tokenizer = model::tokenizer(&model)?;
    let option = match args.pool {
        Pool::Last => RnnOption::EmbedLast,
        Pool::Mean | Pool::None => RnnOption::EmbedFull,
    };
    let channels = model.info().num_emb;
    let bar = Progress::new(texts.len(), "texts");
    for (g, group) in texts.chunks(TOGETHER).enumerate() {
        let mut batches = vec![];
        for (i, text) in group.iter().enumerate() {
            let tokens = tokenizer.encode(text)?;
            if tokens.is_empty() {
                return Err(format!(
                    "text {}: expected at least one token, found none",
                    g * TOGETHER + i + 1
                )
                .into());
            }
            batches.push(RnnInputBatch::new(tokens, option));
        }
        let mut states = vec![model.init_state(); batches.len()];
        let input = RnnInput::new(batches, RnnInput::CHUNK);
        let output = model.infer(&input, &mut states)?;
        bar.suspend(|| -> Result<()> {
            let mut out = stdout().lock();
            for ((text, batch), rows) in group.iter().zip(&input.batches).zip(output.0) {
                let vectors = match args.pool {
                    Pool::Last => Vectors::One(rows),
                    Pool::Mean => Vectors::One(mean(&rows, channels)),
                    Pool::None => Vectors::Every(rows.chunks(channels).map(<[f32]>::to_vec).collect()),
                };
                let line = Line { text, tokens: batch.tokens.len(), vectors };
                writeln!(out, "{}", serde_json::to_string(&line)?)?;
            }
            Ok(())
        })?;
        bar.set(g * TOGETHER + group.len());
    }
    bar.finish();
    Ok(ExitCode::SUCCESS)
}

/// Mean of the rows of `[T, C]`, `[C]`.
fn mean(rows: &[f32], channels: usize) -> Vec<f32> {
    let count = (rows.len() / channels) as f32;
    (0..channels).map(|c| rows.iter().skip(c).step_by(channels).sum::<f32>() / count).collect()
}
