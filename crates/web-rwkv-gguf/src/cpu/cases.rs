//! Every operation at every level beside the scalar executor, on one list of cases.

use std::borrow::Cow;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{
    batch::{Chunk, Sequence, Tails},
    format::Format,
    load::ModelVersion,
    lockstep::{Peek, nmse},
    ops::Act::{self, *},
    state::{State, StateShape},
};

/// Sequences of (slot, length): one token, ragged with an empty one in permuted slots, enough for every tile.
pub(crate) const SEQUENCES: [&[(usize, usize)]; 5] = [
    &[(0, 1)],
    &[(3, 1), (1, 1)],
    &[(2, 3), (0, 0), (1, 8)],
    &[(0, 12)],
    &[(1, 31), (3, 1), (0, 7), (2, 64)],
];

/// Fills what an operation must not touch.
const SENTINEL: f32 = -77.25;

/// Every level of this machine; with AVX-512 products of integers are folded, and are not.
fn levels() -> impl Iterator<Item = Cpu> {
    let simd = Level::ALL.iter().filter(|level| **level != Level::Scalar);
    simd.flat_map(|level| {
        if !level.is_available() {
            println!("skipped {level}: this machine does not have it");
        }
        let folds: &[bool] = match level {
            _ if !level.is_available() => &[],
            Level::Avx512 => &[true, false],
            Level::Avx2 => &[true],
            _ => &[false],
        };
        folds.iter().map(|folds| Cpu { folds: *folds, ..Cpu::new(*level, 2) })
    })
}

pub(crate) fn floats(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0f32).powi(3) * 3.0).collect()
}

/// Activations of these values.
fn of(data: Vec<f32>, width: usize) -> Acts {
    let mut acts = Acts::new(width, Kind::Stream);
    acts.resize(data.len() / width);
    acts.rows_mut().copy_from_slice(&data);
    acts
}

/// Activations that nothing was written to.
fn blank(tokens: usize, width: usize) -> Acts {
    of(vec![SENTINEL; tokens * width], width)
}

fn acts(rng: &mut ChaCha8Rng, tokens: usize, width: usize) -> Acts {
    of(floats(rng, tokens * width), width)
}

/// Random blocks whose values are numbers of a common size.
pub(crate) fn matrix(rng: &mut ChaCha8Rng, format: Format, rows: usize, columns: usize) -> Matrix {
    let (len, bytes) = (format.block_len(), format.block_bytes());
    let mut data = vec![];
    for _ in 0..rows * columns / len {
        let mut block = vec![0; bytes];
        let mut values = vec![f32::NAN; len];
        while !values.iter().all(|x| x.abs() < 100.0) {
            rng.fill_bytes(&mut block);
            format::decode(format, &block, &mut values);
        }
        data.extend(block);
    }
    Matrix { format, rows, columns, data: data.into() }
}

/// The same matrix with rows that are to stand side by side, and with those that do, where its format may stand so.
#[cfg(target_os = "linux")]
fn beside(w: &Matrix) -> Option<[Matrix; 2]> {
    let turned = |steps| {
        let (data, moves) = crate::load::moving::beside(w.format, EIGHT * w.row_bytes(), &w.data);
        (0..steps).for_each(|_| moves.step(1, 1, &|format, rows, eight| format.turn(rows, eight)));
        assert_eq!(data.beside().is_some(), steps > 1);
        Matrix { data, ..w.clone() }
    };
    (w.format.beside() && w.rows.is_multiple_of(EIGHT)).then(|| [turned(0), turned(2)])
}

/// Elsewhere weights stay where they are.
#[cfg(not(target_os = "linux"))]
fn beside(_: &Matrix) -> Option<[Matrix; 2]> {
    None
}

/// All of these, and once more those that take rows side by side.
fn ways(w: &Matrix) -> impl Iterator<Item = (Cpu, Cow<'_, Matrix>)> {
    let turned = beside(w).into_iter().flat_map(|[_, w]| {
        let levels = levels().filter(|cpu| cpu.level().beside());
        levels.map(move |cpu| (cpu, Cow::Owned(w.clone())))
    });
    levels().map(|cpu| (cpu, Cow::Borrowed(w))).chain(turned)
}

