//! Kernels: put together from WGSL files, since the order of declarations does not matter in WGSL, and compiled once.

use std::{
    collections::HashMap,
    fmt::{self, Write},
    sync::{Arc, Mutex, OnceLock},
};

use super::{
    ADD, Pool, SENDERS, Tier,
    cache::Cache,
    layout::{CHUNK, Layout, VECTOR},
};

/// A kernel for certain constants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kernel {
    Embed {
        layout: Layout,
        width: usize,
    },
    Shift {
        width: usize,
        mixes: usize,
        keep: bool,
        /// Whether every sequence has one token.
        alone: bool,
        /// Parts of what is yet to be added.
        splits: usize,
    },
    NormRows {
        width: usize,
    },
    /// Products for a tile of few tokens, of matrices of at most so many columns. If there is only one, `act` is its
    /// activation.
    Few {
        layouts: Vec<Layout>,
        tokens: usize,
        columns: usize,
        act: Option<u32>,
    },
    /// Products for many tokens.
    Many {
        layouts: Vec<Layout>,
        /// Those of a tile.
        tokens: usize,
    },
    /// What comes after products on matrix units whose columns are shared out, so many rows at a time.
    FinishParts {
        splits: usize,
        rows: usize,
    },
    /// In blocks of so many tokens, by so many workgroups for a head.
    Wkv7 {
        head_size: usize,
        block: usize,
        split: usize,
        /// Whether every sequence has one token.
        alone: bool,
        /// The parts of the sums of gates that it is given, or 0 if it is given gates.
        gates: usize,
    },
    /// Sixteen tokens at a time on matrix units.
    Wkv7Matrix {
        head_size: usize,
    },
    Wkv7Norm {
        head_size: usize,
    },
    Wkv6 {
        head_size: usize,
        decay: bool,
        gate: bool,
    },
    Wkv4,
    AddGated,
    Tails,
    /// Operations on one token, one after another, on matrices of these layouts and at most so many columns.
    Chain {
        width: usize,
        head_size: usize,
        columns: usize,
        layouts: Vec<Layout>,
    },
    Sample,
}

impl Kernel {
    /// Threads of a workgroup, if a kernel says nothing else.
    pub(super) const THREADS: usize = 256;
    /// Channels of a workgroup of `wkv4`.
    pub(super) const WKV4_THREADS: usize = 64;
    /// Vectors of a row that a workgroup of `tails` moves.
    pub(super) const TAILS_THREADS: usize = 64;
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |layouts: &[Layout]| layouts.iter().map(|l| l.name()).collect::<Vec<_>>().join("+");
        match self {
            Self::Embed { layout, .. } => write!(f, "embed {}", layout.name()),
            Self::Shift { splits: 0, .. } => f.write_str("shift"),
            Self::Shift { splits, .. } => write!(f, "shift after {splits} parts"),
            Self::NormRows { .. } => f.write_str("norm_rows"),
            Self::Few { layouts, tokens, .. } => write!(f, "project {} for {tokens}", names(layouts)),
            Self::Many { layouts, tokens } => write!(f, "project {} in tiles of {tokens}", names(layouts)),
            Self::FinishParts { splits, .. } => write!(f, "finish {splits} parts"),
            Self::Wkv7 { head_size, block, split, .. } => {
                write!(f, "wkv7 of {head_size} by {block}, in {split}")
            }
            Self::Wkv7Matrix { head_size } => write!(f, "wkv7 of {head_size} on matrix units"),
            Self::Wkv7Norm { .. } => f.write_str("wkv7_norm"),
            Self::Wkv6 { head_size, .. } => write!(f, "wkv6 of {head_size}"),
            Self::Wkv4 => f.write_str("wkv4"),
            Self::AddGated => f.write_str("add_gated"),
            Self::Tails => f.write_str("tails"),
            Self::Chain { .. } => f.write_str("chain"),
            Self::Sample => f.write_str("sample"),
        }
    }
}

const THREADS: usize = Kernel::THREADS;
/// Rows and tokens of a workgroup of `project_many`.
const TILE: (usize, usize) = (64, 64);
/// Bytes of inputs that a workgroup of `project_few` holds, and of each chunk: of floats, and packed.
const SEGMENT: [(usize, usize); 2] = [(14 << 10, 9 * VECTOR), (26 << 10, 5 * VECTOR)];

