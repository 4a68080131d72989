//! Adapters: which there are, what they support, which one is used.

use std::sync::OnceLock;

use crate::{
    Error, Result,
    device::{DeviceInfo, Tier},
};

/// The GPUs of this machine, the ones that are used first in front.
pub fn devices() -> Vec<DeviceInfo> {
    adapters().iter().enumerate().map(|(i, adapter)| info(i, adapter)).collect()
}

/// An adapter of this number, or the best.
pub(super) fn adapter(index: Option<usize>) -> Result<(wgpu::Adapter, DeviceInfo)> {
    let all = adapters();
    let count = all.len();
    let index = index.unwrap_or(0);
    let found = all.get(index).map(|adapter| (adapter.clone(), info(index, adapter)));
    found.ok_or_else(|| Error::Device {
        device: format!("gpu:{index}"),
        what: match count {
            0 => "this machine has no GPU with a driver for Vulkan, Metal or DirectX 12".into(),
            _ => format!("this machine has GPUs 0 to {}", count - 1),
        },
    })
}

/// Whether a GPU is there that is no software.
pub(crate) fn has_gpu() -> bool {
    adapters().first().is_some_and(|a| a.get_info().device_type != wgpu::DeviceType::Cpu)
}

/// The adapters that were there when they were first asked for: loading their drivers takes long.
fn adapters() -> &'static [wgpu::Adapter] {
    static ADAPTERS: OnceLock<Vec<wgpu::Adapter>> = OnceLock::new();
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    ADAPTERS.get_or_init(|| {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends,
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        let mut all = pollster::block_on(instance.enumerate_adapters(backends));
        all.sort_by_key(|a| match a.get_info().device_type {
            wgpu::DeviceType::DiscreteGpu => 0,
            wgpu::DeviceType::IntegratedGpu => 1,
            wgpu::DeviceType::VirtualGpu => 2,
            wgpu::DeviceType::Other => 3,
            wgpu::DeviceType::Cpu => 4,
        });
        all
    })
}

fn info(index: usize, adapter: &wgpu::Adapter) -> DeviceInfo {
    let i = adapter.get_info();
    DeviceInfo {
        index,
        name: i.name,
        backend: i.backend.to_string(),
        kind: match i.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete",
            wgpu::DeviceType::IntegratedGpu => "integrated",
            wgpu::DeviceType::VirtualGpu => "virtual",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "other",
        },
        driver: [i.driver, i.driver_info].join(" ").trim().into(),
        tier: tier(adapter),
        subgroup: (i.subgroup_min_size, i.subgroup_max_size),
        binding_limit: adapter.limits().max_storage_buffer_binding_size,
    }
}

/// The best tier of an adapter.
fn tier(adapter: &wgpu::Adapter) -> Tier {
    let i = adapter.get_info();
    let has = |f| adapter.features().contains(f);
    let subgroups = has(wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16) && i.subgroup_min_size >= 8;
    // A tile belongs to a subgroup, so that its size must be known; four bring whole tiles of inputs.
    let fixed = i.subgroup_min_size == i.subgroup_max_size && i.subgroup_min_size >= 16;
    let f16 = |m: &wgpu::CooperativeMatrixProperties| {
        (m.m_size, m.n_size, m.k_size) == (16, 16, 16)
            && m.ab_type == wgpu::CooperativeScalarType::F16
            && m.cr_type == wgpu::CooperativeScalarType::F32
    };
    let matrix = has(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SUBGROUP_BARRIER)
        && adapter.cooperative_matrix_properties().iter().any(f16);
    match (subgroups, matrix && fixed) {
        (true, true) => Tier::Matrix,
        (true, false) => Tier::Subgroup,
        _ => Tier::Plain,
    }
}
