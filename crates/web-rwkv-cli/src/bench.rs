//! `web-rwkv bench`: a model's times, beside what the machine can do.

use std::{
    hint::black_box,
    io::{Write, stdout},
    iter,
    process::ExitCode,
    time::Instant,
};

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, json};
use web_rwkv_gguf::{Generation, Model, RnnInput, RnnInputBatch, RnnOption, Sampler, SamplerOptions, State};

use crate::{Result, model, peak, progress::Progress};

const DECODE_TOKENS: usize = 64;
const DOC_TOKENS: usize = 212;
const FIELDS: usize = 10;
const FIELD_TOKENS: usize = 12;

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    Load,
    FirstToken,
    Prefill,
    Decode,
    DocState,
    FieldAnalysis,
    StateBack,
    Peaks,
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Measure only these
    #[arg(long, value_name = "WHAT,…", value_delimiter = ',')]
    only: Vec<What>,
    /// Prefill lengths, in tokens
    #[arg(long, value_name = "T,…", value_delimiter = ',', default_values_t = [128, 512],
        value_parser = clap::value_parser!(u32).range(1..))]
    lengths: Vec<u32>,
    /// Sequences that are decoded together; tok/s are those of all
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1],
        value_parser = clap::value_parser!(u32).range(1..=4096))]
    sequences: Vec<u32>,
    /// Times that each measurement is repeated
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// Print how long each operation takes instead
    #[arg(long)]
    ops: bool,
}

