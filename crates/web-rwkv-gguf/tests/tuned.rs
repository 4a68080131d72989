//! What is trained on top of a model: LoRAs and states.

mod witness;

use std::path::{Path, PathBuf};

use safetensors::{Dtype, tensor::TensorView};
use web_rwkv_gguf::{
    Model, State,
    format::{Format, decode},
    load::{Bytes, Checkpoint},
};
use witness::cpu;

/// A file that is gone at the end.
struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.0);
    }
}

/// Safetensors of tensors whose values `f` makes of their places.
fn file(name: &str, tensors: &[(&str, &[usize])], half: bool, f: impl Fn(usize) -> f32) -> File {
    let bytes = |shape: &[usize]| -> Vec<u8> {
        let values = (0..shape.iter().product()).map(&f);
        if half { values.flat_map(small_f16).collect() } else { values.flat_map(f32::to_le_bytes).collect() }
    };
    let data: Vec<_> = tensors.iter().map(|(_, shape)| bytes(shape)).collect();
    let dtype = if half { Dtype::F16 } else { Dtype::F32 };
    let views = tensors.iter().zip(&data).map(|((name, shape), data)| {
        (*name, TensorView::new(dtype, shape.to_vec(), data).expect("the data has the shape's size"))
    });
    let marks = half.then(|| [("format".to_owned(), "pt".to_owned())].into());
    let path = std::env::temp_dir().join(format!("web-rwkv-tuned-{}-{name}", std::process::id()));
    std::fs::write(&path, safetensors::serialize(views, marks).expect("valid tensors")).unwrap();
    File(path)
}

/// A whole number below 2048 as f16.
fn small_f16(x: f32) -> [u8; 2] {
    let bits = x.to_bits();
    let exponent = (bits >> 23 & 0xff) as i32 - 127 + 15;
    let half = if x == 0.0 { 0 } else { (exponent as u32) << 10 | bits >> 13 & 0x3ff };
    (half as u16).to_le_bytes()
}

fn values(checkpoint: &Checkpoint, name: &str) -> (Format, Vec<f32>) {
    let tensor = &checkpoint.tensors[name];
    let mut out = vec![0.0; tensor.shape.iter().product()];
    decode(tensor.format, &tensor.data, &mut out);
    (tensor.format, out)
}

fn embedded() -> Checkpoint {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/rwkv7-mail/rwkv7-mail-q4_k_m.gguf");
    Checkpoint::open(&path).unwrap()
}

const KEY: &str = "blocks.0.att.key.weight";

#[test]
fn loras_add_to_weights_of_every_kind() {
    let model =
        file("base", &[("emb.weight", &[4, 3]), (KEY, &[5, 3]), ("ln_out.bias", &[3])], false, |i| i as f32);
    let (a, b) = ("blocks.0.att.key.lora_A", "blocks.0.att.key.lora_B");
    let lora = file("lora", &[(a, &[2, 3]), (b, &[5, 2]), ("ln_out.bias", &[3])], false, |i| (i + 1) as f32);
    let mut merged = Checkpoint::open(&model.0).unwrap();
    merged.merge_lora(&lora.0, 8.0).unwrap();
    // W + 8 / 2 · B A, with A = [1 2 3; 4 5 6] and B = [1 2; 3 4; ...].
    let want: Vec<f32> = (0..15)
        .map(|at| (at, (at / 3) as f32, (at % 3) as f32))
        .map(|(at, i, j)| at as f32 + 4.0 * ((2.0 * i + 1.0) * (j + 1.0) + (2.0 * i + 2.0) * (j + 4.0)))
        .collect();
    assert_eq!(values(&merged, KEY), (Format::F32, want));
    assert_eq!(values(&merged, "ln_out.bias").1, [1.0, 2.0, 3.0]);

    // Quantized weights become f16, and the others stay.
    let mut merged = embedded();
    let (before, norm) = (values(&merged, KEY), merged.tensors["blocks.0.ln1.weight"].data.as_ptr());
    assert_eq!(before.0, Format::Q4K);
    let c = merged.tensors[KEY].shape[0];
    let lora = file("wide", &[(a, &[4, c]), (b, &[c, 4])], false, |i| (i % 7) as f32 * 0.01);
    merged.merge_lora(&lora.0, 4.0).unwrap();
    let (format, after) = values(&merged, KEY);
    assert_eq!(format, Format::F16);
    let part = |i: usize| (i % 7) as f32 * 0.01;
    for at in (0..after.len()).step_by(4099) {
        let (i, j) = (at / c, at % c);
        let want = before.1[at] + (0..4).map(|r| part(4 * i + r) * part(r * c + j)).sum::<f32>();
        assert!((after[at] - want).abs() <= want.abs() / 2048.0 + 1e-7, "{at}: {} {want}", after[at]);
    }
    assert_eq!(merged.tensors["blocks.0.ln1.weight"].data.as_ptr(), norm);
    Model::from_checkpoint(&merged, cpu()).unwrap();
}

