//! Compiled kernels on disk, where a driver lets them be kept.
//!
//! They are in `WEB_RWKV_CACHE`, or in the folder `web-rwkv` of the platform's caches; an empty variable means nowhere.
//! A file that cannot be read or written is no failure: kernels are then compiled.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process,
};

use crate::fnv::Fnv;

/// Kernels that drivers of an adapter have compiled.
pub(super) struct Cache {
    pub(super) pipelines: wgpu::PipelineCache,
    file: Option<PathBuf>,
    /// Checksum of what was read.
    read: Option<u64>,
}

impl Cache {
    /// The cache of an adapter; `None` if its driver has none.
    pub(super) fn open(device: &wgpu::Device, adapter: &wgpu::AdapterInfo) -> Option<Self> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let name = wgpu::util::pipeline_cache_key(adapter)?;
        let file = folder().map(|f| f.join(format!("{name}_{}", env!("CARGO_PKG_VERSION"))));
        let data = file.as_deref().and_then(read);
        let read = data.as_deref().map(checksum);
        let descriptor =
            wgpu::PipelineCacheDescriptor { label: Some("kernels"), data: data.as_deref(), fallback: true };
        // SAFETY: the checksum says that `save` wrote the data, and wgpu that it is of this adapter and driver.
        let pipelines = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(Self { pipelines, file, read })
    }

    /// Writes what is new.
    fn save(&self) -> io::Result<()> {
        let (Some(file), Some(data)) = (&self.file, self.pipelines.get_data()) else { return Ok(()) };
        if self.read == Some(checksum(&data)) {
            return Ok(());
        }
        write(file, &data)
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        if let Err(e) = self.save() {
            log::debug!("compiled kernels are not kept: {e}");
        }
    }
}

fn folder() -> Option<PathBuf> {
    match env::var_os("WEB_RWKV_CACHE") {
        Some(folder) => (!folder.is_empty()).then(|| folder.into()),
        None => dirs::cache_dir().map(|caches| caches.join("web-rwkv")),
    }
}

/// A file's data, behind its checksum; `None` if that is not right.
fn read(file: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(file).ok()?;
    let (sum, data) = bytes.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*sum) == checksum(data)).then(|| data.to_vec())
}

/// Puts a file in the place of what was there, at once.
fn write(file: &Path, data: &[u8]) -> io::Result<()> {
    let mut part = file.as_os_str().to_owned();
    part.push(format!(".{}", process::id()));
    let part = PathBuf::from(part);
    fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
    let written = fs::write(&part, [&checksum(data).to_le_bytes(), data].concat());
    written.and_then(|()| fs::rename(&part, file)).inspect_err(|_| {
        fs::remove_file(&part).ok();
    })
}

/// FNV-1a of words of eight bytes, of which there are many.
fn checksum(data: &[u8]) -> u64 {
    let (words, rest) = data.as_chunks::<8>();
    let mut hash = Fnv::new();
    words.iter().for_each(|word| hash.add_word(u64::from_le_bytes(*word)));
    hash.add(rest);
    hash.number()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_back_only_if_they_are_whole() {
        let folder = env::temp_dir().join(format!("web-rwkv-cache-{}", process::id()));
        let file = folder.join("deep").join("kernels_0.1.0");
        assert_eq!(read(&file), None);
        for data in [&b"kernels"[..], b"", b"others"] {
            write(&file, data).unwrap();
            assert_eq!(read(&file).as_deref(), Some(data));
        }
        let whole = fs::read(&file).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[..7], b"", &[&whole[..], b"x"].concat()] {
            fs::write(&file, damaged).unwrap();
            assert_eq!(read(&file), None);
        }
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
        // A folder that cannot be made: its parent is a file.
        assert!(write(&file.join("no").join("folder"), b"x").is_err());
        fs::remove_dir_all(folder).unwrap();
    }
}
