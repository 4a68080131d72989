//! The whole model against independent witnesses, which `tools/witness_models.py` writes.

mod witness;

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use safetensors::SafeTensors;
use web_rwkv_gguf::{
    Error, Level, Model, Options, Pool, RnnInput, RnnInputBatch, RnnOption, State, format::Format,
    importance, load::Checkpoint,
};
use witness::{array, cpu, max_error, nmse, shared};

fn witness(name: &str) -> Option<PathBuf> {
    witness::file(&format!("models/{name}"))
}

fn ids(file: &SafeTensors<'_>, name: &str) -> Vec<u32> {
    array(file, name).into_iter().map(|x| x as u32).collect()
}

fn levels() -> impl Iterator<Item = Level> {
    Level::ALL.iter().copied().filter(|l| l.is_available())
}

fn open(path: &Path, level: Level) -> Model {
    Model::open(path, Options { level: Some(level), ..cpu() }).unwrap()
}

/// As [`open`], with activations of 8 bits.
fn open_fast(path: &Path, level: Level) -> Model {
    let options = Options { level: Some(level), fast: true, ..cpu() };
    Model::open(path, options).unwrap()
}

fn embedded() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/rwkv7-mail/rwkv7-mail-q4_k_m.gguf");
    Model::open(path, cpu()).unwrap()
}

#[test]
fn every_weight_type_agrees_with_a_numpy_f64_forward() {
    for format in Format::ALL {
        let Some(path) = witness(&format!("{}.safetensors", format.name())) else { return };
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for level in levels() {
            let model = open(&path.with_extension("gguf"), level);
            let got = model.run(&ids(&file, "ids"), RnnOption::Full, &mut model.init_state()).unwrap();
            let nmse = nmse(&got, &array(&file, "logits"));
            assert!(nmse <= 1e-7, "{} {level}: {nmse:e}", format.name());
        }
    }
}

/// NMSE of the logits of llama.cpp 0.3.36 (llama-cpp-python), which rounds activations to 8 bits too: of the embedded
/// model after the 40 tokens of its golden case. It does not open the random models, for which this is only a yardstick.
const LLAMA_CPP: f64 = 3.71e-4;

/// How much larger the squares of steps of 8 bits are than those of 16: a model that errs much by these does by those.
const STEPS: f64 = (32767.0 / 127.0) * (32767.0 / 127.0);

#[test]
fn the_fast_mode_errs_by_the_measure_of_8_bits() {
    for format in Format::ALL {
        let Some(path) = witness(&format!("{}.safetensors", format.name())) else { return };
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for level in levels() {
            let [exact, fast] = [open, open_fast].map(|open| {
                let model = open(&path.with_extension("gguf"), level);
                let got = model.run(&ids(&file, "ids"), RnnOption::Full, &mut model.init_state()).unwrap();
                nmse(&got, &array(&file, "logits"))
            });
            let limit = LLAMA_CPP.max(2.0 * STEPS * exact);
            assert!(fast <= limit, "{} {level}: {fast:e}, at most {limit:e}", format.name());
        }
    }
}

#[test]
fn importance_is_what_matrices_are_multiplied_with() {
    let (Some(path), Some(golden)) = (witness("f32.gguf"), witness("importance.golden")) else { return };
    let (bytes, golden) = (fs::read(path.with_extension("safetensors")).unwrap(), fs::read(golden).unwrap());
    let tokens = ids(&SafeTensors::deserialize(&bytes).unwrap(), "ids");
    let golden = SafeTensors::deserialize(&golden).unwrap();
    for level in levels() {
        let options = Options { level: Some(level), ..cpu() };
        let mut told = vec![];
        let found =
            importance(&Checkpoint::open(&path).unwrap(), options, std::slice::from_ref(&tokens), &mut |p| {
                told.push((p.read, p.total));
            });
        let found = found.unwrap();
        assert_eq!(told, [(tokens.len(), tokens.len())]);
        for name in golden.names() {
            // A factor that is always about zero keeps a little importance.
            let want: Vec<f64> = array(&golden, name).into_iter().map(|x| x.max(1e-3)).collect();
            let nmse = nmse(&found[name], &want);
            assert!(nmse <= 1e-7, "{level} {name}: {nmse:e}");
        }
    }
}

