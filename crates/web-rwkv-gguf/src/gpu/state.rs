//! States on a GPU: slots of one buffer.

use std::sync::{Arc, Mutex};

use crate::{Error, Result};

use super::{Context, Mapped};

/// The states of a model on a GPU.
pub(crate) struct Pool {
    context: Arc<Context>,
    /// Floats of a state.
    pub(super) size: usize,
    slots: Mutex<Slots>,
}

struct Slots {
    buffer: wgpu::Buffer,
    free: Vec<u32>,
    count: usize,
}

/// A state in a pool; the slot is free again when nobody has it.
pub(crate) struct Slot {
    pub(super) pool: Arc<Pool>,
    pub(super) index: u32,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.pool.slots.lock().expect("no holder panics").free.push(self.index);
    }
}

impl Slot {
    /// The state, in one copy.
    pub(crate) fn read(&self) -> Result<Mapped> {
        let size = 4 * self.pool.size as u64;
        self.pool.context.read(&self.pool.buffer(), u64::from(self.index) * size, size)
    }

    pub(crate) fn same_pool(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }
}

impl Pool {
    /// A pool without slots for states of `size` floats.
    pub(super) fn new(context: Arc<Context>, size: usize) -> Self {
        let buffer = context.buffer("states", 4 * size.max(1) as u64);
        Self { context, size, slots: Mutex::new(Slots { buffer, free: vec![0], count: 1 }) }
    }

    pub(super) fn buffer(&self) -> wgpu::Buffer {
        self.slots.lock().expect("no holder panics").buffer.clone()
    }

    /// A slot of this pool, whatever it holds; makes the pool larger if all are taken.
    pub(super) fn take(self: &Arc<Self>) -> Result<Slot> {
        let mut slots = self.slots.lock().expect("no holder panics");
        if slots.free.is_empty() {
            self.grow(&mut slots)?;
        }
        let index = slots.free.pop().expect("the pool has grown");
        Ok(Slot { pool: self.clone(), index })
    }

    fn grow(&self, slots: &mut Slots) -> Result<()> {
        let context = &self.context;
        let most = (context.binding_limit / (4 * self.size as u64)) as usize;
        let count = (2 * slots.count).min(most);
        if count == slots.count {
            return Err(Error::Device {
                device: context.name.clone(),
                what: format!("no room for more than {most} states of {} bytes", 4 * self.size),
            });
        }
        let buffer = context.buffer("states", 4 * (self.size * count) as u64);
        let mut encoder = context.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&slots.buffer, 0, &buffer, 0, slots.buffer.size());
        context.queue.submit([encoder.finish()]);
        context.check()?;
        slots.free.extend((slots.count as u32..count as u32).rev());
        (slots.buffer, slots.count) = (buffer, count);
        Ok(())
    }
}
