//! A model: open it, make states, run requests.

mod before_v7;
mod forward;
mod layer_v4;
mod layer_v5;
mod layer_v6;
mod layer_v7;
mod layers;
mod source;
mod trained_state;

use std::{fmt, ops::ControlFlow, path::Path};

use crate::{
    Error, Result,
    batch::{Chunk, Pool, Progress, RnnInput, RnnInputBatch, RnnOption, RnnOutput, Sequence, Token, Verdict},
    cpu::{Cpu, Level, Watch},
    device::{Device, DeviceInfo, OpTime, Tier},
    fnv::Fnv,
    gpu,
    load::{Bytes, Checkpoint, ModelVersion},
    ops::Ops,
    sampler::Choice,
    state::{State, StateShape},
    tokenizer::Tokenizer,
};
pub(crate) use forward::Net;

/// The sizes of a model, as the engine uses them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) version: ModelVersion,
    pub(crate) layers: usize,
    pub(crate) channels: usize,
    pub(crate) hidden: usize,
    pub(crate) vocab: usize,
    pub(crate) head_size: usize,
}

/// The sizes of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// Version of RWKV.
    pub version: ModelVersion,
    /// Layers, L.
    pub num_layer: usize,
    /// Width of the residual stream, C.
    pub num_emb: usize,
    /// Width of the channel mix, F.
    pub num_hidden: usize,
    /// Tokens in the vocabulary, V.
    pub num_vocab: usize,
    /// Heads, H; 1 for RWKV-4, which has none.
    pub num_head: usize,
    /// Size of a head, N; C for RWKV-4.
    pub head_size: usize,
}

/// How a model is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Threads; by default the physical cores of the machine.
    pub threads: Option<usize>,
    /// Instruction set; by default the best one of the machine.
    pub level: Option<Level>,
    /// What the model runs on.
    pub device: Device,
    /// Whether products of many tokens on a CPU may round activations to 8 bits, as llama.cpp does, where that is faster.
    /// Texts of codes of up to 6 bits (of any with AVX-512) are read by a third faster, and the logits err about as much
    /// as llama.cpp's: an NMSE of 2e-5 to 4e-4 instead of 1e-9. Decoding and GPUs are as without.
    pub fast: bool,
    /// Kernels that a GPU runs; by default the best ones that it can.
    pub tier: Option<Tier>,
    /// Whether operations are timed, for [`Model::op_times`].
    pub profile: bool,
}

/// A model on its executor.
enum Engine {
    Cpu(Box<Net<Cpu>>),
    #[cfg(feature = "gpu")]
    Gpu(Box<Net<gpu::Gpu>>),
}

/// Runs `$body` with `$net` as the model on its executor.
macro_rules! on {
    ($engine:expr, $net:ident => $body:expr) => {
        match $engine {
            Engine::Cpu($net) => $body,
            #[cfg(feature = "gpu")]
            Engine::Gpu($net) => $body,
        }
    };
}

impl Engine {
    #[cfg(feature = "gpu")]
    fn on_gpu(index: Option<usize>, options: Options, checkpoint: &Checkpoint) -> Result<Self> {
        let wanted = gpu::Wanted { index, tier: options.tier, profile: options.profile };
        let wanted = gpu::tested(wanted)?;
        Ok(Self::Gpu(Box::new(Net::new(gpu::Gpu::new(wanted, checkpoint)?, checkpoint)?)))
    }

    #[cfg(not(feature = "gpu"))]
    fn on_gpu(index: Option<usize>, _: Options, _: &Checkpoint) -> Result<Self> {
        let what = "this program was built without the feature `gpu`".into();
        Err(Error::Device { device: Device::Gpu(index).to_string(), what })
    }
}

/// An open model. It is never changed: any number of threads may use it at once.
pub struct Model {
    engine: Engine,
    fingerprint: u64,
    file: String,
    tokenizer: Option<Tokenizer>,
    /// A trained state to start from, where the file has one.
    trained: Option<State>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("file", &self.file).field("info", &self.info()).finish_non_exhaustive()
    }
}