/// Tokens of a workgroup of `finish_parts`: fewer make more workgroups, which take time to start.
const FINISHED: usize = 8;
/// Rows that it takes at a time if they are aligned, and one otherwise.
pub(super) const FOUR: usize = 4;

/// Multiprocessors of an H100.
const PROCESSORS: usize = 132;
/// Shares of the columns of products on matrix units.
const SPLITS: [usize; 8] = [1, 2, 3, 4, 6, 8, 12, 16];

/// Tokens of a workgroup of `project_matrix`, subgroups side by side (one has its rows to itself), whether weights that come by
/// halves of a chunk are fetched early, and how long such workgroups take for a chunk, in units of 10 ns, if one, two, … share
/// a multiprocessor: from what was measured on an H100, see docs/kernels.md.
pub(super) struct Tile {
    tokens: usize,
    across: usize,
    early: bool,
    times: &'static [usize],
}

impl Tile {
    /// Rows of any tile, subgroups of 32 threads that share it, and tokens at most.
    pub(super) const ROWS: usize = 128;
    const SUBGROUPS: usize = 4;
    pub(super) const TOKENS: usize = 128;
    const ALL: [Self; 5] = [
        Self { tokens: 64, across: 1, early: true, times: &[62, 74, 91] },
        Self { tokens: 80, across: 1, early: false, times: &[80, 83] },
        Self { tokens: 96, across: 1, early: true, times: &[81, 88] },
        Self { tokens: 112, across: 1, early: false, times: &[84, 101] },
        Self { tokens: Self::TOKENS, across: 2, early: false, times: &[91, 112] },
    ];
}

/// Threads of a workgroup of `project_few`, those that share rows, how many rows, and the units that are fetched ahead;
/// both of values, and packed.
struct Few {
    threads: usize,
    lanes: [usize; 2],
    rows: usize,
    ahead: [usize; 2],
}

/// Compiles kernels for a device, and keeps them.
pub(super) struct Kernels {
    device: wgpu::Device,
    layout: wgpu::PipelineLayout,
    tier: Tier,
    /// Size of a subgroup, the smallest that there may be.
    lanes: usize,
    /// Threads of a workgroup at most.
    threads: usize,
    cache: Option<Cache>,
    compiled: Mutex<HashMap<Kernel, Arc<OnceLock<wgpu::ComputePipeline>>>>,
}

impl Kernels {
    pub(super) fn new(
        device: &wgpu::Device,
        layout: wgpu::PipelineLayout,
        tier: Tier,
        lanes: usize,
        cache: Option<Cache>,
    ) -> Self {
        let threads = device.limits().max_compute_invocations_per_workgroup as usize;
        Self { device: device.clone(), layout, tier, lanes, threads, cache, compiled: Mutex::default() }
    }

    pub(super) fn get(&self, kernel: &Kernel) -> wgpu::ComputePipeline {
        let slot = self.compiled.lock().expect("no holder panics").entry(kernel.clone()).or_default().clone();
        slot.get_or_init(|| self.compile(kernel)).clone()
    }

