//! Continuing a text token by token.

use crate::{Error, Model, Result, RnnOption, Sampler, State};

/// Token that ends a document.
pub(crate) const END_OF_DOCUMENT: u32 = 0;

/// A text that a model has written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// The tokens, those of a stop string included.
    pub tokens: Vec<u32>,
    /// Their bytes, up to a stop string.
    pub bytes: Vec<u8>,
    /// Whether a stop string or the end of the document came, rather than the limit.
    pub stopped: bool,
}

impl Model {
    /// Reads `prompt` on from `state` and writes at most `max_tokens` tokens, up to the first of the byte
    /// strings `stop` or the end of the document (token 0). `on_bytes` gets the bytes as they become
    /// certain: what may yet turn out to begin a stop string is held back.
    ///
    /// # Errors
    /// For an empty prompt, a file without a vocabulary, and as [`Model::infer`].
    pub fn generate(
        &self,
        prompt: &[u32],
        state: &mut State,
        sampler: &mut Sampler,
        max_tokens: usize,
        stop: &[&[u8]],
        on_bytes: &mut dyn FnMut(&[u8]),
    ) -> Result<Generation> {
        let tokenizer = self.needs_tokenizer()?;
        if prompt.is_empty() {
            return Err(Error::Request {
                thing: "prompt".into(),
                expected: "at least one token".into(),
                found: "none".into(),
            });
        }
        let mut out = Generation::default();
        let mut told = 0;
        let mut logits = self.run(prompt, RnnOption::Last, state)?;
        while out.tokens.len() < max_tokens {
            let token = sampler.sample(&logits);
            out.tokens.push(token);
            if token == END_OF_DOCUMENT {
                out.stopped = true;
                break;
            }
            // An id beyond the vocabulary of the file is padding: it has no bytes.
            let from = out.bytes.len();
            out.bytes.extend(tokenizer.token(token).unwrap_or_default());
            if let Some(end) = find_stop(&out.bytes, from, stop) {
                out.bytes.truncate(end);
                out.stopped = true;
                break;
            }
            let certain = out.bytes.len() - held_back(&out.bytes, stop);
            if certain > told {
                on_bytes(&out.bytes[told..certain]);
                told = certain;
            }
            if out.tokens.len() < max_tokens {
                logits = self.run(&[token], RnnOption::Last, state)?;
            }
        }
        on_bytes(&out.bytes[told..]);
        Ok(out)
    }

    pub(crate) fn needs_tokenizer(&self) -> Result<&crate::Tokenizer> {
        self.tokenizer()
            .ok_or_else(|| Error::Missing { file: self.file().into(), thing: "the vocabulary".into() })
    }
}

/// Where the first stop string begins that ends after `from`.
fn find_stop(bytes: &[u8], from: usize, stop: &[&[u8]]) -> Option<usize> {
    let stop = stop.iter().filter(|s| !s.is_empty());
    stop.filter_map(|s| {
        let start = (from + 1).saturating_sub(s.len());
        bytes[start..].windows(s.len()).position(|w| w == *s).map(|at| start + at)
    })
    .min()
}

/// Length of the longest end of `bytes` that begins a stop string.
fn held_back(bytes: &[u8], stop: &[&[u8]]) -> usize {
    let ends = |s: &&[u8]| (1..s.len()).rev().find(|n| bytes.ends_with(&s[..*n])).unwrap_or(0);
    stop.iter().map(ends).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_strings_may_cross_tokens() {
        let stop: &[&[u8]] = &[b"\n\n", b"END"];
        assert_eq!(find_stop(b"a\n\nb", 2, stop), Some(1));
        assert_eq!(find_stop(b"aEND\n\n", 1, stop), Some(1));
        assert_eq!(find_stop(b"a\nb", 0, stop), None);
        assert_eq!(find_stop(b"", 0, stop), None);
        assert_eq!(held_back(b"aEN", stop), 2);
        assert_eq!(held_back(b"a\n", stop), 1);
        assert_eq!(held_back(b"abc", stop), 0);
    }
}
