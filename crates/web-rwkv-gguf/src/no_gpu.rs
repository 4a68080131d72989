//! Stands in for the GPU executor where that is not built: there is no GPU, and nothing is kept on one.

use std::{ops::Deref, sync::Arc};

use crate::{Result, device::DeviceInfo};

/// There is none.
pub(crate) enum Slot {}

impl Slot {
    pub(crate) fn read(&self) -> Result<Arc<Mapped>> {
        match *self {}
    }
}

/// There is none.
pub(crate) enum Mapped {}

impl Deref for Mapped {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match *self {}
    }
}

/// There is none.
pub(crate) enum Chosen {}

impl Chosen {
    pub(crate) fn token(&self, _: usize) -> Result<u32> {
        match *self {}
    }
}

/// The GPUs that this program can use: none, as it was built without the feature `gpu`.
pub fn devices() -> Vec<DeviceInfo> {
    vec![]
}

pub(crate) fn has_gpu() -> bool {
    false
}