#[test]
fn loras_that_do_not_fit_are_named() {
    let model = file("narrow", &[("emb.weight", &[4, 3]), (KEY, &[5, 3])], false, |i| i as f32);
    let error = |name: &str, tensors: &[(&str, &[usize])]| {
        let lora = file(name, tensors, false, |i| i as f32);
        let mut checkpoint = Checkpoint::open(&model.0).unwrap();
        let error = checkpoint.merge_lora(&lora.0, 1.0).unwrap_err().to_string();
        error.strip_prefix(&lora.0.display().to_string()).unwrap().to_owned()
    };
    let (a, b) = ("blocks.0.att.key.lora_A", "blocks.0.att.key.lora_B");
    let base = model.0.display();
    assert_eq!(error("none", &[("emb.weight", &[4, 3])]), ": any `lora_A` is missing");
    assert_eq!(error("half", &[(a, &[2, 3])]), format!(": tensor `{b}` is missing"));
    assert_eq!(error("other", &[(b, &[5, 2])]), format!(": tensor `{a}` is missing"));
    let found = error("columns", &[(a, &[2, 4]), (b, &[5, 2])]);
    assert_eq!(found, format!(": tensor `{a}`: expected [2, 3], for [5, 3] of {base}, found [2, 4]"));
    let found = error("rank", &[(a, &[2, 3]), (b, &[5, 1])]);
    assert_eq!(found, format!(": tensor `{b}`: expected [5, 2], for [5, 3] of {base}, found [5, 1]"));
    let found = error("layer", &[("blocks.9.att.key.lora_A", &[2, 3]), ("blocks.9.att.key.lora_B", &[5, 2])]);
    assert!(found.contains("expected a LoRA of a matrix of "), "{found}");
    let found = error("whole", &[(a, &[2, 3]), (b, &[5, 2]), ("ln_out.bias", &[3])]);
    assert!(found.contains("tensor `ln_out.bias`: expected a tensor of "), "{found}");
    let found = error("shape", &[(a, &[2, 3]), (b, &[5, 2]), ("emb.weight", &[3, 3])]);
    assert!(found.contains("tensor `emb.weight`: expected [4, 3] as in "), "{found}");
    let found = error("peft", &[("blocks.0.att.key.lora.0", &[2, 3]), (a, &[2, 3]), (b, &[5, 2])]);
    assert!(found.contains("`blocks.0.att.key.lora.0`, which is no part of RWKV-7"), "{found}");
}

/// The embedded model's layers, heads and head size.
fn sizes(model: &Model) -> (usize, usize, usize) {
    let info = model.info();
    (info.num_layer, info.num_head, info.head_size)
}

#[test]
fn trained_states_are_turned() {
    let model = Model::from_checkpoint(&embedded(), cpu()).unwrap();
    let (layers, h, n) = sizes(&model);
    let names: Vec<_> = (0..layers).map(|i| format!("blocks.{i}.att.time_state")).collect();
    let shape = [h, n, n];
    let tensors: Vec<_> = names.iter().map(|name| (&name[..], &shape[..])).collect();
    // As trained, by value and key index; and as web-rwkv's converter turns them.
    let (trained, turned) = (
        file("state", &tensors, false, |i| (i % 2003) as f32),
        file("turned", &tensors, true, |i| (i % 2003) as f32),
    );
    for (file, by_key) in [(&trained, false), (&turned, true)] {
        let state = model.load_state(&file.0).unwrap();
        let c = h * n;
        for (l, layer) in state.as_slice().unwrap().chunks_exact((n + 2) * c).enumerate() {
            assert!(layer[..c].iter().chain(&layer[(n + 1) * c..]).all(|x| *x == 0.0), "{l}");
            for (head, i, j) in [(0, 0, 1), (h - 1, 5, 9), (1, n - 1, 0)] {
                let at = if by_key { (head * n + j) * n + i } else { (head * n + i) * n + j };
                assert_eq!(layer[(1 + j) * c + head * n + i], (at % 2003) as f32);
            }
        }
        assert_eq!(State::from_bytes("x", &state.to_bytes().unwrap()).unwrap(), state);
    }

    let error = |name: &str, tensors: &[(&str, &[usize])]| {
        model.load_state(&file(name, tensors, false, |_| 1.0).0).unwrap_err().to_string()
    };
    let found = error("few", &tensors[1..]);
    assert!(found.ends_with("tensor `blocks.0.att.time_state` is missing"), "{found}");
    let wide = [h, n, n + 1];
    let found = error("shape", &[("blocks.0.att.time_state", &wide)]);
    assert!(found.contains(&format!("expected {shape:?} of model ")), "{found}");
    let found = error("more", &[&tensors[..], &[("blocks.99.att.time_state", &shape)]].concat());
    assert!(found.contains("tensor `blocks.99.att.time_state`: expected a layer of model "), "{found}");
    let found = error("model", &[("emb.weight", &[2, 2])]);
    assert!(found.contains("tensor `emb.weight`: expected trained states alone"), "{found}");
}

#[test]
fn a_model_with_a_trained_state_starts_from_it() {
    let mut checkpoint = embedded();
    let plain = Model::from_checkpoint(&checkpoint, cpu()).unwrap();
    let (layers, h, n) = sizes(&plain);
    let data: Vec<u8> = (0..h * n * n).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let tensor =
        web_rwkv_gguf::load::Tensor { shape: vec![h, n, n], format: Format::F32, data: Bytes::from(data) };
    for i in 0..layers {
        checkpoint.tensors.insert(format!("blocks.{i}.att.time_state"), tensor.clone());
    }
    let tuned = Model::from_checkpoint(&checkpoint, cpu()).unwrap();
    assert!(plain.init_state().as_slice().unwrap().iter().all(|x| *x == 0.0));
    let c = h * n;
    assert_eq!(tuned.init_state().as_slice().unwrap()[(1 + 3) * c + 2], (2 * n + 3) as f32); // key 3, value 2
}
