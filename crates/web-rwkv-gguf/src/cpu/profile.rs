//! How long operations take.

use std::{fmt::Write, mem, time::Instant};

use crate::{
    device::{OpTime, OpTimes},
    ops::Product,
};

use super::Cpu;

/// Times of operations, added up by what they are.
#[derive(Default)]
pub(super) struct Profile(OpTimes);

impl Profile {
    /// An operation that takes from now until what is given is dropped.
    pub(super) fn start(&self, name: &str) -> Timer<'_> {
        let op = OpTime { name: name.into(), count: 1, ..OpTime::default() };
        Timer { profile: self, op, start: Instant::now() }
    }

    /// The same for products.
    pub(super) fn start_products(&self, products: &[Product<'_, Cpu>]) -> Timer<'_> {
        let mut op = OpTime { name: "project".into(), count: 1, ..OpTime::default() };
        for alike in products.chunk_by(|a, b| a.w.format == b.w.format && a.w.rows == b.w.rows) {
            let w = alike[0].w;
            let name = (alike.len(), w.format.name(), w.rows, w.columns);
            write!(op.name, " {}·{} {}×{}", name.0, name.1, name.2, name.3).expect("strings take all");
        }
        for p in products {
            op.bytes += p.w.data.len() as u64;
            op.operations += 2 * (p.w.rows * p.w.columns * p.x.tokens()) as u64;
        }
        Timer { profile: self, op, start: Instant::now() }
    }

    /// The times so far, which are then forgotten.
    pub(super) fn take(&self) -> Vec<OpTime> {
        self.0.take()
    }
}

/// Adds its time to the profile when it is dropped.
pub(super) struct Timer<'a> {
    profile: &'a Profile,
    op: OpTime,
    start: Instant,
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let time = self.start.elapsed();
        self.profile.0.add(OpTime { time, ..mem::take(&mut self.op) });
    }
}
