//! A device: its buffers, and what has gone wrong on it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{Error, Result};

use super::{Needs, layout::VECTOR};

/// How long a thread asks again and again whether the device is done, before it sleeps: woken, it would go on 0.1 to 0.2 ms late.
const AWAKE: Duration = Duration::from_millis(20);

/// A device, and what has gone wrong on it.
pub(crate) struct Context {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) name: String,
    pub(super) binding_limit: u64,
    pub(super) error: Arc<Mutex<Option<String>>>,
    /// Buffers that this machine can read, and nobody uses.
    pub(super) back: Mutex<Vec<wgpu::Buffer>>,
    /// Whether workgroups of a chain have waited in vain for others.
    pub(super) gave_up: AtomicBool,
    /// Those of [`super::Chosen`], likewise.
    pub(super) chosen: Mutex<Vec<[wgpu::Buffer; 2]>>,
}

/// Floats of a device in this machine's memory, without another copy.
pub(crate) struct Mapped {
    context: Arc<Context>,
    buffer: wgpu::Buffer,
    size: u64,
    view: Option<wgpu::BufferView>,
}

impl Mapped {
    pub(super) fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// Those that a submission copies into the buffer.
    pub(super) fn sent(self, submission: wgpu::SubmissionIndex) -> Sent {
        Sent { to: self, submission }
    }
}

impl std::ops::Deref for Mapped {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        bytemuck::cast_slice(self.view.as_ref().expect("`receive` sets it, and only `drop` takes it"))
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if self.view.take().is_some() {
            self.buffer.unmap();
        }
        self.context.back.lock().expect("no holder panics").push(self.buffer.clone());
    }
}

/// Floats of a device on their way to this machine's memory.
pub(super) struct Sent {
    to: Mapped,
    submission: wgpu::SubmissionIndex,
}

impl Sent {
    /// The floats, once they are there.
    pub(super) fn receive(self) -> Result<Mapped> {
        let Self { mut to, submission } = self;
        to.view = Some(to.context.map(&to.buffer, to.size, &submission)?);
        Ok(to)
    }
}

impl Context {
    pub(super) fn buffer(&self, label: &str, size: u64) -> wgpu::Buffer {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let size = size.next_multiple_of(VECTOR as u64).max(VECTOR as u64);
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage,
            mapped_at_creation: false,
        })
    }

    /// As [`Context::buffer`], or an error that names the bytes if the device has no memory for them.
    pub(super) fn allocate(&self, label: &str, size: u64) -> Result<wgpu::Buffer> {
        let filters = [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::OutOfMemory];
        let scopes = filters.map(|filter| self.device.push_error_scope(filter));
        let buffer = self.buffer(label, size);
        // Scopes end in the order of a stack.
        let errors: Vec<_> = scopes.into_iter().rev().filter_map(|s| pollster::block_on(s.pop())).collect();
        match &errors[..] {
            [] => Ok(buffer),
            [error, ..] => {
                let what = format!("no memory for {size} bytes of {label}: {error}");
                Err(Error::Device { device: self.name.clone(), what })
            }
        }
    }

    /// Buffers for the weights of a model, or an error if the device has no memory for what it needs. No API tells what is
    /// free, so that all is taken, and what is not of weights is given back.
    pub(super) fn fit(&self, needs: Needs) -> Result<Vec<wgpu::Buffer>> {
        let Needs { weights, states, activations } = needs;
        let allocate = |mut left: u64| {
            let mut buffers = vec![];
            while left > 0 {
                let size = left.min(self.binding_limit);
                buffers.push(self.allocate("weights", size).map_err(|e| Error::Device {
                    device: self.name.clone(),
                    what: format!(
                        "expected memory for {} MiB ({} of weights, {} of states, {} of activations), found less ({e})",
                        (weights + states + activations) >> 20,
                        weights >> 20,
                        states >> 20,
                        activations >> 20,
                    ),
                })?);
                left -= size;
            }
            Ok::<_, Error>(buffers)
        };
        let buffers = allocate(weights)?;
        allocate(states + activations)?.iter().for_each(wgpu::Buffer::destroy);
        self.device.poll(wgpu::PollType::Poll).ok();
        self.check()?;
        Ok(buffers)
    }

    /// An error of the device, which from now on all gives that asks [`Context::check`].
    pub(super) fn fail(&self, what: String) -> Error {
        self.error.lock().expect("no holder panics").get_or_insert_with(|| what.clone());
        Error::Device { device: self.name.clone(), what }
    }

    /// What has gone wrong.
    pub(super) fn check(&self) -> Result<()> {
        match self.error.lock().expect("no holder panics").clone() {
            Some(what) => Err(Error::Device { device: self.name.clone(), what }),
            None => Ok(()),
        }
    }

    /// An error if the first word of posts says that workgroups of a chain have waited in vain.
    pub(super) fn arrived(&self, gave_up: u32) -> Result<()> {
        if gave_up == 0 {
            return Ok(());
        }
        self.gave_up.store(true, Relaxed);
        let what =
            "expected workgroups that run at a time, found some that waited in vain; from now on none wait";
        Err(Error::Device { device: self.name.clone(), what: what.into() })
    }

    /// A part of a buffer, after all that was submitted.
    pub(super) fn read(self: &Arc<Self>, buffer: &wgpu::Buffer, from: u64, size: u64) -> Result<Mapped> {
        let to = self.room(size);
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, from, &to.buffer, 0, size);
        to.sent(self.queue.submit([encoder.finish()])).receive()
    }

    /// Room for bytes in this machine's memory.
    pub(super) fn room(self: &Arc<Self>, size: u64) -> Mapped {
        let mut free = self.back.lock().expect("no holder panics");
        let fit = free.iter().position(|b| (size..=4 * size).contains(&b.size()));
        let back = fit.map(|i| free.swap_remove(i));
        drop(free);
        let buffer = back.unwrap_or_else(|| self.mappable(size));
        Mapped { context: self.clone(), buffer, size, view: None }
    }

    /// Whether kernels can write what this machine reads.
    pub(super) fn shares(&self) -> bool {
        self.device.features().contains(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS)
    }

    /// A buffer that this machine can read.
    pub(super) fn mappable(&self, size: u64) -> wgpu::Buffer {
        let mut usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        if self.shares() {
            usage |= wgpu::BufferUsages::STORAGE;
        }
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("back"),
            size: size.next_power_of_two(),
            usage,
            mapped_at_creation: false,
        })
    }

    /// Waits for what was submitted; the first bytes of a mappable buffer.
    pub(super) fn map(
        &self,
        buffer: &wgpu::Buffer,
        size: u64,
        submission: &wgpu::SubmissionIndex,
    ) -> Result<wgpu::BufferView> {
        let slice = buffer.slice(..size);
        let done = Arc::new(AtomicBool::new(false));
        let mapped = done.clone();
        slice.map_async(wgpu::MapMode::Read, move |_| mapped.store(true, Relaxed));
        let begun = Instant::now();
        while !done.load(Relaxed) && begun.elapsed() < AWAKE {
            self.device.poll(wgpu::PollType::Poll).ok(); // what fails does so again below
            thread::yield_now();
        }
        let wait = wgpu::PollType::Wait { submission_index: Some(submission.clone()), timeout: None };
        let polled = self.device.poll(wait);
        self.check()?;
        let lost = |e: String| Error::Device { device: self.name.clone(), what: e };
        polled.map_err(|e| lost(e.to_string()))?;
        slice.get_mapped_range().map_err(|e| lost(e.to_string()))
    }
}
