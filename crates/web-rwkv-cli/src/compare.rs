//! `web-rwkv compare`: how far a model's predictions are from another's.

use std::{
    fs,
    io::{Write, stdout},
    path::PathBuf,
    process::ExitCode,
};

use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;
use web_rwkv_gguf::{Model, RnnInput, RnnOption, State};

use crate::{Result, model, progress::Progress};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Model that is taken for right
    #[arg(value_name = "A")]
    a: PathBuf,
    /// Model that is judged
    #[arg(value_name = "B")]
    b: PathBuf,
    /// Text that both read
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Most tokens of the text that are read
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    tokens: Option<u32>,
}

/// What is summed up over the tokens of the text.
#[derive(Default)]
struct Sums {
    /// −log p of the tokens that follow, by a and b.
    surprise: [f64; 2],
    followed: usize,
    /// KL divergence of b's prediction from a's, for each token.
    divergences: Vec<f64>,
    same_first: usize,
    largest: f64,
    /// Σ (a − b)² and Σ a² of the logits.
    squares: [f64; 2],
}

impl Sums {
    /// Adds the logits after a token, `[V]`.
    fn add(&mut self, a: &[f32], b: &[f32], next: Option<u32>) {
        let (log_a, log_b) = (log_sum_exp(a), log_sum_exp(b));
        let mut divergence = 0.0;
        for (x, y) in a.iter().zip(b).map(|(x, y)| (f64::from(*x), f64::from(*y))) {
            divergence += (x - log_a).exp() * ((x - log_a) - (y - log_b));
            self.largest = self.largest.max((x - y).abs());
            self.squares[0] += (x - y).powi(2);
            self.squares[1] += x.powi(2);
        }
        self.divergences.push(divergence.max(0.0)); // a rounding error below it
        self.same_first += usize::from(first(a) == first(b));
        if let Some(next) = next {
            self.surprise[0] += log_a - f64::from(a[next as usize]);
            self.surprise[1] += log_b - f64::from(b[next as usize]);
            self.followed += 1;
        }
    }
}

fn log_sum_exp(x: &[f32]) -> f64 {
    let most = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    most + x.iter().map(|x| (f64::from(*x) - most).exp()).sum::<f64>().ln()
}

/// Place of the largest.
fn first(x: &[f32]) -> Option<usize> {
    (0..x.len()).max_by(|i, j| x[*i].total_cmp(&x[*j]).then(j.cmp(i)))
}

/// The value below which a share of the sorted ones lies, with the nearest two interpolated.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

pub(crate) fn run(common: &model::Args, args: &Args) -> Result<ExitCode> {
    let (a, _) = common.with_model(Some(&args.a)).open()?;
    let (b, _) = common.with_model(Some(&args.b)).open()?;
    let vocab = a.info().num_vocab;
    if b.info().num_vocab != vocab {
        let found = b.info().num_vocab;
        return Err(format!("{}: expected {vocab} tokens as in {}, found {found}", b.file(), a.file()).into());
    }
    let text = fs::read(&args.text).map_err(|e| format!("{}: {e}", args.text.display()))?;
    let mut tokens = model::tokenizer(&a)?.encode(&text)?;
    tokens.truncate(args.tokens.map_or(usize::MAX, |n| n as usize));
    if tokens.len() < 2 {
        let found = tokens.len();
        return Err(format!("{}: expected at least 2 tokens, found {found}", args.text.display()).into());
    }

    let bar = Progress::new(tokens.len(), "tokens");
    let mut sums = Sums::default();
    let (mut state_a, mut state_b) = (a.init_state(), b.init_state());
    for (c, chunk) in tokens.chunks(RnnInput::CHUNK).enumerate() {
        let logits = |model: &Model, state: &mut State| model.run(chunk, RnnOption::Full, state);
        let (logits_a, logits_b) = (logits(&a, &mut state_a)?, logits(&b, &mut state_b)?);
        let start = c * RnnInput::CHUNK;
        for (i, (a, b)) in logits_a.chunks(vocab).zip(logits_b.chunks(vocab)).enumerate() {
            sums.add(a, b, tokens.get(start + i + 1).copied());
        }
        bar.set(start + chunk.len());
    }
    bar.finish();
    print(common.json, [a.file(), b.file()], sums)?;
    Ok(ExitCode::SUCCESS)
}

fn print(json: bool, files: [&str; 2], mut sums: Sums) -> Result<()> {
    let count = sums.divergences.len();
    let mean = sums.divergences.iter().sum::<f64>() / count as f64;
    sums.divergences.sort_by(f64::total_cmp);
    let perplexity = sums.surprise.map(|s| (s / sums.followed as f64).exp());
    let at = |share| quantile(&sums.divergences, share);
    let agreement = sums.same_first as f64 / count as f64;
    let nmse = sums.squares[0] / sums.squares[1];
    let mut out = stdout().lock();
    if json {
        let line = json!({
            "a": files[0], "b": files[1], "tokens": count, "perplexity_a": perplexity[0],
            "perplexity_b": perplexity[1], "kl_mean": mean, "kl_median": at(0.5), "kl_99": at(0.99), "kl_max": at(1.0),
            "top1_agreement": agreement, "logits_max": sums.largest, "logits_nmse": nmse,
        });
        writeln!(out, "{line}")?;
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header(["over the text", ""]);
    for (name, value) in [
        ("tokens", count.to_string()),
        ("perplexity of A", format!("{:.4}", perplexity[0])),
        ("perplexity of B", format!("{:.4}", perplexity[1])),
        ("KL divergence, mean", format!("{mean:.3e}")),
        ("KL divergence, median", format!("{:.3e}", at(0.5))),
        ("KL divergence, 99 % below", format!("{:.3e}", at(0.99))),
        ("KL divergence, largest", format!("{:.3e}", at(1.0))),
        ("same first token", format!("{:.2} %", 100.0 * agreement)),
        ("logits, largest difference", format!("{:.4}", sums.largest)),
        ("logits, NMSE", format!("{nmse:.3e}")),
    ] {
        table.add_row([name.to_owned(), value]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(out, "A {}\nB {}\n{table}", files[0], files[1])?;
    Ok(())
}
