//! `web-rwkv embed`: texts to vectors.

use std::{
    borrow::Cow,
    io::{Write, stdout},
    process::ExitCode,
};

use clap::ValueEnum;
use serde::Serialize;
use web_rwkv_gguf::RnnInput;

use crate::{Result, model, progress::Progress};

/// Texts that go through the model together.
const TOGETHER: usize = 16;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Texts; the lines of standard input that are not blank if absent or `-`
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
    text: Cow<'a, str>,
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

/// The lines that are not blank.
fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    let lines = bytes.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.trim_ascii().is_empty()).map(<[u8]>::to_vec).collect()
}

pub(crate) fn run(common: &model::Args, args: &Args) -> Result<ExitCode> {
    let texts: Vec<Vec<u8>> = match args.texts.as_slice() {
        [] => lines(&model::stdin()?),
        [one] if one == model::STDIN => lines(&model::stdin()?),
        texts => texts.iter().map(|t| t.clone().into_bytes()).collect(),
    };
    let (model, _) = common.open()?;
    let tokenizer = model::tokenizer(&model)?;
    let pool = match args.pool {
        Pool::Last => web_rwkv_gguf::Pool::Last,
        Pool::Mean => web_rwkv_gguf::Pool::Mean,
        Pool::None => web_rwkv_gguf::Pool::None,
    };
    let channels = model.info().num_emb;
    let bar = Progress::new(texts.len(), "texts");
    for (g, group) in texts.chunks(TOGETHER).enumerate() {
        let encode = |(i, text): (usize, &Vec<u8>)| {
            let tokens = tokenizer.encode(text)?;
            let number = g * TOGETHER + i + 1;
            if tokens.is_empty() {
                return Err(format!("text {number}: expected at least one token, found none").into());
            }
            Ok(tokens)
        };
        let sequences = group.iter().enumerate().map(encode).collect::<Result<Vec<_>>>()?;
        let mut states = vec![model.init_state(); sequences.len()];
        let mut reading = bar.tokens();
        let output = model.embed_with(&sequences, pool, RnnInput::CHUNK, &mut states, &mut |told| {
            reading.told(told);
        })?;
        drop(reading);
        bar.suspend(|| -> Result<()> {
            let mut out = stdout().lock();
            for ((text, tokens), rows) in group.iter().zip(&sequences).zip(output) {
                let vectors = match args.pool {
                    Pool::Last | Pool::Mean => Vectors::One(rows),
                    Pool::None => Vectors::Every(rows.chunks(channels).map(<[f32]>::to_vec).collect()),
                };
                let line = Line { text: String::from_utf8_lossy(text), tokens: tokens.len(), vectors };
                writeln!(out, "{}", serde_json::to_string(&line)?)?;
            }
            Ok(())
        })?;
        bar.set(g * TOGETHER + group.len());
    }
    bar.finish();
    Ok(ExitCode::SUCCESS)
}
