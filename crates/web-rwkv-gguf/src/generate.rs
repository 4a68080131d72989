//! Continuing a text token by token.

use std::{collections::VecDeque, ops::ControlFlow, slice};

use crate::{
    Error, Model, Progress, Result, RnnInput, RnnInputBatch, RnnOption, Sampler, State, Tokenizer, Verdict,
    batch::Token,
};

/// Token that ends a document.
pub(crate) const END_OF_DOCUMENT: u32 = 0;

/// A text that is being written: call [`Generation::next`] until it gives `None`, or [`Generation::advance`] for several
/// that are written together.
///
/// A GPU is always given some steps more than those whose tokens have come back, so that it does not wait for this
/// machine; what it does beyond the end of a text is undone. It is not if there are penalties, which depend on those
/// tokens.
#[derive(Clone, Debug)]
pub struct Generation {
    /// What the model goes on from: it has read all but the last token of those that are coming.
    state: State,
    /// The state that has read all but the last token of those that have come, if `state` has read more.
    behind: Option<State>,
    sampler: Sampler,
    max_tokens: usize,
    stop: Vec<Vec<u8>>,
    ignores_end: bool,
    /// What is left of the prompt.
    unread: Vec<u32>,
    /// Tokens that have been or are being chosen, but not looked at.
    coming: VecDeque<Coming>,
    tokens: Vec<u32>,
    bytes: Vec<u8>,
    /// Bytes that `next` has given.
    told: usize,
    stopped: bool,
}

