//! RWKV-4, 5 and 6 against an independent forward pass, which `tools/witness_versions.py` writes.

mod witness;

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use web_rwkv_gguf::{
    Level, Model, ModelVersion, Options, RnnInput, RnnInputBatch, RnnOption, State,
    load::Checkpoint,
    save::{SaveOptions, save},
};
use witness::{array, cpu, max_error, nmse, shared};

fn witness(name: &str) -> Option<PathBuf> {
    witness::file(&format!("versions/{name}"))
}

fn tiny(name: &str) -> PathBuf {
    shared("third-party/tiny-rwkv").join(name)
}

/// Largest difference, and NMSE.
fn errors(got: &[f32], want: &[f64]) -> (f64, f64) {
    (max_error(got, want), nmse(got, want))
}

fn levels() -> impl Iterator<Item = Level> {
    Level::ALL.iter().copied().filter(|l| l.is_available())
}

fn open(path: &Path, level: Level) -> Model {
    Model::open(path, Options { level: Some(level), ..cpu() }).unwrap()
}

/// The state of the witness as this engine lays it out: token shifts `[L, C]`, between them `[L, H, N, N]` by key and
/// value index, or RWKV-4's `[L, 3, C]`.
fn state(model: &Model, [att, wkv, ffn]: [Vec<f64>; 3]) -> Vec<f64> {
    let info = model.info();
    let (c, n) = (info.num_emb, info.head_size);
    let rows = model.init_state().dims()[1] - 2;
    let mut out = vec![];
    for l in 0..info.num_layer {
        out.extend(&att[l * c..(l + 1) * c]);
        let wkv = &wkv[l * rows * c..(l + 1) * rows * c];
        match info.version {
            ModelVersion::V4 => out.extend(wkv),
            _ => (0..n).for_each(|j| out.extend((0..c).map(|at| wkv[(at / n * n + j) * n + at % n]))),
        }
        out.extend(&ffn[l * c..(l + 1) * c]);
    }
    out
}

/// Logits and last state of a model beside golden ones, all tokens at once and one by one.
fn agrees(path: &Path, golden: &Path, names: [&str; 3], version: ModelVersion, limit: impl Fn(Level) -> f64) {
    let bytes = std::fs::read(golden).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids: Vec<u32> = array(&file, "ids").into_iter().map(|x| x as u32).collect();
    let want = array(&file, "logits");
    for level in levels() {
        let (model, limit) = (open(path, level), limit(level));
        assert_eq!(model.info().version, version);
        let want_state = names.iter().all(|name| file.names().contains(name));
        let want_state = want_state.then(|| state(&model, names.map(|name| array(&file, name))));
        let last = &want[want.len() - model.info().num_vocab..];
        let (every, last) = ((RnnOption::Full, &want[..]), (RnnOption::Last, last));
        for (chunk, (option, want)) in [(ids.len(), every), (1, every), (ids.len(), last), (5, last)] {
            let input = RnnInput::new(vec![RnnInputBatch::new(ids.clone(), option)], chunk);
            let mut state = model.init_state();
            let got = model.infer(&input, std::slice::from_mut(&mut state)).unwrap().0.remove(0);
            let (most, nmse) = errors(&got, want);
            println!("{} {level}, chunks of {chunk}: max {most:.1e}, nmse {nmse:.1e}", path.display());
            assert!(nmse <= limit, "{} {level}: nmse {nmse:e}, at most {limit:e}", path.display());
            if let Some(want) = &want_state {
                let (most, nmse) = errors(state.as_slice().unwrap(), want);
                assert!(nmse <= limit, "{} {level}: state: max {most:e}, nmse {nmse:e}", path.display());
            }
        }
    }
}

const STATE: [&str; 3] = ["att_shift", "wkv", "ffn_shift"];

