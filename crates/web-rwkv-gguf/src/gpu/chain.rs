//! Chains: operations on one token that run one after another in one dispatch, as `kernels/chain.wgsl` tells.

use super::*;
use crate::load::ModelVersion;

/// Words of a link.
const LINK: usize = 18;
/// Words of a job of a link.
const JOB: usize = 18;
/// Where it has y.
const Y: usize = 9;
/// What a link is.
const PRODUCTS: u32 = 0;
const SHIFTED: u32 = 1;
const WKV7: u32 = 2;
const MEETING: u32 = 3;
/// A place that is none.
const NOWHERE: u32 = u32::MAX;
/// Links of a layer at most, in as many buffers of weights as there may be.
const LINKS_OF_LAYER: usize = 16;
/// Links of a batch at most.
const LINKS: usize = 4096;
/// Vectors of what is posted, of which the first says whether a workgroup gave up.
pub(super) const POSTS: usize = 1 << 16;
/// Tags of posts are of 16 bits, and not 0.
const TAGS: u32 = 0xffff;
/// How often a thread looks whether what it reads has been posted: about a second; a millisecond while it is tried out, and
/// in software, where Mesa ends loops after 65,535 rounds.
const PATIENCE: [u32; 2] = [1 << 20, 1 << 11];
/// Workgroups that a chain is worth while with; more than the most read what is posted more often than it is worth.
const WORKGROUPS: (usize, usize) = (16, 132);

/// What is being recorded of a chain.
#[derive(Default)]
pub(super) struct Chain {
    /// The kernel, and its workgroups; none if operations are dispatched one by one.
    pub(super) kernel: Option<(Arc<Kernel>, usize)>,
    /// The buffers of the weights and the states.
    bound: Bound,
    links: Vec<[u32; LINK]>,
    shift: Option<Shifted>,
    /// Where the first candidates of the tasks of a head stand in the table, and how many, if it is in one buffer.
    pub(super) bests: Option<[u32; 2]>,
    /// The posts of activations, by their kinds and places, and vectors of them so far.
    posts: HashMap<(usize, u32), u32>,
    vectors: usize,
    /// Whether a shift has not left in the state yet what it should.
    pending: bool,
}

/// A shift that becomes a part of the products that follow.
struct Shifted {
    /// Whether x has been posted; x, weight, bias and eps.
    posted: bool,
    norm: [u32; 4],
    /// The buffer of the state, and where it is before and after.
    bound: Bound,
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
    /// Keeps a shift; false if there is no chain.
    fn keep(
        &mut self,
        mut norm: [u32; 4],
        (bound, state): (Bound, [u32; 2]),
        mixes: Vec<u32>,
        results: Vec<u32>,
    ) -> bool {
        if self.kernel.is_none() {
            return false;
        }
        let post = self.posted(Kind::Stream, norm[0]);
        if post != 0 {
            norm[0] = post;
        }
        self.shift = Some(Shifted { posted: post != 0, norm, bound, state, mixes, results });
        true
    }

    /// The post of activations of a kind; 0 if they have not been posted.
    fn posted(&self, kind: Kind, place: u32) -> u32 {
        self.posts.get(&(kind as usize, place)).copied().unwrap_or(0)
    }

    /// A post for `width` activations, with a tag.
    fn post(&mut self, kind: Kind, place: u32, width: usize, tag: u32) -> u32 {
        let vectors = width.div_ceil(4) * if kind == Kind::Input { 1 } else { 2 };
        let post = self.posts.entry((kind as usize, place)).or_insert_with(|| {
            self.vectors += vectors;
            ((1 + self.vectors - vectors) as u32) << 16
        });
        *post = *post & !TAGS | tag;
        *post
    }
}

