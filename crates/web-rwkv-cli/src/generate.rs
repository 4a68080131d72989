//! `web-rwkv generate`: continues a text.

use std::{
    io::{Write, stdout},
    path::PathBuf,
    process::ExitCode,
    time::Instant,
};

use serde_json::json;
use web_rwkv_gguf::{Generation, Sampler, SamplerOptions};

use crate::{Result, arguments, model, progress::Progress};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Text to continue; standard input if absent or `-`
    prompt: Option<String>,
    /// Stop after so many tokens
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// 0 takes the likeliest token every time
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = arguments::from_0)]
    temperature: Option<f32>,
    /// Sample from the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = arguments::share)]
    top_p: Option<f32>,
    /// Sample from so many likeliest tokens; 0 from all
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Taken off the logit of every token that has appeared
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = arguments::finite)]
    presence_penalty: Option<f32>,
    /// Taken off once for each time that a token has appeared
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = arguments::finite)]
    frequency_penalty: Option<f32>,
    /// How much of a token's count is left after another token
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = arguments::share)]
    penalty_decay: Option<f32>,
    /// The same seed gives the same text
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// State to start from: a trained one (.pth or safetensors), or one that was saved
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Stop before this text; may be given more than once
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

pub(crate) fn run(common: &model::Args, args: &Args) -> Result<ExitCode> {
    let prompt = match args.prompt.as_deref() {
        None | Some(model::STDIN) => model::stdin()?,
        Some(text) => text.into(),
    };
    let d = SamplerOptions::default();
    let sampler = Sampler::new(SamplerOptions {
        temperature: args.temperature.unwrap_or(d.temperature),
        top_k: args.top_k.unwrap_or(d.top_k),
        top_p: args.top_p.unwrap_or(d.top_p),
        presence_penalty: args.presence_penalty.unwrap_or(d.presence_penalty),
        frequency_penalty: args.frequency_penalty.unwrap_or(d.frequency_penalty),
        penalty_decay: args.penalty_decay.unwrap_or(d.penalty_decay),
        seed: args.seed.unwrap_or(d.seed),
    });
    let (model, _) = common.open()?;
    let tokens = model::tokenizer(&model)?.encode(prompt)?;
    let stop = args.stop.iter().map(|s| s.as_bytes().to_vec()).collect();
    let state = args.state.as_ref().map_or_else(|| Ok(model.init_state()), |path| model.load_state(path))?;
    let start = Instant::now();
    let mut text = Generation::new(&tokens, state, sampler, args.max_tokens as usize, stop)?;
    let bar = Progress::new(1, "prompts");
    let mut reading = bar.tokens();
    text.read_prompt(&model, &mut |told| reading.told(told))?;
    drop(reading);
    let mut out = stdout().lock();
    while let Some(bytes) = text.next(&model)? {
        if !common.json {
            out.write_all(bytes)?;
            out.flush()?;
        }
    }
    if common.json {
        let line = json!({
            "text": String::from_utf8_lossy(text.bytes()),
            "tokens": text.tokens(),
            "prompt_tokens": tokens.len(),
            "stopped": text.stopped(),
            "ms": start.elapsed().as_secs_f64() * 1e3,
        });
        writeln!(out, "{line}")?;
    } else {
        writeln!(out)?;
    }
    Ok(ExitCode::SUCCESS)
}