/// One measurement, repeated.
struct Row {
    what: What,
    name: String,
    unit: &'static str,
    /// Sorted.
    values: Vec<f64>,
    /// Percentage of what, and how much at the median.
    percent: Option<(&'static str, f64)>,
}

impl Row {
    fn median(&self) -> f64 {
        let n = self.values.len();
        (self.values[(n - 1) / 2] + self.values[n / 2]) / 2.0
    }
}

pub(crate) fn run(common: &model::Args, args: &Args) -> Result<ExitCode> {
    if args.ops {
        return ops(common, args);
    }
    let repeats = args.repeats as usize;
    // What is named twice is measured once: rows have names of their own.
    let once = |numbers: &[u32]| {
        let mut seen = vec![];
        numbers.iter().for_each(|n| {
            if !seen.contains(n) {
                seen.push(*n)
            }
        });
        seen
    };
    let (lengths, sequences) = (once(&args.lengths), once(&args.sequences));
    let wanted = |what| args.only.is_empty() || args.only.contains(&what);
    let bar = Progress::new(lengths.len() + sequences.len() + 7, "measurements");
    let mut rows: Vec<Row> = vec![];
    let mut measure = |what, name: String, unit, run: &mut dyn FnMut() -> Result<f64>| -> Result<()> {
        if wanted(what) {
            bar.message(name.clone());
            run()?; // caches, page faults, threads
            let mut values = (0..repeats).map(|_| run()).collect::<Result<Vec<_>>>()?;
            values.sort_by(f64::total_cmp);
            rows.push(Row { what, name, unit, values, percent: None });
            bar.set(rows.len());
        }
        Ok(())
    };

    // Closing a model is not timed.
    let mut opened = None;
    measure(What::Load, "load".into(), "ms", &mut || {
        drop(opened.take());
        milliseconds(|| {
            opened = Some(common.open_quietly()?);
            Ok(())
        })
    })?;
    measure(What::FirstToken, "load to first token".into(), "ms", &mut || {
        drop(opened.take());
        milliseconds(|| {
            let model = opened.insert(common.open_quietly()?);
            read(model, &[1], RnnOption::Last, &mut model.init_state())
        })
    })?;
    drop(opened);
    let model = common.open_quietly()?;
    let vocab = model.info().num_vocab;
    for &length in &lengths {
        let tokens = tokens(length as usize, vocab);
        measure(What::Prefill, format!("prefill {length} tokens"), "tok/s", &mut || {
            let mut state = model.init_state();
            let ms = milliseconds(|| read(&model, &tokens, RnnOption::Last, &mut state))?;
            Ok(f64::from(length) * 1e3 / ms)
        })?;
    }
    for &count in &sequences {
        let name = match count {
            1 => format!("decode {DECODE_TOKENS} tokens"),
            _ => format!("decode {DECODE_TOKENS} tokens of {count} sequences"),
        };
        measure(What::Decode, name, "tok/s", &mut || {
            let mut texts = tokens(count as usize, vocab)
                .into_iter()
                .map(|token| decoding(&model, token))
                .collect::<Result<Vec<_>>>()?;
            texts.iter_mut().try_for_each(|text| text.read_prompt(&model, &mut |_| ()))?;
            // A GPU may still be reading prompts: the first step waits for them.
            Generation::advance(&mut texts, &model)?;
            let ms = milliseconds(|| {
                while Generation::advance(&mut texts, &model)? {}
                Ok(())
            })?;
            Ok(f64::from(count) * DECODE_TOKENS as f64 * 1e3 / ms)
        })?;
    }
    let document = tokens(DOC_TOKENS, vocab);
    measure(What::DocState, format!("doc state, {DOC_TOKENS} tokens"), "ms", &mut || {
        milliseconds(|| {
            let mut state = model.init_state();
            read(&model, &document, RnnOption::EmbedLast, &mut state)?;
            black_box(state.as_slice()?);
            Ok(())
        })
    })?;
    let fields = vec![RnnInputBatch::new(tokens(FIELD_TOKENS, vocab), RnnOption::EmbedLast); FIELDS];
    let fields = RnnInput::new(fields, RnnInput::CHUNK);
    let name = format!("field analysis, {FIELDS} fields of {FIELD_TOKENS}");
    measure(What::FieldAnalysis, name, "ms", &mut || {
        milliseconds(|| {
            let mut states = vec![model.init_state(); FIELDS];
            black_box(model.infer(&fields, &mut states)?);
            Ok(())
        })
    })?;
    measure(What::StateBack, "state back".into(), "ms", &mut || {
        let mut state = model.init_state();
        read(&model, &document[..1], RnnOption::EmbedLast, &mut state)?;
        milliseconds(|| {
            black_box(state.as_slice()?);
            Ok(())
        })
    })?;

    let matrices = model.matrices();
    let bytes: usize = matrices.iter().map(|m| m.1).sum();
    let weights: usize = matrices.iter().map(|m| m.2).sum();
    let head = vocab * model.info().num_emb;
    let memory = peak::memory();
    let peaks = wanted(What::Peaks).then(|| {
        bar.message("memory bandwidth, arithmetic peak".into());
        peaks_of(&model, repeats)
    });
    let peaks = peaks.flatten();
    if let Some((bandwidth, arithmetic)) = peaks {
        let prefills = rows.iter_mut().filter(|row| row.what == What::Prefill);
        for (row, &length) in prefills.zip(&lengths) {
            // The head runs on the last token only.
            let operations = 2.0 * ((weights - head) as f64 + head as f64 / f64::from(length));
            row.percent = Some(("of arithmetic peak", 100.0 * row.median() * operations / arithmetic));
        }
        let mut decodes = rows.iter_mut().filter(|row| row.what == What::Decode);
        if let Some(row) = sequences.iter().position(|n| *n == 1).and_then(|i| decodes.nth(i)) {
            row.percent = Some(("of memory bandwidth", 100.0 * row.median() * bytes as f64 / bandwidth));
        }
    }
    bar.finish();
    let sizes = Sizes { bytes, weights, head, memory };
    print(common.json, &model, &sizes, peaks, &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// Bytes and operations per second that the CPU can do, if the model runs there.
fn peaks_of(model: &Model, repeats: usize) -> Option<(f64, f64)> {
    let (level, threads) = model.cpu()?;
    Some((peak::bandwidth(threads, repeats), peak::arithmetic(level, model.fast(), threads, repeats)))
}

/// Times of operations, for decoding and for each prefill length and number of sequences.
fn ops(common: &model::Args, args: &Args) -> Result<ExitCode> {
    let model = common.open_profiled()?;
    let peaks = peaks_of(&model, 3);
    let vocab = model.info().num_vocab;
    let mut out = stdout().lock();
    let sequences = args.sequences.iter().filter(|n| **n > 1).map(|n| (*n as usize, 1));
    let prefills = args.lengths.iter().map(|length| (1, *length as usize));
    for (count, length) in iter::once((1, 1)).chain(prefills).chain(sequences) {
        let batches = vec![RnnInputBatch::new(tokens(length, vocab), RnnOption::Last); count];
        let mut states = vec![model.init_state(); count];
        let input = RnnInput::new(batches, count * length);
        for _ in 0..2 {
            model.infer(&input, &mut states)?;
        }
        model.op_times(); // of the runs that compiled kernels and woke the device
        for _ in 0..args.repeats {
            model.infer(&input, &mut states)?;
        }
        let times = model.op_times();
        let total: f64 = times.iter().map(|op| op.time.as_secs_f64()).sum();
        let runs = f64::from(args.repeats);
        writeln!(out, "{count} x {length} tokens: {:.3} ms", total / runs * 1e3)?;
        for op in times {
            let each = op.time.as_secs_f64() / op.count as f64;
            let (bytes, work) = (op.bytes as f64 / op.count as f64, op.operations as f64 / op.count as f64);
            let rates = match op.operations {
                0 => String::new(),
                _ => {
                    let (bytes, work) = (bytes / each, work / each);
                    let percent = peaks.map(|(most_bytes, most_work)| {
                        format!(" {:3.0} % of peak", 100.0 * (bytes / most_bytes).max(work / most_work))
                    });
                    let percent = percent.unwrap_or_default();
                    format!("{:8.1} GB/s {:8.1} GOP/s{percent}", bytes / 1e9, work / 1e9)
                }
            };
            writeln!(
                out,
                "  {:44} {:4} x {:8.2} µs = {:5.1} % {rates}",
                op.name,
                op.count / args.repeats as usize,
                each * 1e6,
                op.time.as_secs_f64() / total * 100.0
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What a token needs: bytes and weights of the matrices, weights of the head alone; and the highest memory of the
/// process so far, in bytes, where the system tells.
struct Sizes {
    bytes: usize,
    weights: usize,
    head: usize,
    memory: Option<usize>,
}

fn milliseconds(run: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

fn read(model: &Model, tokens: &[u32], option: RnnOption, state: &mut State) -> Result<()> {
    black_box(model.run(tokens, option, state)?);
    Ok(())
}

/// A text of [`DECODE_TOKENS`] tokens after one that reading the prompt chooses.
fn decoding(model: &Model, first: u32) -> Result<Generation> {
    let sampler = Sampler::new(SamplerOptions::greedy());
    let text = Generation::new(&[first], model.init_state(), sampler, DECODE_TOKENS + 1, vec![])?;
    Ok(text.ignoring_end())
}

/// Token ids that jump about in the vocabulary; times do not depend on which they are.
fn tokens(len: usize, vocab: usize) -> Vec<u32> {
    (0..len).map(|i| (1 + (i * 7919) % (vocab - 1).max(1)) as u32).collect()
}

fn print(json: bool, model: &Model, sizes: &Sizes, peaks: Option<(f64, f64)>, rows: &[Row]) -> Result<()> {
    let mut out = stdout().lock();
    if json {
        let mut measured = Map::new();
        for row in rows {
            let (min, max) = (row.values[0], row.values[row.values.len() - 1]);
            let mut entry = json!({ "unit": row.unit, "median": row.median(), "min": min, "max": max });
            if let Some((of, percent)) = row.percent {
                entry["percent"] = json!(percent);
                entry["of"] = json!(of.trim_start_matches("of "));
            }
            measured.insert(row.name.clone(), entry);
        }
        let mut line = json!({
            "model": model.file(), "runs_on": model::runs_on(model), "fast": model.fast(),
            "bytes_per_token": sizes.bytes, "weights": sizes.weights, "head_weights": sizes.head,
            "peak_memory": sizes.memory, "measured": measured,
        });
        if let Some((bandwidth, arithmetic)) = peaks {
            line["bandwidth_gb_s"] = json!(bandwidth / 1e9);
            line["arithmetic_gop_s"] = json!(arithmetic / 1e9);
        }
        writeln!(out, "{line}")?;
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header(["", "median", "min … max", "", ""]);
    for row in rows {
        let show = |x: f64| if x < 10.0 { format!("{x:.3}") } else { format!("{x:.1}") };
        let spread = format!("{} … {}", show(row.values[0]), show(row.values[row.values.len() - 1]));
        let percent = row.percent.map(|(of, p)| format!("{p:.1} % {of}")).unwrap_or_default();
        table.add_row([row.name.clone(), show(row.median()), spread, row.unit.into(), percent]);
    }
    for column in table.column_iter_mut().skip(1).take(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(out, "{} · {}", model.file(), model::runs_on(model))?;
    if let Some((bandwidth, arithmetic)) = peaks {
        let (bandwidth, arithmetic) = (bandwidth / 1e9, arithmetic / 1e9);
        write!(out, "memory {bandwidth:.1} GB/s · arithmetic {arithmetic:.1} GOP/s · ")?;
    }
    let memory = sizes.memory.map(|m| format!(" · {:.0} MB of memory at most", m as f64 / 1e6));
    writeln!(out, "{:.1} MB of weights per token{}", sizes.bytes as f64 / 1e6, memory.unwrap_or_default())?;
    writeln!(out, "{table}")?;
    Ok(())
}
