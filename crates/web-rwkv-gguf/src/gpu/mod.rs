//! The GPU executor: records operations of a batch as dispatches of one submission.
//!
//! All activations of a kind stand in one buffer, so do vectors, states and (up to the limit of a binding) weights:
//! every kernel has the same bindings, and its parameters say where things are.

mod before_v7;
mod cache;
#[cfg(test)]
mod cases;
mod chain;
mod chosen;
mod context;
mod device;
mod kernel;
mod layout;
mod ops;
mod products;
mod profile;
mod self_test;
mod state;
mod upload;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

pub(crate) use chosen::Chosen;
pub(crate) use context::{Context, Mapped};
pub use device::devices;
pub(crate) use device::has_gpu;
pub(crate) use self_test::tested;
pub(crate) use state::{Pool, Slot};

use crate::{
    Error, Result,
    batch::{Sequence, Tails, Token},
    device::{DeviceInfo, OpTime, Tier},
    load::Checkpoint,
    ops::{Act, Chunked, Ddlerp, FileMatrix, Gates, Heads, Kind, Norm, Ops, Product, Rkv, Shift, Wkv4, Wkv6},
    sampler::Choice,
    state::State,
};
use cache::Cache;
use chain::Chain;
use kernel::{Kernel, Kernels, Tile};
use layout::{Layout, VECTOR, padded};
use products::{ADD, DECAY, FEW, GATE, JOBS, Job, LERP, PARTS, RESIDUAL, Unfinished};
use profile::Profile;
use state::{Buffers, Outgoing};
use upload::Upload;

/// Words of the table of a batch.
const TABLE: usize = 1 << 20;
/// Dispatches of a batch after which what has been recorded is submitted, so that the device begins.
const BEGIN: [usize; 3] = [20, 64, 192];
const BINDINGS: usize = 8;
/// Tokens of a chunk, at first and at most: more at a time are quicker, but a submission must not run so long that a
/// watchdog, or the screen, minds it.
const CHUNKS: (usize, usize) = (256, 2048);
/// Times of a chunk below which the next may be larger, and above which it should be smaller.
const MOMENT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(500));
/// Words of a sequence in the table, and of a choice.
const SEQUENCE: u32 = 4;
const CHOICE: u32 = 6;
/// Told with the width of inputs that stand in tiles.
const TILES: u32 = 1 << 31;
/// From so many tokens a sequence on wkv7 runs on matrix units; below it, it makes gates of their sums.
const LONG: usize = 24;
/// Workgroups that send a layer of a state to this machine's memory: more would be in the way of others.
const SENDERS: usize = 10;
/// Heads of long sequences up to which two workgroups share one.
const HEADS: usize = 128;
/// Kinds of several texts, by their lengths, of which is kept what was recorded: a schema's fields and questions, and others.
const TEXTS: usize = 4;
/// Bytes of weights from which on: a device has done with less before this machine has recorded it. Those of tests are small.
const LARGE: u64 = if cfg!(test) { 1 } else { 1 << 28 };
/// Up to so many sequences run on before their tokens are seen, for so many steps, each of which leaves a state of each.
const AHEAD: [(usize, usize); 2] = [(8, 2), (64, 1)];

/// Runs operations on a GPU.
pub(crate) struct Gpu {
    context: Arc<Context>,
    info: DeviceInfo,
    kernels: Kernels,
    bindings: wgpu::BindGroupLayout,
    memory: Mutex<Memory>,
    /// Width of all activations of each kind.
    widths: [AtomicUsize; 3],
    /// Width of the widest activations of each kind.
    widest: [AtomicUsize; 3],
    profile: Option<Profile>,
    /// Tokens that take no more than a moment.
    chunk: AtomicUsize,
}

struct Memory {
    /// Bytes of weights that are still to come, and buffers for them.
    to_come: u64,
    allocated: VecDeque<wgpu::Buffer>,
    weights: Vec<Weights>,
    upload: Upload,
    vectors: Vec<f32>,
    /// Buffers of vectors, of each kind of activations, and of the table.
    vectors_buffer: wgpu::Buffer,
    acts: [Arena; 3],
    table: wgpu::Buffer,
    /// What links of a chain hand to each other, and the last tag of it.
    posts: wgpu::Buffer,
    tag: u32,
    /// Workgroups of a chain that run at a time, once they were counted; 0 if there are no chains.
    workgroups: Option<usize>,
    /// Layouts of all matrices, and the most columns.
    layouts: BTreeSet<Layout>,
    columns: usize,
    pool: Option<Arc<Pool>>,
    /// The buffers of the pool, as they are bound.
    states: Buffers,
    /// Where kernels send a state, as it is bound.
    outgoing: Option<wgpu::Buffer>,
    groups: HashMap<Bound, wgpu::BindGroup>,
    ahead: Option<Ahead>,
    /// Chunks of several texts that came, and what was recorded for more that are like them.
    texts: VecDeque<(Like, Option<Recording>)>,
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
        self.texts.clear();
    }
}

