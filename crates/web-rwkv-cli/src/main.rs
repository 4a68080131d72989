//! The command `web-rwkv`: extract fields from mails, generate, embed, tokenize and measure with RWKV models, and make
//! their files.

mod arguments;
mod bench;
mod compare;
mod convert;
mod devices;
mod embed;
mod extract;
mod generate;
mod html;
#[cfg_attr(not(feature = "hub"), path = "no_hub.rs")]
mod hub;
mod info;
mod mail;
mod model;
mod peak;
mod progress;
mod pull;
mod quantize;
mod schema;
mod tokenize;

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// The result of a command. Its error is one line that names the file or option that it is about.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Extract fields from mails, generate, embed and measure with RWKV models.
#[derive(Parser)]
#[command(name = "web-rwkv", version, about)]
struct Cli {
    #[command(flatten)]
    model: model::Args,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what a model file holds
    Info(info::Args),
    /// Read mails and give back the fields of a schema
    Extract(extract::Args),
    /// Continue a text
    Generate(generate::Args),
    /// Turn texts into vectors
    Embed(embed::Args),
    /// Turn a text into token ids, or ids into text
    Tokenize(tokenize::Args),
    /// Write a model as GGUF or safetensors
    Convert(convert::Args),
    /// Write a model with smaller weights
    Quantize(quantize::Args),
    /// Tell how far models are from another, as quantized ones from their source
    Compare(compare::Args),
    /// List the GPUs of this machine
    Devices,
    /// Fetch a model from the Hugging Face hub, and print where it is
    Pull(pull::Args),
    /// Measure a model, beside what the machine can do
    Bench(bench::Args),
}

/// Warnings of the engine go to standard error, a line each.
struct Warnings;

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("web_rwkv_gguf")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            // Where standard error is gone, nobody is left to tell.
            let _ = writeln!(io::stderr(), "web-rwkv: {}", record.args());
        }
    }

    fn flush(&self) {}
}

fn main() -> ExitCode {
    // Mesa's layer that orders devices would complain on standard error where there is no desktop; we order them
    // ourselves.
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    if log::set_logger(&Warnings).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
    let Cli { model, command } = Cli::parse();
    let done = match command {
        Command::Info(args) => info::run(&model, &args),
        Command::Extract(args) => extract::run(&model, &args),
        Command::Generate(args) => generate::run(&model, &args),
        Command::Embed(args) => embed::run(&model, &args),
        Command::Tokenize(args) => tokenize::run(&model, &args),
        Command::Convert(args) => convert::run(&model, &args),
        Command::Quantize(args) => quantize::run(&model, &args),
        Command::Compare(args) => compare::run(&model, &args),
        Command::Devices => devices::run(&model),
        Command::Pull(args) => pull::run(&model, &args),
        Command::Bench(args) => bench::run(&model, &args),
    };
    match done {
        Ok(code) => code,
        Err(e) if is_broken_pipe(&*e) => ExitCode::SUCCESS,
        Err(e) => {
            report(&*e);
            ExitCode::FAILURE
        }
    }
}

/// Prints an error as one line.
fn report(e: &dyn Error) {
    let line: Vec<_> = e.to_string().lines().map(|l| l.trim().to_owned()).collect();
    // Where standard error is gone, nobody is left to tell.
    let _ = writeln!(io::stderr(), "web-rwkv: {}", line.join(" "));
}

/// Whether the reader of our output has gone, as `head` does when it has seen enough.
fn is_broken_pipe(e: &(dyn Error + 'static)) -> bool {
    let kind = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    e.downcast_ref::<io::Error>().is_some_and(kind)
        || e.downcast_ref::<serde_json::Error>().and_then(|e| e.io_error_kind())
            == Some(io::ErrorKind::BrokenPipe)
}
