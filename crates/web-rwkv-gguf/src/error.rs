//! What can go wrong, each with the file and the thing that it is about.

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the engine. Every message names the file or request, the thing in it, and what was
/// expected and found.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("{file}: {source}")]
    Io {
        /// Path of the file.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file breaks its format, or a model in it does not fit together.
    #[error("{file}: {thing}: expected {expected}, found {found}")]
    Invalid {
        /// Path of the file.
        file: String,
        /// The part of it, such as ``tensor `blocks.3.att.x_r` ``.
        thing: String,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A file lacks something that it must have.
    #[error("{file}: {thing} is missing")]
    Missing {
        /// Path of the file.
        file: String,
        /// What is missing.
        thing: String,
    },
    /// A tensor has a type that this engine does not compute with.
    #[error("{file}: tensor `{tensor}`: type {found} is not supported")]
    UnsupportedType {
        /// Path of the file.
        file: String,
        /// Name of the tensor in the file.
        tensor: String,
        /// Its type.
        found: String,
    },
    /// A model of an architecture or variant that this engine does not run.
    #[error("{file}: {what} is not supported")]
    UnsupportedModel {
        /// Path of the file.
        file: String,
        /// The architecture or variant.
        what: String,
    },
    /// A token id that the vocabulary does not have.
    #[error("token {token} is not in the vocabulary of {vocab} tokens")]
    Token {
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// A text with bytes that no token of the vocabulary covers.
    #[error("byte {byte:#04x} at offset {offset} is in no token of the vocabulary")]
    Untokenizable {
        /// The byte.
        byte: u8,
        /// Where it stands in the text.
        offset: usize,
    },
    /// A request that does not make sense, such as a batch of another size than its states.
    #[error("{thing}: expected {expected}, found {found}")]
    Request {
        /// The part of the request.
        thing: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A GPU that is not there, has no memory left, was lost, or refuses something.
    #[error("{device}: {what}")]
    Device {
        /// The device.
        device: String,
        /// What it said.
        what: String,
    },
    /// A progress callback said to stop.
    #[error("stopped by its progress callback")]
    Stopped,
}

impl Error {
    pub(crate) fn invalid(
        file: &str,
        thing: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Invalid {
            file: file.into(),
            thing: thing.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    pub(crate) fn io(file: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { file: file.display().to_string(), source }
    }
}