/// Which buffers a dispatch takes beside those that all take: one of weights, one of states.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Bound {
    weights: Option<usize>,
    states: Option<usize>,
    /// Whether a state is sent by it.
    sends: bool,
}

impl Bound {
    fn weights(buffer: usize) -> Self {
        Self { weights: Some(buffer), ..Self::default() }
    }

    fn states(buffer: usize) -> Self {
        Self { states: Some(buffer), ..Self::default() }
    }
}

struct Weights {
    buffer: wgpu::Buffer,
    used: u64,
}

/// Activations of a kind: `rows` rows of each, then parts of products, so many floats.
struct Arena {
    rows: usize,
    width: usize,
    parts: usize,
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

impl Matrix {
    /// Vectors from row to row.
    fn stride(&self) -> usize {
        self.layout.stride(padded(self.columns))
    }
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
    /// Whether they are inputs that stand in tiles of 16 × 16, as matrix units take them.
    tiled: bool,
}

impl Acts {
    fn bytes(&self) -> u64 {
        4 * (self.tokens * self.padded) as u64
    }

    /// From token to token, as kernels are told.
    fn pitch(&self) -> u32 {
        self.padded as u32 | if self.tiled { TILES } else { 0 }
    }
}

/// A chunk of tokens, whose operations are being recorded.
pub(crate) struct Batch<'a> {
    memory: MutexGuard<'a, Memory>,
    states: &'a mut [State],
    /// The states that the chunk changes, and their new places.
    slots: Vec<(usize, Arc<Slot>)>,
    /// Where the state of the only sequence goes.
    outgoing: Option<Outgoing>,
    recording: Recording,
    /// What `recording` is like, if chunks like it may follow.
    like: Option<Like>,
    /// Whether `recording` is ahead of the next chunk.
    ahead: bool,
    submission: Option<wgpu::SubmissionIndex>,
    tokens: usize,
    sequences: usize,
    /// Whether every sequence has one token.
    alone: bool,
    /// Whether the device has nothing to do while the chunk is recorded.
    idle: bool,
    /// What is left of tails to be moved, of all.
    tails: Option<&'a Tails>,
    all_tails: Option<&'a Tails>,
    choices: &'a [Choice],
    /// What the submitted operations choose.
    chosen: Option<Arc<Chosen>>,
    /// Where sequences stand in the table, and the number of each token's; and tokens.
    sequences_at: u32,
    sequence_of: u32,
    tokens_at: u32,
    /// From `gates` to `wkv7`, which computes kk and k where it reads them, and of short sequences w, a and v too.
    gates: Option<Biases>,
    /// Sums of a product that the operation that reads them may add.
    unfinished: Option<Unfinished>,
    /// The activations that are in their other place, since such sums were added to them, as [`Unfinished`] names them.
    moved: Option<usize>,
    /// Where choices stand in the table.
    choices_at: u32,
}

/// The places of vectors of gates; v0 if v is not v_first.
struct Biases {
    k_k: u32,
    k_a: u32,
    w0: u32,
    a0: u32,
    v0: Option<u32>,
}

impl Batch<'_> {
    /// Tokens of a sequence, on average.
    fn length(&self) -> usize {
        self.tokens / self.sequences.max(1)
    }
}

/// Operations that have not run yet.
#[derive(Default)]
struct Recording {
    /// They are in there, if they were recorded ahead.
    commands: Option<wgpu::CommandBuffer>,
    encoder: Option<wgpu::CommandEncoder>,
    pass: Option<wgpu::ComputePass<'static>>,
    table: Vec<u32>,
    chain: Chain,
    /// What is chosen, and where the tokens are put in the table.
    chosen: Option<(u32, Arc<Chosen>)>,
    /// How many dispatches there are, and what they are, if they are timed.
    dispatches: usize,
    timed: Vec<OpTime>,
    /// Where the table tells of tails, if there are some.
    tails_at: usize,
}