#[test]
fn trained_digit_reversal_gives_its_golden_logits() {
    let Some(path) = witness("reverse-rwkv7.golden") else { return };
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for name in ["reverse_rwkv7_L4_D128_head64.safetensors", "reverse-rwkv7-h64-f16.gguf"] {
        for level in levels() {
            let model = open(&shared("third-party/reverse-rwkv7").join(name), level);
            let got = model.run(&ids(&file, "ids"), RnnOption::Full, &mut model.init_state()).unwrap();
            let error = max_error(&got, &array(&file, "logits"));
            // The GGUF rounds the weights to f16, which its golden logits do not.
            let limit = if name.ends_with("gguf") { 0.5 } else { 1e-3 };
            assert!(error <= limit, "{name} {level}: {error:e}");
        }
    }
}

/// Logits, hidden vector and state beside golden ones, at every level: NMSE at most `limit`.
fn gives_golden_vectors(
    golden: &str,
    path: &Path,
    open: fn(&Path, Level) -> Model,
    limit: impl Fn(Level, &str) -> f64,
) {
    let Some(golden) = witness(golden) else { return };
    let bytes = std::fs::read(golden).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let cases = file.names().iter().filter(|name| name.ends_with("_ids")).count();
    assert!(cases > 0);
    for level in levels() {
        let model = open(path, level);
        for i in 0..cases {
            let tokens = ids(&file, &format!("{i}_ids"));
            let mut state = model.init_state();
            let logits = model.run(&tokens, RnnOption::Last, &mut state).unwrap();
            let hidden = model.run(&tokens, RnnOption::EmbedLast, &mut model.init_state()).unwrap();
            let mut want = vec![];
            let part = |name: &str| array(&file, &format!("{i}_{name}"));
            let (att, wkv, ffn) = (part("att_shift"), part("wkv"), part("ffn_shift"));
            let [layers, rows, c] = state.dims();
            let n = rows - 2;
            for l in 0..layers {
                want.extend(&att[l * c..(l + 1) * c]);
                for j in 0..n {
                    want.extend((0..c).map(|at| wkv[((l * c / n + at / n) * n + at % n) * n + j]));
                }
                want.extend(&ffn[l * c..(l + 1) * c]);
            }
            for (thing, got, want) in [
                ("logits", &logits[..], part("logits")),
                ("hidden", &hidden, part("hidden")),
                ("state", state.as_slice().unwrap(), want),
            ] {
                let (nmse, limit) = (nmse(got, &want), limit(level, thing));
                assert!(nmse <= limit, "{level} {i} {thing}: nmse {nmse:e}, at most {limit:e}");
            }
        }
    }
}

#[test]
fn floats_of_the_mail_model_give_its_reference_vectors() {
    let path = shared("rwkv7-mail/rwkv7-mail.safetensors");
    // With AVX2 and AVX-512 floats of 16 bits are multiplied as integers.
    let exact = |level, _: &str| if matches!(level, Level::Avx2 | Level::Avx512) { 1e-7 } else { 1e-9 };
    gives_golden_vectors("rwkv7-mail.golden", &path, open, exact);
}

#[test]
fn the_embedded_model_gives_those_of_a_numpy_f64_forward() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/rwkv7-mail/rwkv7-mail-q4_k_m.gguf");
    let exact = |level, _: &str| if level == Level::Scalar { 1e-10 } else { 1e-7 };
    gives_golden_vectors("embedded.golden", &path, open, exact);
    gives_golden_vectors("embedded.golden", &path, open_fast, |_, thing| {
        if thing == "hidden" { 5.29e-4 } else { LLAMA_CPP } // llama.cpp, too
    });
}

fn tokens(seed: u32, n: usize) -> Vec<u32> {
    let mut x = seed;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        1 + (x >> 8) % 280
    };
    (0..n).map(|_| next()).collect()
}

fn close(a: &[f32], b: &[f32], limit: f64) {
    let nmse = nmse(a, &b.iter().map(|x| *x as f64).collect::<Vec<_>>());
    assert!(nmse <= limit, "{nmse:e}");
}

#[test]
fn a_profiled_model_tells_how_long_operations_took() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/rwkv7-mail/rwkv7-mail-q4_k_m.gguf");
    let model = Model::open(path, Options { profile: true, ..cpu() }).unwrap();
    model.run(&tokens(1, 3), RnnOption::Last, &mut model.init_state()).unwrap();
    let times = model.op_times();
    let wkv7 = times.iter().find(|op| op.name == "wkv7").unwrap();
    assert_eq!((wkv7.count, wkv7.bytes), (model.info().num_layer, 0));
    // All matrices were read once; the head's for one token of three.
    let bytes: u64 = times.iter().map(|op| op.bytes).sum();
    let weights: usize = model.matrices().iter().map(|m| m.2).sum();
    let head = model.info().num_vocab * model.info().num_emb;
    assert_eq!(bytes, model.matrices().iter().map(|m| m.1 as u64).sum::<u64>());
    assert_eq!(times.iter().map(|op| op.operations).sum::<u64>(), 2 * (3 * (weights - head) + head) as u64);
    assert_eq!(model.op_times(), []);
}