    fn compile(&self, kernel: &Kernel) -> wgpu::ComputePipeline {
        let (entry, source) = self.source(kernel);
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(entry),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        };
        // SAFETY: kernels index what their parameters describe, which lies in the buffers; every kernel is tested
        // with outputs between sentinels.
        let module = unsafe {
            self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
        };
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry),
            layout: Some(&self.layout),
            module: &module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: self.cache.as_ref().map(|c| &c.pipelines),
        })
    }

    /// The tokens of a tile, and the shares of the columns, that keep the device busy with products of so many rows, each by
    /// itself, columns and tokens, if there is room for so many sums of parts.
    pub(super) fn tile_for(
        &self,
        rows: &[usize],
        columns: usize,
        tokens: usize,
        room: usize,
    ) -> (usize, usize) {
        if self.tier != Tier::Matrix {
            return (TILE.1, 1);
        }
        let chunks = columns.div_ceil(CHUNK);
        let tiles = |tile: &Tile| {
            rows.iter().map(|n| n.div_ceil(Tile::ROWS)).sum::<usize>() * tokens.div_ceil(tile.tokens)
        };
        let time = |&(tile, splits): &(&Tile, usize)| {
            let (groups, times) = (tiles(tile) * splits, tile.times);
            let (rounds, rest) = (groups / (PROCESSORS * times.len()), groups % (PROCESSORS * times.len()));
            let last = rest.div_ceil(PROCESSORS).checked_sub(1).map_or(0, |i| times[i]);
            // To store and add a part of a tile takes time too.
            let adding = groups * (1 + tile.tokens / 32);
            (rounds * times[times.len() - 1] + last) * chunks.div_ceil(splits) + adding
        };
        let has_room = |&(tile, splits): &(&Tile, usize)| {
            splits == 1 || tiles(tile) * Tile::ROWS * tile.tokens * splits <= room
        };
        let all = Tile::ALL.iter().flat_map(|tile| SPLITS.map(|s| (tile, s)));
        let (tile, splits) = all.filter(has_room).min_by_key(time).expect("there are tiles");
        (tile.tokens, splits)
    }

    /// Whether a kernel leaves what is to be done with sums to `finish_parts`.
    pub(super) fn keeps_parts(&self, kernel: &Kernel) -> bool {
        self.tier == Tier::Matrix && matches!(kernel, Kernel::Many { .. })
    }

    /// Rows of a layout that a workgroup of a product has.
    pub(super) fn rows(&self, kernel: &Kernel, layout: Layout) -> usize {
        match kernel {
            Kernel::Few { tokens, columns, act, .. } => {
                let few = self.few(*tokens, *columns, *act);
                few.threads / few.lanes[self.packed(layout)] * few.rows
            }
            _ => self.tile(kernel).0,
        }
    }

    /// Rows and tokens of a workgroup of a product, but for [`Kernels::rows`], heads and tokens of `wkv7_norm`.
    pub(super) fn tile(&self, kernel: &Kernel) -> (usize, usize) {
        match kernel {
            Kernel::Few { tokens, .. } => (1, *tokens),
            Kernel::Many { tokens, .. } if self.tier == Tier::Matrix => (Tile::ROWS, *tokens),
            Kernel::FinishParts { .. } => (Tile::ROWS, FINISHED),
            Kernel::Wkv7Norm { .. } => (THREADS / self.norm_team(), 1),
            _ => TILE,
        }
    }

    /// 1 if `project_few` takes rows of a layout in whole numbers, 0 if as floats.
    fn packed(&self, layout: Layout) -> usize {
        usize::from(self.tier >= Tier::Subgroup && !layout.is_float())
    }

    /// How `project_few` takes so many tokens and columns, as measured on an H100: see docs/kernels.md.
    fn few(&self, tokens: usize, columns: usize, act: Option<u32>) -> Few {
        let rows = if tokens == 1 { 1 } else { 2 };
        let lanes = |most: usize| self.lanes.min(most).min((columns / CHUNK).next_power_of_two());
        if self.tier == Tier::Plain {
            return Few { threads: THREADS, lanes: [lanes(16); 2], rows, ahead: [2, 0] };
        }
        let wide = columns >= 8192;
        // Products that are added have few rows.
        let packed = lanes(if wide || act == Some(ADD) { 32 } else { 16 });
        let ahead = [4 / rows, 1 + usize::from(wide)];
        if columns < 2048 {
            return Few { threads: THREADS, lanes: [lanes(16), packed], rows, ahead };
        }
        // Inputs are brought and packed for many rows at a time.
        let values = lanes(if tokens > 2 { 16 } else { 32 });
        Few { threads: self.threads.min(20 * lanes(32)), lanes: [values, packed], rows, ahead }
    }

    /// Bytes of memory that a workgroup may have.
    fn room(&self) -> usize {
        self.device.limits().max_compute_workgroup_storage_size as usize
    }

    /// How the recurrence of a head is spread over threads, each with so many columns, and blocks of at most so many tokens:
    /// constants, and how many threads.
    fn head(
        &self,
        head_size: usize,
        (columns, block): (usize, usize),
        constants: &mut Vec<(&str, usize)>,
    ) -> usize {
        // Threads of a part lie in one subgroup; a part is of whole vectors of four.
        let threads = |parts: usize| head_size / columns * parts;
        let fits = |parts: &usize| {
            // Few tokens wait for sums.
            let most = self.lanes.min(if block <= 4 { 4 } else { 8 });
            head_size.is_multiple_of(4 * parts) && *parts <= most && threads(*parts) <= THREADS
        };
        let parts = [8, 4, 2].into_iter().find(fits).unwrap_or(1);
        let threads = threads(parts);
        let fits = |team: &usize| *team <= self.lanes && threads.is_multiple_of(*team);
        let team = [16, 8, 4, 2].into_iter().find(fits).unwrap_or(1);
        constants.extend([("N", head_size), ("PARTS", parts), ("TEAM", team)]);
        // Up to nine floats for each channel of each token of a block are in the workgroup's memory.
        let room = self.room() / (9 * 4 * head_size);
        constants.push(("BLOCK", (1 << room.max(1).ilog2()).min(1024 / head_size).clamp(1, block)));
        threads
    }

    /// Workgroups that share a head on matrix units, if they take heads of this size; each needs 38 KiB of memory.
    pub(super) fn matrix_heads(&self, head_size: usize) -> Option<usize> {
        let fits = (head_size, self.lanes) == (64, 32) && self.room() >= 38 << 10;
        (self.tier == Tier::Matrix && fits).then_some(2)
    }

    /// Threads of a workgroup of a chain of this width, of which each has four channels if there are neither few nor many:
    /// as measured on an H100.
    pub(super) fn chain_threads(&self, width: usize) -> usize {
        (width / 128 * 32).clamp(256, 640)
    }

    /// Threads of a chain that share a part of a head.
    fn chain_parts(&self, head_size: usize) -> usize {
        self.lanes.min(head_size / 4)
    }

    /// Vectors of the workgroup's memory for inputs of a chain.
    fn chain_tile(&self, layouts: &[Layout], columns: usize) -> usize {
        let vectors = |l: &Layout| if l.is_float() { columns / 8 } else { columns / CHUNK * 5 };
        layouts.iter().map(vectors).max().unwrap_or(0)
    }

    /// Whether a chain of these sizes can run here.
    pub(super) fn chains(&self, kernel: &Kernel) -> bool {
        let Kernel::Chain { width, head_size, columns, layouts } = kernel else { return false };
        let (size, threads) = (head_size / 4, self.chain_threads(*width));
        // Inputs, what a shift leaves behind, sums of rows and of subgroups, seven vectors of a head; links, jobs and candidates.
        let memory =
            self.chain_tile(layouts, *columns) * VECTOR + 4 * width + 7 * threads + 28 * head_size + 1024;
        self.tier >= Tier::Subgroup
            && width.is_multiple_of(*head_size)
            && head_size.is_power_of_two()
            && size >= 4
            && threads <= self.threads
            && size * self.chain_parts(*head_size) <= threads
            && memory <= self.room()
    }

    /// How many of `threads` threads of a chain share a row of a strip of so many.
    pub(super) fn chain_lanes(&self, threads: usize, layout: Layout, columns: usize, strip: usize) -> usize {
        let units = if layout.is_float() { layout.stride(columns) } else { columns / CHUNK };
        let rounds = |lanes: &usize| units.div_ceil(*lanes) * strip.div_ceil(threads / lanes);
        let all = [4, 8, 16, 32].into_iter().filter(|lanes| *lanes <= self.lanes);
        all.min_by_key(rounds).expect("subgroups have at least 8 threads")
    }

    /// Threads that share a head of `wkv7_norm`.
    fn norm_team(&self) -> usize {
        self.lanes.clamp(1, 8)
    }

    /// The entry point and text of a kernel.
    fn source(&self, kernel: &Kernel) -> (&'static str, String) {
        let subgroups = self.tier >= Tier::Subgroup;
        let (mut constants, mut layouts) = (vec![], vec![]);
        let mut threads = THREADS;
        let mut parts = vec![include_str!("kernels/part/bindings.wgsl")];
        let (thread, sum) = if subgroups {
            (
                include_str!("kernels/part/thread_subgroup.wgsl"),
                include_str!("kernels/part/sum_subgroup.wgsl"),
            )
        } else {
            (include_str!("kernels/part/thread_plain.wgsl"), include_str!("kernels/part/sum_plain.wgsl"))
        };
        let store = include_str!("kernels/part/store.wgsl");
        let norm = include_str!("kernels/part/norm.wgsl");
        let four = include_str!("kernels/part/four.wgsl");
        let job = include_str!("kernels/part/job.wgsl");
        let finish = include_str!("kernels/part/finish.wgsl");
        let one_row = include_str!("kernels/part/finish_one.wgsl");
        let four_rows = include_str!("kernels/part/finish_four.wgsl");
        let decode = include_str!("kernels/part/decode.wgsl");
        let candidate = include_str!("kernels/part/candidate.wgsl");
        // What is there once for each layout, and the function that chooses among them.
        let (mut each, mut kinds, mut choice) = ("", None, ("", "", ""));
        let entry = match kernel {
            Kernel::Embed { layout, width } => {
                layouts = vec![*layout];
                constants.push(("WIDTH", *width));
                parts.extend([thread, sum, norm, include_str!("kernels/embed.wgsl")]);
                each = include_str!("kernels/part/embed_row.wgsl");
                choice = ("embed_row", "t: Thread, row: u32, x: u32", "");
                "embed"
            }
            Kernel::Shift { width, mixes, keep, alone, splits } => {
                constants.extend([("WIDTH", *width), ("MIXES", *mixes), ("KEEP", usize::from(*keep))]);
                parts.extend([thread, sum, include_str!("kernels/part/shift_params.wgsl")]);
                if *alone && *splits == 0 {
                    parts.extend([norm, store, include_str!("kernels/shift_alone.wgsl")]);
                    "shift_alone"
                } else {
                    if subgroups {
                        // Whole subgroups of any size, whose sums have room.
                        threads = (width / 4).next_multiple_of(128).min(self.threads).min(64 * self.lanes);
                    }
                    constants.extend([("ALONE", usize::from(*alone)), ("SPLITS", *splits)]);
                    parts.push(include_str!("kernels/shift.wgsl"));
                    "shift"
                }
            }
            Kernel::NormRows { width } => {
                constants.push(("WIDTH", *width));
                parts.extend([thread, sum, norm, store, include_str!("kernels/norm_rows.wgsl")]);
                "norm_rows"
            }
            Kernel::Few { layouts: of, tokens, columns, act } => {
                layouts = of.clone();
                let few = self.few(*tokens, *columns, *act);
                threads = few.threads;
                // Those of floats are the first.
                let values = layouts.iter().filter(|l| self.packed(**l) == 0).count();
                constants.extend([("ROWS", few.rows), ("TOKENS", *tokens), ("VALUES", values)]);
                constants.push(("ACT", act.unwrap_or(u32::MAX) as usize));
                constants.extend([("LANES_values", few.lanes[0]), ("LANES_packed", few.lanes[1])]);
                constants.extend([("AHEAD_values", few.ahead[0]), ("AHEAD_packed", few.ahead[1])]);
                parts.extend([thread, store, job, finish, one_row, include_str!("kernels/project_few.wgsl")]);
                if subgroups {
                    parts.push(include_str!("kernels/part/packed_inputs.wgsl"));
                    parts.push(include_str!("kernels/part/few_load_packed.wgsl"));
                }
                let segments = [0, 1].map(|kind| {
                    let ((bytes, size), lanes) = (SEGMENT[kind], few.lanes[kind]);
                    // Sums of the plain tier take a KiB.
                    let most = bytes.min(self.room() - 1024) / size / tokens;
                    let even = most / lanes * lanes;
                    (columns / CHUNK).min(if even > 0 { even } else { most })
                });
                let vectors = layouts.iter().map(|l| self.packed(*l)).map(|i| SEGMENT[i].1 * segments[i]);
                let vectors = vectors.max().expect("a product has a layout") / VECTOR * tokens;
                constants.push(("TILE", vectors));
                constants.extend([("SEGMENT_values", segments[0]), ("SEGMENT_packed", segments[1])]);
                each = include_str!("kernels/part/few_rows.wgsl");
                kinds = Some([
                    ("values", include_str!("kernels/part/few_values.wgsl")),
                    ("packed", include_str!("kernels/part/few_packed.wgsl")),
                ]);
                choice = ("rows", "t: Thread, job: Job, first: u32, token: u32", "Sums");
                "project_few"
            }
            Kernel::Many { layouts: of, tokens } if self.tier == Tier::Matrix => {
                layouts = of.clone();
                let tile = Tile::ALL.iter().find(|tile| tile.tokens == *tokens).expect("one of them");
                // A thread fetches at least one row.
                let down = (Tile::SUBGROUPS / tile.across * 32 / self.lanes.max(32)).max(1);
                threads = self.lanes * down * tile.across;
                constants.extend([("ROWS", Tile::ROWS), ("TOKENS", *tokens), ("DOWN", down)]);
                constants.extend([("ACROSS", tile.across), ("LANES", self.lanes)]);
                constants.push(("EARLY", usize::from(tile.early)));
                parts.extend([thread, job, include_str!("kernels/project_matrix.wgsl")]);
                let (stride, turns);
                (each, stride, turns) = match tile.across {
                    1 => (include_str!("kernels/part/matrix_rows_own.wgsl"), 6, 2),
                    _ => (include_str!("kernels/part/matrix_rows.wgsl"), 10, 1),
                };
                constants.extend([("W_STRIDE", stride), ("TURNS", turns)]);
                let parameters =
                    "t: Thread, job: Job, first: u32, token: u32, part: u32, out: u32, pitch: u32";
                choice = ("product", parameters, "");
                "project_matrix"
            }
            Kernel::FinishParts { splits, rows } => {
                constants.extend([("ROWS", Tile::ROWS), ("TOKENS", FINISHED), ("SPLITS", *splits)]);
                parts.extend([thread, job, finish, include_str!("kernels/finish_parts.wgsl")]);
                match *rows {
                    FOUR => parts.push(four_rows),
                    _ => parts.extend([store, one_row]),
                }
                "finish_parts"
            }
            Kernel::Many { layouts: of, .. } => {
                layouts = of.clone();
                parts.extend([
                    thread,
                    store,
                    job,
                    finish,
                    one_row,
                    include_str!("kernels/project_many.wgsl"),
                ]);
                each = include_str!("kernels/part/many_row.wgsl");
                choice = ("decode_row", "job: Job, row: u32, chunk: u32", "Chunk");
                "project_many"
            }
            Kernel::Wkv7 { head_size, block, split, alone, gates } => {
                let (columns, own) = match split {
                    1 => (4, include_str!("kernels/part/wkv7_4.wgsl")),
                    _ => (2, include_str!("kernels/part/wkv7_2.wgsl")),
                };
                threads = self.head(*head_size, (columns, *block), &mut constants) / split;
                constants.extend([("COLUMNS", columns), ("SPLIT", *split)]);
                constants.extend([("ALONE", usize::from(*alone)), ("GATES", *gates)]);
                constants.extend([("MORE", gates.saturating_sub(1)), ("ZEROS", Pool::ZEROS as usize)]);
                let params = include_str!("kernels/part/wkv7_params.wgsl");
                parts.extend([thread, params, own, include_str!("kernels/wkv7.wgsl")]);
                "wkv7"
            }
            Kernel::Wkv7Matrix { head_size } => {
                threads = 2 * head_size;
                constants.extend([("N", *head_size), ("SENDERS", SENDERS)]);
                let params = include_str!("kernels/part/wkv7_params.wgsl");
                parts.extend([thread, params, include_str!("kernels/wkv7_matrix.wgsl")]);
                "wkv7_matrix"
            }
            Kernel::Wkv7Norm { head_size } => {
                constants.extend([("N", *head_size), ("TEAM", self.norm_team())]);
                let params = include_str!("kernels/part/wkv7_params.wgsl");
                parts.extend([thread, params, include_str!("kernels/wkv7_norm.wgsl")]);
                "wkv7_norm"
            }
            Kernel::Wkv6 { head_size, decay, gate } => {
                threads = self.head(*head_size, (4, usize::MAX), &mut constants);
                constants.extend([("DECAY", usize::from(*decay)), ("GATE", usize::from(*gate))]);
                parts.extend([thread, four, include_str!("kernels/wkv6.wgsl")]);
                "wkv6"
            }
            Kernel::Wkv4 => {
                threads = Kernel::WKV4_THREADS;
                parts.extend([thread, store, include_str!("kernels/wkv4.wgsl")]);
                "wkv4"
            }
            Kernel::AddGated => {
                parts.extend([thread, include_str!("kernels/add_gated.wgsl")]);
                "add_gated"
            }
            Kernel::Tails => {
                threads = Kernel::TAILS_THREADS;
                parts.extend([thread, include_str!("kernels/tails.wgsl")]);
                "tails"
            }
            Kernel::Chain { width, head_size, columns, layouts: of } => {
                layouts = of.clone();
                threads = self.chain_threads(*width);
                let values = layouts.iter().filter(|l| self.packed(**l) == 0).count();
                constants.extend([("WIDTH", *width), ("N", *head_size), ("VALUES", values)]);
                let ahead = if values == layouts.len() { 6 } else { 4 };
                constants.extend([("AHEAD_values", ahead), ("AHEAD_packed", 2)]);
                constants.push(("PARTS", self.chain_parts(*head_size)));
                constants.push(("FETCHED", (columns / 4).div_ceil(threads)));
                constants.push(("TILE", self.chain_tile(&layouts, *columns)));
                let packed = include_str!("kernels/part/packed_inputs.wgsl");
                let best = include_str!("kernels/part/chain_best.wgsl");
                parts.extend([thread, store, packed, candidate, best, include_str!("kernels/chain.wgsl")]);
                parts.push(include_str!("kernels/part/chain_wkv7.wgsl"));
                each = include_str!("kernels/part/chain_rows.wgsl");
                kinds = Some([
                    ("values", include_str!("kernels/part/chain_values.wgsl")),
                    ("packed", include_str!("kernels/part/chain_packed.wgsl")),
                ]);
                let parameters = "t: Thread, task: u32, job: Job";
                choice = ("rows", parameters, "");
                "chain"
            }
            Kernel::Sample => {
                constants.push(("LANES", self.lanes.clamp(1, 32)));
                parts.extend([thread, sum, candidate, include_str!("kernels/sample.wgsl")]);
                "sample"
            }
        };
        let fours = matches!(kernel, Kernel::FinishParts { rows: FOUR, .. });
        let mut head = String::new();
        if subgroups {
            head += "enable f16;\n";
        }
        if matches!(entry, "project_matrix" | "wkv7_matrix") {
            head += "enable wgpu_cooperative_matrix;\n";
        }
        head += match subgroups {
            true => "alias Input = f16;\nconst LARGEST: f32 = 65504.0;\n",
            false => "alias Input = f32;\nconst LARGEST: f32 = 3.4028235e38;\n",
        };
        head += match entry {
            "wkv7" => "alias Float = vec4<f32>;\n",
            "wkv7_matrix" | "chain" | "shift" | "tails" => {
                "alias Float = vec4<f32>;\nalias State = vec4<f32>;\n"
            }
            "wkv7_norm" => "alias Float = vec4<f32>;\nalias State = f32;\n",
            _ if fours => "alias Float = vec4<f32>;\nalias State = f32;\n",
            _ => "alias Float = f32;\nalias State = f32;\n",
        };
        head += match entry {
            "shift" => "alias Sum = vec2<f32>;\n",
            _ => "alias Sum = f32;\n",
        };
        head += match entry {
            "project_matrix" => "alias Inputs = vec4<u32>;\n",
            _ => "alias Inputs = vec4<Input>;\n",
        };
        constants.push(("THREADS", threads));
        let mut body = parts.concat();
        if entry == "chain" {
            // Weights are fetched where it is said, before a barrier.
            let weights = "var<storage, read> weights";
            body = body.replace(weights, &format!("@coherent {weights}"));
            // No driver looks at posts only once, where it can be told.
            if self.device.features().contains(wgpu::Features::MEMORY_DECORATION_VOLATILE) {
                let posts = "var<storage, read_write> posts";
                body = body.replace(posts, &format!("@volatile {posts}"));
            }
        }
        if !layouts.is_empty() {
            body += include_str!("kernels/part/formats.wgsl");
            for layout in &layouts {
                body += layout.source();
                let mut text = String::new();
                if !layout.is_float() {
                    text += decode;
                }
                if entry == "project_matrix" {
                    text += layout.halves();
                    text += layout.refetch();
                }
                text += each;
                if let Some(kinds) = kinds {
                    let (kind, part) = kinds[self.packed(*layout)];
                    text = (text + part).replace("KIND", kind);
                }
                body += &text.replace("FORMAT", layout.name());
            }
            let (name, parameters, result) = choice;
            body += &choose(name, parameters, result, &layouts);
        }
        for (name, value) in &constants {
            writeln!(head, "const {name}: u32 = {value}u;").expect("a string takes everything");
        }
        (entry, head + &unroll(body, &constants))
    }
}

