//! `web-rwkv quantize`: a model file with smaller weights.

use std::{path::PathBuf, process::ExitCode};

use web_rwkv_gguf::{
    Scheme, Tokenizer,
    format::Format,
    importance,
    load::{Checkpoint, Tensor},
    save::Importance,
};

use crate::{Result, convert, model, progress::Progress};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Model file
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// GGUF file to write
    #[arg(value_name = "OUT", value_parser = gguf)]
    output: PathBuf,
    /// Type: q8_0, q6_k, q5_k_m, q4_mix (chosen for RWKV), q4_k_m, q3_k_m, q2_k, q5_1, q5_0, q4_1, q4_0, iq4_nl, iq4_xs
    #[arg(long = "type", value_name = "TYPE", value_parser = scheme)]
    to: Scheme,
    /// Texts that the model reads first, to find out which weights matter most
    #[arg(long, value_name = "TEXT", num_args = 1..)]
    imatrix: Vec<PathBuf>,
    /// Type of matrices with NAME in their official name, as in att.key=q6_k; the first that fits
    #[arg(long, value_name = "NAME=TYPE", value_parser = own)]
    tensor: Vec<Own>,
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
    let choice = |name: &str, tensor: &Tensor| {
        let own = args
            .tensor
            .iter()
            .find(|own| name.contains(&own.part) && name.ends_with(".weight") && tensor.shape.len() == 2);
        own.map_or_else(|| args.to.format(name, tensor), |own| own.format.for_rows_of(tensor.shape[1]))
    };
    let importance = match args.imatrix.as_slice() {
        [] => None,
        texts => Some(importance_on(common, &checkpoint, texts)?),
    };
    convert::write(common, &checkpoint, &args.output, &choice, importance.as_ref())
}

/// What matters where the model reads these texts.
fn importance_on(common: &model::Args, checkpoint: &Checkpoint, texts: &[PathBuf]) -> Result<Importance> {
    let vocab = checkpoint.vocab.clone().ok_or_else(|| model::no_vocabulary(&checkpoint.file))?;
    let tokenizer = Tokenizer::new(vocab);
    let texts = texts.iter().map(|text| model::tokens(&tokenizer, text)).collect::<Result<Vec<_>>>()?;
    let bar = Progress::new(texts.iter().map(Vec::len).sum(), "tokens");
    let found = importance(checkpoint, common.options(), &texts, &mut |told| bar.set(told.read))?;
    bar.finish();
    Ok(found)
}

/// Which tensors, by a part of their official name, and their format.
#[derive(Clone)]
struct Own {
    part: String,
    format: Format,
}

fn own(text: &str) -> std::result::Result<Own, String> {
    let (part, format) = text.split_once('=').ok_or("expected a part of a tensor's name, =, and a type")?;
    let format = Format::from_name(format).ok_or_else(|| {
        let names: Vec<_> = Format::ALL.iter().map(|f| f.name()).collect();
        format!("expected one of {}", names.join(", "))
    })?;
    Ok(Own { part: part.into(), format })
}