/// What different chunks of the same tokens may differ by in the embedded model: where a sum is in another
/// order, an activation can fall on the next of its 2^16 steps.
const STEP: f64 = 1e-7;

/// Models, and what other chunks may change: floats have no steps.
fn models() -> Vec<(Model, f64)> {
    let floats = witness("f32.gguf").map(|path| (Model::open(path, cpu()).unwrap(), 1e-10));
    floats.into_iter().chain([(embedded(), STEP)]).collect()
}

#[test]
fn chunk_length_does_not_matter() {
    for (model, limit) in models() {
        let tokens = tokens(1, 520);
        let run = |size: usize| {
            let mut states = [model.init_state()];
            let input = RnnInput::new(vec![RnnInputBatch::new(tokens.clone(), RnnOption::Full)], size);
            let logits = model.infer(&input, &mut states).unwrap().0.remove(0);
            let [state] = states;
            (logits, state)
        };
        let (logits, state) = run(1);
        for size in [31, 32, 255, 256, 257, 512, 10_000] {
            let (l, s) = run(size);
            close(&l, &logits, limit);
            close(s.as_slice().unwrap(), state.as_slice().unwrap(), limit);
        }
    }
}

#[test]
fn a_ragged_batch_in_permuted_slots_gives_what_single_runs_give() {
    let lengths = [3, 0, 17, 1, 64, 300, 2];
    let sequences: Vec<_> = lengths.iter().enumerate().map(|(i, &n)| tokens(i as u32, n)).collect();
    for (model, limit) in models() {
        let single = |tokens: &Vec<u32>| {
            let mut state = model.init_state();
            let logits = model.run(tokens, RnnOption::Full, &mut state).unwrap();
            (logits[logits.len().saturating_sub(model.info().num_vocab)..].to_vec(), state)
        };
        let singles: Vec<_> = sequences.iter().map(single).collect();
        // Of the last layer, tokens before the last are left out, unless somebody wants them.
        for (order, wants_all, chunk) in [
            ([0, 1, 2, 3, 4, 5, 6], None, 100),
            ([5, 3, 6, 1, 0, 2, 4], None, 100),
            ([5, 3, 6, 1, 0, 2, 4], Some(2), 100),
            ([4, 6, 3, 5, 0, 1, 2], None, 1000),
        ] {
            let option = |i| if Some(i) == wants_all { RnnOption::Full } else { RnnOption::Last };
            let batches = order.map(|i| RnnInputBatch::new(sequences[i].clone(), option(i))).to_vec();
            let mut states: Vec<_> = order.iter().map(|_| model.init_state()).collect();
            let output = model.infer(&RnnInput::new(batches, chunk), &mut states).unwrap();
            for (slot, i) in order.into_iter().enumerate() {
                let (logits, state) = &singles[i];
                let rows = if Some(i) == wants_all { lengths[i] } else { lengths[i].min(1) };
                assert_eq!(output.0[slot].len(), rows * model.info().num_vocab);
                if lengths[i] == 0 {
                    assert!(states[slot] == model.init_state());
                } else {
                    close(&output.0[slot][output.0[slot].len() - logits.len()..], logits, limit);
                    close(states[slot].as_slice().unwrap(), state.as_slice().unwrap(), limit);
                }
            }
        }
    }
}

