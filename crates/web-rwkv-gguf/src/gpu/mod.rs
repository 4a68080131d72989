//! The GPU executor: records operations of a batch as dispatches of one submission.
//!
//! All activations of a kind stand in one buffer, so do vectors, states and (up to the limit of a binding) weights:
//! every kernel has the same bindings, and its parameters say where things are.

mod before_v7;
mod cache;
#[cfg(test)]
mod cases;
mod device;
mod kernel;
mod layout;
mod profile;
mod self_test;
mod state;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

pub(crate) use device::has_gpu;
pub use device::{Device, DeviceInfo, Tier, devices};
pub use profile::OpTime;
pub(crate) use self_test::tested;
pub(crate) use state::{Pool, Slot};

use crate::{
    Error, Result,
    batch::Sequence,
    load::Checkpoint,
    ops::{Act, Chunked, Ddlerp, FileMatrix, Gates, Heads, Kind, Norm, Ops, Product, Rkv, Shift, Wkv4, Wkv6},
    state::State,
};
use cache::Cache;
use kernel::{Kernel, Kernels};
use layout::{Layout, VECTOR, padded};
use profile::{Profile, Timed};

/// Words of the table of a batch.
const TABLE: usize = 1 << 20;
/// Bytes of weights that are on their way to the device at a time.
const IN_FLIGHT: usize = 64 << 20;
/// Up to so many tokens a product decodes weights in registers instead of tiles.
const FEW: usize = 4;
const BINDINGS: usize = 7;
/// Products of a dispatch at most, and words of each.
const JOBS: usize = 8;
const JOB: usize = 16;
/// Tokens of a chunk, at first and at most: more at a time are quicker, but a submission must not run so long that a
/// watchdog, or the screen, minds it.
const CHUNKS: (usize, usize) = (256, 2048);
/// Times of a chunk below which the next may be larger, and above which it should be smaller.
const MOMENT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(500));
/// Words of a sequence in the table.
const SEQUENCE: u32 = 3;

/// A device, and what has gone wrong on it.
pub(crate) struct Context {
    device: wgpu::Device,
    queue: wgpu::Queue,
    name: String,
    binding_limit: u64,
    error: Arc<Mutex<Option<String>>>,
    /// Buffers that this machine can read, and nobody uses.
    back: Mutex<Vec<wgpu::Buffer>>,
}

/// Floats of a device in this machine's memory, without another copy.
pub(crate) struct Mapped {
    context: Arc<Context>,
    buffer: wgpu::Buffer,
    view: Option<wgpu::BufferView>,
}

impl std::ops::Deref for Mapped {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        bytemuck::cast_slice(self.view.as_ref().expect("only `drop` takes it"))
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.view = None;
        self.buffer.unmap();
        self.context.back.lock().expect("no holder panics").push(self.buffer.clone());
    }
}

impl Context {
    fn buffer(&self, label: &str, size: u64) -> wgpu::Buffer {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let size = size.next_multiple_of(VECTOR as u64).max(VECTOR as u64);
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage,
            mapped_at_creation: false,
        })
    }

    /// As [`Context::buffer`], or an error that names the bytes if the device has no memory for them.
    fn allocate(&self, label: &str, size: u64) -> Result<wgpu::Buffer> {
        let filters = [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::OutOfMemory];
        let scopes = filters.map(|filter| self.device.push_error_scope(filter));
        let buffer = self.buffer(label, size);
        // Scopes end in the order of a stack.
        let errors: Vec<_> = scopes.into_iter().rev().filter_map(|s| pollster::block_on(s.pop())).collect();
        match &errors[..] {
            [] => Ok(buffer),
            [error, ..] => {
                let what = format!("no memory for {size} bytes of {label}: {error}");
                Err(Error::Device { device: self.name.clone(), what })
            }
        }
    }

    /// An error if the device has no memory for what a model needs. No API tells what is free, so that it is taken and
    /// given back.
    fn fits(&self, needs: Needs) -> Result<()> {
        let Needs { weights, states, activations } = needs;
        let mut left = weights + states + activations;
        let mut buffers = vec![];
        while left > 0 {
            let size = left.min(self.binding_limit);
            buffers.push(self.allocate("a model", size).map_err(|e| Error::Device {
                device: self.name.clone(),
                what: format!(
                    "expected memory for {} MiB ({} of weights, {} of states, {} of activations), found less ({e})",
                    (weights + states + activations) >> 20,
                    weights >> 20,
                    states >> 20,
                    activations >> 20,
                ),
            })?);
            left -= size;
        }
        buffers.iter().for_each(wgpu::Buffer::destroy);
        self.device.poll(wgpu::PollType::Poll).ok();
        self.check()
    }

    /// What has gone wrong since the last time.
    fn check(&self) -> Result<()> {
        match self.error.lock().expect("no holder panics").clone() {
            Some(what) => Err(Error::Device { device: self.name.clone(), what }),
            None => Ok(()),
        }
    }

    /// A part of a buffer, after all that was submitted.
    fn read(self: &Arc<Self>, buffer: &wgpu::Buffer, from: u64, size: u64) -> Result<Mapped> {
        let mut free = self.back.lock().expect("no holder panics");
        let fit = free.iter().position(|b| (size..=4 * size).contains(&b.size()));
        let back = fit.map(|i| free.swap_remove(i));
        drop(free);
        let back = back.unwrap_or_else(|| self.mappable(size));
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, from, &back, 0, size);
        self.queue.submit([encoder.finish()]);
        let view = self.map(&back, size)?;
        Ok(Mapped { context: self.clone(), buffer: back, view: Some(view) })
    }

    /// A buffer that this machine can read.
    fn mappable(&self, size: u64) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("back"),
            size: size.next_power_of_two(),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    /// Waits for all that was submitted; the first bytes of a mappable buffer.
    fn map(&self, buffer: &wgpu::Buffer, size: u64) -> Result<wgpu::BufferView> {
        let slice = buffer.slice(..size);
        slice.map_async(wgpu::MapMode::Read, |_| ());
        let polled = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.check()?;
        let lost = |e: String| Error::Device { device: self.name.clone(), what: e };
        polled.map_err(|e| lost(e.to_string()))?;
        slice.get_mapped_range().map_err(|e| lost(e.to_string()))
    }
}

