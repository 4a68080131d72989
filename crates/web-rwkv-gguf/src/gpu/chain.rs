//! Chains: operations on one token that run one after another in one dispatch, as `kernels/chain.wgsl` tells.

use super::*;
use crate::load::ModelVersion;

/// Words of a link.
const LINK: usize = 18;
/// What a link is.
const PRODUCTS: u32 = 0;
const SHIFTED: u32 = 1;
const WKV7: u32 = 2;
const NOTHING: u32 = 3;
/// Links of a layer at most, in as many buffers of weights as there may be.
const LINKS_OF_LAYER: usize = 16;
/// Links of a batch at most, and in front of their counts a word that says whether a workgroup gave up.
pub(super) const LINKS: usize = 4096;
/// How often a workgroup looks whether others have arrived: about a second; a millisecond while it is tried out, and in
/// software, where Mesa ends loops after 65,535 rounds.
const PATIENCE: [u32; 2] = [1 << 20, 1 << 11];
/// Workgroups that a chain is worth while with, and that are tried.
const WORKGROUPS: (usize, usize) = (16, 1024);

/// What is being recorded of a chain.
#[derive(Default)]
pub(super) struct Chain {
    /// The kernel, and its workgroups; none if operations are dispatched one by one.
    pub(super) kernel: Option<(Arc<Kernel>, usize)>,
    /// The slot of the state that it goes on from, if that is to be kept.
    pub(super) from: Option<u32>,
    /// The buffer of the weights.
    weights: Option<usize>,
    links: Vec<[u32; LINK]>,
    /// Links of the batch so far.
    before: usize,
    shift: Option<Shifted>,
}

/// A shift that becomes a part of the products that follow.
struct Shifted {
    /// x, weight, bias and eps.
    norm: [u32; 4],
    /// Where the state is before and after.
    state: [u32; 2],
    mixes: Vec<u32>,
    results: Vec<u32>,
}

impl Shifted {
    /// The mix whose result stands there.
    fn mix_of(&self, result: u32) -> u32 {
        let i = self.results.iter().position(|at| *at == result);
        self.mixes[i.expect("products that follow a shift are of what it makes")]
    }
}

impl Chain {
    /// The slots of the state before and after, of a batch with this table.
    fn slots(&self, table: &[u32]) -> [u32; 2] {
        [self.from.unwrap_or(table[0]), table[0]]
    }
}

impl Gpu {
    /// What the operations of a chunk are linked to: a chain if it is one token.
    pub(super) fn chain(&self, m: &mut Memory, chunk: &Chunked<'_>) -> Chain {
        let kernel = match chunk.seqs {
            [Sequence { len: 1, slot, .. }] if chunk.states[*slot].shape().version == ModelVersion::V7 => {
                self.chain_kernel(m, chunk.states[*slot].dims())
            }
            _ => None,
        };
        Chain { kernel, ..Chain::default() }
    }

    /// The kernel of chains and its workgroups, if the device runs some of them at a time, for a state of such sizes.
    fn chain_kernel(
        &self,
        m: &mut Memory,
        [layers, rows, channels]: [usize; 3],
    ) -> Option<(Arc<Kernel>, usize)> {
        let (layouts, columns) = (m.layouts.iter().copied().collect(), m.columns);
        let kernel = Kernel::Chain { width: channels, head_size: rows - 2, columns, layouts };
        let coherent = self.context.device.features().contains(wgpu::Features::MEMORY_DECORATION_COHERENT);
        let fits = LINKS_OF_LAYER * (layers + 1) <= LINKS && self.kernels.chains(&kernel);
        if self.profile.is_some() || !coherent || !fits {
            return None;
        }
        let workgroups = m.workgroups.unwrap_or_else(|| match self.info.kind {
            // That workgroups run at a time is up to the system, and a large model takes too many rounds: see `PATIENCE`.
            "software" => usize::from(layers * channels < 1 << 14),
            _ => self.count_workgroups(m, &kernel),
        });
        m.workgroups = Some(workgroups);
        (workgroups > 0).then(|| (Arc::new(kernel), workgroups))
    }

    /// Does without chains if workgroups of one have waited in vain.
    pub(super) fn leave_chains(&self, m: &mut Memory) {
        if self.context.gave_up.swap(false, Relaxed) {
            (m.workgroups, m.ahead) = (Some(0), None);
            self.context.queue.write_buffer(&m.arrived, 0, &[0; 4]);
        }
    }

