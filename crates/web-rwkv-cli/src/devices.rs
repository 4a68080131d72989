//! `web-rwkv devices`: the GPUs of this machine.

use std::{
    io::{Write, stdout},
    process::ExitCode,
};

use comfy_table::{Table, presets};
use serde_json::json;
use web_rwkv_gguf::devices;

use crate::{Result, model};

pub(crate) fn run(common: &model::Args) -> Result<ExitCode> {
    let mut out = stdout().lock();
    let all = devices();
    if common.json {
        for d in &all {
            let line = json!({
                "device": format!("gpu:{}", d.index), "name": d.name, "backend": d.backend, "kind": d.kind,
                "driver": d.driver, "tier": d.tier.to_string(), "subgroup_min": d.subgroup.0,
                "subgroup_max": d.subgroup.1, "binding_limit": d.binding_limit,
            });
            writeln!(out, "{line}")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if all.is_empty() {
        writeln!(out, "no GPU with a driver for Vulkan, Metal or DirectX 12")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    let header = ["device", "name", "kind", "backend", "driver", "kernels", "subgroup", "binding"];
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header(header);
    for d in all {
        table.add_row([
            format!("gpu:{}", d.index),
            d.name,
            d.kind.into(),
            d.backend,
            d.driver,
            format!("up to {}", d.tier),
            if d.subgroup.0 == d.subgroup.1 {
                d.subgroup.0.to_string()
            } else {
                format!("{} to {}", d.subgroup.0, d.subgroup.1)
            },
            format!("{} MiB", d.binding_limit >> 20),
        ]);
    }
    writeln!(out, "{table}")?;
    Ok(ExitCode::SUCCESS)
}