impl Peek for Cpu {
    fn peek(&self, _: &mut Chunked<'_>, acts: &Acts) -> Vec<f32> {
        acts.made(self).values().to_vec()
    }

    fn poke(&self, _: &mut Chunked<'_>, acts: &mut Acts, values: &[f32]) {
        acts.resize(acts.tokens());
        acts.rows_mut()[..values.len()].copy_from_slice(values);
    }
}

/// For operations that do not look at the sequences.
fn no_chunk() -> Chunked<'static> {
    Chunked::default()
}

fn project(cpu: &Cpu, w: &Matrix, x: &Acts, act: Act) -> Acts {
    let width = w.rows + 5;
    let mut y = blank(x.tokens(), width);
    cpu.project(&mut no_chunk(), &mut [Product { w, x, act, y: &mut y }]);
    for t in 0..x.tokens() {
        assert!(y.row(t)[w.rows..].iter().all(|y| *y == SENTINEL));
    }
    y
}

#[test]
fn products() {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    for &format in Format::ALL {
        for (rows, columns) in [
            (1, 256),
            (5, 512),
            (33, 256),
            (67, 768),
            (130, 256),
            (8, 256),
            (72, 768),
            (200, 256),
            (104, 2304),
            (40, 1024),
            (24, 1536),
        ] {
            check_products(rng, format, rows, columns);
        }
    }
    for &format in Format::ALL {
        check_products(rng, format, 512, 512);
    }
}

#[test]
fn products_with_blocks_that_fill_no_span() {
    let rng = &mut ChaCha8Rng::seed_from_u64(8);
    for &format in Format::ALL {
        for (rows, columns) in [(7, 96), (9, 352), (513, 544)] {
            if format.row_bytes(columns).is_some() {
                check_products(rng, format, rows, columns);
            }
        }
    }
}

/// Inputs as after `relu²`: columns are left out.
#[test]
fn products_of_many_zeros() {
    let rng = &mut ChaCha8Rng::seed_from_u64(9);
    for &format in Format::ALL {
        for (rows, columns) in [(5, 512), (67, 768), (9, 352), (200, 256)] {
            if format.row_bytes(columns).is_none() {
                continue;
            }
            let w = matrix(rng, format, rows, columns);
            for (tokens, zeros) in [(12, 0.45), (13, 0.5), (29, 0.75), (21, 0.97), (24, 1.0)] {
                let mut x = acts(rng, tokens, columns + 64);
                x.data.iter_mut().for_each(|x| *x *= f32::from(u8::from(!rng.random_bool(zeros))));
                check_product(&w, &x, [Id, Add][tokens % 2]);
            }
        }
    }
}

fn check_products(rng: &mut ChaCha8Rng, format: Format, rows: usize, columns: usize) {
    let w = matrix(rng, format, rows, columns);
    for tokens in [1, 2, 3, 7, 11, 12, 13, 29] {
        // Wider than the product, as the activations of a smaller LoRA are.
        let x = acts(rng, tokens, columns + 64);
        check_product(&w, &x, [Id, Tanh, Sigmoid, SquaredRelu, Add][tokens % 5]);
    }
}

