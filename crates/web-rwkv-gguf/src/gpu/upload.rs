//! Weights on their way to a device: all threads put rows, in their layout, straight into memory that the device copies
//! from.

use std::{collections::VecDeque, mem, sync::Mutex, thread};

use crate::{Result, ops::FileMatrix};

use super::{
    Context,
    layout::{self, Layout},
};

/// Bytes that are on their way at a time, and buffers of so many: one is filled while the device copies the other.
const STAGE: usize = 64 << 20;
const STAGES: usize = 2;
/// Bytes that a thread takes at a time, about.
const TASK: usize = 256 << 10;

/// Rows that are not on the device yet.
#[derive(Default)]
pub(super) struct Upload {
    parts: Vec<Part>,
    bytes: usize,
    /// Those that were used, and until when.
    stages: VecDeque<(wgpu::Buffer, wgpu::SubmissionIndex)>,
}

/// Rows of a matrix, and where they belong.
struct Part {
    w: FileMatrix,
    layout: Layout,
    first: usize,
    rows: usize,
    buffer: wgpu::Buffer,
    at: u64,
}

/// Rows from `first` on, which go to mapped memory.
struct Task<'a> {
    w: &'a FileMatrix,
    layout: Layout,
    first: usize,
    to: wgpu::WriteOnly<'a, [u8]>,
}

// SAFETY: `to` is as `&mut [u8]`, of which wgpu says so only for sized types.
unsafe impl Send for Task<'_> {}

impl Part {
    fn bytes(&self) -> usize {
        self.rows * self.layout.row_bytes(self.w.columns)
    }
}

impl Upload {
    /// Adds rows of a matrix, which go to a place of a buffer.
    pub(super) fn add(
        &mut self,
        context: &Context,
        (w, layout): (&FileMatrix, Layout),
        (first, rows): (usize, usize),
        (buffer, at): (&wgpu::Buffer, u64),
    ) -> Result<()> {
        let stride = layout.row_bytes(w.columns);
        let most = (STAGE / stride).max(1);
        for row in (0..rows).step_by(most) {
            let at = at + (row * stride) as u64;
            let part = Part {
                w: w.clone(),
                layout,
                first: first + row,
                rows: most.min(rows - row),
                buffer: buffer.clone(),
                at,
            };
            if self.bytes + part.bytes() > STAGE {
                self.flush(context, STAGE)?;
            }
            self.bytes += part.bytes();
            self.parts.push(part);
        }
        Ok(())
    }

    /// Sends the rest.
    pub(super) fn end(&mut self, context: &Context) -> Result<()> {
        self.flush(context, 0)?;
        self.stages.clear();
        Ok(())
    }

    /// Sends what there is through a buffer, of `size` bytes if that is not less.
    fn flush(&mut self, context: &Context, size: usize) -> Result<()> {
        let (parts, bytes) = (mem::take(&mut self.parts), mem::take(&mut self.bytes));
        if parts.is_empty() {
            return Ok(());
        }
        let stage = self.stage(context, bytes.max(size) as u64)?;
        let view = stage.get_mapped_range_mut(..bytes as u64);
        let mut view = view.map_err(|e| context.fail(e.to_string()))?;
        let mut rest = view.slice(..);
        let mut tasks = vec![];
        for Part { w, layout, first, rows, .. } in &parts {
            let stride = layout.row_bytes(w.columns);
            let most = (TASK / stride).max(1);
            for row in (0..*rows).step_by(most) {
                let (to, after) = rest.split_at(most.min(rows - row) * stride);
                tasks.push(Task { w, layout: *layout, first: first + row, to });
                rest = after;
            }
        }
        let tasks = Mutex::new(tasks.into_iter());
        let work = || {
            // What the device reads may not be read here at any speed.
            let mut rows = vec![];
            let next = || tasks.lock().expect("no holder panics").next();
            while let Some(Task { w, layout, first, mut to }) = next() {
                match layout::in_file(w, layout, first, to.len()) {
                    Some(rows) => to.copy_from_slice(rows),
                    None => {
                        rows.clear();
                        rows.resize(to.len(), 0);
                        layout::pack(w, layout, first, &mut rows);
                        to.copy_from_slice(&rows);
                    }
                }
            }
        };
        thread::scope(|scope| {
            let threads = thread::available_parallelism().map_or(1, usize::from).min(bytes.div_ceil(TASK));
            (1..threads).for_each(|_| _ = scope.spawn(work));
            work();
        });
        drop(tasks);
        drop(view);
        stage.unmap();
        let (mut encoder, mut from) = (context.device.create_command_encoder(&Default::default()), 0);
        for part in &parts {
            encoder.copy_buffer_to_buffer(&stage, from, &part.buffer, part.at, part.bytes() as u64);
            from += part.bytes() as u64;
        }
        let submission = context.queue.submit([encoder.finish()]);
        self.stages.push_back((stage, submission));
        context.check()
    }

    /// A buffer of at least so many bytes to be filled, if it is not one that was used.
    fn stage(&mut self, context: &Context, bytes: u64) -> Result<wgpu::Buffer> {
        if self.stages.len() < STAGES {
            return Ok(context.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("stage"),
                size: bytes,
                usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: true,
            }));
        }
        let (stage, submission) = self.stages.pop_front().expect("there are some");
        stage.map_async(wgpu::MapMode::Write, .., |_| ());
        let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
        let polled = context.device.poll(wait);
        context.check()?;
        polled.map_err(|e| context.fail(e.to_string()))?;
        Ok(stage)
    }
}
