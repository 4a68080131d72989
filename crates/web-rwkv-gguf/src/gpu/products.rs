//! Products: which kernel runs them, how they are put together in dispatches, and the sums that are added later.

use std::sync::atomic::Ordering::Relaxed;

use crate::{
    device::Tier,
    ops::{Act, Kind},
};

use super::{
    Acts, Batch, Bound, Gpu, LONG, Matrix, Piece, Vector,
    kernel::{FOUR, Kernel, Tile},
    layout::{VECTOR, padded},
};

/// Floats at least that parts of products have room for.
pub(super) const PARTS: usize = 1 << 23;
/// Up to so many tokens a product decodes weights in registers instead of tiles.
pub(super) const FEW: usize = 4;
/// From so many tokens on a product of floats is worth a dispatch of its own.
const MANY: usize = 512;
/// Products of a dispatch at most, and words of each.
pub(super) const JOBS: usize = 8;
const JOB: usize = 16;

/// A product of a dispatch.
pub(super) struct Job<'a> {
    pub(super) w: &'a Matrix,
    pub(super) x: &'a Acts,
    pub(super) y: &'a Acts,
    pub(super) act: u32,
    pub(super) bias: Option<&'a Vector>,
    pub(super) other: Option<&'a Acts>,
    pub(super) before: Option<&'a Acts>,
}

impl<'a> Job<'a> {
    pub(super) fn new(w: &'a Matrix, x: &'a Acts, y: &'a Acts, act: Act) -> Self {
        Self { w, x, y, act: number(act), bias: None, other: None, before: None }
    }

    /// Whether four rows at a time are neighbours in whole vectors.
    fn is_aligned(&self, piece: &Piece) -> bool {
        let other = self.other.map_or(0, |acts| acts.padded);
        [piece.first, piece.rows, self.y.padded, other].iter().all(|n| n.is_multiple_of(FOUR))
    }

    /// Whether whole tiles of rows are stored as they are, aligned as matrix units demand.
    fn is_sum(&self, piece: &Piece, rows: usize) -> bool {
        let places = [piece.first, self.y.padded];
        self.act == number(Act::Id)
            && self.y.kind == Kind::Stream
            && piece.rows.is_multiple_of(rows)
            && places.iter().all(|n| n.is_multiple_of(4))
    }
}

/// Activations of products as `part/job.wgsl` numbers them: [`Act::Add`], and those beyond [`Act`].
pub(super) const ADD: u32 = 4;
pub(super) const DECAY: u32 = 5;
pub(super) const GATE: u32 = 6;
pub(super) const RESIDUAL: u32 = 7;
pub(super) const LERP: u32 = 8;

fn number(act: Act) -> u32 {
    match act {
        Act::Id => 0,
        Act::Tanh => 1,
        Act::Sigmoid => 2,
        Act::SquaredRelu => 3,
        Act::Add => ADD,
    }
}

/// Sums of a product that are parts, for `finish_parts` to add to activations.
pub(super) struct Unfinished {
    /// Those of so much width before them.
    pub(super) before: usize,
    pub(super) splits: usize,
    /// How many rows can be finished at a time.
    pub(super) rows: usize,
    /// The buffer of the weights, parameters and workgroups.
    pub(super) weights: usize,
    pub(super) params: Vec<u32>,
    pub(super) groups: (usize, usize),
}

impl Gpu {
    /// Adds sums that no operation has added.
    pub(super) fn finish_sums(&self, b: &mut Batch<'_>) {
        if let Some(Unfinished { splits, rows, weights, params, groups, .. }) = b.unfinished.take() {
            self.dispatch(b, Bound::weights(weights), &Kernel::FinishParts { splits, rows }, &params, groups);
        }
    }

    /// Floats that parts of results of so many tokens take, of products or `wkv7`.
    pub(super) fn room_for_parts(&self, tokens: usize) -> usize {
        let [stream, input, output] = self.widest.each_ref().map(|width| width.load(Relaxed));
        let room = tokens * stream.max(input);
        match self.info.tier {
            Tier::Matrix => room.max(PARTS).max(Tile::TOKENS * output.next_multiple_of(Tile::ROWS)),
            _ => room,
        }
    }

    /// Where they are, and how many.
    pub(super) fn parts(&self, b: &Batch<'_>) -> (u32, usize) {
        let arena = &b.memory.acts[Kind::Stream as usize];
        ((arena.rows * arena.width) as u32, arena.parts)
    }

    /// A product in the table: the rows of a piece, from a workgroup on.
    fn job_words(
        &self,
        b: &Batch<'_>,
        job: &Job<'_>,
        piece: &Piece,
        group: usize,
        layout: usize,
    ) -> [u32; JOB] {
        let (w, first) = (job.w, piece.first as u32);
        [
            group as u32,
            piece.rows as u32,
            padded(w.columns) as u32,
            piece.at,
            w.stride() as u32,
            layout as u32,
            self.place(b, job.x),
            job.x.padded as u32,
            self.column(b, job.y, first),
            job.y.pitch(),
            job.y.kind as u32,
            job.act,
            job.bias.map_or(0, |v| v.0 + first),
            job.other.map_or(0, |acts| self.place(b, acts) + first),
            job.other.map_or(0, |acts| acts.padded as u32),
            job.before.map_or(0, |acts| self.column(b, acts, first)),
        ]
    }