fn check_product(w: &Matrix, x: &Acts, act: Act) {
    let scalar = Cpu::new(Level::Scalar, 1);
    let (format, rows, columns, tokens) = (w.format, w.rows, w.columns, x.tokens());
    let want = project(&scalar, w, x, Id);
    if let Some([waiting, moved]) = beside(w) {
        assert!(project(&scalar, &moved, x, Id).values() == want.values(), "{}", format.name());
        for cpu in levels().filter(|cpu| cpu.level().beside()) {
            let same = project(&cpu, &waiting, x, Id).values() == project(&cpu, &moved, x, Id).values();
            assert!(same, "{} [{rows}, {columns}] × {tokens} {}", format.name(), cpu.level());
        }
    }
    // Few sums may err much more than many do in the mean.
    let limit = |shared, codes, norm| 8.0 * expected_error(w, x, shared, codes, norm);
    let activations = if format.group().is_some() { 32767.0 } else { f64::INFINITY };
    let exact = limit(32, [f64::INFINITY, activations], f64::INFINITY);
    // Of many tokens' products, scales of activations are of more columns where rows stand side by side; other weights become integers.
    let limit_of = |w: &Matrix| {
        let many = match (w.data.is_beside(), format.group()) {
            (true, _) => 6,
            (_, Some(_)) => 12,
            _ => 20,
        };
        let largest = if w.data.is_beside() { requantized::LARGEST_BESIDE } else { requantized::LARGEST };
        if tokens < many {
            exact
        } else if requantized::takes(w) {
            limit(requantized::span(w), [f64::from(largest), 16383.0], f64::from(requantized::NORM))
        } else if w.data.is_beside() {
            limit(256, [f64::INFINITY, 32767.0], f64::INFINITY)
        } else {
            exact
        }
    };
    let limits: Vec<_> = [w.clone()].iter().chain(beside(w).map(|[_, w]| w).as_ref()).map(limit_of).collect();
    for (cpu, w) in ways(w) {
        let limit = if cpu.level().pairs() { limits[usize::from(w.data.is_beside())] } else { exact };
        let name = || format!("{} [{rows}, {columns}] × {tokens} {act:?} {}", format.name(), cpu.level());
        let sums = project(&cpu, w.as_ref(), x, Id);
        let error = error(&sums, &want);
        assert!(error <= limit, "{}: {error:e}, at most {limit:e}", name());
        let mut want = blank(tokens, sums.width);
        for t in 0..tokens {
            scalar::write::<math::Exact>(act, &sums.row(t)[..rows], want.row_mut(t));
        }
        let nmse = nmse(&project(&cpu, w.as_ref(), x, act).data, &want.data);
        assert!(nmse <= 1e-11, "{}: {nmse:e}", name());
    }
}

