//! Whole models on every tier of this machine's GPU against the witnesses that the CPU's tests have too.

mod witness;

use std::path::Path;

use safetensors::SafeTensors;
use web_rwkv_gguf::{
    Device, Generation, Model, Options, RnnInput, RnnInputBatch, RnnOption, Sampler, SamplerOptions, State,
    Tier, devices,
};
use witness::{array, cpu, nmse, shared};

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
        let last = &want[want.len() - model.info().num_vocab..];
        for (&chunk, (option, want)) in
            chunks.iter().flat_map(|c| [(c, (RnnOption::Full, &want[..])), (c, (RnnOption::Last, last))])
        {
            let input = RnnInput::new(vec![RnnInputBatch::new(ids.clone(), option)], chunk);
            let got = model.infer(&input, &mut [model.init_state()]).unwrap().0.remove(0);
            let (nmse, limit) = (nmse(&got, want), limit(tier));
            println!("{} {tier}, {option:?} in chunks of {chunk}: nmse {nmse:.1e}", path.display());
            assert!(nmse <= limit, "{} {tier}: nmse {nmse:e}, at most {limit:e}", path.display());
        }
    }
}

#[test]
fn weight_types_agree_with_a_numpy_f64_forward() {
    for format in ["f32", "q4_k", "q6_k", "q5_0"] {
        let Some(golden) = witness::file(&format!("models/{format}.safetensors")) else { return };
        agrees(&golden.with_extension("gguf"), &golden, &[1000, 1]);
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
        let cpu = Model::open(&path, cpu()).unwrap();
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

#[test]
fn a_ragged_batch_gives_what_the_cpu_gives_token_by_token() {
    for name in ["models/f32.gguf", "versions/v4.safetensors", "versions/v6.safetensors"] {
        let Some(path) = witness::file(name) else { return };
        let cpu = Model::open(&path, cpu()).unwrap();
        let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        for (tier, lengths) in
            tiers().into_iter().flat_map(|t| [[3, 0, 40, 1, 2, 9], [30; 6]].map(|l| (t, l)))
        {
            let agree = |got: &[f32], want: &[f32]| {
                assert!(got == want || nmse(got, &wide(want)) <= limit(tier), "{name} {tier} {lengths:?}");
            };
            let same = |got: &[State], want: &[State]| {
                got.iter().zip(want).for_each(|(a, b)| agree(a.as_slice().unwrap(), b.as_slice().unwrap()));
            };
            let gpu = open(&path, tier);
            let sequences = [0, 1, 2, 3, 4, 5]
                .map(|s| (0..lengths[s]).map(|i| (31 * (s as u32 + 1) + i * 17) % 64).collect::<Vec<u32>>());
            let batches = sequences.iter().map(|s| RnnInputBatch::new(s.clone(), RnnOption::Last)).collect();
            let input = RnnInput::new(batches, 1000);
            let [mut states, mut wanted] = [&gpu, &cpu].map(|model| vec![model.init_state(); 6]);
            // Of new states and of those that these become, which others have too and find as they were.
            for _ in 0..2 {
                let before = [states.clone(), wanted.clone()];
                let got = gpu.infer(&input, &mut states).unwrap().0;
                for ((got, tokens), state) in got.iter().zip(&sequences).zip(&mut wanted) {
                    if !tokens.is_empty() {
                        agree(got, &cpu.run(tokens, RnnOption::Last, state).unwrap());
                    }
                }
                same(&states, &wanted);
                same(&before[0], &before[1]);
            }
        }
    }
}

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/rwkv7-mail/rwkv7-mail-q4_k_m.gguf");
const TOKENS: usize = 6;
const PROMPTS: [&str; 3] = ["User: The parcel", "Dear Ms Smith,\n\nyour order", "1 2 3"];

/// Ways to choose tokens: greedy, drawn, with penalties.
fn samplers() -> [SamplerOptions; 3] {
    let drawn =
        SamplerOptions { seed: 4, top_p: 0.9, top_k: 50, temperature: 1.2, ..SamplerOptions::default() };
    let penalties = SamplerOptions { presence_penalty: 0.5, frequency_penalty: 0.3, ..drawn };
    [SamplerOptions::greedy(), drawn, penalties]
}

fn text(model: &Model, prompt: &str, sampler: SamplerOptions, stop: &[&[u8]]) -> Generation {
    let prompt = model.tokenizer().unwrap().encode(prompt).unwrap();
    let stop = stop.iter().map(|s| s.to_vec()).collect();
    Generation::new(&prompt, model.init_state(), Sampler::new(sampler), TOKENS, stop).unwrap()
}

fn written(model: &Model, mut text: Generation) -> Generation {
    while text.next(model).unwrap().is_some() {}
    text
}

#[test]
fn texts_are_those_of_the_cpu_alone_in_turn_and_together() {
    let cpu = Model::open(MODEL, cpu()).unwrap();
    let kinds = || PROMPTS.iter().flat_map(|prompt| samplers().map(|sampler| (*prompt, sampler)));
    let on = |model: &Model| kinds().map(|(p, s)| text(model, p, s, &[])).collect::<Vec<_>>();
    let tokens = |texts: &[Generation]| texts.iter().map(|t| t.tokens().to_vec()).collect::<Vec<_>>();
    let want: Vec<_> = on(&cpu).into_iter().map(|t| written(&cpu, t)).collect();
    for tier in tiers() {
        let gpu = open(Path::new(MODEL), tier);
        let mut turns = on(&gpu);
        turns.truncate(3);
        while turns.iter_mut().filter_map(|t| t.next(&gpu).unwrap()).count() > 0 {}
        assert_eq!(tokens(&turns), tokens(&want)[..3], "{tier}, in turn");
        // Two run on before their tokens are seen; nine, some with penalties, do not, which takes long on software.
        let counts = if Some(&tier) == tiers().last() { &[2, 9][..] } else { &[2] };
        for &count in counts {
            let mut together = on(&gpu);
            together.truncate(count);
            let mut read = vec![vec![]; count];
            while Generation::advance(&mut together, &gpu).unwrap() {
                for (text, read) in together.iter_mut().zip(&mut read) {
                    read.extend(text.news().unwrap_or_default().to_vec());
                }
            }
            assert_eq!(tokens(&together), tokens(&want)[..count], "{tier}, {count} together");
            assert!(read.iter().zip(&want).all(|(read, text)| read == text.bytes()));
        }
    }
}

#[test]
fn what_ran_too_far_is_undone() {
    for tier in tiers() {
        let gpu = open(Path::new(MODEL), tier);
        let whole = written(&gpu, text(&gpu, PROMPTS[0], SamplerOptions::greedy(), &[]));
        let bytes = |n: usize| gpu.tokenizer().unwrap().decode(&whole.tokens()[..n]).unwrap();
        // A string that crosses from one token to the next, if it stands nowhere before.
        let crossing = |n: usize| {
            let stop = bytes(n + 1)[bytes(n).len() - 1..].to_vec();
            let found = whole.bytes().windows(stop.len()).position(|w| w == stop);
            (found == Some(bytes(n).len() - 1)).then_some((n + 1, stop))
        };
        let (count, stop) = (1..TOKENS - 1).find_map(crossing).expect("texts vary");
        for (count, stop) in [(count, Some(&stop[..])), (3, None), (TOKENS, None)] {
            let mut text = text(&gpu, PROMPTS[0], SamplerOptions::greedy(), stop.as_slice());
            while text.tokens().len() < count && text.next(&gpu).unwrap().is_some() {}
            text.read_prompt(&gpu, &mut |_| ()).unwrap(); // it is read
            assert_eq!(text.tokens(), &whole.tokens()[..count]);
            assert_eq!(text.stopped(), stop.is_some());
            let mut state = gpu.init_state();
            let prompt = gpu.tokenizer().unwrap().encode(PROMPTS[0]).unwrap();
            gpu.run(&prompt, RnnOption::Last, &mut state).unwrap();
            for token in &whole.tokens()[..count - 1] {
                gpu.run(&[*token], RnnOption::Last, &mut state).unwrap();
            }
            assert!(text.into_state().to_bytes().unwrap() == state.to_bytes().unwrap(), "{tier}, {count}");
        }
    }
}
