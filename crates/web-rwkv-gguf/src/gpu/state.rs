//! States on a GPU: slots of one buffer, and what has no room in it.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex},
};

use crate::{Error, Result};

use super::{Context, Mapped, context::Sent};

/// The states of a model on a GPU. Where they are more than its buffer can hold, those that were used longest ago are in
/// this machine's memory until a batch needs them.
pub(crate) struct Pool {
    context: Arc<Context>,
    /// Floats of a state.
    pub(super) size: usize,
    slots: Mutex<Slots>,
}

struct Slots {
    buffer: wgpu::Buffer,
    free: Vec<u32>,
    /// Slots beside that of zeros, now and at most.
    count: usize,
    most: usize,
    /// Where the state of each [`Slot`] is.
    places: HashMap<u64, Place>,
    next: u64,
    /// The number of the batch that is being made.
    batch: u64,
    /// Whose state the last batch has left, if that was one text, and whether that of the text before was fetched.
    left: Option<u64>,
    fetched: bool,
}

struct Place {
    at: At,
    /// The last batch that needed it.
    used: u64,
    /// It, on its way to this machine.
    sent: Option<Sent>,
}

enum At {
    /// A slot of the buffer.
    Device(u32),
    Host(Arc<Mapped>),
}

/// A state in a pool; its slot is free again when nobody has it.
pub(crate) struct Slot {
    pool: Arc<Pool>,
    number: u64,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let slots = &mut *self.pool.slots.lock().expect("no holder panics");
        if let Some(Place { at: At::Device(index), .. }) = slots.places.remove(&self.number) {
            slots.free.push(index);
        }
    }
}

impl Slot {
    /// The state, in one copy.
    pub(crate) fn read(&self) -> Result<Arc<Mapped>> {
        let slots = &mut *self.pool.slots.lock().expect("no holder panics");
        slots.fetched |= slots.left == Some(self.number);
        self.pool.fetch(slots, self.number)
    }

    /// Told of the state that a text leaves once its batch is submitted. If that of the text before was fetched, this one is
    /// sent at once, so that it is on its way before anybody has seen results.
    pub(super) fn left(&self) {
        let slots = &mut *self.pool.slots.lock().expect("no holder panics");
        slots.left = Some(self.number);
        let place = slots.places.get_mut(&self.number).expect("a slot has a place");
        if let (true, At::Device(index)) = (mem::take(&mut slots.fetched), &place.at) {
            place.sent = Some(self.pool.send(&slots.buffer, *index));
        }
    }

    /// Its number in the buffer.
    ///
    /// # Panics
    /// If it is not there: a batch brings its states there.
    pub(super) fn index(&self) -> u32 {
        match self.pool.slots.lock().expect("no holder panics").places[&self.number].at {
            At::Device(index) => index,
            At::Host(_) => unreachable!("a batch has its states on the device"),
        }
    }

    pub(crate) fn same_pool(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }
}

impl Pool {
    /// The slot of a state of zeros, which nobody writes.
    pub(super) const ZEROS: u32 = 0;

    /// A pool without states, which are of `size` floats.
    pub(super) fn new(context: Arc<Context>, size: usize) -> Self {
        let bytes = 4 * size.max(1) as u64;
        let most = (context.binding_limit / bytes).saturating_sub(1) as usize;
        let count = most.min(1);
        let slots = Slots {
            buffer: context.buffer("states", bytes * (count as u64 + 1)),
            free: (1..=count as u32).collect(),
            count,
            most,
            places: HashMap::new(),
            next: 0,
            batch: 0,
            left: None,
            fetched: false,
        };
        Self { context, size, slots: Mutex::new(slots) }
    }

    pub(super) fn buffer(&self) -> wgpu::Buffer {
        self.slots.lock().expect("no holder panics").buffer.clone()
    }

