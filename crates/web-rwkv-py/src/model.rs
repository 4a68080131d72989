//! The class `Model`.

use std::{cell::RefCell, path::PathBuf, slice, sync::Arc};

use numpy::{PyArray1, PyArrayDyn, PyArrayMethods};
use parking_lot::{Mutex, ReentrantMutex};
use pyo3::prelude::*;
use web_rwkv_gguf::{
    self as engine, Device, Error, ExtractOptions, Options, Pool, Result, RnnInput, RnnInputBatch, RnnOption,
    Sampler, SamplerOptions, format::Format, load::Checkpoint,
};

use crate::{
    arguments::{Text, Tokens, device, in_environment, number, optional_pool, pool, sequences, texts},
    compute::compute,
    error::{raise, request},
    extract::{Extraction, schema},
    generate::Generation,
    info::{ModelInfo, PyRnnOption, StateDevice},
    state::{Floats, Source, State},
    tokenizer::Tokenizer,
};

/// An open model with its live state.
pub(crate) struct Open {
    pub(crate) engine: engine::Model,
    /// Reentrant, so that a progress callback that turns to the live state meets an error and not a deadlock.
    live: ReentrantMutex<RefCell<engine::State>>,
}

impl Open {
    pub(crate) fn tokenizer(&self) -> Result<&engine::Tokenizer> {
        self.engine.tokenizer().ok_or_else(|| Error::Request {
            thing: "tokenizer".into(),
            expected: format!("a vocabulary in {}, or the argument vocab", self.engine.file()),
            found: "none".into(),
        })
    }

    /// A state of this model, kept on a device.
    pub(crate) fn on(&self, device: StateDevice, mut state: engine::State) -> Result<engine::State> {
        match (device, self.engine.gpu()) {
            (StateDevice::Cpu, _) => state.to_host()?,
            (StateDevice::Gpu, Some(_)) => self.engine.place(&mut state)?,
            (StateDevice::Gpu, None) => {
                let what = "expected a model that runs on a GPU, found one on the CPU".into();
                return Err(Error::Device { device: "gpu".into(), what });
            }
        }
        Ok(state)
    }

    /// Works on the live state, while no other thread does. Never call it with the GIL: whoever has the state
    /// may be waiting for the GIL.
    fn live<T>(&self, work: impl FnOnce(&mut engine::State) -> Result<T>) -> Result<T> {
        let live = self.live.lock();
        let mut live = live.try_borrow_mut().map_err(|_| Error::Request {
            thing: "live state".into(),
            expected: "one use at a time".into(),
            found: "a progress callback that uses it".into(),
        })?;
        work(&mut live)
    }
}

/// A model: `Model(path)` opens a GGUF, safetensors or PyTorch (.pth) file of RWKV-4 to 7, told by its content.
///
/// Wherever tokens go, a text does too. `run` goes on from the live state; `embed`, `generate` and `extract`
/// start from zeros, or from a state that they are given, and never touch the live one. All computations
/// release the GIL, and any number of threads may share a model.
///
/// `quant`, `quant_nf4` and `quant_sf4` are numbers of layers, counted from the first, whose matrices are quantized
/// at load if the file has them as floats: to Q8_0, and to IQ4_NL both, which stands for NF4 and SF4 with the 4-bit
/// table that is computed on. Where they overlap the later one counts. `threads` is by default the number of physical
/// cores. `vocab` is a vocabulary file for models that have none of their own. `lora` is a LoRA of RWKV-PEFT (.pth or
/// safetensors), which is added to the weights, times `alpha` over its rank, before any is quantized.
///
/// `fast` lets a CPU round activations to 8 bits where it reads texts faster so, as llama.cpp does: logits then err about
/// as much as llama.cpp's, and not a ten-thousandth of that.
///
/// `device` is "cpu", "gpu", "gpu:N" as `devices()` counts them, or "auto": what the environment variable
/// WEB_RWKV_DEVICE says, and else a GPU if the machine has one and the CPU otherwise.
#[pyclass(module = "web_rwkv_py", frozen)]
pub(crate) struct Model(Mutex<Option<Arc<Open>>>);

impl Model {
    fn open(&self) -> PyResult<Arc<Open>> {
        self.0.lock().clone().ok_or_else(|| request("model", "an open one", "a closed one"))
    }