/// Runs operations on a GPU.
pub(crate) struct Gpu {
    context: Arc<Context>,
    info: DeviceInfo,
    kernels: Kernels,
    bindings: wgpu::BindGroupLayout,
    memory: Mutex<Memory>,
    /// Width of all activations of each kind.
    widths: [AtomicUsize; 3],
    profile: Option<Profile>,
    /// Tokens that take no more than a moment.
    chunk: AtomicUsize,
}

struct Memory {
    /// Bytes of weights that are still to come.
    to_come: u64,
    weights: Vec<Weights>,
    written: usize,
    vectors: Vec<f32>,
    /// Buffers of vectors, of each kind of activations, and of the table.
    vectors_buffer: wgpu::Buffer,
    acts: [Arena; 3],
    table: wgpu::Buffer,
    pool: Option<Arc<Pool>>,
    groups: HashMap<usize, wgpu::BindGroup>,
    ahead: Option<Ahead>,
    /// What is wanted of a batch comes through here.
    results: wgpu::Buffer,
    /// Since when batches run that nobody has waited for, and their tokens.
    running: Option<(Instant, usize)>,
}

impl Memory {
    /// Forgets what was made for buffers that are no longer there.
    fn renew(&mut self) {
        self.groups.clear();
        self.ahead = None;
    }
}

struct Weights {
    buffer: wgpu::Buffer,
    used: u64,
}

/// Activations of a kind: `rows` rows of each.
struct Arena {
    rows: usize,
    width: usize,
    buffer: wgpu::Buffer,
}

/// A vector of weights, by its place.
#[derive(Clone)]
pub(crate) struct Vector(u32);

/// A matrix: rows in one or more buffers of weights.
#[derive(Clone)]
pub(crate) struct Matrix {
    layout: Layout,
    rows: usize,
    columns: usize,
    pieces: Vec<Piece>,
}

/// Rows `first..first + rows` of a matrix, in vectors from `at` on of a buffer.
#[derive(Clone)]
struct Piece {
    buffer: usize,
    at: u32,
    first: usize,
    rows: usize,
}

/// Activations `[T, width]`.
#[derive(Clone)]
pub(crate) struct Acts {
    kind: Kind,
    /// Width of the activations in front of it.
    before: usize,
    width: usize,
    padded: usize,
    tokens: usize,
}

impl Acts {
    fn bytes(&self) -> u64 {
        4 * (self.tokens * self.padded) as u64
    }
}

/// A chunk of tokens, whose operations are being recorded.
pub(crate) struct Batch<'a> {
    memory: MutexGuard<'a, Memory>,
    states: &'a mut [State],
    /// The states that the chunk goes on from, and their new places.
    slots: Vec<(usize, Arc<Slot>)>,
    recording: Recording,
    /// What `recording` is like, if chunks like it may follow.
    like: Option<Like>,
    /// Whether `recording` is ahead of the next chunk.
    ahead: bool,
    submitted: bool,
    tokens: usize,
    sequences: usize,
    /// Where tokens stand in the table, and the number of each one's sequence; sequences are in front.
    tokens_at: u32,
    sequence_of: u32,
    /// k_k, k_a and whether v is v_first, from `gates` to `wkv7`, which computes kk and k where it reads them.
    keys: Option<(u32, u32, bool)>,
    /// Where copies of states stand in the table, and how many.
    copies: (u32, usize),
}

/// Operations that have not run yet.
#[derive(Default)]
struct Recording {
    /// They are in there, if they were recorded ahead.
    commands: Option<wgpu::CommandBuffer>,
    encoder: Option<wgpu::CommandEncoder>,
    pass: Option<wgpu::ComputePass<'static>>,
    table: Vec<u32>,
    /// The dispatches so far, if they are timed.
    timed: Vec<Timed>,
}

/// What makes chunks of one token for each sequence alike, beside their states: the wanted rows.
#[derive(PartialEq)]
struct Like {
    rows: [Vec<usize>; 2],
}

/// A recording for the next chunk, should it be like the last.
struct Ahead {
    like: Like,
    commands: wgpu::CommandBuffer,
    table: Vec<u32>,
    slots: Vec<Arc<Slot>>,
}

/// Slots of a batch, and the copies to be made from slot to slot.
type Settled = (Vec<Arc<Slot>>, Vec<[Arc<Slot>; 2]>);

/// What an adapter is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) index: Option<usize>,
    pub(crate) tier: Option<Tier>,
    /// Whether dispatches are timed.
    pub(crate) profile: bool,
}