/// A function that calls the one of the layout of its job.
fn choose(name: &str, parameters: &str, result: &str, layouts: &[Layout]) -> String {
    let names: Vec<_> = parameters.split(", ").filter_map(|p| p.split(':').next()).collect();
    let (arguments, arrow) = (names.join(", "), if result.is_empty() { "" } else { " -> " });
    let mut text = format!("fn {name}({parameters}){arrow}{result} {{\n");
    let (last, others) = layouts.split_last().expect("a product has a layout");
    let give = if result.is_empty() { "" } else { "return " };
    for (i, layout) in others.iter().enumerate() {
        let after = if result.is_empty() { " return;" } else { "" };
        let layout = layout.name();
        writeln!(text, "    if job.format == {i}u {{ {give}{name}_{layout}({arguments});{after} }}")
            .expect("a string takes everything");
    }
    writeln!(text, "    {give}{name}_{}({arguments});\n}}", last.name()).expect("a string takes everything");
    text
}

/// Writes loops of up to this many rounds out.
const ROUNDS: usize = 32;

/// Writes loops `for (var i = 0u; i < n; i++)` out whose bounds are constants: drivers keep an array in registers only if
/// its indices are constants, and not all of them do this by themselves (33 instead of 180 TFLOP/s on an H100).
fn unroll(text: String, constants: &[(&str, usize)]) -> String {
    let mut values: HashMap<&str, usize> = constants.iter().copied().collect();
    let whole = text.clone();
    for line in whole.lines() {
        let constant = line.strip_prefix("const ").and_then(|l| l.split_once(": u32 = "));
        if let Some((name, value)) =
            constant.and_then(|(n, v)| Some((n, number(v.strip_suffix(';')?, &values)?)))
        {
            values.insert(name, value);
        }
    }
    let (mut text, mut from) = (text, 0);
    while let Some(at) = text[from..].find("for (var ").map(|at| from + at) {
        from = at + 1;
        let Some((name, rounds, step, open)) = loop_at(&text[at..], &values) else { continue };
        let mut depth = 1;
        let close = text[at + open..]
            .find(|c| {
                depth += match c {
                    '{' => 1,
                    '}' => -1,
                    _ => 0,
                };
                depth == 0
            })
            .expect("braces of kernels are closed");
        let body = &text[at + open..at + open + close];
        let out: String = (0..rounds)
            .step_by(step)
            .map(|i| format!("{{{}}}", with(body, name, &format!("{i}u"))))
            .collect();
        text = [&text[..at], &out, &text[at + open + close + 1..]].concat();
        from = at;
    }
    text
}

