//! Every operation on every tier of this machine's GPU beside the scalar executor, on one list of cases.

use std::collections::BTreeSet;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{
    cpu::{
        Cpu, Level,
        cases::{SEQUENCES, floats, matrix, sequences, small, states, tails},
    },
    format::{self, Format},
    load::ModelVersion,
    lockstep::{Lockstep, Peek},
    ops::Act::*,
};

impl Gpu {
    /// Runs what has been recorded.
    fn flush(&self, b: &mut Batch<'_>) {
        self.finish_sums(b);
        let context = &self.context;
        context.queue.write_buffer(&b.memory.table, 0, bytemuck::cast_slice(&b.recording.table));
        b.recording.pass = None;
        if let Some(encoder) = b.recording.encoder.take() {
            context.queue.submit([encoder.finish()]);
        }
    }

    fn keeps_halves(&self, kind: Kind) -> bool {
        kind == Kind::Input && self.info.tier >= Tier::Subgroup
    }

    /// Tokens that activations have room for.
    fn whole_tiles(&self, acts: &Acts) -> usize {
        if acts.tiled { acts.tokens.next_multiple_of(16) } else { acts.tokens }
    }

    /// Where a value stands, from the first.
    fn value_at(&self, acts: &Acts, token: usize, column: usize) -> usize {
        match acts.tiled {
            true => token / 16 * 16 * acts.padded + column / 16 * 256 + token % 16 * 16 + column % 16,
            false => token * acts.padded + column,
        }
    }
}

impl Peek for Gpu {
    fn peek(&self, b: &mut Batch<'_>, acts: &Acts) -> Vec<f32> {
        self.flush(b);
        if acts.kind == Kind::Scratch || acts.tokens * acts.width == 0 {
            return vec![];
        }
        let size = if self.keeps_halves(acts.kind) { 2 } else { 4 };
        let buffer = &b.memory.acts[acts.kind as usize].buffer;
        let (from, tokens) = (size * u64::from(self.place(b, acts)), self.whole_tiles(acts));
        let len = size * (tokens * acts.padded) as u64;
        let data = self.context.read(buffer, from, len).unwrap();
        let data: &[u8] = bytemuck::cast_slice(&data);
        let values: Vec<f32> = match size {
            2 => data.as_chunks().0.iter().map(|b| format::f16(*b)).collect(),
            _ => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        };
        let columns = |t| (0..acts.width).map(move |c| (t, c));
        (0..acts.tokens).flat_map(columns).map(|(t, c)| values[self.value_at(acts, t, c)]).collect()
    }

    fn poke(&self, b: &mut Batch<'_>, acts: &mut Acts, values: &[f32]) {
        self.flush(b);
        let mut all = vec![0.0; self.whole_tiles(acts) * acts.padded];
        for (t, row) in values.chunks_exact(acts.width.max(1)).enumerate() {
            row.iter().enumerate().for_each(|(c, x)| all[self.value_at(acts, t, c)] = *x);
        }
        let (at, buffer) = (u64::from(self.place(b, acts)), &b.memory.acts[acts.kind as usize].buffer);
        if self.keeps_halves(acts.kind) {
            let data: Vec<u8> = all.iter().flat_map(|x| format::to_f16(*x)).collect();
            self.context.queue.write_buffer(buffer, 2 * at, &data);
        } else {
            self.context.queue.write_buffer(buffer, 4 * at, bytemuck::cast_slice(&all));
        }
    }
}

type Lock = Lockstep<Cpu, Gpu>;

/// Sums in another order, and exp; half of 16 bits' last place.
const EXACT: f64 = 1e-10;
const ROUNDED: f64 = 1e-6;

/// The scalar executor and a GPU.
fn lockstep(tier: Tier) -> Lock {
    let gpu = Gpu::new(Wanted { index: None, tier: Some(tier), profile: false }, &Checkpoint::empty("none"))
        .unwrap();
    gpu.memory.lock().unwrap().workgroups = Some(0); // chains leave out what is compared
    Lockstep::new(Cpu::new(Level::Scalar, 1), gpu, EXACT, if tier == Tier::Plain { EXACT } else { ROUNDED })
}

