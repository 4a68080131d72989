//! `web-rwkv tokenize`: text to token ids and back.

use std::{
    io::{Write, stdout},
    process::ExitCode,
};

use serde_json::json;

use crate::{Result, model};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Text, or with --decode ids; standard input if absent or `-`
    input: Vec<String>,
    /// Turn ids into text
    #[arg(long)]
    decode: bool,
}

pub(crate) fn run(common: &model::Args, args: &Args) -> Result<ExitCode> {
    let input = match args.input.as_slice() {
        [] => model::stdin()?,
        [one] if one == model::STDIN => model::stdin()?,
        words => words.join(" ").into_bytes(),
    };
    let tokenizer = common.tokenizer()?;
    let mut out = stdout().lock();
    if args.decode {
        let input = String::from_utf8_lossy(&input);
        let ids = input.split(|c: char| c.is_whitespace() || c == ',').filter(|id| !id.is_empty());
        let id = |id: &str| id.parse().map_err(|_| format!("--decode: expected token ids, found `{id}`"));
        let bytes = tokenizer.decode(&ids.map(id).collect::<std::result::Result<Vec<u32>, _>>()?)?;
        match common.json {
            true => writeln!(out, "{}", json!({ "text": String::from_utf8_lossy(&bytes) }))?,
            false => out.write_all(&bytes).and_then(|()| out.flush())?,
        }
    } else {
        let tokens = tokenizer.encode(&input)?;
        match common.json {
            true => writeln!(out, "{}", json!({ "tokens": tokens }))?,
            false => {
                let ids: Vec<_> = tokens.iter().map(u32::to_string).collect();
                writeln!(out, "{}", ids.join(" "))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
