//! Run RWKV language models from GGUF and safetensors files.

mod batch;
mod cpu;
mod error;
pub mod format;
pub mod load;
mod model;
mod ops;
mod state;
mod tokenizer;

pub use batch::{RnnInput, RnnInputBatch, RnnOption, RnnOutput};
pub use cpu::Level;
pub use error::{Error, Result};
pub use model::{Model, ModelInfo, ModelVersion, Options};
pub use state::State;
pub use tokenizer::Tokenizer;
