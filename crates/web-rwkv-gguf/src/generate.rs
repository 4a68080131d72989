//! Continuing a text token by token.

use std::{ops::ControlFlow, slice};

use crate::{Error, Model, Progress, Result, RnnInput, RnnInputBatch, RnnOption, Sampler, State, Verdict};

/// Token that ends a document.
pub(crate) const END_OF_DOCUMENT: u32 = 0;

/// A text that is being written: call [`Generation::next`] until it gives `None`.
#[derive(Clone, Debug)]
pub struct Generation {
    state: State,
    sampler: Sampler,
    max_tokens: usize,
    stop: Vec<Vec<u8>>,
    /// What the state has not read yet: the prompt, then the last token.
    unread: Vec<u32>,
    /// Logits after the prompt, `[V]`, where it has been read ahead of the first token.
    logits: Option<Vec<f32>>,
    tokens: Vec<u32>,
    bytes: Vec<u8>,
    /// Bytes that `next` has given.
    told: usize,
    stopped: bool,
}

impl Generation {
    /// Reads `prompt` on from `state` and writes at most `max_tokens` tokens, up to the first of the byte
    /// strings `stop` or the end of the document (token 0).
    ///
    /// # Errors
    /// For an empty prompt, or a sampler whose options are out of their ranges.
    pub fn new(
        prompt: &[u32],
        state: State,
        sampler: Sampler,
        max_tokens: usize,
        stop: Vec<Vec<u8>>,
    ) -> Result<Self> {
        if prompt.is_empty() {
            return Err(Error::Request {
                thing: "prompt".into(),
                expected: "at least one token".into(),
                found: "none".into(),
            });
        }
        sampler.check()?;
        let unread = prompt.to_vec();
        let (tokens, bytes, told, stopped) = (vec![], vec![], 0, false);
        Ok(Self { state, sampler, max_tokens, stop, unread, logits: None, tokens, bytes, told, stopped })
    }

    /// Reads the prompt, which [`Generation::next`] else does before the first token; `progress` is told after
    /// each chunk, and may stop it: the next call goes on from there. Does nothing once the prompt is read.
    ///
    /// # Errors
    /// As [`Model::infer_with`].
    pub fn read_prompt<V: Verdict>(
        &mut self,
        model: &Model,
        progress: &mut dyn FnMut(Progress) -> V,
    ) -> Result<()> {
        if self.tokens.is_empty() && self.logits.is_none() {
            self.logits = Some(self.read(model, progress)?);
        }
        Ok(())
    }

    /// Reads what is unread; the logits after it, `[V]`.
    fn read<V: Verdict>(
        &mut self,
        model: &Model,
        progress: &mut dyn FnMut(Progress) -> V,
    ) -> Result<Vec<f32>> {
        let input = RnnInputBatch::new(self.unread.clone(), RnnOption::Last);
        let mut read = 0;
        let output = model.infer_with(
            &RnnInput::new(vec![input], RnnInput::CHUNK),
            slice::from_mut(&mut self.state),
            &mut |told| {
                read = told.read;
                let flow = progress(told).flow();
                // After the last chunk nothing is left to stop, and its logits must not be lost.
                if told.read == told.total { ControlFlow::Continue(()) } else { flow }
            },
        );
        self.unread.drain(..read);
        Ok(output?.0.remove(0))
    }

    /// The next bytes of the text, as they become certain: what may yet turn out to begin a stop string is
    /// held back. `None` at its end.
    ///
    /// # Errors
    /// For a model without a vocabulary, and as [`Model::infer`].
    pub fn next(&mut self, model: &Model) -> Result<Option<&[u8]>> {
        let tokenizer = model.needs_tokenizer()?;
        while !self.stopped && self.tokens.len() < self.max_tokens {
            let logits = match self.logits.take() {
                Some(logits) => logits,
                None => self.read(model, &mut |_| ())?,
            };
            let token = self.sampler.sample(&logits);
            self.unread.push(token);
            self.tokens.push(token);
            // An id beyond the vocabulary of the file is padding: it has no bytes.
            let from = self.bytes.len();
            if token != END_OF_DOCUMENT {
                self.bytes.extend(tokenizer.token(token).unwrap_or_default());
            }
            let end = find_stop(&self.bytes, from, &self.stop);
            self.bytes.truncate(end.unwrap_or(self.bytes.len()));
            self.stopped = token == END_OF_DOCUMENT || end.is_some();
            let certain =
                self.bytes.len() - if self.stopped { 0 } else { held_back(&self.bytes, &self.stop) };
            if certain > self.told {
                let from = std::mem::replace(&mut self.told, certain);
                return Ok(Some(&self.bytes[from..certain]));
            }
        }
        let from = std::mem::replace(&mut self.told, self.bytes.len());
        Ok((from < self.bytes.len()).then(|| &self.bytes[from..]))
    }

    /// The tokens that were written, those of a stop string included.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The bytes that were written, up to a stop string.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether a stop string or the end of the document has come, rather than the limit.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// The state, which has read the prompt and all tokens but the last.
    pub fn into_state(self) -> State {
        self.state
    }
}

/// Where the first stop string begins that ends after `from`.
pub(crate) fn find_stop(bytes: &[u8], from: usize, stop: &[Vec<u8>]) -> Option<usize> {
    let stop = stop.iter().filter(|s| !s.is_empty());
    stop.filter_map(|s| {
        let start = (from + 1).saturating_sub(s.len());
        bytes[start..].windows(s.len()).position(|w| w == *s).map(|at| start + at)
    })
    .min()
}

/// Length of the longest end of `bytes` that begins a stop string.
fn held_back(bytes: &[u8], stop: &[Vec<u8>]) -> usize {
    let ends = |s: &Vec<u8>| (1..s.len()).rev().find(|n| bytes.ends_with(&s[..*n])).unwrap_or(0);
    stop.iter().map(ends).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_strings_may_cross_tokens() {
        let stop = &[b"\n\n".to_vec(), b"END".to_vec()];
        assert_eq!(find_stop(b"a\n\nb", 2, stop), Some(1));
        assert_eq!(find_stop(b"aEND\n\n", 1, stop), Some(1));
        assert_eq!(find_stop(b"a\nb", 0, stop), None);
        assert_eq!(find_stop(b"", 0, stop), None);
        assert_eq!(held_back(b"aEN", stop), 2);
        assert_eq!(held_back(b"a\n", stop), 1);
        assert_eq!(held_back(b"abc", stop), 0);
    }
}
