//! Requests of several sequences, and how they are cut into chunks of the forward pass.

use std::{
    fmt,
    ops::{ControlFlow, Range},
    sync::Arc,
};

use crate::{Result, gpu::Chosen, sampler::Choice};

/// What a request wants back for its tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RnnOption {
    /// Logits after the last token, `[V]`.
    #[default]
    Last,
    /// Logits after every token, `[T, V]`.
    Full,
    /// Hidden vector after ln_out of the last token, `[C]`; the head is not computed.
    EmbedLast,
    /// Hidden vectors after ln_out of every token, `[T, C]`; the head is not computed.
    EmbedFull,
}

impl RnnOption {
    /// Whether the result is hidden vectors instead of logits.
    pub fn is_embed(self) -> bool {
        matches!(self, Self::EmbedLast | Self::EmbedFull)
    }

    fn every_token(self) -> bool {
        matches!(self, Self::Full | Self::EmbedFull)
    }
}

/// What becomes of the hidden vectors of a sequence's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pool {
    /// The vector after the last token, `[C]`.
    #[default]
    Last,
    /// The mean over all tokens, `[C]`.
    Mean,
    /// The vector of every token, `[T, C]`.
    None,
}

/// The tokens of one sequence, and what is wanted for them.
#[derive(Clone, Debug, Default)]
pub struct RnnInputBatch {
    /// Token ids; none leaves the state as it is and gives an empty result.
    pub tokens: Vec<u32>,
    /// What is wanted.
    pub option: RnnOption,
}

impl RnnInputBatch {
    /// A request for `tokens`.
    pub fn new(tokens: impl Into<Vec<u32>>, option: RnnOption) -> Self {
        Self { tokens: tokens.into(), option }
    }
}

/// Sequences that are run together; the one at index `b` continues state `b`.
#[derive(Clone, Debug)]
pub struct RnnInput {
    /// The sequences.
    pub batches: Vec<RnnInputBatch>,
    /// At most so many tokens of all sequences together go through the model at a time. A GPU takes more, as long as
    /// that takes no more than a moment.
    pub token_chunk_size: usize,
}

impl RnnInput {
    /// Tokens that go through the model at a time if nothing else is said.
    pub const CHUNK: usize = 256;

    /// A request for several sequences.
    pub fn new(batches: Vec<RnnInputBatch>, token_chunk_size: usize) -> Self {
        Self { batches, token_chunk_size }
    }

    /// Cuts the request into chunks of at most `size` tokens; sequences advance side by side.
    pub(crate) fn chunks(&self, size: usize) -> Vec<Chunk> {
        let size = size.max(1);
        let mut done = vec![0; self.batches.len()];
        let mut chunks = vec![];
        loop {
            let mut chunk = Chunk::default();
            let mut open = done.iter().zip(&self.batches).filter(|(d, b)| **d < b.tokens.len()).count();
            for (slot, batch) in self.batches.iter().enumerate() {
                let (start, room) = (done[slot], size - chunk.tokens.len());
                let left = batch.tokens.len() - start;
                if left == 0 {
                    continue;
                }
                let len = left.min(room.div_ceil(open));
                open -= 1;
                if len > 0 {
                    chunk.push(slot, batch, start..start + len);
                    done[slot] += len;
                }
            }
            if chunk.tokens.is_empty() {
                return chunks;
            }
            chunks.push(chunk);
        }
    }
}

/// What a request gives: for each sequence its rows of logits or hidden vectors, one after another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RnnOutput(pub Vec<Vec<f32>>);

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Tokens that have been read.
    pub read: usize,
    /// Tokens of all sequences together.
    pub total: usize,
}

/// What a progress callback gives back: nothing, or whether to go on.
pub trait Verdict {
    /// Whether to go on.
    fn flow(self) -> ControlFlow<()>;
}

impl Verdict for () {
    fn flow(self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl Verdict for ControlFlow<()> {
    fn flow(self) -> ControlFlow<()> {
        self
    }
}

/// Where a sequence stands among the tokens of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// Index of its state.
    pub(crate) slot: usize,
    /// Its first token in the chunk.
    pub(crate) start: usize,
    /// How many tokens of it are in the chunk; may be zero.
    pub(crate) len: usize,
}

impl Sequence {
    pub(crate) fn tokens(self) -> Range<usize> {
        self.start..self.start + self.len
    }
}

/// A token that was chosen, or will have been when a GPU comes to it.
#[derive(Clone)]
pub(crate) enum Token {
    Known(u32),
    /// A row of what a GPU chooses.
    #[cfg_attr(not(feature = "gpu"), allow(dead_code))]
    Coming(Arc<Chosen>, usize),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(id) => write!(f, "{id}"),
            Self::Coming(..) => f.write_str("coming"),
        }
    }
}