/// What makes chunks alike, beside their tokens and states: the lengths of their sequences, the wanted rows, and how many tokens
/// are chosen by them.
#[derive(Clone, PartialEq)]
struct Like {
    lengths: Vec<usize>,
    rows: [Vec<usize>; 2],
    choices: usize,
}

/// A recording for the next chunk, should it be like the last.
struct Ahead {
    like: Like,
    recording: Recording,
    slots: Vec<Arc<Slot>>,
}

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
        features |= adapter.features()
            & (wgpu::Features::PIPELINE_CACHE
                | wgpu::Features::MEMORY_DECORATION_COHERENT
                | wgpu::Features::MEMORY_DECORATION_VOLATILE);
        let mut experimental = wgpu::ExperimentalFeatures::disabled();
        if tier == Tier::Matrix {
            features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SUBGROUP_BARRIER;
            features |= adapter.features() & wgpu::Features::MAPPABLE_PRIMARY_BUFFERS;
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
            gave_up: AtomicBool::new(false),
            chosen: Mutex::default(),
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
        let needs = needs(checkpoint, tier);
        let channels = checkpoint.tensors.get("emb.weight").and_then(|t| t.shape.get(1)).unwrap_or(&0);
        if !channels.is_multiple_of(4) {
            return Err(failed(format!("expected channels in multiples of 4, found {channels}")));
        }
        // Either takes the driver a while.
        let (allocated, cache) = thread::scope(|scope| {
            let cache = scope.spawn(|| Cache::open(&context.device, &adapter.get_info()));
            (context.fit(needs), cache.join().expect("opening a cache does not panic"))
        });
        let arena = || Arena { rows: 0, width: 0, parts: 0, buffer: context.buffer("acts", 0) };
        let memory = Memory {
            to_come: needs.weights,
            allocated: allocated?.into(),
            weights: vec![],
            upload: Upload::default(),
            vectors: vec![],
            vectors_buffer: context.buffer("vectors", 0),
            acts: [arena(), arena(), arena()],
            table: context.buffer("table", 4 * TABLE as u64),
            posts: context.buffer("posts", (VECTOR * chain::POSTS) as u64),
            tag: 0,
            workgroups: None,
            layouts: BTreeSet::new(),
            columns: 0,
            pool: None,
            states: Buffers::default(),
            outgoing: None,
            groups: HashMap::new(),
            ahead: None,
            texts: VecDeque::new(),
            results: context.mappable(1 << 20),
            running: None,
        };
        let kernels = Kernels::new(&context.device, layout, tier, info.subgroup.0 as usize, cache);
        let (memory, widths, widest) = (Mutex::new(memory), Default::default(), Default::default());
        context.check()?;
        let profile = wanted.profile.then(|| Profile::new(&context));
        Ok(Self {
            context,
            info,
            kernels,
            bindings,
            memory,
            widths,
            widest,
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

    /// Records a dispatch.
    fn dispatch(
        &self,
        b: &mut Batch<'_>,
        bound: Bound,
        kernel: &Kernel,
        params: &[u32],
        groups: (usize, usize),
    ) {
        self.end_chain(b);
        self.finish_sums(b);
        let pipeline = self.kernels.get(kernel);
        let group = self.group(&mut b.memory, bound);
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
            timed.push(OpTime { name: kernel.to_string(), count: 1, ..OpTime::default() });
            profile.stamp(pass, timed.len());
        }
        b.recording.dispatches += 1;
        // The table is written once more with the rest, over what the device has put into it.
        let puts = b.recording.chain.bests.is_some() || matches!(kernel, Kernel::Sample);
        let begins = BEGIN.contains(&b.recording.dispatches) && b.idle && !puts;
        if begins && b.submission.is_none() && self.profile.is_none() {
            b.recording.pass = None;
            let encoder = b.recording.encoder.take().expect("a pass has one");
            self.context.queue.write_buffer(&b.memory.table, 0, bytemuck::cast_slice(&b.recording.table));
            self.context.queue.submit([encoder.finish()]);
        }
    }

    fn group(&self, m: &mut Memory, bound: Bound) -> wgpu::BindGroup {
        if let Some(group) = m.groups.get(&bound) {
            return group.clone();
        }
        let states = bound.states.map_or(&m.posts, |i| &m.states.all[i]);
        let weights = bound.weights.map_or(&m.vectors_buffer, |i| &m.weights[i].buffer);
        let [acts, inputs, outputs] = &m.acts;
        let buffers = [
            weights,
            &m.vectors_buffer,
            &acts.buffer,
            &inputs.buffer,
            &outputs.buffer,
            states,
            &m.table,
            m.outgoing.as_ref().filter(|_| bound.sends).unwrap_or(&m.posts),
        ];
        let entry =
            |i: usize| wgpu::BindGroupEntry { binding: i as u32, resource: buffers[i].as_entire_binding() };
        let group = self.context.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.bindings,
            entries: &std::array::from_fn::<_, BINDINGS, _>(entry),
        });
        m.groups.insert(bound, group.clone());
        group
    }

    /// The states of the model, which are of such sizes.
    fn pool(&self, m: &mut Memory, sizes: [usize; 3]) -> Arc<Pool> {
        m.pool.get_or_insert_with(|| Arc::new(Pool::new(self.context.clone(), sizes))).clone()
    }

    /// Binds the buffers that a pool has now.
    fn bind(m: &mut Memory, pool: &Pool) {
        let states = pool.buffers();
        if m.states != states {
            m.states = states;
            m.renew();
        }
    }

    /// Puts a state into a slot, if it has none.
    pub(crate) fn place_state(&self, state: &mut State) -> Result<()> {
        // Held so that no batch makes the pool larger meanwhile.
        let mut memory = self.memory.lock().expect("no holder panics");
        let pool = self.pool(&mut memory, state.dims());
        if state.slot().is_none_or(|slot| !slot.same_pool(&pool)) {
            pool.begin([].iter())?;
            let slot = pool.put(state.as_slice()?)?;
            self.context.check()?;
            state.settle(slot);
        }
        Ok(())
    }

    /// For each sequence the slot that its state is read from, and the one that it goes to, which nobody else has: its own, or
    /// a new one.
    fn settle(pool: &Arc<Pool>, chunk: &Chunked<'_>) -> Result<Vec<(u32, Arc<Slot>)>> {
        let slots = |seq: &Sequence| {
            let state = &chunk.states[seq.slot];
            Ok(match state.slot().filter(|slot| slot.same_pool(pool)) {
                Some(own) if Arc::strong_count(own) == 1 => (own.index(), own.clone()),
                Some(own) => (own.index(), pool.take()?),
                None if state.is_zero() => (Pool::ZEROS, pool.take()?),
                None => {
                    let own = pool.put(state.as_slice()?)?;
                    (own.index(), own)
                }
            })
        };
        chunk.seqs.iter().map(slots).collect()
    }

    /// Learns from the time of what has run how large chunks should be.
    fn pace(&self, m: &mut Memory) {
        let Some((since, tokens)) = m.running.take() else { return };
        let time = since.elapsed() / tokens as u32;
        let size = self.chunk.load(Relaxed);
        if time * size as u32 <= MOMENT.0 / 2 {
            self.chunk.store((2 * size).min(CHUNKS.1), Relaxed);
        } else if time * size as u32 > MOMENT.1 {
            self.chunk.store((size / 2).max(CHUNKS.0 / 16), Relaxed);
        }
    }

    /// Ends a recording: its commands can then be submitted.
    fn finish(&self, recording: &mut Recording, m: &Memory, wanted: &[&Acts]) {
        if recording.commands.is_some() {
            return;
        }
        recording.pass = None;
        let mut encoder = recording.encoder.take().unwrap_or_else(|| self.encoder());
        let mut to = 0;
        for acts in wanted {
            let arena = &m.acts[acts.kind as usize];
            let (from, size) = (4 * (acts.before * arena.rows) as u64, acts.bytes());
            encoder.copy_buffer_to_buffer(&arena.buffer, from, &m.results, to, size);
            to += size;
        }
        if let Some((at, chosen)) = &recording.chosen {
            for buffer in &chosen.buffers {
                encoder.copy_buffer_to_buffer(&m.table, 4 * u64::from(*at), buffer, 0, chosen.bytes());
            }
            encoder.copy_buffer_to_buffer(&m.posts, 0, &chosen.buffers[1], chosen.bytes(), 4);
        }
        if to > 0 {
            encoder.copy_buffer_to_buffer(&m.posts, 0, &m.results, to, 4);
        }
        self.profile.iter().for_each(|p| p.resolve(&mut encoder, recording.timed.len() + 1));
        recording.commands = Some(encoder.finish());
    }

    /// Ends a batch that has been submitted, but for what is wanted of it: its states are the new ones.
    fn close(&self, b: Batch<'_>) -> Result<()> {
        if let Some(profile) = &self.profile {
            profile.add(&self.context, b.recording.timed)?;
        }
        b.slots.into_iter().for_each(|(state, slot)| b.states[state].settle(slot));
        Ok(())
    }

    /// Keeps what has been recorded for the next chunk.
    fn keep_ahead(&self, b: &mut Batch<'_>, wanted: &[&Acts]) {
        if b.ahead && b.recording.pass.is_some() {
            self.end_chain(b);
            let mut recording = std::mem::take(&mut b.recording);
            self.finish(&mut recording, &b.memory, wanted);
            let like = b.like.take().expect("`submit` asked for more");
            if b.alone {
                let slots = b.slots.iter().map(|(_, slot)| slot.clone()).collect();
                b.memory.ahead = Some(Ahead { like, recording, slots });
            } else if let Some((_, kept)) = b.memory.texts.iter_mut().find(|(known, _)| *known == like) {
                *kept = Some(recording);
            }
        }
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.context.device.create_command_encoder(&Default::default())
    }

    /// The buffer of a layer's states, where a row begins in a slot of it, and the size of a slot.
    fn state_at(b: &Batch<'_>, layer: usize, row: usize) -> (Bound, [u32; 2]) {
        let (buffer, [layer, slot]) = b.memory.states.place(layer);
        let [_, _, channels] = b.states[0].dims();
        (Bound::states(buffer), [layer + (row * channels) as u32, slot])
    }

    /// Where activations begin in the buffer of their kind.
    fn place(&self, b: &Batch<'_>, acts: &Acts) -> u32 {
        let Some(arena) = b.memory.acts.get(acts.kind as usize) else { return 0 };
        match b.moved {
            Some(before) if acts.kind == Kind::Stream && acts.before == before => self.other_place(b),
            _ => (acts.before * arena.rows) as u32,
        }
    }

    /// Tells how many tokens activations are made of.
    fn count(&self, acts: &mut Acts, tokens: usize) {
        acts.tokens = tokens;
        acts.tiled = self.info.tier == Tier::Matrix && acts.kind == Kind::Input && tokens > FEW;
    }

    /// Where a column begins, a multiple of 16 in tiles.
    fn column(&self, b: &Batch<'_>, acts: &Acts, column: u32) -> u32 {
        self.place(b, acts) + column * if acts.tiled { 16 } else { 1 }
    }

    /// The other place of activations that sums are added to, behind the parts.
    fn other_place(&self, b: &Batch<'_>) -> u32 {
        let (parts, room) = self.parts(b);
        parts + room as u32
    }
}

