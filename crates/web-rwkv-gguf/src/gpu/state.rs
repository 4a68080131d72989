//! States on a GPU: slots of a buffer or two, and what has no room there.

use std::{
    collections::HashMap,
    mem,
    ops::Range,
    sync::{Arc, Mutex},
};

use crate::{Error, Result};

use super::{Batch, Bound, Context, Gpu, Mapped, context::Sent};

/// Buffers of states at most. One has all layers; of more slots than it has room for, two have half of the layers each. So two
/// states of each of 64 texts have room if they are of 21 MB.
const BUFFERS: usize = 2;

/// The states of a model on a GPU. Where they are more than its buffers can hold, those that were used longest ago are in
/// this machine's memory until a batch needs them.
pub(crate) struct Pool {
    context: Arc<Context>,
    /// Layers of a state, and bytes of each.
    layers: usize,
    layer: u64,
    slots: Mutex<Slots>,
}

/// Buffers of states: each has so many layers of every slot, one slot after another.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Buffers {
    pub(super) all: Vec<wgpu::Buffer>,
    layers: usize,
    /// Bytes of a layer.
    layer: u64,
}

impl Buffers {
    /// The number of the buffer that has a layer, where the layer begins in a slot there, and the size of a slot, in floats.
    pub(super) fn place(&self, layer: usize) -> (usize, [u32; 2]) {
        (layer / self.layers, [self.floats(layer % self.layers), self.floats(self.layers)])
    }

    /// Floats of so many layers.
    fn floats(&self, layers: usize) -> u32 {
        (layers as u64 * self.layer / 4) as u32
    }

    /// Where layers of a slot are, in their order: buffers, and where in them, in bytes.
    fn pieces(&self, index: u32, layers: Range<usize>) -> impl Iterator<Item = (&wgpu::Buffer, Range<u64>)> {
        let firsts = (0..).step_by(self.layers);
        self.all.iter().zip(firsts).filter_map(move |(buffer, first)| {
            let [start, end] =
                [layers.start, layers.end].map(|i| i.clamp(first, first + self.layers) - first);
            let at = |layer: usize| (u64::from(index) * self.layers as u64 + layer as u64) * self.layer;
            (start < end).then(|| (buffer, at(start)..at(end)))
        })
    }

    /// Records copies of layers of a slot, one after another, to a place in another buffer.
    pub(super) fn copy(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        (index, layers): (u32, Range<usize>),
        (to, mut at): (&wgpu::Buffer, u64),
    ) {
        for (from, bytes) in self.pieces(index, layers) {
            let size = bytes.end - bytes.start;
            encoder.copy_buffer_to_buffer(from, bytes.start, to, at, size);
            at += size;
        }
    }
}

struct Slots {
    buffers: Buffers,
    free: Vec<u32>,
    /// Slots beside that of zeros, now and at most.
    count: usize,
    most: usize,
    /// Bytes of a buffer at most.
    limit: u64,
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

/// Where in this machine's memory a state goes, and which of its layers are still to be sent.
pub(super) struct Outgoing {
    pub(super) to: Mapped,
    pub(super) layers: Vec<usize>,
}

impl Gpu {
    /// Where a dispatch of a layer sends what the layer before has left of the state, if somebody wants it and both are in the
    /// same buffer.
    pub(super) fn send_before(&self, b: &mut Batch<'_>, layer: usize, bound: &mut Bound) -> Option<u32> {
        let before = layer.checked_sub(1).filter(|_| self.context.shares())?;
        if Self::state_at(b, before, 0).0 != *bound {
            return None;
        }
        let outgoing = b.outgoing.as_mut()?;
        outgoing.layers.retain(|layer| *layer != before);
        bound.sends = true;
        let (m, to) = (&mut *b.memory, outgoing.to.buffer());
        if m.outgoing.as_ref() != Some(to) {
            m.outgoing = Some(to.clone());
            m.groups.retain(|bound, _| !bound.sends);
        }
        Some(m.states.floats(before))
    }
}

enum At {
    /// A slot.
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

    /// Told of the state that a text leaves once its batch is submitted, which goes to this machine if a buffer there is given:
    /// at once, so that it is on its way before anybody has seen results. Some layers may have been sent.
    pub(super) fn left(&self, outgoing: Option<Outgoing>) {
        let slots = &mut *self.pool.slots.lock().expect("no holder panics");
        slots.left = Some(self.number);
        let place = slots.places.get_mut(&self.number).expect("a slot has a place");
        if let (Some(outgoing), At::Device(index)) = (outgoing, &place.at) {
            place.sent = Some(self.pool.send(&slots.buffers, *index, outgoing));
        }
    }

    /// Its number in the buffers.
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