impl Gpu {
    /// A device for the weights of a checkpoint.
    pub(crate) fn new(wanted: Wanted, checkpoint: &Checkpoint) -> Result<Self> {
        let (adapter, mut info) = device::adapter(wanted.index)?;
        if let Some(tier) = wanted.tier {
            if tier > info.tier {
                return Err(Error::Request {
                    thing: "kernels".into(),
                    expected: format!("at most those of tier {} on {}", info.tier, info.name),
                    found: tier.to_string(),
                });
            }
            info.tier = tier;
        }
        let tier = info.tier;
        let mut features = wgpu::Features::IMMEDIATES;
        if tier >= Tier::Subgroup {
            features |= wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16;
        }
        if wanted.profile {
            features |= Profile::FEATURES;
        }
        features |= adapter.features() & wgpu::Features::PIPELINE_CACHE;
        let mut experimental = wgpu::ExperimentalFeatures::disabled();
        if tier == Tier::Matrix {
            features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
            // SAFETY: what is experimental is used by kernels of ours alone, which are tested.
            experimental = unsafe { wgpu::ExperimentalFeatures::enabled() };
        }
        let failed = |what: String| Error::Device { device: info.name.clone(), what };
        let limits = adapter.limits();
        let request = adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("web-rwkv"),
            required_features: features,
            required_limits: limits.clone(),
            experimental_features: experimental,
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        });
        let (device, queue) = pollster::block_on(request).map_err(|e| failed(e.to_string()))?;
        let error = Arc::new(Mutex::new(None));
        let first = error.clone();
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            first.lock().expect("no holder panics").get_or_insert(e.to_string());
        }));
        let lost = error.clone();
        device.set_device_lost_callback(move |reason, what| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                lost.lock().expect("no holder panics").get_or_insert(format!("the device was lost: {what}"));
            }
        });
        // Places of values and vectors are 32-bit numbers.
        let binding_limit = limits
            .max_storage_buffer_binding_size
            .min(limits.max_buffer_size)
            .min((1 << 31) - 4 * VECTOR as u64);
        let context = Arc::new(Context {
            device,
            queue,
            name: info.name.clone(),
            binding_limit,
            error,
            back: Mutex::default(),
        });
        let entry = |i: usize| wgpu::BindGroupLayoutEntry {
            binding: i as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only: i < 2 },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        let bindings = context.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: None,
            entries: &std::array::from_fn::<_, BINDINGS, _>(entry),
        });
        let layout = context.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&bindings)],
            immediate_size: 128,
        });
        let needs = needs(checkpoint);
        context.fits(needs)?;
        let arena = || Arena { rows: 0, width: 0, buffer: context.buffer("acts", 0) };
        let memory = Memory {
            to_come: needs.weights,
            weights: vec![],
            written: 0,
            vectors: vec![],
            vectors_buffer: context.buffer("vectors", 0),
            acts: [arena(), arena(), arena()],
            table: context.buffer("table", 4 * TABLE as u64),
            pool: None,
            groups: HashMap::new(),
            ahead: None,
            results: context.mappable(1 << 20),
            running: None,
        };
        let cache = Cache::open(&context.device, &adapter.get_info());
        let kernels = Kernels::new(&context.device, layout, tier, info.subgroup.0 as usize, cache);
        let (memory, widths) = (Mutex::new(memory), Default::default());
        context.check()?;
        let profile = wanted.profile.then(|| Profile::new(&context));
        Ok(Self {
            context,
            info,
            kernels,
            bindings,
            memory,
            widths,
            profile,
            chunk: AtomicUsize::new(CHUNKS.0),
        })
    }

    pub(crate) fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// How long dispatches took since the last time, if they are timed.
    pub(crate) fn op_times(&self) -> Vec<OpTime> {
        self.profile.as_ref().map_or_else(Vec::new, Profile::take)
    }

    /// Puts rows of a matrix into the device's memory.
    fn upload(&self, m: &mut Memory, w: &FileMatrix, piece: &Piece, stride: usize) -> Result<()> {
        let buffer = &m.weights[piece.buffer].buffer;
        let step = (IN_FLIGHT / 4 / stride).max(1);
        for first in (0..piece.rows).step_by(step) {
            let rows = step.min(piece.rows - first);
            let at = u64::from(piece.at) * VECTOR as u64 + (first * stride) as u64;
            if layout::as_in_file(w) {
                let data = &w.data[(piece.first + first) * stride..][..rows * stride];
                self.context.queue.write_buffer(buffer, at, data);
            } else {
                let mut data = vec![0; rows * stride];
                layout::pack(w, piece.first + first, &mut data);
                self.context.queue.write_buffer(buffer, at, &data);
            }
            m.written += rows * stride;
            if m.written >= IN_FLIGHT {
                m.written = 0;
                self.context.queue.submit([]);
                self.context.device.poll(wgpu::PollType::wait_indefinitely()).ok();
                self.context.check()?;
            }
        }
        Ok(())
    }

    /// Records a dispatch.
    fn dispatch(
        &self,
        b: &mut Batch<'_>,
        weights: usize,
        kernel: &Kernel,
        params: &[u32],
        groups: (usize, usize),
    ) {
        let pipeline = self.kernels.get(kernel);
        let group = self.group(&mut b.memory, weights);
        let Recording { encoder, pass, timed, .. } = &mut b.recording;
        let begin = || {
            let encoder = encoder.get_or_insert_with(|| self.encoder());
            let mut pass = encoder.begin_compute_pass(&Default::default()).forget_lifetime();
            self.profile.iter().for_each(|p| p.stamp(&mut pass, 0));
            pass
        };
        let pass = pass.get_or_insert_with(begin);
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.set_immediates(0, bytemuck::cast_slice(params));
        pass.dispatch_workgroups(groups.0 as u32, groups.1 as u32, 1);
        if let Some(profile) = &self.profile {
            timed.push(Timed { name: kernel.to_string(), bytes: 0, operations: 0 });
            profile.stamp(pass, timed.len());
        }
    }

    fn group(&self, m: &mut Memory, weights: usize) -> wgpu::BindGroup {
        if let Some(group) = m.groups.get(&weights) {
            return group.clone();
        }
        let states = m.pool.as_ref().expect("a batch has states").buffer();
        let weights_buffer = m.weights.get(weights).map_or(&m.vectors_buffer, |w| &w.buffer);
        let [acts, inputs, outputs] = &m.acts;
        let buffers = [
            weights_buffer,
            &m.vectors_buffer,
            &acts.buffer,
            &inputs.buffer,
            &outputs.buffer,
            &states,
            &m.table,
        ];
        let entry =
            |i: usize| wgpu::BindGroupEntry { binding: i as u32, resource: buffers[i].as_entire_binding() };
        let group = self.context.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.bindings,
            entries: &std::array::from_fn::<_, BINDINGS, _>(entry),
        });
        m.groups.insert(weights, group.clone());
        group
    }

    /// The states of the model, which are of `size` floats.
    fn pool(&self, m: &mut Memory, size: usize) -> Arc<Pool> {
        m.pool.get_or_insert_with(|| Arc::new(Pool::new(self.context.clone(), size))).clone()
    }

    /// Puts a state into a slot, if it has none.
    pub(crate) fn place_state(&self, state: &mut State) -> Result<()> {
        // Held so that no batch makes the pool larger meanwhile.
        let mut memory = self.memory.lock().expect("no holder panics");
        let pool = self.pool(&mut memory, state.len());
        if state.slot().is_none_or(|slot| !slot.same_pool(&pool)) {
            let before = pool.buffer();
            let slot = Arc::new(pool.take()?);
            let buffer = pool.buffer();
            if buffer != before {
                memory.renew();
            }
            let at = 4 * u64::from(slot.index) * pool.size as u64;
            self.context.queue.write_buffer(&buffer, at, bytemuck::cast_slice(state.as_slice()?));
            self.context.check()?;
            state.settle(slot);
        }
        Ok(())
    }

    /// A slot for each sequence's state, which nobody else has: its own, or a new one with its contents. The copies
    /// that are still to be made, from slot to slot.
    fn settle(
        &self,
        pool: &Arc<Pool>,
        chunk: &Chunked<'_>,
        encoder: &mut wgpu::CommandEncoder,
    ) -> Result<Settled> {
        let (mut slots, mut copies) = (vec![], vec![]);
        for seq in chunk.seqs {
            let state = &chunk.states[seq.slot];
            let old = state.slot().filter(|slot| slot.same_pool(pool));
            if let Some(own) = old.filter(|slot| Arc::strong_count(slot) == 1) {
                slots.push(own.clone());
                continue;
            }
            let new = Arc::new(pool.take()?);
            let (buffer, size) = (pool.buffer(), 4 * pool.size as u64);
            let at = u64::from(new.index) * size;
            if let Some(old) = old {
                copies.push([old.clone(), new.clone()]);
            } else if state.is_zero() {
                encoder.clear_buffer(&buffer, at, Some(size));
            } else {
                self.context.queue.write_buffer(&buffer, at, bytemuck::cast_slice(state.as_slice()?));
            }
            slots.push(new);
        }
        Ok((slots, copies))
    }

    /// Learns from the time of a token how large chunks should be.
    fn pace(&self, time: Duration) {
        let size = self.chunk.load(Relaxed);
        if time * size as u32 <= MOMENT.0 / 2 {
            self.chunk.store((2 * size).min(CHUNKS.1), Relaxed);
        } else if time * size as u32 > MOMENT.1 {
            self.chunk.store((size / 2).max(CHUNKS.0 / 16), Relaxed);
        }
    }

    /// The commands of a recording, its table, and what is timed.
    fn finish(
        &self,
        recording: Recording,
        m: &Memory,
        wanted: &[&Acts],
    ) -> (wgpu::CommandBuffer, Vec<u32>, Vec<Timed>) {
        let Recording { commands, encoder, pass, table, timed } = recording;
        if let Some(commands) = commands {
            return (commands, table, timed);
        }
        drop(pass);
        let mut encoder = encoder.unwrap_or_else(|| self.encoder());
        let mut to = 0;
        for acts in wanted {
            let arena = &m.acts[acts.kind as usize];
            let (from, size) = (4 * (acts.before * arena.rows) as u64, acts.bytes());
            encoder.copy_buffer_to_buffer(&arena.buffer, from, &m.results, to, size);
            to += size;
        }
        self.profile.iter().for_each(|p| p.resolve(&mut encoder, timed.len() + 1));
        (encoder.finish(), table, timed)
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.context.device.create_command_encoder(&Default::default())
    }

    /// Where activations begin in the buffer of their kind.
    fn place(&self, b: &Batch<'_>, acts: &Acts) -> u32 {
        b.memory.acts.get(acts.kind as usize).map_or(0, |arena| (acts.before * arena.rows) as u32)
    }

    /// Records the copies of states that the batch begins with.
    fn copy_states(&self, b: &mut Batch<'_>) {
        let (at, count) = b.copies;
        if count > 0 {
            let size = b.memory.pool.as_ref().expect("made when the batch began").size;
            self.dispatch(b, usize::MAX, &Kernel::CopyState, &[at, size as u32], (64, count));
        }
    }

    /// Records products whose weights may lie in several buffers, and be many more than a dispatch takes.
    fn products(&self, b: &mut Batch<'_>, jobs: &[Job<'_>]) {
        let tokens = jobs.first().map_or(0, |job| job.x.tokens);
        if tokens == 0 {
            return;
        }
        let mut pieces: Vec<(&Job<'_>, &Piece)> =
            jobs.iter().flat_map(|job| job.w.pieces.iter().map(move |piece| (job, piece))).collect();
        pieces.sort_by_key(|(_, piece)| piece.buffer);
        let groups = pieces.chunk_by(|a, b| a.1.buffer == b.1.buffer);
        for together in groups.flat_map(|pieces| pieces.chunks(JOBS)) {
            let mut layouts: Vec<_> = together.iter().map(|(job, _)| job.w.layout).collect();
            layouts.sort_unstable();
            layouts.dedup();
            let columns = together.iter().map(|(job, _)| padded(job.w.columns)).max().unwrap_or(0);
            let kernel = if tokens <= FEW {
                Kernel::Few { layouts: layouts.clone(), tokens: tokens.next_power_of_two(), columns }
            } else {
                let rows: Vec<_> = together.iter().map(|(_, piece)| piece.rows).collect();
                Kernel::Many { layouts: layouts.clone(), tile: self.kernels.tile_for(&rows, tokens) }
            };
            let (rows_of_group, tokens_of_group) = self.kernels.tile(&kernel);
            let at = b.recording.table.len() as u32;
            let mut groups = 0;
            for (job, piece) in together {
                let (w, first) = (job.w, piece.first as u32);
                let layout = layouts.iter().position(|l| *l == w.layout).expect("collected above");
                let (x, y) = (self.place(b, job.x), self.place(b, job.y));
                b.recording.table.extend([
                    groups as u32,
                    piece.rows as u32,
                    padded(w.columns) as u32,
                    piece.at,
                    w.layout.stride(padded(w.columns)) as u32,
                    layout as u32,
                    x,
                    job.x.padded as u32,
                    y + first,
                    job.y.padded as u32,
                    job.y.kind as u32,
                    job.act,
                    job.bias.map_or(0, |v| v.0 + first),
                    job.other.map_or(0, |acts| self.place(b, acts) + first),
                    job.other.map_or(0, |acts| acts.padded as u32),
                    job.before.map_or(0, |acts| self.place(b, acts) + first),
                ]);
                groups += piece.rows.div_ceil(rows_of_group);
            }
            let jobs = &b.recording.table[at as usize..];
            let firsts = jobs.chunks_exact(JOB).map(|job| job[0]).chain([u32::MAX; JOBS]);
            let params: Vec<_> = [at, tokens as u32]
                .into_iter()
                .chain(jobs[..JOB].iter().copied())
                .chain(firsts.take(JOBS).skip(1))
                .collect();
            let buffer = together[0].1.buffer;
            self.dispatch(b, buffer, &kernel, &params, (groups, tokens.div_ceil(tokens_of_group)));
            if let Some(timed) = b.recording.timed.last_mut() {
                let weights = |(job, piece): &(&Job<'_>, &Piece)| piece.rows * job.w.columns;
                let stride = |(job, piece): &(&Job<'_>, &Piece)| {
                    piece.rows * job.w.layout.stride(padded(job.w.columns)) * VECTOR
                };
                let (job, piece) = together[0];
                timed.name += &format!(" {}x{} of {}", piece.rows, job.w.columns, together.len());
                timed.operations = 2 * (tokens * together.iter().map(weights).sum::<usize>()) as u64;
                timed.bytes = together.iter().map(stride).sum::<usize>() as u64;
            }
        }
    }
}

/// A product of a dispatch.
struct Job<'a> {
    w: &'a Matrix,
    x: &'a Acts,
    y: &'a Acts,
    act: u32,
    bias: Option<&'a Vector>,
    other: Option<&'a Acts>,
    before: Option<&'a Acts>,
}

