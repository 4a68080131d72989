//! `web-rwkv quantize`: a model file with smaller weights.

use std::{path::PathBuf, process::ExitCode};

use web_rwkv_gguf::{Scheme, load::Tensor};

use crate::{Result, convert, model};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Model file
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// GGUF file to write
    #[arg(value_name = "OUT", value_parser = gguf)]
    output: PathBuf,
    /// Type: q8_0, q6_k, q5_k_m, q4_k_m, q3_k_m, q2_k, q5_1, q5_0, q4_1, q4_0, iq4_nl, iq4_xs, f16, bf16 or f32
    #[arg(long = "type", value_name = "TYPE", value_parser = scheme)]
    to: Scheme,
}

fn scheme(name: &str) -> std::result::Result<Scheme, String> {
    Scheme::from_name(name).ok_or_else(|| {
        let names: Vec<_> = Scheme::ALL.iter().map(|s| s.name).collect();
        format!("expected one of {}", names.join(", "))
    })
}

fn gguf(path: &str) -> std::result::Result<PathBuf, String> {
    let path = PathBuf::from(path);
    let is = path.extension().is_some_and(|e| e == "gguf");
    is.then_some(path).ok_or_else(|| "expected a name that ends in .gguf".into())
}

pub(crate) fn run(common: &model::Args, args: &Args) -> Result<ExitCode> {
    let checkpoint = convert::open(common, &args.input)?;
    let choice = |name: &str, tensor: &Tensor| args.to.format(name, tensor);
    convert::write(common, &checkpoint, &args.output, &choice, None)
}