    /// A pool without states, which are of such sizes.
    pub(super) fn new(context: Arc<Context>, [layers, rows, channels]: [usize; 3]) -> Self {
        let (layers, layer) = (layers.max(1), 4 * (rows * channels).max(1) as u64);
        let limit = context.binding_limit;
        let most = (limit / (layers.div_ceil(BUFFERS) as u64 * layer)).saturating_sub(1) as usize;
        let count = most.min(1);
        let buffer = context.buffer("states", (count as u64 + 1) * layers as u64 * layer);
        let slots = Slots {
            buffers: Buffers { all: vec![buffer], layers, layer },
            free: (1..=count as u32).collect(),
            count,
            most,
            limit,
            places: HashMap::new(),
            next: 0,
            batch: 0,
            left: None,
            fetched: false,
        };
        Self { context, layers, layer, slots: Mutex::new(slots) }
    }

    pub(super) fn buffers(&self) -> Buffers {
        self.slots.lock().expect("no holder panics").buffers.clone()
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

    /// Bytes of a state.
    fn bytes(&self) -> u64 {
        self.layers as u64 * self.layer
    }

    fn write(&self, slots: &Slots, index: u32, data: &[f32]) {
        let mut data: &[u8] = bytemuck::cast_slice(data);
        for (buffer, bytes) in slots.buffers.pieces(index, 0..self.layers) {
            let own =
                data.split_off(..(bytes.end - bytes.start) as usize).expect("pieces are all of a state");
            self.context.queue.write_buffer(buffer, bytes.start, own);
        }
    }

    /// Where the state goes that the batch leaves which has begun, of one text: it is expected to be fetched if that of the text
    /// before was.
    pub(super) fn outgoing(&self) -> Option<Outgoing> {
        let fetched = mem::take(&mut self.slots.lock().expect("no holder panics").fetched);
        fetched.then(|| self.all_outgoing())
    }

    fn all_outgoing(&self) -> Outgoing {
        Outgoing { to: self.context.room(self.bytes()), layers: (0..self.layers).collect() }
    }

    fn send(&self, buffers: &Buffers, index: u32, Outgoing { to, layers }: Outgoing) -> Sent {
        let mut encoder = self.context.device.create_command_encoder(&Default::default());
        for run in layers.chunk_by(|a, b| a + 1 == *b) {
            let (first, at) = (run[0], run[0] as u64 * self.layer);
            buffers.copy(&mut encoder, (index, first..first + run.len()), (to.buffer(), at));
        }
        to.sent(self.context.queue.submit([encoder.finish()]))
    }

    /// A state in this machine's memory.
    fn fetch(&self, slots: &mut Slots, number: u64) -> Result<Arc<Mapped>> {
        let place = slots.places.get_mut(&number).expect("a slot has a place");
        match &place.at {
            At::Device(index) => {
                let send = || self.send(&slots.buffers, *index, self.all_outgoing());
                let sent = place.sent.take().unwrap_or_else(send);
                sent.receive().map(Arc::new)
            }
            At::Host(data) => Ok(data.clone()),
        }
    }

    /// Makes room for so many states on the device at a time; false if they have none.
    pub(super) fn make_room(&self, states: usize) -> bool {
        let slots = &mut *self.slots.lock().expect("no holder panics");
        while slots.count < states.min(slots.most) {
            self.grow(slots);
        }
        states <= slots.most
    }

    /// A slot that nobody has: makes the buffers larger, or moves the state that was used longest ago away.
    fn room(&self, slots: &mut Slots) -> Result<u32> {
        if slots.free.is_empty() && slots.count < slots.most {
            self.grow(slots);
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

    /// Makes the buffers twice as large, if the device has memory for that; otherwise they stay as they are.
    fn grow(&self, slots: &mut Slots) {
        let count = (2 * slots.count).min(slots.most);
        let bytes = |layers: usize| (count as u64 + 1) * layers as u64 * self.layer;
        let mut shares = (1..=BUFFERS).map(|n| self.layers.div_ceil(n));
        let layers =
            shares.find(|layers| bytes(*layers) <= slots.limit).expect("as many as `most` have room");
        let firsts = (0..self.layers).step_by(layers);
        let all = firsts.clone().map(|_| self.context.allocate("states", bytes(layers))).collect();
        let all: Vec<_> = match all {
            Ok(all) => all,
            Err(e) => {
                log::debug!("{e}");
                slots.most = slots.count;
                return;
            }
        };
        let mut encoder = self.context.device.create_command_encoder(&Default::default());
        for (buffer, first) in all.iter().zip(firsts) {
            let own = first..self.layers.min(first + layers);
            for index in 0..=slots.count as u32 {
                let at = u64::from(index) * layers as u64 * self.layer;
                slots.buffers.copy(&mut encoder, (index, own.clone()), (buffer, at));
            }
        }
        self.context.queue.submit([encoder.finish()]);
        slots.free.extend((slots.count as u32 + 1..=count as u32).rev());
        (slots.buffers, slots.count) = (Buffers { all, layers, layer: self.layer }, count);
    }

    /// Lets there be fewer slots, for half of which a buffer has room.
    #[cfg(test)]
    pub(super) fn limit(&self, most: usize) {
        let slots = &mut *self.slots.lock().unwrap();
        (slots.most, slots.limit) = (most, (most as u64 / 2 + 1) * self.bytes());
    }
}
