//! Run RWKV language models from GGUF, safetensors and PyTorch files.
//!
//! A model is opened once and shared; the recurrent state of each sequence is a value of its own. Clone it
//! to fork the sequence, save it, or take its buffer.
//!
//! ```
//! use web_rwkv_gguf::{ExtractOptions, Field, Generation, Model, Options, RnnOption, Sampler, SamplerOptions};
//!
//! # fn main() -> web_rwkv_gguf::Result<()> {
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/rwkv7-mail/rwkv7-mail-q4_k_m.gguf");
//! let model = Model::open(path, Options::default())?;
//!
//! // Read a text once, then go on from it twice.
//! let tokens = model.tokenizer().unwrap().encode("User: The parcel arrives on Friday.\n\n")?;
//! let mut state = model.init_state();
//! let hidden = model.run(&tokens, RnnOption::EmbedLast, &mut state)?; // [C], the head is not computed
//! let mut fork = state.clone();
//! let logits = model.run(&tokens[..1], RnnOption::Last, &mut fork)?; // [V]
//! assert_eq!((hidden.len(), logits.len()), (512, 8192));
//!
//! // Write two texts together: a batch for each token. On a GPU they are chosen there.
//! let text = |seed| {
//!     let sampler = Sampler::new(SamplerOptions { seed, ..SamplerOptions::default() });
//!     Generation::new(&tokens, model.init_state(), sampler, 8, vec![b"\n\n".into()])
//! };
//! let mut texts = [text(1)?, text(2)?];
//! while Generation::advance(&mut texts, &model)? {}
//! assert!(texts.iter().all(|text| text.stopped() || text.tokens().len() == 8));
//!
//! // Fields out of a document.
//! let field = Field { name: "delivery_date".into(), description: "when the parcel should arrive".into() };
//! let found = model.extract("The parcel arrives on Friday.", &[field], &ExtractOptions::default(), &mut |_| ())?;
//! assert_eq!(found.fields[0].value.as_deref(), Some("Friday"));
//! # Ok(())
//! # }
//! ```

// Tests may say what they skip.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

mod batch;
mod cpu;
mod device;
mod error;
mod extract;
mod fnv;
pub mod format;
mod generate;
#[cfg_attr(not(feature = "gpu"), path = "no_gpu.rs")]
mod gpu;
mod importance;
pub mod load;
#[cfg(test)]
#[cfg_attr(not(feature = "gpu"), allow(dead_code))] // the CPU's cases only compare
mod lockstep;
mod model;
mod ops;
mod quantize;
mod sampler;
pub mod save;
mod state;
mod tokenizer;

pub use batch::{Pool, Progress, RnnInput, RnnInputBatch, RnnOption, RnnOutput, Verdict};
pub use cpu::Level;
pub use device::{Device, DeviceInfo, OpTime, Tier};
pub use error::{Error, Result};
pub use extract::{ExtractOptions, Extracted, Extraction, Field, Timings};
pub use generate::Generation;
pub use gpu::devices;
pub use importance::importance;
pub use load::ModelVersion;
pub use model::{Model, ModelInfo, Options};
pub use quantize::Scheme;
pub use sampler::{Sampler, SamplerOptions};
pub use state::State;
pub use tokenizer::Tokenizer;
