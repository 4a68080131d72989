//! Which tensors make up a model: a damaged file is an error, never a smaller model.

mod witness;

use std::time::{Duration, Instant};

use safetensors::{Dtype, tensor::TensorView};
use web_rwkv_gguf::{Model, Options};
use witness::cpu;

const C: usize = 64;
const RANK: usize = 32;
const VOCAB: usize = 8;

/// Names and shapes of an official file of so many layers, the unused tensors of the first included.
fn tensors(layers: usize) -> Vec<(String, Vec<usize>)> {
    let mut all = vec![("emb.weight".into(), vec![VOCAB, C]), ("head.weight".into(), vec![VOCAB, C])];
    let mut vector = |name: String| all.push((name, vec![C]));
    for norm in ["blocks.0.ln0", "ln_out"] {
        vector(format!("{norm}.weight"));
        vector(format!("{norm}.bias"));
    }
    for layer in 0..layers {
        for norm in ["ln1", "ln2", "att.ln_x"] {
            vector(format!("blocks.{layer}.{norm}.weight"));
            vector(format!("blocks.{layer}.{norm}.bias"));
        }
        for name in "x_r x_w x_k x_v x_a x_g w0 a0 v0 k_k k_a".split(' ') {
            vector(format!("blocks.{layer}.att.{name}"));
        }
        vector(format!("blocks.{layer}.ffn.x_k"));
    }
    for layer in 0..layers {
        let mut matrix = |name: &str, shape| all.push((format!("blocks.{layer}.{name}"), shape));
        for lora in ["w", "a", "v", "g"] {
            matrix(&format!("att.{lora}1"), vec![C, RANK]);
            matrix(&format!("att.{lora}2"), vec![RANK, C]);
        }
        for name in ["att.receptance", "att.key", "att.value", "att.output", "ffn.key", "ffn.value"] {
            matrix(&format!("{name}.weight"), vec![C, C]);
        }
        matrix("att.r_k", vec![1, C]);
    }
    all
}

/// What opening a file with these tensors gives: the number of layers, or the error.
fn open(tensors: &[(String, Vec<usize>)]) -> Result<usize, String> {
    let zeros = vec![0; 4 * C * C];
    let views = tensors.iter().map(|(name, shape)| {
        let size = 4 * shape.iter().product::<usize>();
        (name, TensorView::new(Dtype::F32, shape.clone(), &zeros[..size]).expect("the size of the shape"))
    });
    let bytes = safetensors::serialize(views, None).expect("valid tensors");
    let model = Model::from_bytes("x.st", bytes.into(), Options { threads: Some(1), ..cpu() });
    model.map(|m| m.info().num_layer).map_err(|e| e.to_string())
}

#[test]
fn every_tensor_of_every_layer_is_needed() {
    let whole = tensors(3);
    assert_eq!(open(&whole), Ok(3));
    for (i, (name, _)) in whole.iter().enumerate() {
        let mut damaged = whole.clone();
        damaged.remove(i);
        let unused = ["blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2"].contains(&name.as_str());
        match open(&damaged) {
            Ok(layers) => assert!(unused && layers == 3, "without `{name}`"),
            Err(e) => assert!(!unused && e == format!("x.st: tensor `{name}` is missing"), "{e}"),
        }
    }
}

#[test]
fn a_layer_far_away_is_an_error_at_once() {
    for layer in [4_usize, 1_000_000_000, u32::MAX as usize] {
        let mut far = tensors(3);
        far.push((format!("blocks.{layer}.ln1.weight"), vec![C]));
        let start = Instant::now();
        assert_eq!(open(&far), Err("x.st: tensor `blocks.3.att.w1` is missing".into()));
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}

#[test]
fn tensors_that_no_layer_has_are_named() {
    for name in ["blocks.1.att.q.weight", "blocks.1.ln0.weight", "blocks.x.ln1.weight", "lm_head.weight"] {
        let mut more = tensors(2);
        more.push((name.into(), vec![C]));
        let error = open(&more).unwrap_err();
        assert!(error.starts_with(&format!("x.st: tensor `{name}`, which is no part of RWKV-7")), "{error}");
    }
    assert_eq!(open(&tensors(0)), Err("x.st: tensor `blocks.0.ffn.key.weight` is missing".into()));
}