/// The tiers of this machine's GPU; none, with a word about it, if there is no GPU and none is demanded.
fn tiers() -> Vec<Tier> {
    let Some(best) = devices().first().map(|d| d.tier) else {
        assert!(
            std::env::var_os("WEB_RWKV_TEST_GPU").is_none(),
            "WEB_RWKV_TEST_GPU is set, but there is no GPU"
        );
        eprintln!("skipped: this machine has no GPU, nor a software one");
        return vec![];
    };
    Tier::ALL.iter().copied().filter(|t| *t <= best).collect()
}

fn report(tier: Tier, lock: &Lock) {
    lock.seen().iter().for_each(|(what, error)| println!("{tier} {what}: NMSE {error:.1e}"));
}

fn vector(lock: &Lock, rng: &mut ChaCha8Rng, n: usize) -> <Lock as Ops>::Vector {
    lock.vector(floats(rng, n)).unwrap()
}

type Both = <Lock as Ops>::Acts;

/// Makes room for tokens, and fills it.
fn fill(
    lock: &Lock,
    b: &mut <Lock as Ops>::Batch<'_>,
    rng: &mut ChaCha8Rng,
    tokens: usize,
    all: Vec<(&mut Both, usize)>,
) {
    let mut all = all;
    all.iter_mut().for_each(|(acts, _)| lock.resize(b, acts, tokens).unwrap());
    all.into_iter().for_each(|(acts, width)| lock.fill(b, acts, &floats(rng, tokens * width)));
}

#[test]
fn products() {
    const ROWS: [(usize, Act, Kind); 6] = [
        (1, Id, Kind::Stream),
        (5, Tanh, Kind::Input),
        (33, Sigmoid, Kind::Stream),
        (67, SquaredRelu, Kind::Input),
        (130, Add, Kind::Stream),
        (70, Id, Kind::Output),
    ];
    for tier in tiers() {
        let (lock, rng) = (lockstep(tier), &mut ChaCha8Rng::seed_from_u64(1));
        // Rows that are no multiple of a tile or a chunk, and longer than a segment.
        let columns = |format: Format| match format.block_len() {
            1 => 40,
            32 => 96,
            _ => 768,
        };
        let mut all = vec![];
        for &format in Format::ALL {
            let columns = columns(format);
            let w = ROWS.map(|(rows, ..)| lock.matrix(matrix(rng, format, rows, columns)).unwrap());
            // Wider than the product, as the activations of a smaller LoRA are.
            let x = lock.acts(columns + 64, Kind::Input);
            all.push((columns + 64, w, x, ROWS.map(|(rows, _, kind)| lock.acts(rows + 5, kind))));
        }
        for tokens in [1, 2, 3, 7, 8, 29] {
            for (format, (width, w, x, y)) in Format::ALL.iter().zip(&mut all) {
                println!("{tier} {} of {tokens}", format.name());
                let mut b = lock.begin(Chunked::default()).unwrap();
                let b = &mut b;
                let each = y.iter_mut().zip(ROWS).map(|(y, (rows, ..))| (y, rows + 5)).collect();
                lock.resize(b, x, tokens).unwrap();
                fill(&lock, b, rng, tokens, each);
                // So small that no square is beyond 16 bits.
                let values: Vec<_> = floats(rng, tokens * *width).iter().map(|x| 0.01 * x).collect();
                lock.fill(b, x, &values);
                let each = w.iter().zip(y).zip(ROWS);
                let mut products: Vec<_> =
                    each.map(|((w, y), (_, act, _))| Product { w, x, act, y }).collect();
                lock.project(b, &mut products);
            }
        }
        // So many columns that all threads of a subgroup share a row.
        let (rows, columns) = (5, 8232);
        let w = &lock.matrix(matrix(rng, Format::F16, rows, columns)).unwrap();
        let (x, y) = (&mut lock.acts(columns, Kind::Input), &mut lock.acts(rows, Kind::Stream));
        for tokens in 1..5 {
            let mut b = lock.begin(Chunked::default()).unwrap();
            let b = &mut b;
            lock.resize(b, x, tokens).unwrap();
            fill(&lock, b, rng, tokens, vec![(&mut *y, rows)]);
            lock.fill(b, x, &floats(rng, tokens * columns));
            lock.project(b, &mut [Product { w, x, act: Id, y: &mut *y }]);
        }
        report(tier, &lock);
    }
}