impl<'a> Job<'a> {
    fn new(w: &'a Matrix, x: &'a Acts, y: &'a Acts, act: Act) -> Self {
        Self { w, x, y, act: number(act), bias: None, other: None, before: None }
    }
}

/// Activations of products beyond [`Act`], as `part/job.wgsl` numbers them.
const DECAY: u32 = 5;
const GATE: u32 = 6;
const RESIDUAL: u32 = 7;
const LERP: u32 = 8;

fn number(act: Act) -> u32 {
    match act {
        Act::Id => 0,
        Act::Tanh => 1,
        Act::Sigmoid => 2,
        Act::SquaredRelu => 3,
        Act::Add => 4,
    }
}

impl Ops for Gpu {
    type Vector = Vector;
    type Matrix = Matrix;
    type Acts = Acts;
    type Batch<'a> = Batch<'a>;

    fn vector(&self, values: Vec<f32>) -> Result<Vector> {
        let mut m = self.memory.lock().expect("no holder panics");
        let at = m.vectors.len() as u32;
        m.vectors.extend(values);
        Ok(Vector(at))
    }

    fn matrix(&self, w: FileMatrix) -> Result<Matrix> {
        let layout = Layout::of(w.format);
        let stride = layout.stride(padded(w.columns)) * VECTOR;
        let mut m = self.memory.lock().expect("no holder panics");
        let m = &mut *m;
        let limit = self.context.binding_limit / stride as u64 * stride as u64;
        let mut matrix = Matrix { layout, rows: w.rows, columns: w.columns, pieces: vec![] };
        let mut first = 0;
        while first < w.rows {
            let left = ((w.rows - first) * stride) as u64;
            let room = m.weights.last().map_or(0, |w| w.buffer.size() - w.used);
            // A matrix that fits into a buffer of its own is not cut.
            if room < left.min(limit) {
                let size = m.to_come.clamp(left.min(limit), self.context.binding_limit);
                let buffer = self.context.allocate("weights", size)?;
                m.weights.push(Weights { buffer, used: 0 });
            }
            let buffer = m.weights.len() - 1;
            let to = &mut m.weights[buffer];
            let rows = ((to.buffer.size() - to.used) / stride as u64).min((w.rows - first) as u64) as usize;
            let piece = Piece { buffer, at: (to.used / VECTOR as u64) as u32, first, rows };
            to.used += (rows * stride) as u64;
            m.to_come = m.to_come.saturating_sub((rows * stride) as u64);
            self.upload(m, &w, &piece, stride)?;
            matrix.pieces.push(piece);
            first += rows;
        }
        Ok(matrix)
    }