impl Ahead {
    /// Whether a chunk is what was recorded for: its states are in the same slots, which nobody else has.
    fn fits(&self, chunk: &Chunked<'_>) -> bool {
        let places = self.recording.table.iter().skip(1).step_by(SEQUENCE as usize);
        let same = |((seq, slot), place): ((&Sequence, &Arc<Slot>), &u32)| {
            let state = chunk.states[seq.slot].slot();
            state.is_some_and(|own| Arc::ptr_eq(own, slot))
                && Arc::strong_count(slot) == 2
                && slot.index() == *place
        };
        chunk.seqs.iter().all(|seq| seq.len == 1)
            && chunk.coming.is_empty()
            && self.slots.len() == chunk.seqs.len()
            && self.like.choices == chunk.choices.len()
            && self.like.rows.iter().zip(chunk.rows).all(|(a, b)| a == b)
            && chunk.seqs.iter().zip(&self.slots).zip(places).all(same)
    }
}

/// What tells of a chunk in the table: sequences, with the slots of their states before and after, tokens, and the number of
/// each one's sequence.
fn head(seqs: &[Sequence], tokens: &[u32], slots: impl Iterator<Item = [u32; 2]>) -> Vec<u32> {
    let mut table = vec![];
    for (seq, [before, after]) in seqs.iter().zip(slots) {
        table.extend([before, after, seq.start as u32, seq.len as u32]);
    }
    table.extend(tokens);
    table.extend(seqs.iter().enumerate().flat_map(|(i, s)| std::iter::repeat_n(i as u32, s.len)));
    table
}