/// Name, bound, step and the place behind the brace of a loop of few rounds.
fn loop_at<'a>(text: &'a str, values: &HashMap<&str, usize>) -> Option<(&'a str, usize, usize, usize)> {
    let (head, _) = text.split_once(") {")?;
    let mut parts = head.strip_prefix("for (var ")?.split("; ");
    let name = parts.next()?.strip_suffix(" = 0u")?;
    let bound = parts.next()?.strip_prefix(name)?.strip_prefix(" < ")?;
    let step = match parts.next()?.strip_prefix(name)? {
        "++" => 1,
        step => number(step.strip_prefix(" += ")?, values)?,
    };
    let rounds = number(bound, values).filter(|n| *n <= ROUNDS)?;
    Some((name, rounds, step, head.len() + 3))
}

/// The value of a product or sum of constants, from left to right but for parentheses; `None` for anything else.
fn number(text: &str, values: &HashMap<&str, usize>) -> Option<usize> {
    let mut words = text.split(' ');
    let value = |word: &str| {
        let word = word.trim_matches(['(', ')']);
        let digits = word.strip_suffix('u').unwrap_or(word);
        digits.parse().ok().or_else(|| values.get(word).copied())
    };
    let mut total: usize = value(words.next()?)?;
    while let Some(operation) = words.next() {
        let next = value(words.next()?)?;
        total = match operation {
            "+" => total + next,
            "-" => total.checked_sub(next)?,
            "*" => total * next,
            "/" => total.checked_div(next)?,
            _ => return None,
        };
    }
    Some(total)
}

/// A text with another word for `name`.
fn with(text: &str, name: &str, word: &str) -> String {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(name) {
        let (before, after) = (&rest[..at], &rest[at + name.len()..]);
        out += before;
        let whole = !out.ends_with(part) && !after.starts_with(part);
        out += if whole { word } else { name };
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_of_constant_bounds_are_written_out() {
        let text = "const B: u32 = A / 2u;\nfor (var i = 0u; i < B; i++) { x[i] = ii; }";
        let want = "const B: u32 = A / 2u;\n{ x[0u] = ii; }{ x[1u] = ii; }";
        assert_eq!(unroll(text.into(), &[("A", 4)]), want);
        let open = "for (var i = t; i < B; i += 2u) {}";
        assert_eq!(unroll(open.into(), &[("B", 4)]), open);
    }
}