#[test]
fn everything_between_products() {
    for (tier, (heads, n)) in tiers().into_iter().flat_map(|t| [(3, 64), (2, 32), (2, 40)].map(|s| (t, s))) {
        let (lock, rng) = (lockstep(tier), &mut ChaCha8Rng::seed_from_u64(2));
        let (c, rank) = (heads * n, 32);
        let mut norm = |eps| Norm::<Lock> { weight: vector(&lock, rng, c), bias: vector(&lock, rng, c), eps };
        let (ln0, ln_x) = (norm(1e-5), norm(64e-5));
        let emb = lock.matrix(matrix(rng, Format::F16, 9, c)).unwrap();
        let mix = [vector(&lock, rng, c), vector(&lock, rng, c)];
        let mut square = || lock.matrix(small(matrix(rng, Format::F32, c, rank))).unwrap();
        let (w2, a2, g2, v2) = (square(), square(), square(), square());
        let [w0, a0, v0, k_k, k_a, r_k] = [(); 6].map(|()| vector(&lock, rng, c));
        let mut gates = Gates::<Lock> { w0, w2, a0, a2, g2, v: None, k_k, k_a };
        let stream = || lock.acts(c, Kind::Stream);
        let (mut x, mut h, mut y, mut last) = (stream(), stream(), lock.acts(c, Kind::Input), stream());
        let mut mixed = [(); 2].map(|()| lock.acts(c, Kind::Input));
        let mut low = [(); 4].map(|()| lock.acts(rank, Kind::Input));
        let [r, w, k, v, a, g, v_first] = [(); 7].map(|()| stream());
        let [kk, nu] = [(); 2].map(|()| lock.acts(c, Kind::Scratch));
        let mut t = Heads::<Lock> { r, w, k, v, a, g, kk, v_first, nu };
        for v in [Some((v0, v2)), None] {
            gates.v = v; // layer 0 has none
            for sizes in SEQUENCES {
                let (seqs, tokens) = sequences(sizes);
                let ids: Vec<u32> = (0..tokens as u32).map(|i| i * 5 % 9).collect();
                let mut states = states(rng, ModelVersion::V7, n, c);
                let tails = tails(&seqs, tokens);
                let chunk = Chunked { tokens: &ids, seqs: &seqs, states: &mut states, ..Chunked::default() };
                let mut b = lock.begin(Chunked { tails: tails.as_ref(), ..chunk }).unwrap();
                let [l0, l1, l2, l3] = &mut low;
                let [m0, m1] = &mut mixed;
                let scratch = [&mut t.kk, &mut t.nu];
                scratch.into_iter().for_each(|acts| lock.resize(&mut b, acts, tokens).unwrap());
                let all = vec![
                    (&mut x, c),
                    (&mut h, c),
                    (&mut y, c),
                    (m0, c),
                    (m1, c),
                    (l0, rank),
                    (l1, rank),
                    (l2, rank),
                    (l3, rank),
                    (&mut t.r, c),
                    (&mut t.w, c),
                    (&mut t.k, c),
                    (&mut t.v, c),
                    (&mut t.a, c),
                    (&mut t.g, c),
                    (&mut t.v_first, c),
                ];
                fill(&lock, &mut b, rng, tokens, all);
                let left = tails.as_ref().map_or(tokens, |tails| tails.rows.len());
                let rows: Vec<_> = (0..left).rev().step_by(2).collect();
                lock.resize(&mut b, &mut last, rows.len()).unwrap();
                lock.embed(&mut b, &emb, &ln0, &mut x);
                lock.shift(&mut b, (1, Shift::Att), &ln0, &mix, &x, &mut h, &mut mixed);
                lock.shift(&mut b, (0, Shift::Ffn), &ln0, &mix[..1], &x, &mut h, &mut mixed[..1]);
                lock.tails(&mut b, 0, &mut x, &mut y); // not the last layer
                lock.gates(&mut b, &gates, n, &low, &mut t);
                lock.wkv7(&mut b, 1, &ln_x, &r_k, n, &t, &mut y);
                lock.tails(&mut b, 1, &mut x, &mut y);
                lock.shift(&mut b, (1, Shift::Ffn), &ln0, &mix[..1], &x, &mut h, &mut mixed[..1]);
                lock.norm_rows(&mut b, &ln0, &rows, &x, &mut last);
                lock.end(b, &[]).unwrap();
                // Matrix units make the state of a long text of numbers of 16 bits.
                let texts = seqs.iter().filter(|seq| seq.len > 0).count();
                let rounded = tier == Tier::Matrix && tokens >= LONG * texts;
                lock.compare_states(&states, if rounded { ROUNDED } else { EXACT });
            }
        }
        report(tier, &lock);
    }
}