    fn rows(&self, w: &Matrix) -> usize {
        w.rows
    }

    fn acts(&self, width: usize, kind: Kind) -> Acts {
        let padded = if kind == Kind::Input { padded(width) } else { width };
        let before = self.widths.get(kind as usize).map_or(0, |all| all.fetch_add(padded, Relaxed));
        Acts { kind, before, width, padded, tokens: 0 }
    }

    fn resize(&self, b: &mut Batch<'_>, acts: &mut Acts, tokens: usize) -> Result<()> {
        acts.tokens = tokens;
        let Some(arena) = b.memory.acts.get_mut(acts.kind as usize) else { return Ok(()) };
        let width = self.widths[acts.kind as usize].load(Relaxed);
        if tokens > arena.rows || width > arena.width {
            assert!(b.recording.pass.is_none(), "activations are made before operations are recorded");
            arena.rows = arena.rows.max(tokens.next_power_of_two());
            arena.width = width;
            let size = if acts.kind == Kind::Input && self.info.tier >= Tier::Subgroup { 2 } else { 4 };
            let label = ["acts", "inputs", "outputs"][acts.kind as usize];
            let bytes = (arena.rows * arena.width * size) as u64;
            if bytes > self.context.binding_limit {
                return Err(Error::Request {
                    thing: format!("activations of {tokens} tokens"),
                    expected: format!("at most {} bytes on {}", self.context.binding_limit, self.info.name),
                    found: bytes.to_string(),
                });
            }
            arena.buffer = self.context.buffer(label, bytes);
            b.memory.renew();
        }
        if acts.bytes() > b.memory.results.size() / 2 && acts.kind != Kind::Input {
            assert!(b.recording.pass.is_none(), "results have room before operations are recorded");
            b.memory.results = self.context.mappable(2 * acts.bytes());
            b.memory.renew();
        }
        Ok(())
    }