    /// Records products whose weights may lie in several buffers, and be many more than a dispatch takes.
    pub(super) fn products(&self, b: &mut Batch<'_>, jobs: &[Job<'_>]) {
        let tokens = jobs.first().map_or(0, |job| job.x.tokens);
        if tokens == 0 || self.link_products(b, jobs) {
            return;
        }
        let few = tokens <= FEW && jobs.iter().all(|job| !job.x.tiled);
        let mut pieces: Vec<(&Job<'_>, &Piece)> =
            jobs.iter().flat_map(|job| job.w.pieces.iter().map(move |piece| (job, piece))).collect();
        // Matrix units wait for products whose weights take many bytes, or registers, beside others.
        let apart = |(job, piece): &(&Job<'_>, &Piece)| {
            (piece.buffer, tokens >= MANY && self.info.tier == Tier::Matrix && job.w.layout.is_float())
        };
        // Rows of floats take the longest, and begin first.
        pieces.sort_by_key(|of| (apart(of), few.then_some(of.0.w.layout)));
        // If no sequence is long, `wkv7` takes the sums of gates, if they are of one dispatch.
        let gates = jobs[0].act == DECAY && pieces.len() == jobs.len() && b.length() < LONG;
        let groups = pieces.chunk_by(|a, b| apart(a) == apart(b));
        for together in groups.flat_map(|pieces| pieces.chunks(JOBS)) {
            let mut layouts: Vec<_> = together.iter().map(|(job, _)| job.w.layout).collect();
            layouts.sort_unstable();
            layouts.dedup();
            let columns = together.iter().map(|(job, _)| padded(job.w.columns)).max().unwrap_or(0);
            let aligned = together.iter().all(|(job, piece)| job.is_aligned(piece));
            let (kernel, splits) = if few {
                let act = if let [(job, _)] = together { Some(job.act) } else { None };
                let tokens = tokens.next_power_of_two();
                (Kernel::Few { layouts: layouts.clone(), tokens, columns, act }, 1)
            } else {
                let rows: Vec<_> = together.iter().map(|(_, piece)| piece.rows).collect();
                let room = self.parts(b).1;
                let (tokens, splits) = self.kernels.tile_for(&rows, columns, tokens, room);
                (Kernel::Many { layouts: layouts.clone(), tokens }, splits)
            };
            let (rows_of_group, tokens_of_group) = self.kernels.tile(&kernel);
            // Sums that nothing is to be done with are stored where they belong, and come first.
            let parted = self.kernels.keeps_parts(&kernel);
            let keeps =
                |(job, piece): &(&Job<'_>, &Piece)| splits > 1 || gates || !job.is_sum(piece, rows_of_group);
            let mut together = together.to_vec();
            if parted {
                together.sort_by_key(keeps);
            }
            let at = b.recording.table.len() as u32;
            let (mut groups, mut kept) = (0, None);
            for (job, piece) in &together {
                if kept.is_none() && keeps(&(*job, *piece)) {
                    kept = Some(groups);
                }
                let layout = layouts.iter().position(|l| *l == job.w.layout).expect("collected above");
                let words = self.job_words(b, job, piece, groups, layout);
                b.recording.table.extend(words);
                groups += piece.rows.div_ceil(self.kernels.rows(&kernel, job.w.layout));
            }
            let jobs = &b.recording.table[at as usize..];
            let firsts = jobs.chunks_exact(JOB).map(|job| job[0]).chain([u32::MAX; JOBS]);
            let params: Vec<_> = [at, tokens as u32]
                .into_iter()
                .chain(jobs[..JOB].iter().copied())
                .chain(firsts.take(JOBS).skip(1))
                .collect();
            let kept = kept.unwrap_or(groups);
            let pitch = (groups - kept) * rows_of_group;
            let (parts, room) = self.parts(b);
            // As many tokens at a time as their parts have room for.
            let most = match pitch * splits {
                pitch if parted && pitch > 0 => room / pitch / tokens_of_group * tokens_of_group,
                _ => tokens,
            };
            let buffer = together[0].1.buffer;
            for first in (0..tokens).step_by(most) {
                let count = most.min(tokens - first);
                let tiles = count.div_ceil(tokens_of_group);
                let part = pitch * tiles * tokens_of_group;
                let params: Vec<_> = params
                    .iter()
                    .copied()
                    .chain([first, splits, kept, parts as usize, pitch, part].map(|n| n as u32))
                    .collect();
                self.dispatch(b, Bound::weights(buffer), &kernel, &params, (groups, tiles * splits));
                if let Some(timed) = b.recording.timed.last_mut() {
                    let weights = |(job, piece): &(&Job<'_>, &Piece)| piece.rows * job.w.columns;
                    let stride = |(job, piece): &(&Job<'_>, &Piece)| piece.rows * job.w.stride() * VECTOR;
                    let (job, piece) = together[0];
                    timed.name += &format!(" {}x{} of {}", piece.rows, job.w.columns, together.len());
                    timed.operations = 2 * (count * together.iter().map(weights).sum::<usize>()) as u64;
                    timed.bytes = together.iter().map(stride).sum::<usize>() as u64;
                }
                if parted && pitch > 0 {
                    let rows = if aligned { FOUR } else { 1 };
                    let tokens_each = self.kernels.tile(&Kernel::FinishParts { splits, rows }).1;
                    let groups = (groups - kept, count.div_ceil(tokens_each));
                    let (job, piece) = together[0];
                    let before = job.y.before;
                    b.unfinished = Some(Unfinished { before, splits, rows, weights: buffer, params, groups });
                    // A shift takes whole rows, `wkv7` all gates.
                    let taken = match job.act {
                        ADD => together.len() == 1 && piece.rows == job.y.width,
                        _ => gates && together.len() == pieces.len(),
                    };
                    if !taken || count != tokens {
                        self.finish_sums(b);
                    }
                }
            }
        }
    }
}