impl Memory {
    /// A tag that no post has had for long.
    fn tag(&mut self) -> u32 {
        self.tag = self.tag % TAGS + 1;
        self.tag
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
        // Floats of eight activations, halves of y, LoRAs and the widest.
        let vectors = 5 * channels + columns / 4;
        let fits = LINKS_OF_LAYER * (layers + 1) <= LINKS && vectors < POSTS && self.kernels.chains(&kernel);
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
            self.context.queue.write_buffer(&m.posts, 0, &[0; 4]);
        }
    }

    /// How many workgroups of a kernel run at a time; 0 if these are few.
    fn count_workgroups(&self, m: &mut Memory, kernel: &Kernel) -> usize {
        let together = |m: &mut Memory, n: usize| {
            let link = [MEETING, n as u32, 1 << 16 | m.tag()];
            self.context.queue.write_buffer(&m.table, 0, bytemuck::cast_slice(&link));
            self.context.queue.write_buffer(&m.posts, 0, &[0; 4]);
            let mut encoder = self.encoder();
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                pass.set_pipeline(&self.kernels.get(kernel));
                pass.set_bind_group(0, &self.group(m, Bound::states(0)), &[]);
                pass.set_immediates(0, bytemuck::cast_slice(&[0, 1, n as u32, PATIENCE[1]]));
                pass.dispatch_workgroups(n as u32, 1, 1);
            }
            self.context.queue.submit([encoder.finish()]);
            self.context.read(&m.posts, 0, 4).is_ok_and(|gave_up| gave_up[0].to_bits() == 0)
        };
        let (mut least, mut most) = WORKGROUPS;
        if !together(m, least) {
            return 0;
        }
        if together(m, most) {
            least = most;
        }
        while most - least > 1 {
            let middle = least.midpoint(most);
            if together(m, middle) { least = middle } else { most = middle }
        }
        self.context.queue.write_buffer(&m.posts, 0, &[0; 4]);
        log::debug!("{}: {least} workgroups of a chain run at a time", self.info.name);
        least
    }

    /// Adds a link to the chain of a batch; if its weights or states are in another buffer, to the next chain.
    fn link(&self, b: &mut Batch<'_>, bound: Bound, words: &[u32]) {
        let own = b.recording.chain.bound;
        let both = [(own.weights, bound.weights), (own.states, bound.states)];
        if both.iter().any(|(own, new)| own.is_some() && new.is_some() && own != new) {
            self.end_chain(b);
        }
        let chain = &mut b.recording.chain;
        chain.bound.weights = bound.weights.or(chain.bound.weights);
        chain.bound.states = bound.states.or(chain.bound.states);
        let mut link = [0; LINK];
        link[..words.len()].copy_from_slice(words);
        chain.links.push(link);
    }

    /// Keeps a shift with these parameters for the products that follow; false if there is no chain.
    pub(super) fn link_shift(
        &self,
        b: &mut Batch<'_>,
        bound: Bound,
        params: &[u32],
        mixes: Vec<u32>,
        results: Vec<u32>,
    ) -> bool {
        let [_, _, x, weight, bias, eps, state, slot, ..] = *params else { unreachable!("of a shift") };
        let state = slots(b).map(|i| i * slot + state);
        b.recording.chain.keep([x, weight, bias, eps], (bound, state), mixes, results)
    }

    /// The same of a norm, whose result products read that follow.
    pub(super) fn link_norm(&self, b: &mut Batch<'_>, norm: [u32; 4], result: u32) -> bool {
        b.recording.chain.keep(norm, (Bound::default(), [NOWHERE; 2]), vec![0], vec![result])
    }

    /// Adds products to the chain; false if there is none.
    pub(super) fn link_products(&self, b: &mut Batch<'_>, jobs: &[super::Job<'_>]) -> bool {
        let Some((kernel, workgroups)) = b.recording.chain.kernel.clone() else { return false };
        let Kernel::Chain { width, layouts, .. } = &*kernel else { unreachable!("of a chain") };
        let threads = self.kernels.chain_threads(*width);
        let mut pieces: Vec<_> = jobs
            .iter()
            .enumerate()
            .flat_map(|(i, job)| job.w.pieces.iter().map(move |piece| (i, job, piece)))
            .collect();
        pieces.sort_by_key(|of| of.2.buffer);
        let tag = b.memory.tag();
        let shift = b.recording.chain.shift.take();
        let posts: Vec<_> = jobs.iter().map(|job| self.posts_of(b, job, tag)).collect();
        // What reads one thing alone, but a shift, needs all that was made of the shift before.
        let first_x = self.place(b, jobs[0].x);
        let gathers = shift.is_none() && jobs.iter().all(|job| self.place(b, job.x) == first_x);
        let mut links =
            pieces.chunk_by(|a, b| a.2.buffer == b.2.buffer).flat_map(|of| of.chunks(JOBS)).peekable();
        while let Some(pieces) = links.next() {
            // Workgroups are shared out by bytes.
            let bytes = |(_, job, piece): &(usize, &super::Job<'_>, &Piece)| piece.rows * job.w.stride();
            let all: usize = pieces.iter().map(bytes).sum();
            let at = b.recording.table.len() as u32;
            let (mut first, mut firsts) = (0, [NOWHERE; JOBS]);
            let mut shares: Vec<_> = pieces.iter().map(|of| (workgroups * bytes(of) / all).max(1)).collect();
            for _ in shares.iter().sum()..workgroups {
                let most = (0..shares.len()).max_by_key(|i| bytes(&pieces[*i]) / shares[*i]);
                shares[most.expect("there are jobs")] += 1;
            }
            for ((of, groups), to) in pieces.iter().zip(shares).zip(&mut firsts) {
                let (i, job, piece) = of;
                let strip = piece.rows.div_ceil(groups).min(threads);
                let columns = padded(job.w.columns);
                let layout =
                    layouts.iter().position(|l| *l == job.w.layout).expect("all of the model are there");
                let lanes = self.kernels.chain_lanes(threads, job.w.layout, columns, strip);
                let [x, y, old, other] = posts[*i];
                let stream = if job.act == ADD || y == 0 { self.place(b, job.y) } else { NOWHERE };
                let words: [u32; JOB] = [
                    first as u32,
                    piece.rows as u32,
                    columns as u32,
                    piece.at,
                    job.w.stride() as u32,
                    layout as u32,
                    shift.as_ref().map_or(x, |shift| shift.mix_of(self.place(b, job.x))),
                    job.w.columns as u32,
                    piece.first as u32,
                    y,
                    stream,
                    job.y.kind as u32,
                    job.act,
                    job.bias.map_or(0, |v| v.0),
                    old,
                    other,
                    lanes as u32,
                    strip as u32,
                ];
                b.recording.table.extend(words);
                *to = first as u32;
                first += piece.rows.div_ceil(strip);
            }
            if jobs[0].y.kind == Kind::Output && pieces[0].2.rows == jobs[0].w.rows {
                let bests = b.recording.table.len();
                b.recording.table[at as usize + Y] = bests as u32;
                b.recording.table.resize(bests + 2 * first, 0);
                b.recording.chain.bests = Some([bests, first].map(|n| n as u32));
            }
            let mut words = vec![PRODUCTS, first as u32, u32::from(gathers), at];
            words.extend(&firsts[1..]);
            let mut leaves = false;
            let mut bound = Bound::weights(pieces[0].2.buffer);
            if let Some(Shifted { posted, norm, bound: Bound { states, .. }, state, .. }) = &shift {
                bound.states = *states;
                (words[0], words[2]) = (SHIFTED, u32::from(*posted));
                words.extend(norm);
                // Where h goes, when nobody needs the one before any more.
                let to = if links.peek().is_none() { state[1] } else { NOWHERE };
                words.extend([state[0], to]);
                leaves = to != NOWHERE;
            }
            self.link(b, bound, &words);
            let pending = &mut b.recording.chain.pending;
            *pending = (*pending || leaves) && !gathers;
        }
        true
    }

    /// What a product reads and makes: the posts of x, y, what y was, and the other.
    fn posts_of(&self, b: &mut Batch<'_>, job: &super::Job<'_>, tag: u32) -> [u32; 4] {
        let at = |acts: &Acts| (acts.kind, self.place(b, acts));
        let [x, y, other] = [Some(job.x), Some(job.y), job.other].map(|acts| acts.map(at));
        let chain = &mut b.recording.chain;
        let posted = |of: Option<(Kind, u32)>| of.map_or(0, |(kind, place)| chain.posted(kind, place));
        let [x, old, other] = [x, y, other].map(posted);
        let y = match y {
            Some((kind, place)) if kind != Kind::Output => chain.post(kind, place, job.y.width, tag),
            _ => 0,
        };
        [x, y, if matches!(job.act, ADD | RESIDUAL) { old } else { 0 }, other]
    }

    /// Adds `wkv7` with these parameters to the chain; false if there is none.
    pub(super) fn link_wkv7(&self, b: &mut Batch<'_>, bound: Bound, heads: usize, params: &[u32]) -> bool {
        let [_, state, slot, width, r, w, k, v, a, g, v_first, first, rest @ ..] = params else {
            unreachable!("of wkv7")
        };
        if b.recording.chain.kernel.is_none() {
            return false;
        }
        let tag = b.memory.tag();
        let [before, after] = slots(b).map(|i| i * slot + state);
        let chain = &mut b.recording.chain;
        let mut words = vec![WKV7, heads as u32, before, after];
        words.extend([r, w, k, v, a, g].map(|place| chain.posted(Kind::Stream, *place)));
        let mut post = |kind, place| chain.post(kind, place, *width as usize, tag);
        words.push(if *first != 0 { post(Kind::Stream, *v_first) } else { 0 });
        words.extend(&rest[..6]);
        words.push(post(Kind::Input, rest[6]));
        self.link(b, bound, &words);
        true
    }

    /// Dispatches what is in the chain.
    pub(super) fn end_chain(&self, b: &mut Batch<'_>) {
        if b.recording.chain.links.is_empty() {
            return;
        }
        let chain = &mut b.recording.chain;
        let (kernel, workgroups) = chain.kernel.clone().expect("links are of a chain");
        if std::mem::take(&mut chain.pending) {
            let post = (1 + chain.vectors as u32) << 16 | b.memory.tag();
            self.link(b, Bound::default(), &[MEETING, workgroups as u32, post]);
        }
        let chain = &mut b.recording.chain;
        let (links, bound) = (std::mem::take(&mut chain.links), std::mem::take(&mut chain.bound));
        let at = b.recording.table.len();
        b.recording.table.extend(links.as_flattened());
        let patience = PATIENCE[usize::from(self.info.kind == "software")];
        let params = [at, links.len(), workgroups, patience as usize].map(|n| n as u32);
        self.dispatch(b, bound, &kernel, &params, (workgroups, 1));
    }
}

/// The slots of the state of a batch of one sequence, before and after.
fn slots(b: &Batch<'_>) -> [u32; 2] {
    [b.recording.table[0], b.recording.table[1]]
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