    fn least_chunk(&self) -> usize {
        self.chunk.load(Relaxed)
    }

    fn begin<'a>(&'a self, chunk: Chunked<'a>) -> Result<Batch<'a>> {
        let mut memory = self.memory.lock().expect("no holder panics");
        let m = &mut *memory;
        let size = chunk.states.first().map_or(0, |s| s.len());
        let pool = self.pool(m, size);
        let bytes = 4 * m.vectors.len() as u64;
        if m.vectors_buffer.size() < bytes {
            m.vectors_buffer = self.context.buffer("vectors", bytes);
            self.context.queue.write_buffer(&m.vectors_buffer, 0, bytemuck::cast_slice(&m.vectors));
            m.renew();
        }
        let (tokens, sequences) = (chunk.tokens.len(), chunk.seqs.len());
        let tokens_at = SEQUENCE * sequences as u32;
        let sequence_of = tokens_at + tokens as u32;
        let ahead = m.ahead.take().filter(|ahead| ahead.fits(&chunk));
        let recorded = ahead.is_some();
        let (recording, slots, copies) = if let Some(Ahead { commands, table, slots, .. }) = ahead {
            let mut recording = Recording { commands: Some(commands), table, ..Recording::default() };
            recording.table[tokens_at as usize..sequence_of as usize].copy_from_slice(chunk.tokens);
            (recording, slots, vec![])
        } else {
            let mut encoder = self.encoder();
            let before = pool.buffer();
            let (slots, copies) = self.settle(&pool, &chunk, &mut encoder)?;
            if pool.buffer() != before {
                m.renew();
            }
            let mut table = head(&chunk, &slots);
            table.extend(copies.iter().flatten().map(|slot| slot.index));
            (Recording { encoder: Some(encoder), table, ..Recording::default() }, slots, copies)
        };
        let like = (tokens == sequences && self.profile.is_none())
            .then(|| Like { rows: chunk.rows.map(<[usize]>::to_vec) });
        Ok(Batch {
            memory,
            slots: chunk.seqs.iter().map(|seq| seq.slot).zip(slots).collect(),
            states: chunk.states,
            recording,
            like,
            ahead: recorded,
            submitted: false,
            tokens,
            sequences,
            tokens_at,
            sequence_of,
            keys: None,
            copies: (sequence_of + tokens as u32, copies.len()),
        })
    }

    fn is_recorded(&self, b: &Batch<'_>) -> bool {
        b.ahead
    }

    fn submit(&self, b: &mut Batch<'_>, wanted: &[&Acts]) -> bool {
        let recording = std::mem::take(&mut b.recording);
        let (commands, table, timed) = self.finish(recording, &b.memory, wanted);
        assert!(table.len() <= TABLE, "the size of a chunk is limited");
        self.context.queue.write_buffer(&b.memory.table, 0, bytemuck::cast_slice(&table));
        self.context.queue.submit([commands]);
        b.memory.running.get_or_insert((Instant::now(), 0)).1 += b.tokens;
        b.recording.timed = timed; // for `end`
        b.submitted = true;
        b.ahead = b.like.is_some();
        if b.ahead {
            // Tokens are put in when they are known.
            b.recording.table = table[..b.copies.0 as usize].to_vec();
            b.copies.1 = 0;
        }
        b.ahead
    }

