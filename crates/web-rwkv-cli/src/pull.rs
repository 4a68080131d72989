//! `web-rwkv pull`: a model from the Hugging Face hub.

use std::{
    io::{Write, stdout},
    process::ExitCode,
};

use serde_json::json;

use crate::{Result, hub, model};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Repository, and the file in it if it holds more than one model
    #[arg(value_name = "OWNER/REPO[:FILE]")]
    name: hub::Name,
}

pub(crate) fn run(common: &model::Args, args: &Args) -> Result<ExitCode> {
    let path = hub::fetch(&args.name)?;
    let file = path.display().to_string();
    let mut out = stdout().lock();
    match common.json {
        true => writeln!(out, "{}", json!({ "file": file, "bytes": path.metadata()?.len() }))?,
        false => writeln!(out, "{file}")?,
    }
    Ok(ExitCode::SUCCESS)
}