fn error(got: &Acts, want: &Acts) -> f64 {
    got.values().iter().zip(want.values()).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

/// Of `x = code · scale` with codes up to `codes`, those of `shared` with the scale that the largest needs, or with which the root of
/// the sum of their squares is `norm`, each errs by at most half a step, and by step² / 12 in the mean of squares: a sum errs by that
/// times the squares of its weights, and by what f32 sums err. Where codes of weights are multiplied less their middle, they are smaller
/// than the weights. The same of weights, of which the first of the codes are.
fn expected_error(w: &Matrix, x: &Acts, shared: usize, codes: [f64; 2], norm: f64) -> f64 {
    let (mut values, mut expected) = (vec![0.0; w.columns], 0.0);
    for r in 0..w.rows {
        w.row(r, &mut values);
        for t in 0..x.tokens() {
            for (w, x) in values.chunks(shared).zip(x.row(t).chunks(shared)) {
                let squares = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
                let step = |x: &[f32], codes: f64| {
                    let most = f64::from(x.iter().fold(0.0_f32, |a, x| a.max(x.abs())));
                    (most / codes).max(squares(x).sqrt() / norm)
                };
                let exact: f64 = w.iter().zip(x).map(|(w, x)| f64::from(w * x).powi(2)).sum();
                let rounded = step(w, codes[0]).powi(2) * squares(x) + step(x, codes[1]).powi(2) * squares(w);
                expected += rounded / 12.0 + 1e-12 * exact;
            }
        }
    }
    expected
}

#[test]
fn fast_products_err_by_the_steps_of_8_bits() {
    let rng = &mut ChaCha8Rng::seed_from_u64(4);
    let scalar = Cpu::new(Level::Scalar, 1);
    for &format in Format::ALL {
        for (rows, columns) in [(1, 256), (5, 512), (33, 256), (67, 768), (130, 256), (72, 768), (200, 256)] {
            let w = matrix(rng, format, rows, columns);
            for tokens in [1, 11, 12, 13, 29] {
                let x = acts(rng, tokens, columns + 64);
                let want = project(&scalar, &w, &x, Id);
                let limit = 2.0 * expected_error(&w, &x, 32, [f64::INFINITY, 127.0], f64::INFINITY);
                for (cpu, w) in ways(&w).map(|(cpu, w)| (cpu.fast(true), w)) {
                    let error = error(&project(&cpu, w.as_ref(), &x, Id), &want);
                    assert!(
                        error <= limit,
                        "{} [{rows}, {columns}] × {tokens} {}: {error:e}, at most {limit:e}",
                        format.name(),
                        cpu.level()
                    );
                }
            }
        }
    }
}

/// The largest activations and codes, of one sign: no sum of products runs over.
#[test]
fn the_largest_codes_have_room() {
    let scalar = Cpu::new(Level::Scalar, 1);
    for (&format, columns) in Format::ALL.iter().flat_map(|format| [(format, 256), (format, 1024)]) {
        for byte in [0, 0x7c, 0x83, 0xff] {
            let data = vec![byte; format.row_bytes(32 * columns).unwrap()];
            let w = Matrix { format, rows: 32, columns, data: data.into() };
            let mut values = vec![0.0; columns];
            w.row(0, &mut values);
            if !values.iter().all(|x| x.abs() < 1e30) {
                continue; // the bytes are no number of a common size
            }
            for (sign, fast) in [(1.0, false), (-1.0, false), (1.0, true), (-1.0, true)] {
                let x = of(vec![sign; 24 * columns], columns);
                let want = project(&scalar, &w, &x, Id);
                for (cpu, w) in ways(&w).map(|(cpu, w)| (cpu.fast(fast), w)) {
                    let nmse = nmse(&project(&cpu, w.as_ref(), &x, Id).data, &want.data);
                    // Half a step of the fewest that activations have room for, or one of both that share a norm.
                    let norm = f64::from(requantized::NORM) / (requantized::span(&w) as f64).sqrt();
                    let limit = if requantized::takes(&w) { 1.0 / norm } else { 0.5 / 4095.0 }.powi(2);
                    assert!(
                        nmse <= limit,
                        "{} [32, {columns}] {byte:x} {sign} {}: {nmse:e}",
                        format.name(),
                        cpu.level()
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    let rng = &mut ChaCha8Rng::seed_from_u64(2);
    for (format, act) in [Format::Q4K, Format::Q8_0, Format::F16]
        .iter()
        .flat_map(|f| [Id, SquaredRelu, Add].map(|act| (*f, act)))
    {
        let w = matrix(rng, format, 24, 256);
        for tokens in [3, 14] {
            // relu(−∞) is a number.
            let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
            for &bad in &bad[..if act == SquaredRelu { 1 } else { 3 }] {
                let mut x = acts(rng, tokens, 256);
                x.row_mut(2)[100] = bad;
                for (cpu, w) in ways(&w).chain(ways(&w).map(|(cpu, w)| (cpu.fast(true), w))) {
                    let y = project(&cpu, w.as_ref(), &x, act);
                    let finite = |t: usize| y.row(t)[..24].iter().filter(|y| y.is_finite()).count();
                    assert_eq!((finite(0), finite(1)), (24, 24));
                    assert_eq!(finite(2), 0, "{} {bad} {}", format.name(), cpu.level());
                }
            }
        }
    }
}

/// The sequences of a chunk, and its tokens.
pub(crate) fn sequences(sizes: &[(usize, usize)]) -> (Vec<Sequence>, usize) {
    let mut start = 0;
    let next = |&(slot, len): &(usize, usize)| {
        start += len;
        Sequence { slot, start: start - len, len }
    };
    (sizes.iter().map(next).collect(), start)
}

/// What is left of them for the end of layer 1, the last.
pub(crate) fn tails(seqs: &[Sequence], tokens: usize) -> Option<Tails> {
    Chunk { tokens: vec![0; tokens], seqs: seqs.to_vec(), ..Chunk::default() }.tails(1)
}

/// Random states of two layers.
pub(crate) fn states(
    rng: &mut ChaCha8Rng,
    version: ModelVersion,
    head_size: usize,
    channels: usize,
) -> Vec<State> {
    let shape = StateShape { version, fingerprint: 0, layers: 2, head_size, channels };
    let mut states: Vec<_> = (0..4).map(|_| State::zero(shape)).collect();
    for state in &mut states {
        state.set(floats(rng, state.len())).unwrap();
        if version == ModelVersion::V4 {
            // A sum of exponentials is not negative.
            let (_, wkv, _) = state.layer(1);
            wkv[channels..2 * channels].iter_mut().for_each(|b| *b = b.abs() + 0.1);
        }
    }
    states
}

/// What a layer's operations between the products make of random activations.
fn mix(cpu: &Cpu, seed: u64, sizes: &[(usize, usize)], heads: usize, n: usize, first: bool) -> Vec<f32> {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let (c, rank) = (heads * n, 32);
    let (seqs, tokens) = sequences(sizes);
    let mut states = states(rng, ModelVersion::V7, n, c);
    let mut norm = |eps| Norm::<Cpu> { weight: floats(rng, c), bias: floats(rng, c), eps };
    let (ln0, ln_x) = (norm(1e-5), norm(64e-5));
    let ids: Vec<u32> = (0..tokens).map(|_| rng.random_range(0..9)).collect();
    let emb = matrix(rng, Format::F16, 9, c);
    let blank = || blank(tokens, c);
    let (mut x, mut h) = (blank(), blank());
    let mut mixed = [blank(), blank()];
    mixed.iter_mut().for_each(|acts| acts.kind = Kind::Input);
    let tails = tails(&seqs, tokens);
    let chunk = Chunked { tokens: &ids, seqs: &seqs, states: &mut states, ..Chunked::default() };
    let b = &mut Chunked { tails: tails.as_ref(), ..chunk };
    cpu.embed(b, &emb, &ln0, &mut x);
    let lerp = [floats(rng, c), floats(rng, c)];
    cpu.shift(b, (1, Shift::Att), &ln0, &lerp, &x, &mut h, &mut mixed);

    let mut square = || matrix(rng, Format::F32, c, rank);
    let (w2, a2, g2, v2) = (square(), square(), square(), square());
    let gates = Gates::<Cpu> {
        w0: floats(rng, c),
        w2,
        a0: floats(rng, c),
        a2,
        g2,
        v: (!first).then(|| (floats(rng, c), v2)),
        k_k: floats(rng, c),
        k_a: floats(rng, c),
    };
    let low = [(); 4].map(|()| acts(rng, tokens, rank));
    let mut make = || acts(rng, tokens, c);
    let (r, k, v, v_first) = (make(), make(), make(), make());
    let (w, a, g, kk, nu) = (blank(), blank(), blank(), blank(), blank());
    let mut t = Heads { r, w, k, v, a, g, kk, v_first, nu };
    // Weights of LoRAs of a trained model's size.
    let gates = Gates { w2: small(gates.w2), a2: small(gates.a2), g2: small(gates.g2), ..gates };
    cpu.gates(b, &gates, n, &low, &mut t);
    let mut y = blank();
    cpu.wkv7(b, 1, &ln_x, &floats(rng, c), n, &t, &mut y);
    cpu.tails(b, 1, &mut x, &mut y);
    cpu.shift(b, (1, Shift::Ffn), &ln0, &lerp[..1], &x, &mut h, &mut mixed[..1]);
    let rows: Vec<_> = (0..y.tokens()).rev().step_by(2).collect();
    let mut last = Acts::new(c, Kind::Stream);
    cpu.norm_rows(b, &ln0, &rows, &y, &mut last);

    let mixed = mixed.into_iter().flat_map(|acts| acts.made(cpu).values().to_vec());
    let all = [x, h, y, last, t.w, t.a, t.k, t.v, t.g, t.kk, t.v_first].into_iter();
    let all = all.flat_map(|acts| acts.data.to_vec()).chain(mixed);
    all.chain(states.into_iter().flat_map(|s| s.into_vec().unwrap())).collect()
}

/// The same matrix of values around 0.03.
pub(crate) fn small(w: Matrix) -> Matrix {
    let data = w.data.as_chunks::<4>().0.iter().flat_map(|b| (f32::from_le_bytes(*b) * 1e-3).to_le_bytes());
    Matrix { data: data.collect::<Vec<_>>().into(), ..w }
}

#[test]
fn everything_between_products() {
    let scalar = Cpu::new(Level::Scalar, 1);
    for (seed, sizes) in SEQUENCES.iter().enumerate() {
        for (heads, n) in [(1, 64), (3, 64), (2, 32), (2, 40)] {
            for first in [true, false] {
                let run = |cpu: &Cpu| mix(cpu, seed as u64, sizes, heads, n, first);
                let want = run(&scalar);
                for cpu in levels() {
                    let nmse = nmse(&run(&cpu), &want);
                    assert!(nmse <= 1e-11, "{sizes:?} {heads} × {n} {}: {nmse:e}", cpu.level());
                }
            }
        }
    }
}

/// What the operations of RWKV-4 to 6 make of random activations; RWKV-5.0 has neither gate nor a decay that
/// depends on the token.
fn mix_before_v7(
    cpu: &Cpu,
    seed: u64,
    sizes: &[(usize, usize)],
    (heads, n): (usize, usize),
    all: bool,
) -> Vec<f32> {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let (c, rank) = (heads * n, 32);
    let (seqs, tokens) = sequences(sizes);
    let (mut six, mut four) = (states(rng, ModelVersion::V6, n, c), states(rng, ModelVersion::V4, c, c));
    let blank = || blank(tokens, c);
    let [h, before, r, k, v, w, g] = [(); 7].map(|()| acts(rng, tokens, c));
    let low = [(); 5].map(|()| acts(rng, tokens, rank));
    let ddlerp = Ddlerp::<Cpu> {
        mix: [(); 5].map(|()| floats(rng, c)),
        w2: [(); 5].map(|()| small(matrix(rng, Format::F32, c, rank))),
    };
    let mut mixed = [(); 5].map(|()| blank());
    let b = &mut Chunked { seqs: &seqs, states: &mut six, ..Chunked::default() };
    cpu.ddlerp(b, &ddlerp, &h, &before, &low, &mut mixed);

    let ln_x = Norm::<Cpu> { weight: floats(rng, c), bias: floats(rng, c), eps: 64e-5 };
    let p = Wkv6::<Cpu> { w0: floats(rng, c), u: floats(rng, c), ln_x };
    let rkv = Rkv::<Cpu> { r: &r, k: &k, v: &v, w: all.then_some(&w), g: all.then_some(&g) };
    let (mut y6, mut y4) = (blank(), blank());
    cpu.wkv6(b, 1, &p, n, &rkv, &mut y6);

    let p = Wkv4::<Cpu> { u: floats(rng, c), w: floats(rng, c).iter().map(|w| -w.exp()).collect() };
    let b = &mut Chunked { seqs: &seqs, states: &mut four, ..Chunked::default() };
    cpu.wkv4(b, 1, &p, [&r, &k, &v], &mut y4);
    let mut x = acts(rng, tokens, c);
    cpu.add_gated(b, &g, &y4, 0.5, &mut x);

    let acts = mixed.into_iter().chain([y6, y4, x]).flat_map(|acts| acts.data.to_vec());
    acts.chain(six.into_iter().chain(four).flat_map(|s| s.into_vec().unwrap())).collect()
}

#[test]
fn everything_between_products_before_v7() {
    let scalar = Cpu::new(Level::Scalar, 1);
    for (seed, sizes) in SEQUENCES.iter().enumerate() {
        for shape in [(1, 64), (3, 64), (2, 32), (2, 40), (8, 8)] {
            for all in [true, false] {
                let run = |cpu: &Cpu| mix_before_v7(cpu, seed as u64, sizes, shape, all);
                let want = run(&scalar);
                for cpu in levels() {
                    let nmse = nmse(&run(&cpu), &want);
                    assert!(nmse <= 1e-11, "{sizes:?} {shape:?} {}: {nmse:e}", cpu.level());
                }
            }
        }
    }
}