    fn end(&self, mut b: Batch<'_>, wanted: &[&Acts]) -> Result<Vec<Vec<f32>>> {
        if !b.submitted {
            self.submit(&mut b, wanted);
        }
        let Batch { mut memory, slots, states, mut recording, like, ahead, .. } = b;
        let context = &self.context;
        let timed = std::mem::take(&mut recording.timed);
        if let Some(like) = like.filter(|_| ahead && recording.pass.is_some()) {
            let slots = slots.iter().map(|(_, slot)| slot.clone()).collect();
            let (commands, table, _) = self.finish(recording, &memory, wanted);
            memory.ahead = Some(Ahead { like, commands, table, slots });
        }
        let size = wanted.iter().map(|acts| acts.bytes()).sum();
        let mut out = vec![];
        if size == 0 {
            context.check()?;
        } else {
            let view = context.map(&memory.results, size)?;
            let mut data: &[f32] = bytemuck::cast_slice(&view);
            for acts in wanted {
                let (own, rest) = data.split_at(acts.tokens * acts.padded);
                out.push(own.chunks_exact(acts.padded).flat_map(|row| &row[..acts.width]).copied().collect());
                data = rest;
            }
            drop(view);
            memory.results.unmap();
            let (since, tokens) = memory.running.take().expect("something was submitted");
            self.pace(since.elapsed() / tokens as u32);
        }
        if let Some(profile) = &self.profile {
            profile.add(context, timed)?;
        }
        for (state, slot) in slots {
            states[state].settle(slot);
        }
        Ok(out)
    }

    fn embed(&self, b: &mut Batch<'_>, emb: &Matrix, ln0: &Norm<Self>, x: &mut Acts) {
        self.copy_states(b);
        for piece in &emb.pieces {
            let params = [
                b.tokens_at,
                piece.at,
                emb.layout.stride(padded(emb.columns)) as u32,
                piece.first as u32,
                piece.rows as u32,
                padded(emb.columns) as u32,
                self.place(b, x),
                ln0.weight.0,
                ln0.bias.0,
                ln0.eps.to_bits(),
            ];
            self.dispatch(
                b,
                piece.buffer,
                &Kernel::Embed { layout: emb.layout, width: x.width },
                &params,
                (b.tokens, 1),
            );
        }
    }

    fn shift(
        &self,
        b: &mut Batch<'_>,
        (layer, shift): (usize, Shift),
        norm: &Norm<Self>,
        mix: &[Vector],
        x: &Acts,
        h: &mut Acts,
        y: &mut [Acts],
    ) {
        let dims = b.states[0].dims();
        let (layer_size, row) = (dims[1] * dims[2], if shift == Shift::Att { 0 } else { dims[1] - 1 });
        let step = |places: Vec<u32>| match places[..] {
            [_] => 0,
            [a, b, ..] => b - a,
            [] => unreachable!("a shift has a mix"),
        };
        let mixes: Vec<_> = mix.iter().map(|v| v.0).collect();
        let places: Vec<_> = y.iter().map(|y| self.place(b, y)).collect();
        let even = |places: &[u32]| places.windows(2).all(|p| p[1] - p[0] == places[1] - places[0]);
        assert!(even(&mixes) && even(&places), "mixes are made one after another");
        let params = [
            0,
            b.sequence_of,
            self.place(b, x),
            norm.weight.0,
            norm.bias.0,
            norm.eps.to_bits(),
            (layer * layer_size + row * dims[2]) as u32,
            (dims[0] * layer_size) as u32,
            mixes[0],
            step(mixes.clone()),
            places[0],
            step(places.clone()),
            y[0].padded as u32,
            self.place(b, h),
        ];
        self.dispatch(
            b,
            usize::MAX,
            &Kernel::Shift { width: x.width, mixes: mixes.len(), keep: h.kind == Kind::Stream },
            &params,
            (b.tokens, 1),
        );
    }

    fn project(&self, b: &mut Batch<'_>, products: &mut [Product<'_, Self>]) {
        let jobs: Vec<_> = products.iter().map(|p| Job::new(p.w, p.x, p.y, p.act)).collect();
        self.products(b, &jobs);
    }

    fn gates(&self, b: &mut Batch<'_>, p: &Gates<Self>, _: usize, low: &[Acts; 4], t: &mut Heads<Self>) {
        let [lw, la, lg, lv] = low;
        let job = |w, x, y| Job::new(w, x, y, Act::Id);
        let mut jobs = vec![
            Job { act: DECAY, bias: Some(&p.w0), ..job(&p.w2, lw, &t.w) },
            Job { act: GATE, bias: Some(&p.a0), ..job(&p.a2, la, &t.a) },
            job(&p.g2, lg, &t.g),
        ];
        if let Some((v0, v2)) = &p.v {
            let other = Some(&t.v_first);
            jobs.push(Job { act: RESIDUAL, bias: Some(v0), other, ..job(v2, lv, &t.v) });
        }
        self.products(b, &jobs);
        b.keys = Some((p.k_k.0, p.k_a.0, p.v.is_none()));
    }

    fn wkv7(
        &self,
        b: &mut Batch<'_>,
        layer: usize,
        norm: &Norm<Self>,
        r_k: &Vector,
        head_size: usize,
        t: &Heads<Self>,
        y: &mut Acts,
    ) {
        let (k_k, k_a, first) = b.keys.take().expect("gates come before wkv7");
        let dims = b.states[0].dims();
        let layer_size = dims[1] * dims[2];
        let [r, w, k, v, a, g, v_first] =
            [&t.r, &t.w, &t.k, &t.v, &t.a, &t.g, &t.v_first].map(|acts| self.place(b, acts));
        let params = [
            0,
            (layer * layer_size + dims[2]) as u32,
            (dims[0] * layer_size) as u32,
            t.r.padded as u32,
            r,
            w,
            k,
            v,
            a,
            g,
            v_first,
            u32::from(first),
            k_k,
            k_a,
            r_k.0,
            norm.weight.0,
            norm.bias.0,
            norm.eps.to_bits(),
            self.place(b, y),
            y.padded as u32,
        ];
        let groups = (dims[2] / head_size, b.sequences);
        self.dispatch(b, usize::MAX, &Kernel::Wkv7 { head_size }, &params, groups);
    }

    fn norm_rows(&self, b: &mut Batch<'_>, norm: &Norm<Self>, rows: &[usize], x: &Acts, y: &mut Acts) {
        let at = b.recording.table.len() as u32;
        b.recording.table.extend(rows.iter().map(|row| *row as u32));
        let params = [
            at,
            self.place(b, x),
            norm.weight.0,
            norm.bias.0,
            norm.eps.to_bits(),
            self.place(b, y),
            y.padded as u32,
            y.kind as u32,
        ];
        self.dispatch(b, usize::MAX, &Kernel::NormRows { width: x.width }, &params, (rows.len(), 1));
    }

    fn ddlerp(
        &self,
        b: &mut Batch<'_>,
        p: &Ddlerp<Self>,
        h: &Acts,
        before: &Acts,
        low: &[Acts; 5],
        y: &mut [Acts],
    ) {
        self.lerps(b, p, h, before, low, y);
    }

    fn wkv6(
        &self,
        b: &mut Batch<'_>,
        layer: usize,
        p: &Wkv6<Self>,
        head_size: usize,
        t: &Rkv<'_, Self>,
        y: &mut Acts,
    ) {
        self.record_wkv6(b, layer, p, head_size, t, y);
    }

    fn wkv4(&self, b: &mut Batch<'_>, layer: usize, p: &Wkv4<Self>, rkv: [&Acts; 3], y: &mut Acts) {
        self.record_wkv4(b, layer, p, rkv, y);
    }

    fn add_gated(&self, b: &mut Batch<'_>, g: &Acts, y: &Acts, scale: f32, x: &mut Acts) {
        let [g, y, to] = [g, y, x].map(|acts| self.place(b, acts));
        let params = [g, y, to, x.width as u32, scale.to_bits()];
        self.dispatch(b, usize::MAX, &Kernel::AddGated, &params, (x.tokens, 1));
    }
}