#[test]
fn every_version_agrees_with_a_numpy_f64_forward() {
    for (name, version) in [
        ("v4", ModelVersion::V4),
        ("v5_0", ModelVersion::V5),
        ("v5_1", ModelVersion::V5),
        ("v5_2", ModelVersion::V5),
        ("v6", ModelVersion::V6),
        ("v6_h32", ModelVersion::V6),
    ] {
        let Some(golden) = witness(&format!("{name}.golden")) else { return };
        agrees(&golden.with_extension("safetensors"), &golden, STATE, version, |_| 1e-11);
    }
}

#[test]
fn files_with_other_names_and_turns_are_the_same_model() {
    let Some(golden) = witness("v6.golden") else { return };
    for name in ["v6.st", "v6_hf.safetensors"] {
        agrees(&golden.with_file_name(name), &golden, STATE, ModelVersion::V6, |_| 1e-11);
    }
}

#[test]
fn gguf_of_rwkv_6_halves_its_stream_where_it_says() {
    let Some(golden) = witness("v6_gguf.golden") else { return };
    // Activations get 16 bits before quantized weights.
    let limit = |level| if level == Level::Scalar { 1e-11 } else { 1e-7 };
    agrees(&golden.with_file_name("v6.gguf"), &golden, STATE, ModelVersion::V6, limit);
}

#[test]
fn tiny_trained_models_give_their_golden_logits() {
    for (name, golden, version) in [
        ("tiny-rwkv-4v0-660K.safetensors", "tiny-rwkv-4v0-660K.golden", ModelVersion::V4),
        ("tiny-rwkv-5v2-730K.safetensors", "tiny-rwkv-5v2-730K.golden", ModelVersion::V5),
        ("tiny-rwkv-6v0-1m-edea0c2.safetensors", "tiny-rwkv-6v0-1m-edea0c2.golden", ModelVersion::V6),
        ("tiny-rwkv-6v0-1m-f32.gguf", "deq-tiny-rwkv-6v0-1m-f32.golden", ModelVersion::V6),
    ] {
        let Some(golden) = witness(golden) else { return };
        let names = ["state_att_x", "state_wkv", "state_ffn_x"];
        agrees(&tiny(name), &golden, names, version, |_| 1e-10);
    }
}

#[test]
fn a_trained_state_is_where_sequences_start() {
    let Some(golden) = witness("v6_state.golden") else { return };
    let bytes = std::fs::read(&golden).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids: Vec<u32> = array(&file, "ids").into_iter().map(|x| x as u32).collect();
    let model = open(&golden.with_file_name("v6.safetensors"), Level::best());
    let mut state = model.load_state(golden.with_extension("safetensors")).unwrap();
    let logits = model.run(&ids, RnnOption::Full, &mut state).unwrap();
    let (most, nmse) = errors(&logits, &array(&file, "logits"));
    assert!(nmse <= 1e-11, "max {most:e}, nmse {nmse:e}");
}

