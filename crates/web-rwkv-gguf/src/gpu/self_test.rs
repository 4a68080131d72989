//! A tiny model on an adapter and on the CPU, before an adapter is used for the first time: drivers have errors.

use std::{collections::HashMap, sync::Mutex};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{DeviceInfo, Gpu, Tier, Wanted, device};
use crate::{
    Error, Result,
    batch::{RnnInput, RnnInputBatch, RnnOption, RnnOutput},
    cpu::{Cpu, Level},
    format::Format,
    load::{Checkpoint, ModelVersion, Tensor},
    model::Net,
    ops::Ops,
    state::{State, StateShape},
};

/// NMSE of hidden vectors and state that products of f16 stay far below.
const LIMIT: f64 = 1e-4;

/// What is wrong with kernels.
type Verdict = std::result::Result<(), String>;

/// What is asked for, with the best kernels that compute on the adapter what the CPU does.
pub(crate) fn tested(wanted: Wanted) -> Result<Wanted> {
    let (_, info) = device::adapter(wanted.index)?;
    // A software renderer is what tests run kernels on, and would take seconds.
    if info.kind == "software" {
        return Ok(wanted);
    }
    // Kernels that were named are those or none; that there are such is checked where the device is made.
    let tiers: Vec<_> = match wanted.tier {
        Some(tier) if tier > info.tier => return Ok(wanted),
        Some(tier) => vec![tier],
        None => Tier::ALL.iter().rev().copied().filter(|tier| *tier <= info.tier).collect(),
    };
    let tier = first_right(&info, &tiers, |tier| verdict(&info, tier))?;
    Ok(Wanted { tier: Some(tier), ..wanted })
}

/// The first tier without an error.
fn first_right(info: &DeviceInfo, tiers: &[Tier], verdict: impl Fn(Tier) -> Verdict) -> Result<Tier> {
    for tier in tiers {
        match verdict(*tier) {
            Ok(()) => return Ok(*tier),
            Err(what) => log::warn!("{}: {tier} kernels fail their self-test: {what}", info.name),
        }
    }
    let what = "expected kernels that compute what the CPU does, found none".into();
    Err(Error::Device { device: info.name.clone(), what })
}

/// Verdicts of this process: the adapter with the tier that was tested.
static VERDICTS: Mutex<Vec<(DeviceInfo, Verdict)>> = Mutex::new(vec![]);

fn verdict(info: &DeviceInfo, tier: Tier) -> Verdict {
    let info = DeviceInfo { tier, ..info.clone() };
    let mut verdicts = VERDICTS.lock().expect("no holder panics");
    if let Some((_, verdict)) = verdicts.iter().find(|(tested, _)| *tested == info) {
        return verdict.clone();
    }
    let verdict = match error(&info) {
        Ok(nmse) if nmse <= LIMIT => Ok(()),
        Ok(nmse) => Err(format!("expected a relative error of at most {LIMIT:e}, found {nmse:e}")),
        Err(e) => Err(e.to_string()),
    };
    verdicts.push((info, verdict.clone()));
    verdict
}

/// NMSE of what an adapter computes.
fn error(info: &DeviceInfo) -> Result<f64> {
    let checkpoint = checkpoint();
    let wanted = Wanted { index: Some(info.index), tier: Some(info.tier), profile: false };
    let want = results(&Net::new(Cpu::new(Level::Scalar, 1), &checkpoint)?)?;
    let got = results(&Net::new(Gpu::new(wanted, &checkpoint)?, &checkpoint)?)?;
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let error = squares(&mut got.iter().zip(&want).map(|(g, w)| f64::from(g - w)));
    Ok(error / squares(&mut want.iter().map(|w| f64::from(*w))))
}

/// Hidden vectors of a token, then of the last of 40, which are long enough for every kernel, twice, and of several after that, one
/// for each fork of the state; and the states after each, so that what the second 40 leave is sent meanwhile.
fn results<O: Ops>(net: &Net<O>) -> Result<Vec<f32>> {
    let (mut states, mut all) = (vec![State::zero(SHAPE)], vec![]);
    let text = |tokens: Vec<u32>| vec![RnnInputBatch::new(tokens, RnnOption::EmbedLast)];
    let forks = (0..FORKS).flat_map(|i| text(vec![i as u32]));
    let long = || text((0..40).map(|i| i % VOCAB as u32).collect());
    let batches = [text(vec![3]), long(), long(), forks.collect()];
    for batches in batches {
        states.resize(batches.len(), states[0].clone());
        let mut output = RnnOutput(vec![vec![]; batches.len()]);
        for chunk in RnnInput::new(batches, RnnInput::CHUNK).chunks(RnnInput::CHUNK) {
            net.forward(&chunk, &mut states, &mut output)?;
        }
        all.extend(output.0);
        for state in &states {
            all.push(state.as_slice()?.to_vec());
        }
    }
    Ok(all.concat())
}

/// More than are few.
const FORKS: usize = 6;
const LAYERS: usize = 2;
const HEAD: usize = 64;
const C: usize = 128;
/// As many as a block of Q4_K has.
const HIDDEN: usize = 256;
const RANK: usize = 64;
const VOCAB: usize = 32;

/// Its states.
pub(super) const SHAPE: StateShape =
    StateShape { version: ModelVersion::V7, fingerprint: 0, layers: LAYERS, head_size: HEAD, channels: C };

