//! Tokens that a GPU chooses: there, for the next step, and on their way to this machine.

use std::sync::{Arc, Mutex, OnceLock};

use crate::Result;

use super::Context;

/// Tokens at least that a pair of buffers has room for.
const ROOM: usize = 64;

/// The tokens that a batch chooses, one for each row of logits.
pub(crate) struct Chosen {
    pub(super) context: Arc<Context>,
    rows: usize,
    /// On the device, and to be read.
    pub(super) buffers: [wgpu::Buffer; 2],
    /// When the batch runs.
    pub(super) submission: OnceLock<wgpu::SubmissionIndex>,
    tokens: Mutex<Vec<u32>>,
}

impl Chosen {
    /// Room for the tokens of a batch that has not been submitted.
    pub(super) fn new(context: &Arc<Context>, rows: usize) -> Self {
        let mut free = context.chosen.lock().expect("no holder panics");
        let fit = free.iter().position(|[buffer, _]| buffer.size() > 4 * rows as u64);
        let buffers = fit.map(|i| free.swap_remove(i)).unwrap_or_else(|| {
            let size = 4 * (rows + 1).next_power_of_two().max(ROOM) as u64;
            [context.buffer("chosen", size), context.mappable(size)]
        });
        let context = context.clone();
        Self { context, rows, buffers, submission: OnceLock::new(), tokens: Mutex::default() }
    }

    /// Those of the tokens; what is read has a word more, for [`Context::arrived`].
    pub(super) fn bytes(&self) -> u64 {
        4 * self.rows as u64
    }

    /// The token of a row, once it is known.
    pub(crate) fn token(&self, row: usize) -> Result<u32> {
        let mut tokens = self.tokens.lock().expect("no holder panics");
        if tokens.is_empty() {
            let [_, back] = &self.buffers;
            let submission = self.submission.get().expect("a batch ends when it has been submitted");
            let view = self.context.map(back, self.bytes() + 4, submission)?;
            tokens.extend(bytemuck::cast_slice::<u8, u32>(&view));
            drop(view);
            back.unmap();
            self.context.arrived(tokens.pop().expect("there is one word more"))?;
        }
        Ok(tokens[row])
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.context.chosen.lock().expect("no holder panics").push(self.buffers.clone());
    }
}