impl Ahead {
    /// Whether a chunk is what was recorded for: its states are in the same slots, which nobody else has.
    fn fits(&self, chunk: &Chunked<'_>) -> bool {
        let same = |(seq, slot): (&Sequence, &Arc<Slot>)| {
            let state = chunk.states[seq.slot].slot();
            state.is_some_and(|own| Arc::ptr_eq(own, slot)) && Arc::strong_count(slot) == 2
        };
        chunk.tokens.len() == chunk.seqs.len()
            && self.slots.len() == chunk.seqs.len()
            && self.like.rows.iter().zip(chunk.rows).all(|(a, b)| a == b)
            && chunk.seqs.iter().zip(&self.slots).all(same)
    }
}

/// The beginning of the table of a chunk: sequences, tokens, and the number of each one's sequence.
fn head(chunk: &Chunked<'_>, slots: &[Arc<Slot>]) -> Vec<u32> {
    let mut table = vec![];
    for (seq, slot) in chunk.seqs.iter().zip(slots) {
        table.extend([slot.index, seq.start as u32, seq.len as u32]);
    }
    table.extend(chunk.tokens);
    table.extend(chunk.seqs.iter().enumerate().flat_map(|(i, s)| std::iter::repeat_n(i as u32, s.len)));
    table
}

/// Bytes of a device's memory that a model needs.
#[derive(Clone, Copy)]
struct Needs {
    weights: u64,
    states: u64,
    activations: u64,
}

/// What the matrices of a checkpoint take, and about what a chunk of one sequence takes.
fn needs(checkpoint: &Checkpoint) -> Needs {
    let matrices = checkpoint.tensors.values().filter_map(|t| match t.shape[..] {
        [ref rows @ .., columns] if !rows.is_empty() => {
            let stride = Layout::of(t.format).stride(padded(columns)) * VECTOR;
            Some((rows.iter().product::<usize>() * stride) as u64)
        }
        _ => None,
    });
    let size = |name: &str, axis: usize| {
        checkpoint.tensors.get(name).and_then(|t| t.shape.get(axis)).map_or(0, |n| *n as u64)
    };
    let [vocab, channels] = [0, 1].map(|axis| size("emb.weight", axis));
    let hidden = size("blocks.0.ffn.key.weight", 0);
    let layers = checkpoint.tensors.keys().filter(|name| name.ends_with(".ln1.weight")).count() as u64;
    let head_size = checkpoint.head_size.unwrap_or(64) as u64;
    // The stream and what it is mixed to, and the state and its fork.
    let chunk = crate::RnnInput::CHUNK as u64;
    Needs {
        weights: matrices.sum(),
        states: 4 * 2 * layers * channels.saturating_mul(head_size + 2),
        activations: 4 * (chunk * (24 * channels + hidden) + vocab),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model too large for any device.
    #[test]
    fn what_does_not_fit_is_an_error_of_the_device() {
        let Some(info) = devices().into_iter().next() else {
            assert!(std::env::var_os("WEB_RWKV_TEST_GPU").is_none_or(|v| v != "1"), "no GPU");
            println!("skipped: no GPU with a driver for Vulkan, Metal or DirectX 12");
            return;
        };
        let gpu =
            Gpu::new(Wanted { index: Some(info.index), ..Default::default() }, &self_test::checkpoint());
        let context = gpu.unwrap().context;
        context.fits(Needs { weights: 1 << 20, states: 1, activations: 0 }).unwrap();
        // A software renderer's memory ends where addresses do.
        if info.kind != "software" {
            let needs = Needs { weights: 1 << 50, states: 1 << 20, activations: 0 };
            let error = context.fits(needs).unwrap_err();
            assert!(matches!(&error, Error::Device { device, .. } if *device == info.name), "{error}");
            assert!(error.to_string().contains("1073741825 MiB (1073741824 of weights"), "{error}");
        }
        let error = context.allocate("weights", 1 << 50).unwrap_err();
        assert!(error.to_string().contains("no memory for 1125899906842624 bytes of weights"), "{error}");
        context.check().unwrap(); // and the device is as good as before
        context.allocate("weights", 1 << 20).unwrap();
    }
}