/// A token that comes, and the state that has not read it yet, if the next step has begun.
#[derive(Clone, Debug)]
struct Coming {
    token: Token,
    before: Option<State>,
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
        Ok(Self {
            state,
            behind: None,
            sampler,
            max_tokens,
            stop,
            ignores_end: false,
            unread: prompt.to_vec(),
            coming: VecDeque::new(),
            tokens: vec![],
            bytes: vec![],
            told: 0,
            stopped: false,
        })
    }

    /// The same, which goes on beyond the end of a document: for measurements.
    pub fn ignoring_end(self) -> Self {
        Self { ignores_end: true, ..self }
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
        if self.unread.is_empty() {
            return Ok(());
        }
        let input = RnnInputBatch::new(self.unread.clone(), RnnOption::Last);
        let mut read = 0;
        let mut sampler = self.sampler.clone(); // which must not have drawn if this is stopped
        let chosen = model.choose(
            &RnnInput::new(vec![input], RnnInput::CHUNK),
            &[sampler.choice()],
            slice::from_mut(&mut self.state),
            &mut |told| {
                read = told.read;
                let flow = progress(told).flow();
                // After the last chunk nothing is left to stop, and what it has chosen must not be lost.
                if told.read == told.total { ControlFlow::Continue(()) } else { flow }
            },
        );
        self.unread.drain(..read);
        self.coming.extend(chosen?.into_iter().map(|token| Coming { token, before: None }));
        self.sampler = sampler;
        Ok(())
    }

    /// The next bytes of the text, as they become certain: what may yet turn out to begin a stop string is
    /// held back. `None` at its end.
    ///
    /// # Errors
    /// For a model without a vocabulary, and as [`Model::infer`].
    pub fn next(&mut self, model: &Model) -> Result<Option<&[u8]>> {
        model.needs_tokenizer()?;
        while self.certain() == self.told && Self::advance(slice::from_mut(self), model)? {}
        Ok(self.news())
    }

    /// Writes a token more of each text that is not at its end, all in one batch; false if all are. What has become
    /// certain of a text is then its [`Generation::news`]; with a model without a vocabulary there are only tokens.
    ///
    /// # Errors
    /// As [`Model::infer`].
    pub fn advance(texts: &mut [Self], model: &Model) -> Result<bool> {
        let mut open: Vec<_> = texts.iter_mut().filter(|text| !text.is_at_end()).collect();
        Self::read_prompts(&mut open, model)?;
        let free = open.iter().all(|text| !text.sampler.has_penalties());
        let ahead = if free { model.ahead(open.len()) } else { 0 };
        loop {
            let needs = |text: &Self| {
                text.coming.len() <= ahead && text.tokens.len() + text.coming.len() < text.max_tokens
            };
            let mut batch: Vec<_> = open.iter_mut().map(|text| &mut **text).filter(|t| needs(t)).collect();
            if batch.is_empty() {
                break;
            }
            Self::step(&mut batch, model)?;
        }
        for text in &mut open {
            text.take(model.tokenizer())?;
        }
        Ok(!open.is_empty())
    }

    /// Reads all prompts that have not been read.
    fn read_prompts(texts: &mut [&mut Self], model: &Model) -> Result<()> {
        let mut texts: Vec<_> = texts.iter_mut().filter(|text| !text.unread.is_empty()).collect();
        if let [text] = &mut texts[..] {
            return text.read_prompt(model, &mut |_| ());
        }
        let batches = texts.iter().map(|text| RnnInputBatch::new(text.unread.clone(), RnnOption::Last));
        let input = RnnInput::new(batches.collect(), RnnInput::CHUNK);
        let choices: Vec<_> = texts.iter_mut().map(|text| text.sampler.choice()).collect();
        let mut states: Vec<_> = texts.iter_mut().map(|text| text.state.take()).collect();
        let chosen = model.choose(&input, &choices, &mut states, &mut |_| ());
        texts.iter_mut().zip(states).for_each(|(text, state)| text.state = state);
        for (text, token) in texts.into_iter().zip(chosen?) {
            text.unread.clear();
            text.coming.push_back(Coming { token, before: None });
        }
        Ok(())
    }

    /// A step of decoding for each text: reads the token that was chosen last, and chooses the next.
    fn step(texts: &mut [&mut Self], model: &Model) -> Result<()> {
        let mut tokens = vec![];
        for text in &mut *texts {
            tokens.push(match text.coming.back_mut() {
                Some(last) => {
                    last.before = Some(text.state.clone());
                    text.behind = None; // `take` puts the next there, and this one's place is free
                    last.token.clone()
                }
                None => Token::Known(*text.tokens.last().expect("the prompt has been read")),
            });
        }
        let choices = texts.iter_mut().map(|text| text.sampler.choice()).collect();
        let mut states: Vec<_> = texts.iter_mut().map(|text| text.state.take()).collect();
        let chosen = model.step(&tokens, choices, &mut states);
        texts.iter_mut().zip(states).for_each(|(text, state)| text.state = state);
        for (text, token) in texts.iter_mut().zip(chosen?) {
            text.coming.push_back(Coming { token, before: None });
        }
        Ok(())
    }

    /// Writes the first token of those that are coming.
    fn take(&mut self, tokenizer: Option<&Tokenizer>) -> Result<()> {
        let Some(Coming { token, before }) = self.coming.pop_front() else { return Ok(()) };
        let token = token.id()?;
        self.behind = before;
        self.tokens.push(token);
        self.sampler.count(token);
        let ends = token == END_OF_DOCUMENT && !self.ignores_end;
        // An id beyond the vocabulary of the file is padding: it has no bytes.
        let from = self.bytes.len();
        if !ends {
            self.bytes.extend(tokenizer.and_then(|t| t.token(token)).unwrap_or_default());
        }
        let end = find_stop(&self.bytes, from, &self.stop);
        self.bytes.truncate(end.unwrap_or(self.bytes.len()));
        self.stopped = ends || end.is_some();
        if self.stopped {
            self.coming.clear();
        }
        if let Some(state) = self.behind.take_if(|_| self.stopped) {
            self.state = state;
        }
        Ok(())
    }

    fn is_at_end(&self) -> bool {
        self.stopped || self.tokens.len() >= self.max_tokens
    }

    /// Bytes that no stop string can take back.
    fn certain(&self) -> usize {
        self.bytes.len() - if self.is_at_end() { 0 } else { held_back(&self.bytes, &self.stop) }
    }

    /// The bytes that have become certain since the last time; `None` if there are none.
    pub fn news(&mut self) -> Option<&[u8]> {
        let certain = self.certain();
        let from = std::mem::replace(&mut self.told, certain);
        (from < certain).then(|| &self.bytes[from..certain])
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
        self.behind.unwrap_or(self.state)
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