#[test]
fn everything_between_products_before_v7() {
    for (tier, (heads, n)) in tiers().into_iter().flat_map(|t| [(3, 64), (2, 40), (4, 8)].map(|s| (t, s))) {
        let rng = &mut ChaCha8Rng::seed_from_u64(3);
        let (c, rank) = (heads * n, 32);
        let (lock, four) = (lockstep(tier), lockstep(tier)); // a GPU has states of one version
        let ddlerp = Ddlerp::<Lock> {
            mix: [(); 5].map(|()| vector(&lock, rng, c)),
            w2: [(); 5].map(|()| lock.matrix(small(matrix(rng, Format::F32, c, rank))).unwrap()),
        };
        let ln_x = Norm { weight: vector(&lock, rng, c), bias: vector(&lock, rng, c), eps: 64e-5 };
        let p = Wkv6::<Lock> { w0: vector(&lock, rng, c), u: vector(&lock, rng, c), ln_x };
        let w: Vec<f32> = floats(rng, c).iter().map(|w| -w.exp()).collect();
        let p4 = Wkv4::<Lock> { u: vector(&four, rng, c), w: four.vector(w).unwrap() };
        let [mut h, mut r, mut k, mut v, mut w, mut g] = [(); 6].map(|()| lock.acts(c, Kind::Stream));
        let [mut before, mut y] = [(); 2].map(|()| lock.acts(c, Kind::Input));
        let mut low = [(); 5].map(|()| lock.acts(rank, Kind::Input));
        let mut mixed = [(); 5].map(|()| lock.acts(c, Kind::Input));
        let [mut r4, mut k4, mut v4, mut g4, mut x4] = [(); 5].map(|()| four.acts(c, Kind::Stream));
        let mut y4 = four.acts(c, Kind::Input);
        for sizes in SEQUENCES {
            let (seqs, tokens) = sequences(sizes);
            for all in [true, false] {
                let mut states = states(rng, ModelVersion::V6, n, c);
                let mut b =
                    lock.begin(Chunked { seqs: &seqs, states: &mut states, ..Chunked::default() }).unwrap();
                let streams = [&mut h, &mut r, &mut k, &mut v, &mut w, &mut g, &mut before, &mut y];
                let mut each: Vec<_> = streams.into_iter().chain(&mut mixed).map(|acts| (acts, c)).collect();
                each.extend(low.iter_mut().map(|acts| (acts, rank)));
                fill(&lock, &mut b, rng, tokens, each);
                lock.ddlerp(&mut b, &ddlerp, &h, &before, &low, &mut mixed);
                let t = Rkv { r: &r, k: &k, v: &v, w: all.then_some(&w), g: all.then_some(&g) };
                lock.wkv6(&mut b, 1, &p, n, &t, &mut y);
                lock.end(b, &[]).unwrap();
                lock.compare_states(&states, EXACT);
            }
            let mut states = states(rng, ModelVersion::V4, c, c);
            let mut b =
                four.begin(Chunked { seqs: &seqs, states: &mut states, ..Chunked::default() }).unwrap();
            let each = [&mut r4, &mut k4, &mut v4, &mut g4, &mut x4, &mut y4].map(|acts| (acts, c));
            fill(&four, &mut b, rng, tokens, each.into());
            four.wkv4(&mut b, 1, &p4, [&r4, &k4, &v4], &mut y4);
            four.add_gated(&mut b, &g4, &v4, 0.5, &mut x4);
            four.end(b, &[]).unwrap();
            four.compare_states(&states, EXACT);
        }
        report(tier, &lock);
        report(tier, &four);
    }
}