/// A model of random weights: RWKV-7, matrices in F16, but one of each layer in Q4_K.
pub(super) fn checkpoint() -> Checkpoint {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut tensors = HashMap::new();
    let mut add = |name: String, shape: &[usize]| {
        let count = shape.iter().product();
        let (format, data) = match shape {
            [_] => {
                // Weights of norms are about 1, other vectors about 0.
                let middle = f32::from(u8::from(name.ends_with(".weight")));
                let values = (0..count).flat_map(|_| (middle + rng.random_range(-0.5..0.5f32)).to_le_bytes());
                (Format::F32, values.collect())
            }
            [_, HIDDEN] => (Format::Q4K, (0..count / 256).flat_map(|_| q4_k(&mut rng)).collect()),
            _ => (Format::F16, (0..count).flat_map(|_| f16(&mut rng)).collect::<Vec<_>>()),
        };
        tensors.insert(name, Tensor { shape: shape.to_vec(), format, data: data.into() });
    };
    for name in ["emb.weight", "head.weight"] {
        add(name.into(), &[VOCAB, C]);
    }
    let norms = |prefix: &str, names: &[&str]| {
        let parts = names.iter().flat_map(|n| ["weight", "bias"].map(|part| format!("{n}.{part}")));
        parts.map(|name| format!("{prefix}{name}")).collect::<Vec<_>>()
    };
    norms("", &["blocks.0.ln0", "ln_out"]).into_iter().for_each(|name| add(name, &[C]));
    for layer in (0..LAYERS).map(|i| format!("blocks.{i}.")) {
        norms(&layer, &["ln1", "ln2", "att.ln_x"]).into_iter().for_each(|name| add(name, &[C]));
        for name in ["x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "w0", "a0", "v0", "k_k", "k_a", "r_k"] {
            add(format!("{layer}att.{name}"), &[C]);
        }
        add(format!("{layer}ffn.x_k"), &[C]);
        for gate in ["w", "a", "v", "g"] {
            add(format!("{layer}att.{gate}1"), &[RANK, C]);
            add(format!("{layer}att.{gate}2"), &[C, RANK]);
        }
        for name in ["receptance", "key", "value", "output"] {
            add(format!("{layer}att.{name}.weight"), &[C, C]);
        }
        add(format!("{layer}ffn.key.weight"), &[HIDDEN, C]);
        add(format!("{layer}ffn.value.weight"), &[C, HIDDEN]);
    }
    Checkpoint { tensors, head_size: Some(HEAD), ..Checkpoint::empty("self-test") }
}

/// A number of 2^-6 to 2^-3, or its negative.
fn f16(rng: &mut ChaCha8Rng) -> [u8; 2] {
    let exponent = rng.random_range(9..12_u16);
    (rng.random::<u16>() & 0x83ff | exponent << 10).to_le_bytes()
}

/// A block of numbers of about the same size: scales of 2^-12, minimums of 2^-9, codes and their scales random.
fn q4_k(rng: &mut ChaCha8Rng) -> [u8; 144] {
    let mut block = [0; 144];
    rng.fill_bytes(&mut block);
    block[..2].copy_from_slice(&(3_u16 << 10).to_le_bytes());
    block[2..4].copy_from_slice(&(6_u16 << 10).to_le_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> DeviceInfo {
        DeviceInfo {
            index: 0,
            name: "Voodoo".into(),
            backend: "vulkan".into(),
            kind: "other",
            driver: String::new(),
            tier: Tier::Matrix,
            subgroup: (32, 32),
            binding_limit: 1 << 27,
        }
    }

    #[test]
    fn wrong_kernels_give_way_to_lower_ones() {
        let tiers = [Tier::Matrix, Tier::Subgroup, Tier::Plain];
        for (i, right) in tiers.into_iter().enumerate() {
            let verdict = |tier| if tier <= right { Ok(()) } else { Err("wrong".into()) };
            assert_eq!(first_right(&info(), &tiers, verdict).unwrap(), tiers[i]);
        }
        let error = first_right(&info(), &tiers, |_| Err("wrong".into())).unwrap_err();
        assert!(matches!(&error, Error::Device { device, .. } if device == "Voodoo"), "{error}");
    }

    #[test]
    fn adapters_pass_in_every_tier() {
        let all = device::devices();
        if all.is_empty() {
            assert!(std::env::var_os("WEB_RWKV_TEST_GPU").is_none_or(|v| v != "1"), "no GPU");
            println!("skipped: no GPU with a driver for Vulkan, Metal or DirectX 12");
        }
        for info in all {
            for tier in Tier::ALL.iter().copied().filter(|tier| *tier <= info.tier) {
                let start = std::time::Instant::now();
                let nmse = error(&DeviceInfo { tier, ..info.clone() }).unwrap();
                println!("{}, {tier}: NMSE {nmse:e} in {:?}", info.name, start.elapsed());
                assert!(nmse <= LIMIT / 10.0, "{}, {tier}: {nmse:e}", info.name);
                assert!(nmse > 0.0, "the adapter does not compute");
            }
            assert_eq!(verdict(&info, info.tier), Ok(()));
            assert!(VERDICTS.lock().unwrap().iter().any(|(i, verdict)| *i == info && verdict.is_ok()));
        }
    }
}
