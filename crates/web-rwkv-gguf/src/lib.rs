//! Run RWKV language models from GGUF and safetensors files.

mod batch;
mod cpu;
mod error;
mod extract;
pub mod format;
mod generate;
pub mod load;
mod model;
mod ops;
mod sampler;
mod state;
mod tokenizer;

pub use batch::{RnnInput, RnnInputBatch, RnnOption, RnnOutput};
pub use cpu::Level;
pub use error::{Error, Result};
pub use extract::{ExtractOptions, Extracted, Extraction, Field, Timings};
pub use generate::Generation;
pub use model::{Model, ModelInfo, ModelVersion, Options};
pub use sampler::{Sampler, SamplerOptions};
pub use state::State;
pub use tokenizer::Tokenizer;
