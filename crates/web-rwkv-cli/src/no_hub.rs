//! Stands in for the Hugging Face hub where its client is not built.

use std::path::{Path, PathBuf};

use crate::Result;

/// What is asked for is not looked at.
pub(crate) type Name = String;

/// A file where a path is expected: the one at that path.
pub(crate) fn local(path: &Path) -> Result<PathBuf> {
    Ok(path.to_owned())
}

pub(crate) fn fetch(name: &Name) -> Result<PathBuf> {
    Err(format!("{name}: this program was built without the feature `hub`, which fetches models").into())
}