    /// Begins a batch, with these states on the device: they stay there until the next one.
    pub(super) fn begin<'a>(&self, states: impl Iterator<Item = &'a Arc<Slot>> + Clone) -> Result<()> {
        let slots = &mut *self.slots.lock().expect("no holder panics");
        slots.batch += 1;
        slots.left = None;
        for slot in states.clone() {
            let place = slots.places.get_mut(&slot.number).expect("a slot has a place");
            (place.used, place.sent) = (slots.batch, None);
        }
        for slot in states {
            if let At::Host(_) = slots.places[&slot.number].at {
                let index = self.room(slots)?;
                let place = slots.places.get_mut(&slot.number).expect("as above");
                if let At::Host(data) = mem::replace(&mut place.at, At::Device(index)) {
                    self.write(slots, index, &data);
                }
            }
        }
        Ok(())
    }

    /// A new slot for the batch that has begun, whatever it holds.
    pub(super) fn take(self: &Arc<Self>) -> Result<Arc<Slot>> {
        let slots = &mut *self.slots.lock().expect("no holder panics");
        let at = At::Device(self.room(slots)?);
        let number = slots.next;
        slots.next += 1;
        slots.places.insert(number, Place { at, used: slots.batch, sent: None });
        Ok(Arc::new(Slot { pool: self.clone(), number }))
    }

    /// The same, of these contents.
    pub(super) fn put(self: &Arc<Self>, data: &[f32]) -> Result<Arc<Slot>> {
        let slot = self.take()?;
        let index = slot.index();
        self.write(&self.slots.lock().expect("no holder panics"), index, data);
        Ok(slot)
    }

    fn bytes(&self) -> u64 {
        4 * self.size as u64
    }

    fn write(&self, slots: &Slots, index: u32, data: &[f32]) {
        let at = u64::from(index) * self.bytes();
        self.context.queue.write_buffer(&slots.buffer, at, bytemuck::cast_slice(data));
    }

    fn send(&self, buffer: &wgpu::Buffer, index: u32) -> Sent {
        self.context.send(buffer, u64::from(index) * self.bytes(), self.bytes())
    }

    /// A state in this machine's memory.
    fn fetch(&self, slots: &mut Slots, number: u64) -> Result<Arc<Mapped>> {
        let place = slots.places.get_mut(&number).expect("a slot has a place");
        match &place.at {
            At::Device(index) => {
                let sent = place.sent.take().unwrap_or_else(|| self.send(&slots.buffer, *index));
                sent.receive().map(Arc::new)
            }
            At::Host(data) => Ok(data.clone()),
        }
    }

    /// A slot of the buffer that nobody has: makes it larger, or moves the state that was used longest ago away.
    fn room(&self, slots: &mut Slots) -> Result<u32> {
        if slots.free.is_empty() && slots.count < slots.most {
            self.grow(slots)?;
        }
        if let Some(index) = slots.free.pop() {
            return Ok(index);
        }
        let idle = slots.places.iter().filter_map(|(number, place)| match place.at {
            At::Device(index) if place.used < slots.batch => Some((place.used, *number, index)),
            _ => None,
        });
        let Some((_, number, index)) = idle.min() else {
            return Err(Error::Device {
                device: self.context.name.clone(),
                what: format!(
                    "no room for a batch of more than {} states of {} bytes",
                    slots.most,
                    self.bytes()
                ),
            });
        };
        let data = self.fetch(slots, number)?;
        slots.places.get_mut(&number).expect("found above").at = At::Host(data);
        Ok(index)
    }

    fn grow(&self, slots: &mut Slots) -> Result<()> {
        let context = &self.context;
        let count = (2 * slots.count).min(slots.most);
        let buffer = context.buffer("states", self.bytes() * (count as u64 + 1));
        let mut encoder = context.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&slots.buffer, 0, &buffer, 0, slots.buffer.size());
        context.queue.submit([encoder.finish()]);
        context.check()?;
        slots.free.extend((slots.count as u32 + 1..=count as u32).rev());
        (slots.buffer, slots.count) = (buffer, count);
        Ok(())
    }

    /// Lets the buffer have fewer slots.
    #[cfg(test)]
    pub(super) fn limit(&self, most: usize) {
        self.slots.lock().unwrap().most = most;
    }
}