    /// How many workgroups of a kernel run at a time; 0 if these are few.
    fn count_workgroups(&self, m: &mut Memory, kernel: &Kernel) -> usize {
        let together = |m: &mut Memory, n: usize| {
            let mut table = [0; 2 * LINK];
            table.chunks_exact_mut(LINK).for_each(|link| link[..2].copy_from_slice(&[NOTHING, n as u32]));
            self.context.queue.write_buffer(&m.table, 0, bytemuck::cast_slice(&table));
            let mut encoder = self.encoder();
            encoder.clear_buffer(&m.arrived, 0, None);
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                pass.set_pipeline(&self.kernels.get(kernel));
                pass.set_bind_group(0, &self.group(m, usize::MAX), &[]);
                pass.set_immediates(0, bytemuck::cast_slice(&[0, 2, 1, n as u32, PATIENCE[1]]));
                pass.dispatch_workgroups(n as u32, 1, 1);
            }
            self.context.queue.submit([encoder.finish()]);
            self.context.read(&m.arrived, 0, 4).is_ok_and(|gave_up| gave_up[0].to_bits() == 0)
        };
        let mut least = WORKGROUPS.0;
        if !together(m, least) {
            return 0;
        }
        while 2 * least <= WORKGROUPS.1 && together(m, 2 * least) {
            least *= 2;
        }
        let mut most = 2 * least;
        while most - least > 1 {
            let middle = least.midpoint(most);
            if together(m, middle) { least = middle } else { most = middle }
        }
        self.context.queue.write_buffer(&m.arrived, 0, &[0; 4]);
        log::debug!("{}: {least} workgroups of a chain run at a time", self.info.name);
        least
    }

    /// Adds a link to the chain of a batch; if its weights are in another buffer, to the next chain.
    fn link(&self, b: &mut Batch<'_>, weights: Option<usize>, words: &[u32]) {
        if weights.is_some() && b.recording.chain.weights.is_some_and(|own| Some(own) != weights) {
            self.end_chain(b);
        }
        let chain = &mut b.recording.chain;
        chain.weights = weights.or(chain.weights);
        let mut link = [0; LINK];
        link[..words.len()].copy_from_slice(words);
        chain.links.push(link);
    }

    /// Keeps a shift with these parameters for the products that follow; false if there is no chain.
    pub(super) fn link_shift(
        &self,
        b: &mut Batch<'_>,
        params: &[u32],
        mixes: Vec<u32>,
        results: Vec<u32>,
    ) -> bool {
        let [_, _, x, weight, bias, eps, state, slot, ..] = *params else { unreachable!("of a shift") };
        let chain = &mut b.recording.chain;
        if chain.kernel.is_some() {
            let state = chain.slots(&b.recording.table).map(|i| i * slot + state);
            chain.shift = Some(Shifted { norm: [x, weight, bias, eps], state, mixes, results });
        }
        chain.kernel.is_some()
    }

    /// Adds products to the chain; false if there is none.
    pub(super) fn link_products(&self, b: &mut Batch<'_>, jobs: &[super::Job<'_>]) -> bool {
        let Some((kernel, workgroups)) = b.recording.chain.kernel.clone() else { return false };
        let Kernel::Chain { width, layouts, .. } = &*kernel else { unreachable!("of a chain") };
        let threads = self.kernels.chain_threads(*width);
        let mut pieces: Vec<_> =
            jobs.iter().flat_map(|job| job.w.pieces.iter().map(move |piece| (job, piece))).collect();
        pieces.sort_by_key(|of| of.1.buffer);
        let shift = b.recording.chain.shift.take();
        let mut links =
            pieces.chunk_by(|a, b| a.1.buffer == b.1.buffer).flat_map(|of| of.chunks(JOBS)).peekable();
        while let Some(pieces) = links.next() {
            // Workgroups are shared out by bytes.
            let bytes = |(job, piece): &(&super::Job<'_>, &Piece)| {
                piece.rows * job.w.layout.stride(padded(job.w.columns))
            };
            let all: usize = pieces.iter().map(bytes).sum();
            let at = b.recording.table.len() as u32;
            let (mut first, mut firsts) = (0, [u32::MAX; JOBS]);
            for (of, to) in pieces.iter().zip(&mut firsts) {
                let (job, piece) = of;
                let groups = (workgroups * bytes(of) / all).max(1);
                let strip = piece.rows.div_ceil(groups).min(threads);
                let layout =
                    layouts.iter().position(|l| *l == job.w.layout).expect("all of the model are there");
                let lanes = self.kernels.chain_lanes(threads, job.w.layout, padded(job.w.columns), strip);
                let mut words = self.job_words(b, job, piece, first, layout);
                if let Some(shift) = &shift {
                    words[6] = shift.mix_of(words[6]);
                }
                b.recording.table.extend(words);
                b.recording.table.extend([lanes as u32, strip as u32]);
                *to = first as u32;
                first += piece.rows.div_ceil(strip);
            }
            let mut words = vec![PRODUCTS, first as u32, at];
            words.extend(&firsts[1..]);
            if let Some(Shifted { norm, state, .. }) = &shift {
                words[0] = SHIFTED;
                words.extend(norm);
                // Where h goes, when nobody needs the one before any more.
                let to = if links.peek().is_none() { state[1] } else { u32::MAX };
                words.extend([state[0], to]);
            }
            self.link(b, Some(pieces[0].1.buffer), &words);
        }
        true
    }

    /// Adds `wkv7` with these parameters to the chain; false if there is none.
    pub(super) fn link_wkv7(&self, b: &mut Batch<'_>, heads: usize, params: &[u32]) -> bool {
        let [_, state, slot, _, r, w, k, v, a, g, v_first, first, rest @ ..] = params else {
            unreachable!("of wkv7")
        };
        let chain = &b.recording.chain;
        if chain.kernel.is_none() {
            return false;
        }
        let [from, to] = chain.slots(&b.recording.table).map(|i| i * slot + state);
        let v_first = if *first != 0 { *v_first } else { u32::MAX };
        let words = [WKV7, heads as u32, from, to, *r, *w, *k, *v, *a, *g, v_first];
        self.link(b, None, &[&words, &rest[..7]].concat());
        true
    }

    /// Dispatches what is in the chain.
    pub(super) fn end_chain(&self, b: &mut Batch<'_>) {
        let chain = &mut b.recording.chain;
        let links = std::mem::take(&mut chain.links);
        let Some((kernel, workgroups)) = chain.kernel.clone().filter(|_| !links.is_empty()) else { return };
        let (first, weights) = (1 + chain.before, chain.weights.take().unwrap_or(usize::MAX));
        chain.before += links.len();
        let at = b.recording.table.len();
        b.recording.table.extend(links.as_flattened());
        let patience = PATIENCE[usize::from(self.info.kind == "software")];
        let params = [at, links.len(), first, workgroups, patience as usize].map(|n| n as u32);
        self.dispatch(b, weights, &kernel, &params, (workgroups, 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RnnInput, RnnInputBatch, RnnOption, RnnOutput, model::Net};

    #[test]
    fn workgroups_that_wait_in_vain_give_up() {
        if devices().first().is_none_or(|info| info.kind != "software" || info.tier < Tier::Subgroup) {
            return println!("skipped: no software GPU, which runs few workgroups at a time");
        }
        let checkpoint = self_test::checkpoint();
        let net = || Net::new(Gpu::new(Wanted::default(), &checkpoint).unwrap(), &checkpoint).unwrap();
        let run = |net: &Net<Gpu>| {
            let input = RnnInput::new(vec![RnnInputBatch::new(vec![3], RnnOption::Last)], RnnInput::CHUNK);
            let mut output = RnnOutput(vec![vec![]]);
            let mut states = [State::zero(self_test::SHAPE)];
            net.forward(&input.chunks(RnnInput::CHUNK)[0], &mut states, &mut output).map(|()| output.0)
        };
        let hopeful = net();
        hopeful.ops.memory.lock().unwrap().workgroups = Some(256);
        let error = run(&hopeful).unwrap_err().to_string();
        assert!(error.contains("waited in vain"), "{error}");
        let alone = net();
        alone.ops.memory.lock().unwrap().workgroups = Some(0);
        assert!(run(&hopeful).unwrap() == run(&alone).unwrap());
    }
}