#[test]
fn files_that_are_written_hold_the_same_model() {
    for (version, golden) in
        [("v4", "v4"), ("v5_1", "v5_1"), ("v5_2", "v5_2"), ("v6", "v6"), ("v6_h32", "v6_h32")]
    {
        let Some(golden) = witness(&format!("{golden}.golden")) else { return };
        let checkpoint = Checkpoint::open(&golden.with_extension("safetensors")).unwrap();
        let number = checkpoint.version;
        let vocab = (0..64).map(|i| if i == 0 { vec![] } else { vec![i] }).collect();
        let checkpoint = checkpoint.with_vocab(vocab);
        let options = SaveOptions { format: &|_, tensor| tensor.format, importance: None, threads: None };
        for kind in ["safetensors", "gguf"] {
            let name = format!("web-rwkv-versions-{}-{version}.{kind}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let saved = save(&checkpoint, &path, &options, &mut |_, _| ());
            if kind == "gguf" && number != ModelVersion::V6 {
                let error = saved.unwrap_err().to_string();
                assert!(error.contains(&format!("{number} in GGUF")), "{error}");
                continue;
            }
            saved.unwrap();
            agrees(&path, &golden, STATE, number, |_| 1e-11);
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// Models of each version.
fn models() -> Vec<Model> {
    let paths = ["v4", "v5_0", "v5_1", "v6"].iter().filter_map(|v| witness(&format!("{v}.safetensors")));
    paths.map(|path| open(&path, Level::best())).collect()
}

#[test]
fn sequences_together_give_what_each_gives_alone() {
    for model in models() {
        let sequence = |seed: u32, n: u32| (0..n).map(|i| (seed * 31 + i * 17) % 64).collect::<Vec<_>>();
        let sequences = [(1, 9), (2, 0), (3, 1), (4, 33), (5, 2)].map(|(seed, n)| sequence(seed, n));
        for chunk in [7, 20] {
            let batches = sequences.iter().map(|s| RnnInputBatch::new(s.clone(), RnnOption::Last)).collect();
            let mut states = sequences.each_ref().map(|_| model.init_state());
            let got = model.infer(&RnnInput::new(batches, chunk), &mut states).unwrap().0;
            for (i, tokens) in sequences.iter().enumerate().filter(|(_, tokens)| !tokens.is_empty()) {
                let mut state = model.init_state();
                let want = model.run(tokens, RnnOption::Full, &mut state).unwrap();
                let want = &want[want.len() - model.info().num_vocab..];
                let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
                let version = model.info().version;
                assert!(errors(&got[i], &wide(want)).1 < 1e-11, "{version} {i}");
                assert!(
                    errors(states[i].as_slice().unwrap(), &wide(state.as_slice().unwrap())).1 < 1e-11,
                    "{version} {i}"
                );
            }
            assert_eq!(states[1], model.init_state());
        }
    }
}

#[test]
fn states_keep_their_version() {
    let models = models();
    for model in &models {
        let mut state = model.init_state();
        model.run(&[1, 2, 3], RnnOption::Last, &mut state).unwrap();
        let bytes = state.to_bytes().unwrap();
        assert_eq!(State::from_bytes("x", &bytes).unwrap(), state);
        assert_eq!(
            bytes[12],
            match model.info().version {
                ModelVersion::V4 => 4,
                ModelVersion::V5 => 5,
                _ => 6,
            }
        );
        let others = models.iter().filter(|other| other.file() != model.file());
        others.for_each(|other| assert!(other.check_state(&state).is_err()));
    }
    let Some(four) = models.first() else { return };
    let (start, c) = (four.init_state(), four.info().num_emb);
    assert_eq!(start.dims(), [4, 5, c]);
    let rows: Vec<_> = start.as_slice().unwrap().chunks(c).map(|row| row[0]).collect();
    assert_eq!(rows[..5], [0.0, 0.0, 0.0, -1e38, 0.0]);
    assert_eq!((four.info().num_head, four.info().head_size), (1, c));
}

#[test]
fn every_tensor_of_every_layer_is_needed() {
    for version in ["v4", "v5_0", "v5_1", "v5_2", "v6"] {
        let Some(path) = witness(&format!("{version}.safetensors")) else { return };
        let open = |edit: &dyn Fn(&mut Checkpoint)| {
            let mut checkpoint = Checkpoint::open(&path).unwrap();
            edit(&mut checkpoint);
            let model = Model::from_checkpoint(&checkpoint, Options { threads: Some(1), ..cpu() });
            model.err().map_or("none".into(), |error| error.to_string())
        };
        let whole = Checkpoint::open(&path).unwrap().tensors;
        for (name, tensor) in &whole {
            let thing = format!("{}: tensor `{name}`", path.display());
            let error = open(&|checkpoint| drop(checkpoint.tensors.remove(name)));
            assert_eq!(error, format!("{thing} is missing"));
            let mut shape = tensor.shape.clone();
            *shape.last_mut().unwrap() /= 2;
            let error = open(&|checkpoint| checkpoint.tensors.get_mut(name).unwrap().shape = shape.clone());
            // Sizes are those of some tensors, which others then do not fit.
            let sizes = ["emb.weight", "blocks.0.ffn.key.weight", "time_decay", "_w1", "time_maa_w2"];
            assert!(error.starts_with(&thing) || sizes.iter().any(|s| name.contains(s)), "{name}: {error}");
            assert!(error.contains(": expected "), "{name}: {error}");
        }
    }
}
