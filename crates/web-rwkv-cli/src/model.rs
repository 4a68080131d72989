//! The model that a command runs on: the embedded one, or a file.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use web_rwkv_gguf::{
    Device, Level, Model, Options, Tier, Tokenizer,
    load::{Bytes, Checkpoint},
};

use crate::{Result, arguments, hub, progress::Progress};

static EMBEDDED: &[u8] = include_bytes!("../../../models/rwkv7-mail/rwkv7-mail-q4_k_m.gguf");
const EMBEDDED_NAME: &str = "embedded rwkv7-mail";

/// Options of every command.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// GGUF, safetensors or PyTorch file, or OWNER/REPO[:FILE] on the Hugging Face hub; the embedded mail model if absent
    #[arg(long, global = true, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Vocabulary file (.txt or .json) instead of the model's own; safetensors files have none
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) vocab: Option<PathBuf>,
    /// LoRA of RWKV-PEFT (.pth or safetensors) to add to the weights
    #[arg(long, global = true, value_name = "FILE", requires = "alpha")]
    lora: Option<PathBuf>,
    /// Scale of the LoRA: it is multiplied by this over its rank
    #[arg(long, global = true, value_name = "X", requires = "lora", value_parser = arguments::finite)]
    alpha: Option<f32>,
    /// Threads; the physical cores if absent
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Instruction set: scalar, avx2, avx512 or neon; the best of this machine if absent
    #[arg(long, global = true, value_name = "LEVEL", value_parser = arguments::level)]
    simd: Option<Level>,
    /// Round activations to 8 bits where a CPU then reads faster: logits are less exact, as llama.cpp's
    #[arg(long, global = true)]
    fast: bool,
    /// What to run on: cpu, gpu, gpu:N as `devices` counts them, or auto
    #[arg(long, global = true, value_name = "DEVICE", env = "WEB_RWKV_DEVICE", default_value = "auto")]
    device: Device,
    /// Kernels of a GPU: plain, subgroup or matrix; the best that it can run if absent
    #[arg(long, global = true, value_name = "TIER", env = "WEB_RWKV_TIER", value_parser = arguments::tier)]
    tier: Option<Tier>,
    /// Print JSON, also on a terminal
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Args {
    pub(crate) fn options(&self) -> Options {
        let threads = self.threads.map(usize::from);
        Options {
            threads,
            level: self.simd,
            fast: self.fast,
            device: self.device,
            tier: self.tier,
            profile: false,
        }
    }

    /// Opens the model; also says how long that took.
    pub(crate) fn open(&self) -> Result<(Model, Duration)> {
        let (model, _, time) = self.open_with_tensors()?;
        Ok((model, time))
    }

    /// As [`Args::open`], with the tensors of the file.
    pub(crate) fn open_with_tensors(&self) -> Result<(Model, Checkpoint, Duration)> {
        let args = self.local()?;
        let waiting = Progress::spinner("loading the model");
        let start = Instant::now();
        let checkpoint = args.checkpoint()?;
        let model = args.model(&checkpoint)?;
        let time = start.elapsed();
        waiting.finish();
        Ok((model, checkpoint, time))
    }

    /// The model, whose operations are timed.
    pub(crate) fn open_profiled(&self) -> Result<Model> {
        let checkpoint = self.local()?.checkpoint()?;
        Ok(Model::from_checkpoint(&checkpoint, Options { profile: true, ..self.options() })?)
    }

    pub(crate) fn open_quietly(&self) -> Result<Model> {
        let args = self.local()?;
        args.model(&args.checkpoint()?)
    }

    fn model(&self, checkpoint: &Checkpoint) -> Result<Model> {
        let model = Model::from_checkpoint(checkpoint, self.options())?;
        Ok(match &self.vocab {
            Some(path) => model.with_tokenizer(Tokenizer::open(path)?),
            None => model,
        })
    }

    /// The tokenizer alone.
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer> {
        let args = self.local()?;
        if let Some(path) = &args.vocab {
            return Ok(Tokenizer::open(path)?);
        }
        let Checkpoint { vocab, file, .. } = args.checkpoint()?;
        Ok(Tokenizer::new(vocab.ok_or_else(|| no_vocabulary(&file))?))
    }

    /// These options with another model, if one is given.
    pub(crate) fn with_model(&self, path: Option<&Path>) -> Self {
        let model = path.map(Path::to_owned).or_else(|| self.model.clone());
        Self { model, vocab: self.vocab.clone(), lora: self.lora.clone(), ..*self }
    }

    /// These options with files in the place of names.
    pub(crate) fn local(&self) -> Result<Self> {
        let local = |path: &Option<PathBuf>| path.as_deref().map(hub::local).transpose();
        Ok(Self { model: local(&self.model)?, vocab: local(&self.vocab)?, lora: local(&self.lora)?, ..*self })
    }

    /// What is in the file of the model.
    pub(crate) fn checkpoint(&self) -> Result<Checkpoint> {
        let mut checkpoint = match &self.model {
            Some(path) => Checkpoint::open(path)?,
            None => Checkpoint::from_bytes(EMBEDDED_NAME, Bytes::from(EMBEDDED))?,
        };
        if let (Some(path), Some(alpha)) = (&self.lora, self.alpha) {
            checkpoint.merge_lora(path, alpha)?;
        }
        Ok(checkpoint)
    }
}

/// What a model runs on, in words.
pub(crate) fn runs_on(model: &Model) -> String {
    match (model.gpu(), model.cpu()) {
        (Some(gpu), _) => format!("{} ({}, {} kernels)", gpu.name, gpu.backend, gpu.tier),
        (_, Some((level, threads))) if model.fast() => format!("{level}, {threads} threads, fast"),
        (_, Some((level, threads))) => format!("{level}, {threads} threads"),
        (None, None) => unreachable!("a model runs on something"),
    }
}

/// The tokenizer of a model.
pub(crate) fn tokenizer(model: &Model) -> Result<&Tokenizer> {
    Ok(model.tokenizer().ok_or_else(|| no_vocabulary(model.file()))?)
}

/// The tokens of a text file, of which there is at least one.
pub(crate) fn tokens(tokenizer: &Tokenizer, path: &Path) -> Result<Vec<u32>> {
    let text = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let tokens = tokenizer.encode(text).map_err(|e| format!("{}: {e}", path.display()))?;
    match tokens.is_empty() {
        true => Err(format!("{}: expected at least one token, found none", path.display()).into()),
        false => Ok(tokens),
    }
}

pub(crate) fn no_vocabulary(file: &str) -> String {
    format!("{file}: the vocabulary is missing; --vocab gives one")
}

/// What stands for standard input on the command line.
pub(crate) const STDIN: &str = "-";

/// All of standard input.
pub(crate) fn stdin() -> Result<Vec<u8>> {
    let mut bytes = vec![];
    std::io::stdin().read_to_end(&mut bytes).map_err(|e| format!("standard input: {e}"))?;
    Ok(bytes)
}