#[test]
fn matrix_units_take_tiles_of_every_size() {
    if !tiers().contains(&Tier::Matrix) {
        return eprintln!("skipped: this machine has no matrix units");
    }
    let (lock, rng) = (lockstep(Tier::Matrix), &mut ChaCha8Rng::seed_from_u64(4));
    // Sums by fours of rows and one by one, and all that is done with them.
    let tiles = [(70, 70), (70, 90), (650, 650), (1300, 1290)];
    let tiles = tiles.map(|(rows, tokens)| (rows, 96, tokens, Id, Kind::Stream));
    let acts = [
        (Tanh, Kind::Input),
        (Sigmoid, Kind::Stream),
        (SquaredRelu, Kind::Input),
        (Add, Kind::Stream),
        (Id, Kind::Output),
    ];
    let fours = acts.map(|(act, kind)| (72, 768, 70, act, kind));
    for (rows, columns, tokens, act, kind) in tiles.into_iter().chain(fours) {
        let w = lock.matrix(matrix(rng, Format::Q8_0, rows, columns)).unwrap();
        let (mut x, mut y) = (lock.acts(columns, Kind::Input), lock.acts(rows, kind));
        let mut b = lock.begin(Chunked::default()).unwrap();
        fill(&lock, &mut b, rng, tokens, vec![(&mut x, columns), (&mut y, rows)]);
        // So small that no square is beyond 16 bits.
        let values: Vec<_> = floats(rng, tokens * columns).iter().map(|x| 0.01 * x).collect();
        lock.fill(&mut b, &mut x, &values);
        lock.project(&mut b, &mut [Product { w: &w, x: &x, act, y: &mut y }]);
    }
    report(Tier::Matrix, &lock);
}

#[test]
fn choices_of_tokens() {
    let mut choices = vec![];
    for (top_k, top_p) in
        [0, 1, 2, 64, 300, 10_000].into_iter().flat_map(|k| [0.0, 0.3, 0.9, 1.0].map(|p| (k, p)))
    {
        for temperature in [0.0, 0.3, 1.0, 3.0] {
            choices.push(Choice { temperature, top_k, top_p, random: 0.0, penalties: vec![] });
        }
    }
    for tier in tiers() {
        let (lock, rng) = (lockstep(tier), &mut ChaCha8Rng::seed_from_u64(5));
        for vocab in [1, 5, 256, 3001, 8192] {
            let mut logits = lock.acts(vocab, Kind::Output);
            // Peaked; all about the same; of few values; with some that are ruled out; none better than another.
            let wide = |x: f32| 4.0 * x;
            let values: [&dyn Fn(f32) -> f32; 5] = [
                &wide,
                &|x| 0.01 * x,
                &|x| (2.0 * x).round(),
                &|x| if x < 0.5 { f32::NEG_INFINITY } else { x },
                &|_| -0.5,
            ];
            for value in values {
                let rows: Vec<f32> = floats(rng, choices.len() * vocab).into_iter().map(value).collect();
                for (i, choice) in choices.iter_mut().enumerate() {
                    choice.random = rng.random_range(0..1 << 24) as f32 / (1 << 24) as f32;
                    let tokens: BTreeSet<_> = (0..i % 3).map(|_| rng.random_range(0..vocab as u32)).collect();
                    choice.penalties = tokens.into_iter().map(|token| (token, 1.5)).collect();
                }
                let mut b = lock.begin(Chunked { choices: &choices, ..Chunked::default() }).unwrap();
                lock.resize(&mut b, &mut logits, choices.len()).unwrap();
                lock.fill(&mut b, &mut logits, &rows);
                lock.sample(&mut b, &logits);
                lock.end_chosen(b).unwrap();
            }
        }
    }
}
