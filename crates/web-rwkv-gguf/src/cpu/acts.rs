//! Activations: what stands between operations.

use std::{borrow::Cow, sync::Arc};

use crate::ops::Kind;

use super::{
    Cpu, Level, Shared,
    lines::Lines,
    rows::{Mix, row},
};

/// Activations `[T, width]`.
#[derive(Clone)]
pub(crate) struct Acts {
    /// Of as many tokens as there ever were.
    pub(super) data: Lines<f32>,
    pub(super) width: usize,
    pub(super) kind: Kind,
    tokens: usize,
    /// What rows are made of when products read them, instead of `data`.
    mixed: Option<Mixed>,
}

/// Rows of which there are six times as many as of what they are mixed of, so that writing and reading them takes longer than making
/// them.
#[derive(Clone)]
struct Mixed {
    mix: Vec<f32>,
    shifted: Arc<Shifted>,
}

/// What a token shift mixes.
pub(super) struct Shifted {
    /// Those of tokens, and behind them what came before the first ones of sequences.
    pub(super) rows: Lines<f32>,
    /// Which row came before that of a token.
    pub(super) before: Vec<usize>,
}

impl Shifted {
    /// `y = h + m (before − h)` of token `t`.
    pub(super) fn mix(&self, level: Level, t: usize, mix: &[f32], y: &mut [f32]) {
        let [h, before] = [t, self.before[t]].map(|t| &self.rows[t * y.len()..][..y.len()]);
        row(level, Mix { mix, h, before, y });
    }
}

impl Acts {
    pub(crate) fn new(width: usize, kind: Kind) -> Self {
        Self { data: Lines::default(), width, kind, tokens: 0, mixed: None }
    }

    /// They are of so many tokens; rows get room when they are written, since those that are mixed need none.
    pub(crate) fn resize(&mut self, tokens: usize) {
        (self.tokens, self.mixed) = (tokens, None);
    }

    /// All rows; what they hold is left as it is.
    pub(super) fn rows_mut(&mut self) -> &mut [f32] {
        let len = self.tokens * self.width;
        self.data.resize(len.max(self.data.len()));
        &mut self.data[..len]
    }

    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// A row, which is not mixed.
    pub(crate) fn row(&self, t: usize) -> &[f32] {
        assert!(self.mixed.is_none());
        &self.data[t * self.width..][..self.width]
    }

    pub(super) fn row_mut(&mut self, t: usize) -> &mut [f32] {
        let width = self.width;
        &mut self.rows_mut()[t * width..][..width]
    }

    /// A view through which several threads may write different places.
    pub(super) fn shared(&mut self) -> Shared<f32> {
        let width = self.width;
        Shared::new(self.rows_mut(), width)
    }

    /// The same of so many tokens.
    pub(super) fn with(&mut self, tokens: usize) -> Shared<f32> {
        self.resize(tokens);
        self.shared()
    }

    /// Lets rows be made of these when they are read.
    pub(super) fn mix(&mut self, mix: &[f32], shifted: &Arc<Shifted>) {
        self.tokens = shifted.before.len();
        self.mixed = Some(Mixed { mix: mix.to_vec(), shifted: shifted.clone() });
    }

    pub(super) fn is_mixed(&self) -> bool {
        self.mixed.is_some()
    }

    /// Row `t`, which is made in `room` if it is mixed.
    pub(super) fn read<'a>(&'a self, level: Level, t: usize, room: &'a mut Vec<f32>) -> &'a [f32] {
        let Some(Mixed { mix, shifted }) = &self.mixed else { return self.row(t) };
        room.resize(self.width, 0.0);
        shifted.mix(level, t, mix, room);
        room
    }

    /// Where row `t`, or that of the token which it is mixed of, begins, which need not be there.
    pub(super) fn place(&self, t: usize) -> *const f32 {
        let rows = self.mixed.as_ref().map_or(&self.data, |mixed| &mixed.shifted.rows);
        rows.as_ptr().wrapping_add(t * self.width)
    }

    /// The same with rows that are not mixed.
    pub(super) fn made(&self, cpu: &Cpu) -> Cow<'_, Self> {
        let Some(Mixed { mix, shifted }) = &self.mixed else { return Cow::Borrowed(self) };
        let mut made = Self::new(self.width, self.kind);
        made.data = Lines::new(self.tokens * self.width);
        let y = made.with(self.tokens);
        cpu.each(self.tokens, 2 * self.width, |t| {
            // SAFETY: each task has tokens of its own.
            shifted.mix(cpu.level, t, mix, unsafe { y.part(t, 0, self.width) });
        });
        Cow::Owned(made)
    }

    /// What stands there.
    pub(super) fn values(&self) -> &[f32] {
        &self.data[..self.tokens * self.width]
    }
}
