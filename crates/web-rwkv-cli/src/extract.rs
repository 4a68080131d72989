//! `web-rwkv extract`: mails in, fields out.

use std::{
    fs,
    io::{IsTerminal, Write, stdout},
    ops::Range,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::Map;
use web_rwkv_gguf::{ExtractOptions, Extraction, Field, Model, Timings};

use crate::{Result, arguments, mail, model, progress::Progress, report, schema};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Mails (.eml) or plain texts, told apart by their content; standard input if absent or `-`
    files: Vec<PathBuf>,
    /// TOML or JSON file: field name to description
    #[arg(long, value_name = "FILE")]
    schema: PathBuf,
    /// The files are plain texts, whatever they look like
    #[arg(long)]
    text: bool,
    /// Values in the model's own words, not only literal parts of the mail
    #[arg(long)]
    free: bool,
    /// Taken off the logit of "none": above zero, fewer fields are held to be absent; 2 if absent, 0 with --free
    #[arg(long, value_name = "BIAS", allow_negative_numbers = true, value_parser = arguments::finite)]
    none_bias: Option<f32>,
    /// Longest value, in tokens
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// Print tables, also where the output is no terminal
    #[arg(long, conflicts_with = "json")]
    table: bool,
}

pub(crate) fn run(common: &model::Args, args: &Args) -> Result<ExitCode> {
    let fields = schema::read(&args.schema)?;
    let mut options = ExtractOptions::default();
    options.free = args.free;
    options.none_bias = args.none_bias;
    options.max_tokens = args.max_tokens.map_or(options.max_tokens, |n| n as usize);
    let (model, load) = common.open()?;
    let table = !common.json && (args.table || stdout().is_terminal());
    let files = if args.files.is_empty() { vec![model::STDIN.into()] } else { args.files.clone() };
    let mails = Progress::new(files.len(), "mails");
    let mut code = ExitCode::SUCCESS;
    for (i, path) in files.iter().enumerate() {
        let name = if path.as_os_str() == model::STDIN {
            "standard input".into()
        } else {
            path.display().to_string()
        };
        mails.message(name.clone());
        match one(&model, path, &name, &fields, &options, args.text, &mails) {
            Ok((document, extraction)) => mails.suspend(|| {
                if table {
                    print_table(&name, load, &extraction)
                } else {
                    print_json(&name, &document, load, &extraction)
                }
            })?,
            Err(e) => {
                mails.suspend(|| report(&*e));
                code = ExitCode::FAILURE;
            }
        }
        mails.set(i + 1);
    }
    mails.finish();
    Ok(code)
}

fn one(
    model: &Model,
    path: &PathBuf,
    name: &str,
    fields: &[Field],
    options: &ExtractOptions,
    text: bool,
    mails: &Progress,
) -> Result<(String, Extraction)> {
    let bytes = match path.as_os_str() == model::STDIN {
        true => model::stdin()?,
        false => fs::read(path).map_err(|e| format!("{name}: {e}"))?,
    };
    let document = if text { mail::plain(&bytes) } else { mail::document(&bytes) };
    let document = document.map_err(|e| format!("{name}: {e}"))?;
    let mut tokens = mails.tokens();
    let extraction = model.extract(&document, fields, options, &mut |told| tokens.told(told));
    Ok((document, extraction.map_err(|e| format!("{name}: {e}"))?))
}

/// One line of the output.
#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    /// Field name to [`Value`], in the order of the schema.
    fields: Map<String, serde_json::Value>,
    doc_tokens: usize,
    generated_tokens: usize,
    ms: Milliseconds,
    /// The text that the ranges count in.
    document: &'a str,
}

#[derive(Serialize)]
struct Value<'a> {
    value: Option<&'a str>,
    /// First byte, and the byte after the last.
    range: Option<[usize; 2]>,
    confidence: f64,
    similarity: f64,
}

#[derive(Serialize)]
struct Milliseconds {
    load: f64,
    tokenize: f64,
    doc_state: f64,
    field_analysis: f64,
    values: f64,
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn print_json(file: &str, document: &str, load: Duration, e: &Extraction) -> Result<()> {
    let mut fields = Map::new();
    for f in &e.fields {
        // Four decimals are what these numbers are good for.
        let short = |x: f32| (f64::from(x) * 1e4).round() / 1e4;
        let value = Value {
            value: f.value.as_deref(),
            range: f.range.as_ref().map(|r| [r.start, r.end]),
            confidence: short(f.confidence),
            similarity: short(f.similarity),
        };
        fields.insert(f.name.clone(), serde_json::to_value(value)?);
    }
    let Timings { tokenize, doc_state, field_analysis, values, .. } = e.timings;
    let line = Line {
        file,
        fields,
        doc_tokens: e.doc_tokens,
        generated_tokens: e.generated_tokens,
        ms: Milliseconds {
            load: ms(load),
            tokenize: ms(tokenize),
            doc_state: ms(doc_state),
            field_analysis: ms(field_analysis),
            values: ms(values),
        },
        document,
    };
    writeln!(stdout(), "{}", serde_json::to_string(&line)?)?;
    Ok(())
}

fn print_table(file: &str, load: Duration, e: &Extraction) -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["field", "value", "where", "confidence", "similarity"]);
    for f in &e.fields {
        let place = |r: &Range<usize>| format!("{}..{}", r.start, r.end);
        table.add_row([
            f.name.clone(),
            f.value.clone().unwrap_or_else(|| "–".into()),
            f.range.as_ref().map(place).unwrap_or_default(),
            format!("{:.0} %", 100.0 * f.confidence),
            format!("{:.2}", f.similarity),
        ]);
    }
    let t = &e.timings;
    let speed = e.doc_tokens as f64 / t.doc_state.as_secs_f64().max(1e-9);
    let mut out = stdout().lock();
    writeln!(out, "{file}\n{table}")?;
    writeln!(
        out,
        "load {:.1} ms · tokenize {:.2} ms · doc state {:.1} ms ({} tokens, {speed:.0} tok/s) · field analysis {:.1} ms \
         ({} fields) · values {:.1} ms ({} tokens)\n",
        ms(load),
        ms(t.tokenize),
        ms(t.doc_state),
        e.doc_tokens,
        ms(t.field_analysis),
        e.fields.len(),
        ms(t.values),
        e.generated_tokens,
    )?;
    Ok(())
}
