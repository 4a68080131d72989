//! Answers of independent implementations, which `make test` writes, and how far ours are from them.
#![allow(dead_code)] // each test uses a part

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use web_rwkv_gguf::{Device, Options};

/// A file of the witness, or `None` with a word about it.
pub(crate) fn file(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("WITNESS_DIR").map(|d| Path::new(&d).join(name));
    let path = path.filter(|p| p.exists());
    if path.is_none() {
        eprintln!(
            "skipped: no witness `{name}` (make test writes them; those of trained models need ../shared)"
        );
    }
    path
}

/// Options for the CPU, also where there is a GPU.
pub(crate) fn cpu() -> Options {
    Options { device: Device::Cpu, ..Options::default() }
}

/// A model of the folder that is shared.
pub(crate) fn shared(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models").join(name)
}

pub(crate) fn array(file: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let tensor = file.tensor(name).unwrap();
    let data = tensor.data();
    match tensor.dtype() {
        Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b) as f64).collect(),
        Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        Dtype::I32 => data.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as f64).collect(),
        Dtype::I64 => data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
        other => panic!("{name}: {other:?}"),
    }
}

pub(crate) fn max_error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    got.iter()
        .zip(want)
        .map(|(g, w)| (*g as f64 - w).abs())
        .fold(0.0, |a, b| if b.is_nan() { b } else { a.max(b) })
}

/// `Σ (got − want)² / Σ want²`
pub(crate) fn nmse(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(g, w)| (*g as f64 - w).powi(2)).sum();
    error / want.iter().map(|w| w * w).sum::<f64>()
}