impl Token {
    /// The token, once it is known.
    pub(crate) fn id(&self) -> Result<u32> {
        match self {
            Self::Known(id) => Ok(*id),
            Self::Coming(chosen, row) => chosen.token(*row),
        }
    }
}

/// Tokens that go through the model together, in one flat dimension.
#[derive(Clone, Default)]
pub(crate) struct Chunk {
    pub(crate) tokens: Vec<u32>,
    /// Which of them are still to be chosen, and the row of what is.
    pub(crate) coming: Vec<(usize, Arc<Chosen>, usize)>,
    pub(crate) seqs: Vec<Sequence>,
    /// Rows whose logits are wanted, and the sequence that each belongs to.
    pub(crate) logits: Vec<(usize, usize)>,
    /// Rows whose hidden vectors are wanted, likewise.
    pub(crate) hidden: Vec<(usize, usize)>,
    /// How a token is chosen by each row of logits, if that is wanted instead.
    pub(crate) choices: Vec<Choice>,
    /// Whether a sequence wants more than its last token.
    pub(crate) every_token: bool,
}

/// What is left of a chunk after the recurrence of its last layer, if only last tokens are wanted: of each sequence the last
/// two, since what comes then mixes with the token before, and with none further back.
pub(crate) struct Tails {
    /// The last layer.
    pub(crate) layer: usize,
    /// The sequences, as they then stand.
    pub(crate) seqs: Vec<Sequence>,
    /// Which rows stay.
    pub(crate) rows: Vec<u32>,
}

impl Tails {
    /// Where a row goes that stays.
    pub(crate) fn place(&self, row: usize) -> usize {
        self.rows.binary_search(&(row as u32)).expect("last tokens stay")
    }
}

impl Chunk {
    /// What is left for the end of `layer`, the last, if that is less by half.
    pub(crate) fn tails(&self, layer: usize) -> Option<Tails> {
        let left: usize = self.seqs.iter().map(|seq| seq.len.min(2)).sum();
        if self.every_token || 2 * left > self.tokens.len() {
            return None;
        }
        let mut tails = Tails { layer, seqs: vec![], rows: vec![] };
        for seq in &self.seqs {
            let (start, len) = (tails.rows.len(), seq.len.min(2));
            tails.rows.extend(seq.tokens().skip(seq.len - len).map(|row| row as u32));
            tails.seqs.push(Sequence { start, len, ..*seq });
        }
        Some(tails)
    }

    fn push(&mut self, slot: usize, batch: &RnnInputBatch, part: Range<usize>) {
        let start = self.tokens.len();
        self.seqs.push(Sequence { slot, start, len: part.len() });
        self.tokens.extend(&batch.tokens[part.clone()]);
        let wanted = if batch.option.is_embed() { &mut self.hidden } else { &mut self.logits };
        let last = part.end == batch.tokens.len();
        self.every_token |= batch.option.every_token();
        let first = if batch.option.every_token() { 0 } else { part.len() - last as usize };
        wanted.extend((first..part.len()).map(|t| (start + t, slot)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_token_once_in_order() {
        for size in [1, 2, 5, 7, 100] {
            let batches: Vec<_> = [0, 3, 11, 1]
                .iter()
                .enumerate()
                .map(|(b, &n)| {
                    RnnInputBatch::new(
                        (0..n).map(|t| b as u32 * 100 + t).collect::<Vec<_>>(),
                        RnnOption::Full,
                    )
                })
                .collect();
            let input = RnnInput::new(batches.clone(), size);
            let mut seen: Vec<Vec<u32>> = vec![vec![]; 4];
            for chunk in input.chunks(size) {
                assert!(!chunk.tokens.is_empty() && chunk.tokens.len() <= size);
                assert_eq!(chunk.logits.len(), chunk.tokens.len());
                for s in &chunk.seqs {
                    seen[s.slot].extend(&chunk.tokens[s.tokens()]);
                }
            }
            assert_eq!(seen, batches.into_iter().map(|b| b.tokens).collect::<Vec<_>>());
        }
    }
}