    fn advance(
        &self,
        py: Python<'_>,
        tokens: Tokens,
        token_chunk_size: u64,
        option: RnnOption,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Vec<f32>> {
        let open = self.open()?;
        let size = token_chunk_size as usize;
        compute(py, progress.as_ref(), |tell| {
            let ids = tokens.ids(|| open.tokenizer())?;
            open.live(|live| {
                // What may be stopped half way needs to go back.
                let before = (progress.is_some() || ids.len() > size).then(|| live.clone());
                let input = RnnInput::new(vec![RnnInputBatch::new(ids, option)], size);
                let result = open.engine.infer_with(&input, slice::from_mut(live), tell);
                if let (Err(_), Some(before)) = (&result, before) {
                    *live = before;
                }
                Ok(result?.0.remove(0))
            })
        })
    }

    fn embeddings(
        &self,
        py: Python<'_>,
        sequences: Vec<Tokens>,
        token_chunk_size: u64,
        pool: Pool,
        state: Option<&State>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Vec<Vec<f32>>> {
        let open = self.open()?;
        compute(py, progress.as_ref(), |tell| {
            let ids = sequences.into_iter().map(|tokens| tokens.ids(|| open.tokenizer()));
            let ids = ids.collect::<Result<Vec<_>>>()?;
            let state = state.map_or_else(|| open.engine.init_state(), |s| s.engine.clone());
            let mut states = vec![state; ids.len()];
            open.engine.embed_with(&ids, pool, token_chunk_size as usize, &mut states, tell)
        })
    }
}

/// The pool of a name that [`pool`] has checked.
fn named(pool: &str) -> Pool {
    match pool {
        "mean" => Pool::Mean,
        "none" => Pool::None,
        _ => Pool::Last,
    }
}

/// `[C]`, or `[T, C]` of the vectors of all tokens; the array takes the buffer over.
fn pooled(
    py: Python<'_>,
    rows: Vec<f32>,
    pool: Pool,
    channels: usize,
) -> PyResult<Bound<'_, PyArrayDyn<f32>>> {
    let shape = if pool == Pool::None { vec![rows.len() / channels, channels] } else { vec![rows.len()] };
    PyArray1::from_vec(py, rows).reshape(shape)
}

#[pymethods]
impl Model {
    #[new]
    #[pyo3(
        signature = (path, quant=0, quant_nf4=0, quant_sf4=0, *, device=Device::Auto, threads=None, vocab=None,
                     lora=None, alpha=None, fast=false),
        text_signature = "(path, quant=0, quant_nf4=0, quant_sf4=0, *, device='auto', threads=None, vocab=None, \
                          lora=None, alpha=None, fast=False)"
    )]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        #[pyo3(from_py_with = number::quant)] quant: u64,
        #[pyo3(from_py_with = number::quant_nf4)] quant_nf4: u64,
        #[pyo3(from_py_with = number::quant_sf4)] quant_sf4: u64,
        #[pyo3(from_py_with = device)] device: Device,
        #[pyo3(from_py_with = number::threads)] threads: Option<u64>,
        vocab: Option<PathBuf>,
        lora: Option<PathBuf>,
        alpha: Option<f32>,
        fast: bool,
    ) -> PyResult<Self> {
        let device = in_environment(device).map_err(raise)?;
        let options = Options { threads: threads.map(|n| n as usize), device, fast, ..Options::default() };
        let lora = match (lora, alpha) {
            (None, None) => None,
            (Some(lora), Some(alpha)) => Some((lora, alpha)),
            (Some(_), None) => return Err(request("alpha", "a number for the LoRA", "None")),
            (None, Some(_)) => return Err(request("lora", "a file for alpha", "None")),
        };
        let open = py.detach(|| {
            let mut checkpoint = Checkpoint::open(&path)?;
            if let Some((lora, alpha)) = lora {
                checkpoint.merge_lora(&lora, alpha)?;
            }
            // Where two name a layer the later one has it, so it goes first: what is quantized stays.
            for (layers, format) in
                [(quant_sf4, Format::IQ4NL), (quant_nf4, Format::IQ4NL), (quant, Format::Q8_0)]
            {
                checkpoint.quantize_layers(usize::try_from(layers).unwrap_or(usize::MAX), format)?;
            }
            let mut engine = engine::Model::from_checkpoint(&checkpoint, options)?;
            if let Some(vocab) = vocab {
                engine = engine.with_tokenizer(engine::Tokenizer::open(&vocab)?);
            }
            let live = ReentrantMutex::new(RefCell::new(engine.init_state()));
            Ok(Open { engine, live })
        });
        Ok(Self(Mutex::new(Some(Arc::new(open.map_err(raise)?)))))
    }

    /// The sizes of the model.
    fn info(&self) -> PyResult<ModelInfo> {
        Ok(ModelInfo::of(self.open()?.engine.info()))
    }

    /// The tokenizer of the file's own vocabulary, or of the one that `vocab` named.
    ///
    /// Raises RequestError if there is none.
    #[getter]
    fn tokenizer(&self) -> PyResult<Tokenizer> {
        Tokenizer::of(self.open()?).map_err(raise)
    }

    /// Threads that the model computes on; 0 on a GPU.
    #[getter]
    fn threads(&self) -> PyResult<usize> {
        Ok(self.open()?.engine.cpu().map_or(0, |(_, threads)| threads))
    }

    /// Whether activations may be rounded to 8 bits; never on a GPU.
    #[getter]
    fn fast(&self) -> PyResult<bool> {
        Ok(self.open()?.engine.fast())
    }

    /// What the model runs on: "cpu", or "gpu: " and its name.
    #[getter]
    fn device(&self) -> PyResult<String> {
        Ok(self.open()?.engine.gpu().map_or_else(|| "cpu".into(), |gpu| format!("gpu: {}", gpu.name)))
    }

    /// The state before any token: zeros (for RWKV-4 see `State`), or the trained one that the file has.
    fn init_state(&self) -> PyResult<State> {
        let open = self.open()?;
        Ok(State::of(&open, open.engine.init_state()))
    }

    /// Sets the live state to that before any token.
    fn clear_state(&self, py: Python<'_>) -> PyResult<()> {
        let open = self.open()?;
        let clear = || {
            open.live(|live| {
                *live = open.engine.init_state();
                Ok(())
            })
        };
        py.detach(clear).map_err(raise)
    }

    /// The state whose buffer is a copy of `array`: float32, `[L, N + 2, C]` or flat, laid out as `State`.
    fn state_from_numpy(&self, py: Python<'_>, array: Floats) -> PyResult<State> {
        let open = self.open()?;
        let state = py.detach(|| array.state(open.engine.init_state())).map_err(raise)?;
        Ok(State::of(&open, state))
    }

    /// Sets the live state to a copy of `state`, to an array as `state_from_numpy` takes it, or to what a file
    /// holds: one that `State.save` wrote, or a trained state (`blocks.N.att.time_state`, .pth or safetensors).
    fn load_state(&self, py: Python<'_>, state: Source) -> PyResult<()> {
        let open = self.open()?;
        let set = || {
            let state = match state {
                Source::Array(array) => array.state(open.engine.init_state())?,
                Source::Path(path) => open.engine.load_state(path)?,
                Source::State(state) => {
                    open.engine.check_state(&state.get().engine)?;
                    state.get().engine.clone()
                }
            };
            open.live(|live| {
                *live = state;
                Ok(())
            })
        };
        py.detach(set).map_err(raise)
    }

    /// A copy of the live state, kept on `device`.
    ///
    /// Raises DeviceError for `StateDevice.Gpu` if the model runs on the CPU.
    #[pyo3(signature = (device=StateDevice::Cpu))]
    fn back_state(&self, py: Python<'_>, device: StateDevice) -> PyResult<State> {
        let open = self.open()?;
        let state = py.detach(|| open.live(|live| open.on(device, live.clone())));
        Ok(State::of(&open, state.map_err(raise)?))
    }

    /// A copy of the live state as an array, f32 `[L * (N + 2) * C]`, laid out as `State`. It is the one copy:
    /// the array takes its buffer over, and can be written to. An array is in this machine's memory, whatever `device`
    /// says.
    #[pyo3(signature = (device=StateDevice::Cpu))]
    fn back_state_numpy<'py>(
        &self,
        py: Python<'py>,
        device: StateDevice,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let state = self.back_state(py, device)?.engine;
        Ok(PyArray1::from_vec(py, py.detach(|| state.into_vec()).map_err(raise)?))
    }

    /// Reads T tokens on from the live state, `token_chunk_size` at a time, and gives what `option` says: by
    /// default the logits after the last one, `[V]`.
    ///
    /// `progress(read, total)` is called after each chunk, in tokens; it must not use the live state. After an
    /// exception, its own or that of Ctrl-C, the live state is as it was before.
    #[pyo3(signature = (tokens, token_chunk_size=128, option=None, *, progress=None))]
    fn run(
        &self,
        py: Python<'_>,
        tokens: Tokens,
        #[pyo3(from_py_with = number::token_chunk_size)] token_chunk_size: u64,
        option: Option<PyRnnOption>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Vec<f32>> {
        self.advance(py, tokens, token_chunk_size, option.unwrap_or(PyRnnOption::Last).into(), progress)
    }

    /// As `run` with `PyRnnOption.Full`: logits after every token, flat `[T * V]`.
    #[pyo3(signature = (tokens, token_chunk_size=128, *, progress=None))]
    fn run_full(
        &self,
        py: Python<'_>,
        tokens: Tokens,
        #[pyo3(from_py_with = number::token_chunk_size)] token_chunk_size: u64,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Vec<f32>> {
        self.advance(py, tokens, token_chunk_size, RnnOption::Full, progress)
    }

    /// Hidden vectors after ln_out of T tokens, read on from `state` or else from zeros; the head is not
    /// computed, and the live state plays no part.
    ///
    /// Gives the vector of the last token, f32 `[C]`, or with `last_only=False` those of all, flat `[T * C]`.
    /// `pool` says it otherwise, and goes before: "last" and "mean" give `[C]`, "none" gives `[T, C]`.
    #[pyo3(signature = (tokens, token_chunk_size=128, last_only=true, *, pool=None, state=None, progress=None))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    fn embed<'py>(
        &self,
        py: Python<'py>,
        tokens: Tokens,
        #[pyo3(from_py_with = number::token_chunk_size)] token_chunk_size: u64,
        last_only: bool,
        #[pyo3(from_py_with = optional_pool)] pool: Option<&'static str>,
        state: Option<PyRef<'_, State>>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let flat = pool.is_none();
        let pool = named(pool.unwrap_or(if last_only { "last" } else { "none" }));
        let channels = self.open()?.engine.info().num_emb;
        let mut rows =
            self.embeddings(py, vec![tokens], token_chunk_size, pool, state.as_deref(), progress)?;
        pooled(py, rows.remove(0), if flat { Pool::Last } else { pool }, channels)
    }

    /// Hidden vectors after ln_out of several sequences of any lengths, in one pass, each read on from `state`
    /// or else from zeros; the head is not computed, and the live state plays no part.
    ///
    /// Gives an array for each: with `pool` "last" and "mean" f32 `[C]`, with "none" `[T, C]`.
    /// `token_chunk_size` counts the tokens of all sequences together.
    #[pyo3(signature = (sequences, token_chunk_size=512, *, pool="last", state=None, progress=None))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    fn embed_batch<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = sequences)] sequences: Vec<Tokens>,
        #[pyo3(from_py_with = number::token_chunk_size)] token_chunk_size: u64,
        #[pyo3(from_py_with = pool)] pool: &'static str,
        state: Option<PyRef<'_, State>>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Vec<Bound<'py, PyArrayDyn<f32>>>> {
        let pool = named(pool);
        let channels = self.open()?.engine.info().num_emb;
        let rows = self.embeddings(py, sequences, token_chunk_size, pool, state.as_deref(), progress)?;
        rows.into_iter().map(|rows| pooled(py, rows, pool, channels)).collect()
    }

    /// Continues a text and gives what was written, up to `max_tokens`, to the first of the texts `stop`, which
    /// is left out, or to the end of the document.
    ///
    /// It goes on from `state`, which stays as it is, or else from zeros. `temperature` 0 takes the likeliest
    /// token; else of the `top_k` likeliest (0: all) and those that together have probability `top_p`, one is
    /// drawn by p ** (1 / temperature); the same `seed` draws the same. The penalties are taken off the logits
    /// of tokens that have come, `frequency_penalty` for each time, a count that `penalty_decay` shrinks at
    /// each token.
    #[pyo3(signature = (prompt, max_tokens=256, temperature=1.0, top_p=0.7, top_k=0, stop=None, seed=0,
                        presence_penalty=0.0, frequency_penalty=0.0, penalty_decay=0.996, *, state=None))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    fn generate(
        &self,
        py: Python<'_>,
        prompt: Tokens,
        #[pyo3(from_py_with = number::max_tokens)] max_tokens: u64,
        temperature: f32,
        top_p: f32,
        #[pyo3(from_py_with = number::top_k)] top_k: u64,
        #[pyo3(from_py_with = texts)] stop: Option<Vec<Vec<u8>>>,
        #[pyo3(from_py_with = number::seed)] seed: u64,
        presence_penalty: f32,
        frequency_penalty: f32,
        penalty_decay: f32,
        state: Option<PyRef<'_, State>>,
    ) -> PyResult<String> {
        let text = self.stream(
            py,
            prompt,
            max_tokens,
            temperature,
            top_p,
            top_k,
            stop,
            seed,
            presence_penalty,
            frequency_penalty,
            penalty_decay,
            state,
        )?;
        while text.__next__(py)?.is_some() {
            py.check_signals()?;
        }
        Ok(text.text(py))
    }

    /// As `generate`, but an iterator over the pieces of the text as they become certain; nothing is computed
    /// before the first is asked for.
    #[pyo3(signature = (prompt, max_tokens=256, temperature=1.0, top_p=0.7, top_k=0, stop=None, seed=0,
                        presence_penalty=0.0, frequency_penalty=0.0, penalty_decay=0.996, *, state=None))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    fn stream(
        &self,
        py: Python<'_>,
        prompt: Tokens,
        #[pyo3(from_py_with = number::max_tokens)] max_tokens: u64,
        temperature: f32,
        top_p: f32,
        #[pyo3(from_py_with = number::top_k)] top_k: u64,
        #[pyo3(from_py_with = texts)] stop: Option<Vec<Vec<u8>>>,
        #[pyo3(from_py_with = number::seed)] seed: u64,
        presence_penalty: f32,
        frequency_penalty: f32,
        penalty_decay: f32,
        state: Option<PyRef<'_, State>>,
    ) -> PyResult<Generation> {
        let open = self.open()?;
        let sampler = SamplerOptions {
            temperature,
            top_k: top_k as usize,
            top_p,
            presence_penalty,
            frequency_penalty,
            penalty_decay,
            seed,
        };
        let state = state.as_deref();
        let text = py.detach(|| {
            let prompt = prompt.ids(|| open.tokenizer())?;
            let state = state.map_or_else(|| open.engine.init_state(), |s| s.engine.clone());
            let stop = stop.unwrap_or_default();
            engine::Generation::new(&prompt, state, Sampler::new(sampler), max_tokens as usize, stop)
        });
        Ok(Generation::new(open, text.map_err(raise)?))
    }

    /// Finds the fields of `schema`, name to description, in a document.
    ///
    /// The document is read once; each field is embedded, and its value decoded from a fork of the document's
    /// state. Values are quoted: they stand in the document word for word, unless `free` lets the model word
    /// them. `none_bias` is taken off the logit of "none": above zero, fewer fields are held to be absent; it is 2 by
    /// default for quoted values and 0 for free ones. `max_tokens` is the longest value. `progress(read, total)` is
    /// called in tokens while the document is read.
    #[pyo3(signature = (document, schema, *, free=false, none_bias=None, max_tokens=None, progress=None))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    fn extract(
        &self,
        py: Python<'_>,
        document: Text,
        #[pyo3(from_py_with = schema)] schema: Vec<engine::Field>,
        free: bool,
        none_bias: Option<f32>,
        #[pyo3(from_py_with = number::max_tokens)] max_tokens: Option<u64>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Extraction> {
        let open = self.open()?;
        let document = document.utf8("document")?;
        let mut options = ExtractOptions::default();
        options.free = free;
        options.none_bias = none_bias;
        options.max_tokens = max_tokens.map_or(options.max_tokens, |n| n as usize);
        let found = compute(py, progress.as_ref(), |tell| {
            open.tokenizer()?;
            open.engine.extract(&document, &schema, &options, tell)
        })?;
        Extraction::of(py, &open, found)
    }

    /// Gives the model's memory back, once what other threads are at is done; after it every call raises
    /// RequestError.
    fn close(&self) {
        *self.0.lock() = None;
    }

    fn __enter__(slf: Py<Self>) -> PyResult<Py<Self>> {
        slf.get().open()?;
        Ok(slf)
    }

    fn __exit__(&self, _kind: &Bound<'_, PyAny>, _error: &Bound<'_, PyAny>, _traceback: &Bound<'_, PyAny>) {
        self.close();
    }

    fn __repr__(&self) -> String {
        match self.open() {
            Ok(open) => {
                let engine::ModelInfo { version, num_layer, num_emb, .. } = open.engine.info();
                format!("<Model {:?}: {version}, {num_layer} layers, width {num_emb}>", open.engine.file())
            }
            Err(_) => "<Model, closed>".into(),
        }
    }
}
