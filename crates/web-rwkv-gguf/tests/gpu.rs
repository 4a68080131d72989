//! Whole models on every tier of this machine's GPU against the witnesses that the CPU's tests have too.

mod witness;

use std::path::Path;

use safetensors::SafeTensors;
use web_rwkv_gguf::{Device, Model, Options, RnnInput, RnnInputBatch, RnnOption, State, Tier, devices};
use witness::{array, nmse, shared};

/// What 16 bits of the inputs of products may cost; f32 costs less.
fn limit(tier: Tier) -> f64 {
    if tier == Tier::Plain { 1e-9 } else { 1e-5 }
}

/// The tiers of the first GPU; none, with a word about it, if there is no GPU and none is demanded.
fn tiers() -> Vec<Tier> {
    let Some(best) = devices().first().map(|d| d.tier) else {
        let wanted = std::env::var_os("WEB_RWKV_TEST_GPU").is_some();
        assert!(!wanted, "WEB_RWKV_TEST_GPU is set, but there is no GPU");
        eprintln!("skipped: this machine has no GPU, nor a software one");
        return vec![];
    };
    Tier::ALL.iter().copied().filter(|t| *t <= best).collect()
}

fn open(path: &Path, tier: Tier) -> Model {
    let options = Options { device: Device::Gpu(None), tier: Some(tier), ..Options::default() };
    Model::open(path, options).unwrap()
}

/// Logits of a model beside golden ones, in chunks of so many tokens.
fn agrees(path: &Path, golden: &Path, chunks: &[usize]) {
    let bytes = std::fs::read(golden).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids: Vec<u32> = array(&file, "ids").into_iter().map(|x| x as u32).collect();
    let want = array(&file, "logits");
    for tier in tiers() {
        let model = open(path, tier);
        for &chunk in chunks {
            let input = RnnInput::new(vec![RnnInputBatch::new(ids.clone(), RnnOption::Full)], chunk);
            let got = model.infer(&input, &mut [model.init_state()]).unwrap().0.remove(0);
            let (nmse, limit) = (nmse(&got, &want), limit(tier));
            println!("{} {tier}, chunks of {chunk}: nmse {nmse:.1e}", path.display());
            assert!(nmse <= limit, "{} {tier}: nmse {nmse:e}, at most {limit:e}", path.display());
        }
    }
}

#[test]
fn weight_types_agree_with_a_numpy_f64_forward() {
    for format in ["f32", "q4_k", "q6_k", "q5_0"] {
        let Some(golden) = witness::file(&format!("models/{format}.safetensors")) else { return };
        agrees(&golden.with_extension("gguf"), &golden, &[1000]);
    }
}

#[test]
fn every_version_agrees_with_a_numpy_f64_forward() {
    for name in ["v4", "v5_0", "v5_1", "v5_2", "v6", "v6_h32"] {
        let Some(golden) = witness::file(&format!("versions/{name}.golden")) else { return };
        agrees(&golden.with_extension("safetensors"), &golden, &[1000, 1]);
    }
}

#[test]
fn trained_models_give_their_golden_logits() {
    for (golden, file) in [
        ("models/reverse-rwkv7.golden", "reverse-rwkv7/reverse_rwkv7_L4_D128_head64.safetensors"),
        ("versions/tiny-rwkv-4v0-660K.golden", "tiny-rwkv/tiny-rwkv-4v0-660K.safetensors"),
        ("versions/tiny-rwkv-5v2-730K.golden", "tiny-rwkv/tiny-rwkv-5v2-730K.safetensors"),
        ("versions/tiny-rwkv-6v0-1m-edea0c2.golden", "tiny-rwkv/tiny-rwkv-6v0-1m-edea0c2.safetensors"),
    ] {
        let Some(golden) = witness::file(golden) else { continue };
        agrees(&shared("third-party").join(file), &golden, &[1000]);
    }
}

#[test]
fn states_come_back_fork_and_go_on_elsewhere() {
    for name in ["v4", "v6"] {
        let Some(golden) = witness::file(&format!("versions/{name}.golden")) else { return };
        let path = golden.with_extension("safetensors");
        let cpu = Model::open(&path, Options { device: Device::Cpu, ..Options::default() }).unwrap();
        for tier in tiers() {
            let gpu = open(&path, tier);
            let read = |model: &Model, tokens: &[u32], state: &mut State| {
                model.run(tokens, RnnOption::Last, state).unwrap()
            };
            let mut states = [cpu.init_state(), gpu.init_state()];
            read(&cpu, &[1, 2, 3], &mut states[0]);
            read(&gpu, &[1, 2, 3], &mut states[1]);
            assert!(states[1].is_on_gpu());
            let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
            let want = wide(states[0].as_slice().unwrap());
            assert!(nmse(states[1].as_slice().unwrap(), &want) <= limit(tier));
            // A fork goes its own way; a state of the CPU goes on on the GPU.
            let mut fork = states[1].clone();
            read(&gpu, &[9, 9], &mut fork);
            let want = wide(&read(&cpu, &[4], &mut states[0].clone()));
            for mut state in states {
                assert!(nmse(&read(&gpu, &[4], &mut state), &want) <= limit(tier));
            }
        }
    }
}
