//! Numbers and names on the command line that only some values make sense for.

use std::ops::RangeInclusive;

use web_rwkv_gguf::{Level, Tier};

fn number(text: &str, range: RangeInclusive<f32>, expected: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|n| range.contains(n));
    number.ok_or_else(|| format!("expected {expected}"))
}

pub(crate) fn finite(text: &str) -> Result<f32, String> {
    number(text, f32::MIN..=f32::MAX, "a finite number")
}

pub(crate) fn from_0(text: &str) -> Result<f32, String> {
    number(text, 0.0..=f32::MAX, "a number from 0 on")
}

pub(crate) fn share(text: &str) -> Result<f32, String> {
    number(text, 0.0..=1.0, "a number from 0 to 1")
}

/// An instruction set that this machine has.
pub(crate) fn level(name: &str) -> Result<Level, String> {
    Level::from_name(name).filter(|l| l.is_available()).ok_or_else(|| {
        let available = Level::ALL.iter().filter(|l| l.is_available()).map(Level::to_string);
        format!("expected one that this machine has: {}", available.collect::<Vec<_>>().join(", "))
    })
}

/// A tier of GPU kernels.
pub(crate) fn tier(name: &str) -> Result<Tier, String> {
    Tier::from_name(name).ok_or_else(|| "expected plain, subgroup or matrix".into())
}
