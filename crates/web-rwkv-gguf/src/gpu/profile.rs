//! How long dispatches take on the device.

use std::{sync::Arc, time::Duration};

use crate::{
    Result,
    device::{OpTime, OpTimes},
};

use super::Context;

/// Timestamps of a batch; later dispatches are not timed.
const QUERIES: u32 = 4096;

/// Times of dispatches, added up by what they are.
pub(super) struct Profile {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    nanoseconds: f64,
    times: OpTimes,
}

impl Profile {
    pub(super) const FEATURES: wgpu::Features =
        wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES);

    pub(super) fn new(context: &Context) -> Self {
        let queries = context.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count: QUERIES,
        });
        let resolved = context.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 8 * u64::from(QUERIES),
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let nanoseconds = f64::from(context.queue.get_timestamp_period());
        Self { queries, resolved, nanoseconds, times: OpTimes::default() }
    }

    /// Notes the time, as number `i` of a batch.
    pub(super) fn stamp(&self, pass: &mut wgpu::ComputePass<'_>, i: usize) {
        if (i as u32) < QUERIES {
            pass.write_timestamp(&self.queries, i as u32);
        }
    }

    pub(super) fn resolve(&self, encoder: &mut wgpu::CommandEncoder, stamps: usize) {
        encoder.resolve_query_set(&self.queries, 0..(stamps as u32).min(QUERIES), &self.resolved, 0);
    }

    /// Adds the times of a batch that has been submitted; stamp 0 stands before its first dispatch.
    pub(super) fn add(&self, context: &Arc<Context>, dispatches: Vec<OpTime>) -> Result<()> {
        let stamps = (dispatches.len() + 1).min(QUERIES as usize);
        let at = context.read(&self.resolved, 0, 8 * stamps as u64)?;
        let at: &[u64] = bytemuck::cast_slice(&at);
        for (op, two) in dispatches.into_iter().zip(at.windows(2)) {
            let nanoseconds = two[1].saturating_sub(two[0]) as f64 * self.nanoseconds;
            self.times.add(OpTime { time: Duration::from_nanos(nanoseconds as u64), ..op });
        }
        Ok(())
    }

    /// The times so far, which are then forgotten.
    pub(super) fn take(&self) -> Vec<OpTime> {
        self.times.take()
    }
}
