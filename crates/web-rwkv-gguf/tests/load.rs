//! Safetensors in the layouts that exist, and the models at hand.

use std::path::Path;

use safetensors::{Dtype, tensor::TensorView};
use web_rwkv_gguf::{Error, ModelVersion, load::Checkpoint};

/// A file with tensors of f32 that count up from 0.
fn file(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, shape)| (0..shape.iter().product()).flat_map(|i: usize| (i as f32).to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&data).map(|((name, shape), data)| {
        (*name, TensorView::new(Dtype::F32, shape.to_vec(), data).expect("the data has the shape's size"))
    });
    safetensors::serialize(views, None).expect("valid tensors")
}

fn read(bytes: Vec<u8>) -> web_rwkv_gguf::Result<Checkpoint> {
    Checkpoint::from_bytes("x.st", bytes.into())
}

fn error(bytes: Vec<u8>) -> String {
    read(bytes).err().map_or("none".into(), |e| e.to_string())
}

fn values(file: &Checkpoint, name: &str) -> (Vec<usize>, Vec<f32>) {
    let t = &file.tensors[name];
    (t.shape.clone(), t.data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
}

#[test]
fn official_loras_are_transposed() {
    let names = [
        ("emb.weight", &[2, 3][..]),
        ("blocks.0.att.w1", &[3, 2]),
        ("blocks.0.att.w2", &[2, 3]),
        ("blocks.0.att.g1", &[3, 3]),
        ("blocks.0.att.v1", &[3, 2]),
        ("blocks.0.att.x_r", &[1, 1, 3]),
        ("blocks.0.att.r_k", &[1, 3]),
    ];
    let file = read(file(&names)).unwrap();
    assert_eq!(values(&file, "blocks.0.att.w1"), (vec![2, 3], vec![0., 2., 4., 1., 3., 5.]));
    assert_eq!(values(&file, "blocks.0.att.w2"), (vec![3, 2], vec![0., 3., 1., 4., 2., 5.]));
    assert_eq!(values(&file, "blocks.0.att.g1").1, [0., 3., 6., 1., 4., 7., 2., 5., 8.]);
    assert_eq!(values(&file, "blocks.0.att.x_r"), (vec![3], vec![0., 1., 2.]));
    assert_eq!((file.head_size, &file.tensors["blocks.0.att.r_k"].shape[..]), (Some(3), &[3][..]));
    assert!(!file.tensors.contains_key("blocks.0.att.v1"));
}

#[test]
fn web_rwkv_loras_stay() {
    let names = [("emb.weight", &[2, 3][..]), ("blocks.0.att.w1", &[2, 3]), ("blocks.0.att.g1", &[3, 3])];
    let found = read(file(&names)).unwrap();
    assert_eq!(values(&found, "blocks.0.att.w1"), (vec![2, 3], vec![0., 1., 2., 3., 4., 5.]));
    assert_eq!(values(&found, "blocks.0.att.g1").1[..3], [0., 1., 2.]);

    let mixed = [("emb.weight", &[2, 3][..]), ("blocks.0.att.w1", &[2, 3]), ("blocks.0.att.w2", &[2, 3])];
    let expected =
        "x.st: tensor `blocks.0.att.w2`: expected the orientation of `blocks.0.att.w1`, found [2, 3]";
    assert_eq!(error(file(&mixed)), expected);
}

#[test]
fn fla_names() {
    let names = [
        ("model.embeddings.weight", &[2, 3][..]),
        ("model.layers.0.pre_norm.bias", &[3]),
        ("model.layers.0.attn.w_lora.lora.0.weight", &[2, 3]),
        ("model.layers.0.attn.w_lora.lora.2.weight", &[3, 2]),
        ("model.layers.0.attn.w_lora.lora.2.bias", &[3]),
        ("model.layers.0.attn.r_k", &[1, 3]),
        ("model.layers.0.attn.g_norm.weight", &[3]),
        ("lm_head.weight", &[2, 3]),
    ];
    let file = read(file(&names)).unwrap();
    assert_eq!(values(&file, "blocks.0.att.w1"), (vec![2, 3], vec![0., 1., 2., 3., 4., 5.]));
    assert_eq!(file.tensors["blocks.0.att.w2"].shape, [3, 2]);
    assert_eq!(file.tensors["blocks.0.att.w0"].shape, [3]);
    assert_eq!(file.head_size, Some(3));
    for name in ["emb.weight", "blocks.0.ln0.bias", "blocks.0.att.ln_x.weight", "head.weight"] {
        assert!(file.tensors.contains_key(name), "{name}");
    }
}

/// Files of RWKV-6 as it was trained, as web-rwkv's converter and as transformers have it.
#[test]
fn names_and_turns_of_rwkv_6() {
    let trained = [
        ("emb.weight", &[2, 3][..]),
        ("blocks.0.att.time_maa_x", &[1, 1, 3]),
        ("blocks.0.att.time_maa_w1", &[3, 10]),
        ("blocks.0.att.time_maa_w2", &[5, 2, 3]),
        ("blocks.0.att.time_decay", &[1, 1, 3]),
        ("blocks.0.att.time_decay_w1", &[3, 2]),
        ("blocks.0.att.time_faaaa", &[1, 3]),
        ("blocks.0.ffn.time_maa_r", &[1, 1, 3]),
    ];
    let turned = trained.map(|(name, shape)| {
        let mut shape = shape.to_vec();
        if name.ends_with(['1', '2']) {
            let last = shape.len() - 1;
            shape.swap(last - 1, last);
        }
        (name.replace("time_maa", "time_mix").replace("time_faaaa", "time_first"), shape)
    });
    let turned: Vec<_> = turned.iter().map(|(name, shape)| (&name[..], &shape[..])).collect();
    let part = |name: &str| name.replace("emb.", "rwkv.embeddings.").replace("blocks.", "rwkv.blocks.");
    let hugging = trained.map(|(name, shape)| (part(name).replace(".att.", ".attention."), shape));
    let hugging = hugging.each_ref().map(|(name, shape)| (name.replace(".ffn.", ".feed_forward."), *shape));
    let hugging: Vec<_> = hugging.iter().map(|(name, shape)| (&name[..], *shape)).collect();
    for names in [&trained[..], &turned, &hugging] {
        let file = read(file(names)).unwrap();
        assert_eq!((file.version, file.head_size, file.tensors.len()), (ModelVersion::V6, Some(3), 8));
        let (shape, w1) = values(&file, "blocks.0.att.time_maa_w1");
        let same = std::ptr::eq(names, &turned[..]);
        assert_eq!((shape, w1[1]), (vec![10, 3], if same { 1.0 } else { 10.0 }));
        let (shape, w2) = values(&file, "blocks.0.att.time_maa_w2");
        assert_eq!(
            (shape, w2[1], w2[7]),
            (vec![5, 3, 2], if same { 1.0 } else { 3.0 }, if same { 7.0 } else { 9.0 })
        );
        assert_eq!(file.tensors["blocks.0.att.time_decay_w1"].shape, [2, 3]);
        assert_eq!(values(&file, "blocks.0.att.time_faaaa"), (vec![3], vec![0., 1., 2.]));
    }
}

#[test]
fn names_of_rwkv_4_and_5() {
    let official = |names: &[&str]| -> Checkpoint {
        let names: Vec<_> = names.iter().map(|name| (*name, &[4][..])).collect();
        read(file(&names)).unwrap()
    };
    let four =
        official(&["rwkv.blocks.0.attention.time_decay", "rwkv.blocks.0.attention.time_mix_receptance"]);
    assert_eq!(four.version, ModelVersion::V4);
    assert!(four.tensors.contains_key("blocks.0.att.time_mix_r"));
    let five =
        ["time_decay", "time_mix_gate", "ln_x.bias"].map(|name| format!("rwkv.blocks.0.attention.{name}"));
    let five = official(&[&five[0], &five[1], &five[2], "rwkv.blocks.0.pre_ln.weight"]);
    assert_eq!(five.version, ModelVersion::V5);
    for name in ["blocks.0.att.time_decay", "blocks.0.att.time_mix_g", "blocks.0.ln0.weight"] {
        assert!(five.tensors.contains_key(name), "{name}");
    }
    // The logarithm that RWKV-5.0 and 5.1 store for each head, and what web-rwkv makes of 5.2's `time_faaaa`.
    let first = |shape: &[usize]| {
        let names = [("blocks.0.att.time_decay", shape), ("blocks.0.att.time_first", shape)];
        let file = read(file(&[names[0], names[1], ("blocks.0.att.ln_x.bias", &[4])])).unwrap();
        (file.head_size, file.tensors.contains_key("blocks.0.att.time_faaaa"))
    };
    assert_eq!(first(&[2]), (None, false));
    assert_eq!(first(&[2, 2]), (Some(2), true));
}

#[test]
fn other_safetensors() {
    let generation = |names: &[&str]| error(file(&names.iter().map(|n| (*n, &[2][..])).collect::<Vec<_>>()));
    assert!(generation(&["blocks.0.ffn.s_emb.weight"]).contains("`blocks.0.ffn.s_emb.weight`"));
    assert!(generation(&["blocks.0.att.x_"]).contains("`blocks.0.att.x_`"));
    assert!(generation(&["blk.0.attn_norm.bias"]).contains("`blk.0.attn_norm.bias`"));

    let data = [0; 16];
    let view = TensorView::new(Dtype::F64, vec![2], &data).expect("16 bytes");
    let Err(error) = read(safetensors::serialize([("emb.weight", view)], None).expect("valid")) else {
        panic!("f64 was read")
    };
    assert!(matches!(&error, Error::UnsupportedType { tensor, .. } if tensor == "emb.weight"), "{error}");
}

#[test]
fn broken_safetensors() {
    let with = |header: &str, data: usize| {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
    };
    let one = |info: &str| format!(r#"{{"emb.weight":{{{info}}}}}"#);
    let cases = [
        ("header: ", with("{", 0)),
        ("header: ", with(r#"{"a":1}"#, 0)),
        ("header: ", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
        ("header: ", [&1000u64.to_le_bytes()[..], b"{}"].concat()),
        ("header: ", with(&"{\"a\":".repeat(10_000), 0)),
        ("header: ", with(&one(r#""dtype":"F32","shape":[2],"data_offsets":[0,8]"#), 7)),
        ("header: ", with(&one(r#""dtype":"F32","shape":[2],"data_offsets":[0,8]"#), 9)),
        ("header: ", with(&one(r#""dtype":"F32","shape":[3],"data_offsets":[0,8]"#), 8)),
        ("header: ", with(&one(r#""dtype":"F32","shape":[2],"data_offsets":[8,0]"#), 8)),
        ("header: ", with(&one(r#""dtype":"Q4","shape":[2],"data_offsets":[0,8]"#), 8)),
        ("header: ", {
            with(&one(r#""dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,8]"#), 8)
        }),
        ("tensor `emb.weight`: expected 1 to 4 dimensions", {
            with(&one(r#""dtype":"F32","shape":[],"data_offsets":[0,4]"#), 4)
        }),
        ("tensor `emb.weight`: expected 1 to 4 dimensions", {
            with(&one(r#""dtype":"F32","shape":[0,3],"data_offsets":[0,0]"#), 0)
        }),
        ("tensor `emb.weight`: expected a matrix", {
            with(&one(r#""dtype":"F32","shape":[2,1,1],"data_offsets":[0,8]"#), 8)
        }),
    ];
    for (expected, bytes) in cases {
        let found = error(bytes);
        assert!(found.starts_with(&format!("x.st: {expected}")), "expected {expected}, found {found}");
    }
}

#[test]
fn what_is_no_file_is_named() {
    let open = |path: &Path| Checkpoint::open(path).err().unwrap().to_string();
    let directory = std::env::temp_dir();
    assert_eq!(open(&directory), format!("{}: expected a file, found a directory", directory.display()));
    #[cfg(unix)]
    assert_eq!(open("/dev/zero".as_ref()), "/dev/zero: expected a file, found a device or a pipe");
}

/// Both files of each model at hand say the same. Skipped where there are none.
#[test]
fn files_of_a_model_agree() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models");
    let pairs = [
        ("rwkv7-mail/rwkv7-mail.safetensors", "rwkv7-mail/rwkv7-mail-q8_0.gguf"),
        (
            "third-party/reverse-rwkv7/reverse_rwkv7_L4_D128_head64.safetensors",
            "third-party/reverse-rwkv7/reverse-rwkv7-h64-f16.gguf",
        ),
    ];
    for (a, b) in pairs.map(|(a, b)| (models.join(a), models.join(b))) {
        if !a.exists() || !b.exists() {
            println!("skipped: no {} beside the repository", a.display());
            continue;
        }
        let (a, b) = (Checkpoint::open(&a).unwrap(), Checkpoint::open(&b).unwrap());
        assert_eq!(a.tensors.len(), b.tensors.len());
        assert_eq!((a.head_size, a.layer_norm_eps), (b.head_size, b.layer_norm_eps));
        for (name, x) in &a.tensors {
            let y = &b.tensors[name];
            assert_eq!(x.shape, y.shape, "{name}");
            if x.format == y.format {
                assert!(x.data[..] == y.data[..], "{name}");
            }
        }
    }
}
