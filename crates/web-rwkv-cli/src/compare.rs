//! `web-rwkv compare`: how far the predictions of models are from another's.

use std::{
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
    /// Models that are judged
    #[arg(value_name = "B", required = true)]
    b: Vec<PathBuf>,
    /// Texts that both read, each from the start
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    text: Vec<PathBuf>,
    /// Most tokens of a text that are read
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
    let open = |path| common.with_model(Some(path)).open().map(|(model, _)| model);
    let a = open(&args.a)?;
    let judged = args.b.iter().map(|b| open(b)).collect::<Result<Vec<_>>>()?;
    let vocab = a.info().num_vocab;
    if let Some(b) = judged.iter().find(|b| b.info().num_vocab != vocab) {
        let found = b.info().num_vocab;
        return Err(format!("{}: expected {vocab} tokens as in {}, found {found}", b.file(), a.file()).into());
    }
    let mut texts = vec![];
    for path in &args.text {
        let mut tokens = model::tokens(model::tokenizer(&a)?, path)?;
        tokens.truncate(args.tokens.map_or(usize::MAX, |n| n as usize));
        if tokens.len() < 2 {
            return Err(format!("{}: expected at least 2 tokens, found one", path.display()).into());
        }
        texts.push(tokens);
    }
    let bar = Progress::new(texts.iter().map(Vec::len).sum(), "tokens");
    let mut sums: Vec<Sums> = judged.iter().map(|_| Sums::default()).collect();
    for tokens in &texts {
        let mut state_a = a.init_state();
        let mut states: Vec<State> = judged.iter().map(Model::init_state).collect();
        for (c, chunk) in tokens.chunks(RnnInput::CHUNK).enumerate() {
            let logits_a = a.run(chunk, RnnOption::Full, &mut state_a)?;
            for ((b, state), sums) in judged.iter().zip(&mut states).zip(&mut sums) {
                let logits_b = b.run(chunk, RnnOption::Full, state)?;
                let mut next = tokens.iter().copied().skip(c * RnnInput::CHUNK + 1);
                for (a, b) in logits_a.chunks(vocab).zip(logits_b.chunks(vocab)) {
                    sums.add(a, b, next.next());
                }
            }
            bar.set(sums[0].divergences.len());
        }
    }
    bar.finish();
    let found = sums.into_iter().map(Found::new);
    print(common.json, a.file(), &judged.iter().map(Model::file).zip(found).collect::<Vec<_>>())?;
    Ok(ExitCode::SUCCESS)
}

/// What is told of a model.
struct Found {
    tokens: usize,
    perplexity: [f64; 2],
    mean: f64,
    median: f64,
    percentile_99: f64,
    most: f64,
    agreement: f64,
    largest: f64,
    nmse: f64,
}

impl Found {
    fn new(mut sums: Sums) -> Self {
        let tokens = sums.divergences.len();
        sums.divergences.sort_by(f64::total_cmp);
        let at = |share| quantile(&sums.divergences, share);
        Self {
            tokens,
            perplexity: sums.surprise.map(|s| (s / sums.followed as f64).exp()),
            mean: sums.divergences.iter().sum::<f64>() / tokens as f64,
            median: at(0.5),
            percentile_99: at(0.99),
            most: at(1.0),
            agreement: sums.same_first as f64 / tokens as f64,
            largest: sums.largest,
            nmse: sums.squares[0] / sums.squares[1],
        }
    }
}

fn print(json: bool, a: &str, judged: &[(&str, Found)]) -> Result<()> {
    let mut out = stdout().lock();
    if json {
        for (b, f) in judged {
            let line = json!({
                "a": a, "b": b, "tokens": f.tokens, "perplexity_a": f.perplexity[0], "perplexity_b": f.perplexity[1],
                "kl_mean": f.mean, "kl_median": f.median, "kl_99": f.percentile_99, "kl_max": f.most,
                "top1_agreement": f.agreement, "logits_max": f.largest, "logits_nmse": f.nmse,
            });
            writeln!(out, "{line}")?;
        }
        return Ok(());
    }
    let Some((_, first)) = judged.first() else { return Ok(()) };
    let mut table = Table::new();
    let names = judged.iter().map(|(b, _)| (*b).to_owned());
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header([String::new()].into_iter().chain(names));
    let mut add = |name: &str, show: &dyn Fn(&Found) -> String| {
        let cells = judged.iter().map(|(_, found)| show(found));
        table.add_row([name.to_owned()].into_iter().chain(cells));
    };
    add("perplexity", &|f| format!("{:.4}", f.perplexity[1]));
    add("KL divergence, mean", &|f| format!("{:.3e}", f.mean));
    add("KL divergence, median", &|f| format!("{:.3e}", f.median));
    add("KL divergence, 99 % below", &|f| format!("{:.3e}", f.percentile_99));
    add("KL divergence, largest", &|f| format!("{:.3e}", f.most));
    add("same first token", &|f| format!("{:.2} %", 100.0 * f.agreement));
    add("logits, largest difference", &|f| format!("{:.4}", f.largest));
    add("logits, NMSE", &|f| format!("{:.3e}", f.nmse));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(out, "beside {a}, perplexity {:.4}, over {} tokens", first.perplexity[0], first.tokens)?;
    writeln!(out, "{table}")?;
    Ok(())
}