#[test]
fn fork_save_and_load_continue_exactly() {
    let model = embedded();
    let mut state = model.init_state();
    model.run(&tokens(3, 40), RnnOption::Last, &mut state).unwrap();
    let path = std::env::temp_dir().join(format!("web-rwkv-state-{}", std::process::id()));
    state.save(&path).unwrap();
    let (mut fork, mut loaded) = (state.clone(), model.load_state(&path).unwrap());
    assert_eq!(loaded, state);
    let next = |s: &mut State| model.run(&tokens(4, 5), RnnOption::Full, s).unwrap();
    let want = next(&mut state);
    assert_eq!(next(&mut fork), want);
    assert_eq!(next(&mut loaded), want);

    let saved = std::fs::read(&path).unwrap();
    for (at, message) in [(0, "something else"), (8, "version"), (12, "layout"), (16, "another")] {
        let mut broken = saved.clone();
        broken[at] ^= 0xff;
        std::fs::write(&path, broken).unwrap();
        let error = model.load_state(&path).unwrap_err().to_string();
        assert!(error.contains(message) || error.contains("model "), "{error}");
    }
    // Of another model: a state still, but not of this one.
    let mut other = saved.clone();
    other[16] ^= 0xff;
    let other = State::from_bytes("other", &other).unwrap();
    assert!(model.check_state(&other).unwrap_err().to_string().contains("state: expected model "));
    // Sizes that no memory holds.
    let mut broken = saved.clone();
    broken[24..36].fill(0xff);
    assert!(State::from_bytes("huge", &broken).unwrap_err().to_string().contains("length"));
    std::fs::write(&path, &saved[..saved.len() - 1]).unwrap();
    assert!(model.load_state(&path).unwrap_err().to_string().contains("length"));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn hidden_vectors_are_those_that_the_head_reads() {
    let model = embedded();
    let tokens = tokens(5, 9);
    let run = |option| model.run(&tokens, option, &mut model.init_state()).unwrap();
    let (full, last) = (run(RnnOption::EmbedFull), run(RnnOption::EmbedLast));
    let c = model.info().num_emb;
    assert_eq!(full.len(), 9 * c);
    close(&full[8 * c..], &last, STEP);
    let (full, last) = (run(RnnOption::Full), run(RnnOption::Last));
    close(&full[8 * model.info().num_vocab..], &last, STEP);
}

#[test]
fn pools_are_of_the_hidden_vectors() {
    let model = embedded();
    let c = model.info().num_emb;
    let sequences = [tokens(6, 7), tokens(7, 1), tokens(8, 30)];
    let embed = |pool| model.embed(&sequences, pool, 16).unwrap();
    let (last, mean, every) = (embed(Pool::Last), embed(Pool::Mean), embed(Pool::None));
    for i in 0..sequences.len() {
        let full = model.run(&sequences[i], RnnOption::EmbedFull, &mut model.init_state()).unwrap();
        close(&every[i], &full, STEP);
        close(&last[i], &every[i][every[i].len() - c..], STEP);
        let sum = |j: usize| full.chunks(c).map(|row| f64::from(row[j])).sum::<f64>();
        let want: Vec<f32> = (0..c).map(|j| (sum(j) / sequences[i].len() as f64) as f32).collect();
        close(&mean[i], &want, STEP);
    }
    assert!(model.embed(&[vec![1], vec![]], Pool::Last, 16).unwrap_err().to_string().contains("sequence 1"));
}

#[test]
fn bad_requests_are_errors_and_change_nothing() {
    let model = embedded();
    let mut state = model.init_state();
    assert!(model.run(&[1, 8192], RnnOption::Last, &mut state).unwrap_err().to_string().contains("8192"));
    assert!(model.infer(&RnnInput::new(vec![], 1), &mut [state.clone()]).is_err());
    let input = RnnInput::new(vec![RnnInputBatch::new([1], RnnOption::Last)], 0);
    assert!(model.infer(&input, &mut [state.clone()]).is_err());
    assert_eq!(state, model.init_state());
}

#[test]
fn progress_counts_tokens_and_may_stop_the_work() {
    let model = embedded();
    let tokens = tokens(9, 10);
    let input = RnnInput::new(vec![RnnInputBatch::new(tokens.clone(), RnnOption::Last)], 4);
    let mut told = vec![];
    model.infer_with(&input, &mut [model.init_state()], &mut |p| told.push((p.read, p.total))).unwrap();
    assert_eq!(told, [(4, 10), (8, 10), (10, 10)]);

    let mut states = [model.init_state()];
    let result = model.infer_with(&input, &mut states, &mut |_| ControlFlow::Break(()));
    assert!(matches!(result, Err(Error::Stopped)));
    let mut want = model.init_state();
    model.run(&tokens[..4], RnnOption::EmbedLast, &mut want).unwrap();
    assert_eq!(states[0], want);
}

#[test]
fn one_model_serves_many_threads() {
    let model = embedded();
    let want: Vec<_> = (0..8)
        .map(|i| model.run(&tokens(i, 20), RnnOption::Last, &mut model.init_state()).unwrap())
        .collect();
    std::thread::scope(|s| {
        for (i, want) in want.iter().enumerate() {
            let model = &model;
            s.spawn(move || {
                let got = model.run(&tokens(i as u32, 20), RnnOption::Last, &mut model.init_state()).unwrap();
                assert_eq!(&got, want);
            });
        }
    });
}