impl Model {
    /// Opens a GGUF, safetensors or PyTorch (.pth) file, told by its content, and reads or maps it into memory: do not change the
    /// file while the model is in use.
    ///
    /// # Errors
    /// For a file that cannot be read, is no model, is broken, or holds a model that is not supported.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self> {
        Self::from_checkpoint(&Checkpoint::open(path.as_ref())?, options)
    }

    /// Opens a model in memory; `name` stands for the file in errors.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_bytes(name: &str, bytes: Bytes, options: Options) -> Result<Self> {
        Self::from_checkpoint(&Checkpoint::from_bytes(name, bytes)?, options)
    }

    /// Makes a model of a file that has been read already.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_checkpoint(checkpoint: &Checkpoint, options: Options) -> Result<Self> {
        Self::watched(checkpoint, options, None)
    }

    /// As [`Model::from_checkpoint`], with somebody who is told of all products on a CPU.
    pub(crate) fn watched(checkpoint: &Checkpoint, options: Options, watch: Option<Watch>) -> Result<Self> {
        let level = options.level.unwrap_or_else(Level::best);
        if !level.is_available() {
            return Err(Error::Request {
                thing: "instruction set".into(),
                expected: "one that this machine has".into(),
                found: level.to_string(),
            });
        }
        let threads = options.threads.unwrap_or_else(num_cpus::get_physical);
        if !(1..=1024).contains(&threads) {
            return Err(Error::Request {
                thing: "threads".into(),
                expected: "1 to 1024".into(),
                found: threads.to_string(),
            });
        }
        let tokenizer = checkpoint.vocab.clone().map(Tokenizer::new);
        let fingerprint = fingerprint(checkpoint);
        let on_cpu = |watch: Option<Watch>| -> Result<Engine> {
            // Who watches knows weights by where they stand.
            let (moved, moves) = watch.is_none().then(|| checkpoint.in_huge_pages(level.beside())).unzip();
            let cpu = Cpu::new(level, threads).fast(options.fast).profiled(options.profile).watched(watch);
            let cpu = cpu.moving(moves.unwrap_or_default());
            Ok(Engine::Cpu(Box::new(Net::new(cpu, moved.as_ref().unwrap_or(checkpoint))?)))
        };
        let on_gpu = |index| Engine::on_gpu(index, options, checkpoint);
        let engine = match options.device {
            _ if watch.is_some() => on_cpu(watch)?,
            Device::Gpu(index) => on_gpu(index)?,
            Device::Auto if gpu::has_gpu() => match on_gpu(None) {
                Err(e @ Error::Device { .. }) => {
                    log::warn!("{e}; {} runs on the CPU", checkpoint.file);
                    on_cpu(None)?
                }
                engine => engine?,
            },
            _ => on_cpu(None)?,
        };
        let file = checkpoint.file.clone();
        let mut model = Self { engine, fingerprint, file, tokenizer, trained: None };
        model.trained = model.shape().trained(checkpoint)?;
        Ok(model)
    }

    /// The sizes of the model.
    pub fn info(&self) -> ModelInfo {
        let Sizes { version, layers, channels, hidden, vocab, head_size } = self.sizes();
        ModelInfo {
            version,
            num_layer: layers,
            num_emb: channels,
            num_hidden: hidden,
            num_vocab: vocab,
            num_head: channels / head_size,
            head_size,
        }
    }

    /// The tokenizer of the file's own vocabulary, if it has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The model with another tokenizer, for files that have no vocabulary (safetensors).
    pub fn with_tokenizer(self, tokenizer: Tokenizer) -> Self {
        Self { tokenizer: Some(tokenizer), ..self }
    }

    pub(crate) fn needs_tokenizer(&self) -> Result<&Tokenizer> {
        let missing = || Error::Missing { file: self.file.clone(), thing: "the vocabulary".into() };
        self.tokenizer().ok_or_else(missing)
    }

    /// Path of the file.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Instruction set and threads that the model runs on, if it runs on the CPU.
    pub fn cpu(&self) -> Option<(Level, usize)> {
        match &self.engine {
            Engine::Cpu(net) => Some((net.ops.level(), net.ops.threads())),
            #[cfg(feature = "gpu")]
            Engine::Gpu(_) => None,
        }
    }

    /// Whether the model runs on the CPU as [`Options::fast`] says.
    pub fn fast(&self) -> bool {
        match &self.engine {
            Engine::Cpu(net) => net.ops.is_fast(),
            #[cfg(feature = "gpu")]
            Engine::Gpu(_) => false,
        }
    }

    /// The GPU that the model runs on, with the kernels that it runs.
    pub fn gpu(&self) -> Option<&DeviceInfo> {
        match &self.engine {
            Engine::Cpu(_) => None,
            #[cfg(feature = "gpu")]
            Engine::Gpu(net) => Some(net.ops.info()),
        }
    }

    /// How long operations took since the last call, for a model that was opened to be profiled.
    pub fn op_times(&self) -> Vec<OpTime> {
        match &self.engine {
            Engine::Cpu(net) => net.ops.op_times(),
            #[cfg(feature = "gpu")]
            Engine::Gpu(net) => net.ops.op_times(),
        }
    }

    fn sizes(&self) -> Sizes {
        on!(&self.engine, net => net.sizes)
    }

    /// Format of each matrix that decoding a token reads, with its bytes and number of weights.
    pub fn matrices(&self) -> Vec<(crate::format::Format, usize, usize)> {
        on!(&self.engine, net => net.matrices.clone())
    }

    fn shape(&self) -> StateShape {
        StateShape {
            version: self.sizes().version,
            fingerprint: self.fingerprint,
            layers: self.sizes().layers,
            head_size: self.sizes().head_size,
            channels: self.sizes().channels,
        }
    }

    /// The state before any token: zeros (see [`State`] for RWKV-4), or the trained one that the file has.
    pub fn init_state(&self) -> State {
        self.trained.clone().unwrap_or_else(|| State::zero(self.shape()))
    }

    /// Loads a state that was saved with this model, or a trained state from safetensors or `.pth`
    /// (`blocks.N.att.time_state` of every layer, `[H, N, N]`).
    ///
    /// Trainers store a trained state by value and key index. In safetensors that web-rwkv's converter wrote, all f16
    /// and marked as PyTorch's, it is by key and value index.
    ///
    /// # Errors
    /// For a file that is no state, or of another model.
    pub fn load_state(&self, path: impl AsRef<Path>) -> Result<State> {
        self.shape().load(path.as_ref())
    }

    /// Puts a state of this model where the model computes: into this machine's memory or that of the GPU.
    ///
    /// # Errors
    /// For a state of another model, and a GPU that was lost or has no memory left.
    pub fn place(&self, state: &mut State) -> Result<()> {
        self.check_state(state)?;
        match &self.engine {
            Engine::Cpu(_) => state.to_host(),
            #[cfg(feature = "gpu")]
            Engine::Gpu(net) => net.ops.place_state(state),
        }
    }

    /// Whether a state is one of this model.
    ///
    /// # Errors
    /// For a state of another model.
    pub fn check_state(&self, state: &State) -> Result<()> {
        if state.shape() != self.shape() {
            return Err(Error::Request {
                thing: "state".into(),
                expected: self.shape().to_string(),
                found: state.shape().to_string(),
            });
        }
        Ok(())
    }

    /// Runs one sequence on from `state`.
    ///
    /// # Errors
    /// As [`Model::infer`].
    pub fn run(&self, tokens: &[u32], option: RnnOption, state: &mut State) -> Result<Vec<f32>> {
        let input = RnnInput::new(vec![RnnInputBatch::new(tokens, option)], RnnInput::CHUNK);
        Ok(self.infer(&input, std::slice::from_mut(state))?.0.remove(0))
    }

    /// Hidden vectors after ln_out of several token sequences, all in one pass from zero states; the head is
    /// not computed. For each sequence `[C]`, or `[T, C]` with [`Pool::None`].
    ///
    /// # Errors
    /// For a sequence without tokens, and as [`Model::infer`].
    pub fn embed(
        &self,
        sequences: &[impl AsRef<[u32]>],
        pool: Pool,
        token_chunk_size: usize,
    ) -> Result<Vec<Vec<f32>>> {
        let mut states = vec![self.init_state(); sequences.len()];
        self.embed_with(sequences, pool, token_chunk_size, &mut states, &mut |_| ())
    }

    /// As [`Model::embed`], but sequence `b` goes on from `states[b]`, and `progress` is told after each chunk.
    ///
    /// # Errors
    /// For a sequence without tokens, and as [`Model::infer_with`].
    pub fn embed_with<V: Verdict>(
        &self,
        sequences: &[impl AsRef<[u32]>],
        pool: Pool,
        token_chunk_size: usize,
        states: &mut [State],
        progress: &mut dyn FnMut(Progress) -> V,
    ) -> Result<Vec<Vec<f32>>> {
        if let Some(i) = sequences.iter().position(|s| s.as_ref().is_empty()) {
            return Err(Error::Request {
                thing: format!("sequence {i}"),
                expected: "at least one token".into(),
                found: "none".into(),
            });
        }
        let option = if pool == Pool::Last { RnnOption::EmbedLast } else { RnnOption::EmbedFull };
        let batches = sequences.iter().map(|s| RnnInputBatch::new(s.as_ref(), option)).collect();
        let mut output = self.infer_with(&RnnInput::new(batches, token_chunk_size), states, progress)?.0;
        if pool == Pool::Mean {
            output.iter_mut().for_each(|rows| *rows = mean(rows, self.sizes().channels));
        }
        Ok(output)
    }

    /// Runs a request: sequence `b` goes on from `states[b]`, which then holds its new state.
    ///
    /// # Errors
    /// For another number of states than of sequences, a state of another model, or a token that is not
    /// in the vocabulary; the states are then unchanged.
    pub fn infer(&self, input: &RnnInput, states: &mut [State]) -> Result<RnnOutput> {
        self.infer_with(input, states, &mut |_| ())
    }

    /// As [`Model::infer`]; `progress` is told how far it is after each chunk, and may stop it.
    ///
    /// # Errors
    /// As [`Model::infer`], and [`Error::Stopped`] if `progress` says so: the states have then read what it
    /// was told.
    pub fn infer_with<V: Verdict>(
        &self,
        input: &RnnInput,
        states: &mut [State],
        progress: &mut dyn FnMut(Progress) -> V,
    ) -> Result<RnnOutput> {
        let mut output = RnnOutput(vec![vec![]; states.len()]);
        self.each_chunk(
            input,
            states,
            progress,
            |chunk, states| on!(&self.engine, net => net.forward(&chunk, states, &mut output)),
        )?;
        Ok(output)
    }

    /// As [`Model::infer_with`], but a token is chosen after the last of each sequence.
    pub(crate) fn choose<V: Verdict>(
        &self,
        input: &RnnInput,
        choices: &[Choice],
        states: &mut [State],
        progress: &mut dyn FnMut(Progress) -> V,
    ) -> Result<Vec<Token>> {
        let mut tokens = vec![None; states.len()];
        self.each_chunk(input, states, progress, |mut chunk, states| {
            chunk.choices = chunk.logits.iter().map(|(_, slot)| choices[*slot].clone()).collect();
            let chosen = on!(&self.engine, net => net.choose(&chunk, states)?);
            chunk.logits.iter().zip(chosen).for_each(|((_, slot), token)| tokens[*slot] = Some(token));
            Ok(())
        })?;
        Ok(tokens.into_iter().map(|t| t.expect("no sequence is empty")).collect())
    }

    /// A step of decoding: each sequence reads a token that was chosen, and the next one is.
    pub(crate) fn step(
        &self,
        tokens: &[Token],
        choices: Vec<Choice>,
        states: &mut [State],
    ) -> Result<Vec<Token>> {
        states.iter().try_for_each(|s| self.check_state(s))?;
        let mut chunk = Chunk { choices, ..Chunk::default() };
        for (i, token) in tokens.iter().enumerate() {
            let known = match token {
                Token::Coming(chosen, row) if on!(&self.engine, net => net.ops.can_await(chosen)) => {
                    chunk.coming.push((i, chosen.clone(), *row));
                    0
                }
                token => token.id()?,
            };
            chunk.tokens.push(known);
            chunk.seqs.push(Sequence { slot: i, start: i, len: 1 });
            chunk.logits.push((i, i));
        }
        on!(&self.engine, net => net.choose(&chunk, states))
    }

    /// Steps of decoding that may run before the tokens of the first are seen, with so many sequences.
    pub(crate) fn ahead(&self, sequences: usize) -> usize {
        on!(&self.engine, net => net.ops.ahead(sequences))
    }

    /// Runs the chunks of a request.
    fn each_chunk<V: Verdict>(
        &self,
        input: &RnnInput,
        states: &mut [State],
        progress: &mut dyn FnMut(Progress) -> V,
        mut run: impl FnMut(Chunk, &mut [State]) -> Result<()>,
    ) -> Result<()> {
        self.check(input, states)?;
        let total = input.batches.iter().map(|b| b.tokens.len()).sum();
        let mut read = 0;
        let size = on!(&self.engine, net => net.ops.least_chunk()).max(input.token_chunk_size);
        let mut flow = ControlFlow::Continue(());
        for chunk in input.chunks(size) {
            let tokens = chunk.tokens.len();
            run(chunk, states)?;
            read += tokens;
            flow = progress(Progress { read, total }).flow();
            if flow.is_break() {
                break;
            }
        }
        if flow.is_break() { Err(Error::Stopped) } else { Ok(()) }
    }

    fn check(&self, input: &RnnInput, states: &[State]) -> Result<()> {
        let mismatch = |thing: &str, expected: String, found: String| {
            Err(Error::Request { thing: thing.into(), expected, found })
        };
        if input.batches.len() != states.len() {
            return mismatch("states", input.batches.len().to_string(), states.len().to_string());
        }
        if input.token_chunk_size == 0 {
            return mismatch("token_chunk_size", "at least 1".into(), "0".into());
        }
        states.iter().try_for_each(|s| self.check_state(s))?;
        let vocab = self.sizes().vocab;
        match input.batches.iter().flat_map(|b| &b.tokens).find(|t| **t as usize >= vocab) {
            Some(&token) => Err(Error::Token { token, vocab }),
            None => Ok(()),
        }
    }
}

/// Mean of the rows of `[T, C]`, `[C]`.
fn mean(rows: &[f32], channels: usize) -> Vec<f32> {
    let count = (rows.len() / channels) as f32;
    (0..channels).map(|c| rows.iter().skip(c).step_by(channels).sum::<f32>() / count).collect()
}

/// A number that tells models apart, of the names, shapes, formats and sampled bytes of all tensors.
fn fingerprint(checkpoint: &Checkpoint) -> u64 {
    let mut hash = Fnv::new();
    let mut add = |bytes: &[u8]| hash.add(bytes);
    let mut names: Vec<_> = checkpoint.tensors.keys().collect();
    names.sort();
    for name in names {
        let tensor = &checkpoint.tensors[name];
        add(name.as_bytes());
        tensor.shape.iter().for_each(|n| add(&(*n as u64).to_le_bytes()));
        add(tensor.format.name().as_bytes());
        let (head, tail) = tensor.data.split_at(tensor.data.len() / 2);
        add(&head[..head.len().min(64)]);
        add(&tail[..tail.len().min(64)]);
    }
    hash.number()
}