/// Puts choices where they stand in the table, and what they take off logits behind everything else.
fn write_choices(choices: &[Choice], at: u32, table: &mut Vec<u32>) {
    for (i, choice) in choices.iter().enumerate() {
        let Choice { temperature, top_k, top_p, random, penalties } = choice;
        let words = [
            temperature.to_bits(),
            u32::try_from(*top_k).unwrap_or(0), // more than there can be is all
            top_p.to_bits(),
            random.to_bits(),
            table.len() as u32,
            penalties.len() as u32,
        ];
        table[at as usize + i * words.len()..][..words.len()].copy_from_slice(&words);
        table.extend(penalties.iter().flat_map(|(token, penalty)| [*token, penalty.to_bits()]));
    }
}

/// Bytes of a device's memory that a model needs.
#[derive(Clone, Copy)]
struct Needs {
    weights: u64,
    states: u64,
    activations: u64,
}

/// What the matrices of a checkpoint take, and about what a chunk of one sequence takes.
fn needs(checkpoint: &Checkpoint, tier: Tier) -> Needs {
    let matrices = checkpoint.tensors.values().filter_map(|t| match t.shape[..] {
        [ref rows @ .., columns] if !rows.is_empty() => {
            let stride = Layout::of(t.format, tier).row_bytes(columns);
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
    // The stream and what it is mixed to, and zeros, the state and its fork.
    let chunk = crate::RnnInput::CHUNK as u64;
    Needs {
        weights: matrices.sum(),
        states: 4 * 3 * layers * channels.saturating_mul(head_size + 2),
        activations: 4 * (chunk * (25 * channels + 2 * hidden) + vocab + PARTS as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RnnInput, RnnInputBatch, RnnOption, RnnOutput, format::Format, load::Tensor, model::Net};

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
        context.fit(Needs { weights: 1 << 20, states: 1, activations: 0 }).unwrap();
        // A software renderer's memory ends where addresses do.
        if info.kind != "software" {
            let needs = Needs { weights: 1 << 50, states: 1 << 20, activations: 0 };
            let error = context.fit(needs).unwrap_err();
            assert!(matches!(&error, Error::Device { device, .. } if *device == info.name), "{error}");
            assert!(error.to_string().contains("1073741825 MiB (1073741824 of weights"), "{error}");
        }
        let error = context.allocate("weights", 1 << 50).unwrap_err();
        assert!(error.to_string().contains("no memory for 1125899906842624 bytes of weights"), "{error}");
        context.check().unwrap(); // and the device is as good as before
        context.allocate("weights", 1 << 20).unwrap();
    }

    /// Kernels take four channels at a time.
    #[test]
    fn widths_that_kernels_do_not_take_are_errors() {
        if devices().is_empty() {
            return println!("skipped: no GPU with a driver for Vulkan, Metal or DirectX 12");
        }
        let mut checkpoint = Checkpoint::empty("narrow");
        let (shape, data) = (vec![1, 6], vec![0; 24].into());
        checkpoint.tensors.insert("emb.weight".into(), Tensor { shape, format: Format::F32, data });
        let Err(error) = Gpu::new(Wanted::default(), &checkpoint) else { unreachable!("it has 6 channels") };
        assert!(error.to_string().contains("expected channels in multiples of 4, found 6"), "{error}");
    }

    /// The second text's state is sent as its layers leave it, and the last one behind its batch; what comes of it later is not
    /// what was sent.
    #[test]
    fn states_that_were_sent_are_those_of_the_device() {
        if devices().is_empty() {
            return println!("skipped: no GPU with a driver for Vulkan, Metal or DirectX 12");
        }
        let checkpoint = self_test::checkpoint();
        let net = Net::new(Gpu::new(Wanted::default(), &checkpoint).unwrap(), &checkpoint).unwrap();
        let read = |tokens: &[u32], state: &mut State| {
            let batch = vec![RnnInputBatch::new(tokens, RnnOption::Last)];
            let chunk = RnnInput::new(batch, RnnInput::CHUNK).chunks(RnnInput::CHUNK).remove(0);
            net.forward(&chunk, std::slice::from_mut(state), &mut RnnOutput(vec![vec![]])).unwrap();
        };
        let contents = |state: &State| state.as_slice().unwrap().to_vec();
        let text = |goes_on: bool| {
            let mut state = State::zero(self_test::SHAPE);
            read(&(0..40).map(|i| i % 32).collect::<Vec<_>>(), &mut state);
            if goes_on {
                read(&[4], &mut state);
            }
            contents(&state)
        };
        let first = [text(false), text(true)];
        assert_ne!(first[0], first[1]);
        for _ in 0..3 {
            assert_eq!([text(false), text(true)], first);
        }
    }

    /// Texts of lengths that come again run as they were recorded before, with their own tokens and states.
    #[test]
    fn texts_that_are_recorded_ahead_are_read_as_others_are() {
        if devices().is_empty() {
            return println!("skipped: no GPU with a driver for Vulkan, Metal or DirectX 12");
        }
        let checkpoint = self_test::checkpoint();
        let net = || Net::new(Gpu::new(Wanted::default(), &checkpoint).unwrap(), &checkpoint).unwrap();
        let read = |net: &Net<Gpu>, lengths: &[u32], first: u32, states: &mut [State]| {
            let text = |length: &u32| {
                let tokens = (first..first + length).map(|i| i * 5 % 32).collect::<Vec<_>>();
                RnnInputBatch::new(tokens, RnnOption::Last)
            };
            let batches = lengths.iter().map(text).collect();
            let mut output = RnnOutput(vec![vec![]; lengths.len()]);
            let chunk = RnnInput::new(batches, RnnInput::CHUNK).chunks(RnnInput::CHUNK).remove(0);
            net.forward(&chunk, states, &mut output).unwrap();
            let contents: Vec<_> = states.iter().map(|s| s.as_slice().unwrap().to_vec()).collect();
            (output.0, contents)
        };
        let kept =
            |net: &Net<Gpu>| net.ops.memory.lock().unwrap().texts.iter().filter(|t| t.1.is_some()).count();
        let (ours, other) = (net(), net());
        for first in 0..3 {
            // In new states, of a token each, and in the states that these leave.
            for lengths in [[5, 7, 0], [4, 3, 9]] {
                let [mut states, mut wanted] = [(); 2].map(|()| vec![State::zero(self_test::SHAPE); 3]);
                for lengths in [lengths, [1; 3], lengths] {
                    other.ops.memory.lock().unwrap().texts.clear();
                    let want = read(&other, &lengths, first, &mut wanted);
                    assert!(read(&ours, &lengths, first, &mut states) == want, "{first}: {lengths:?}");
                }
            }
        }
        assert_eq!([kept(&ours), kept(&other)], [2, 0]);
    }

    /// More states than slots: a batch of two after another, in turn.
    #[test]
    fn states_that_have_no_room_move_away_and_come_back() {
        if devices().is_empty() {
            return println!("skipped: no GPU with a driver for Vulkan, Metal or DirectX 12");
        }
        let run = |most: usize| {
            let checkpoint = self_test::checkpoint();
            let net = Net::new(Gpu::new(Wanted::default(), &checkpoint).unwrap(), &checkpoint).unwrap();
            let mut states = vec![State::zero(self_test::SHAPE); 7];
            net.ops.pool(&mut net.ops.memory.lock().unwrap(), states[0].dims()).limit(most);
            let batch = |which: &mut [State], token: u32| {
                let batches =
                    which.iter().map(|_| RnnInputBatch::new(vec![token], RnnOption::Last)).collect();
                let mut output = RnnOutput(vec![vec![]; which.len()]);
                let chunk = RnnInput::new(batches, RnnInput::CHUNK).chunks(RnnInput::CHUNK).remove(0);
                net.forward(&chunk, which, &mut output).map(|()| output)
            };
            for round in 0..3 {
                for (i, two) in states.chunks_mut(2).enumerate() {
                    batch(two, 10 * round + i as u32).unwrap();
                    batch(two, 5).unwrap(); // as was recorded ahead
                }
            }
            let fork = states[0].clone();
            batch(&mut states[..1], 7).unwrap();
            states.push(fork);
            let all = batch(&mut states.clone(), 9).map(|output| output.0);
            (all, states.iter().map(|s| s.as_slice().unwrap().to_vec()).collect::<Vec<_>>())
        };
        let (all, states) = run(100);
        assert_eq!(all.unwrap().len(), 8);
        for most in [2, 3] {
            let (all, moved) = run(most);
            assert!(moved == states, "{most} slots");
            let error = all.unwrap_err().to_string();
            assert!(error.contains(&format!("no room for a batch of more than {most} states")), "{error}");
        }
    }
}
