//! Files in huge pages: weights are then read from memory at up to one and a half times the speed, because their
//! addresses are translated 512 times as seldom. Page cache that is mapped has small pages.

use std::{fs::File, thread};

use memmap2::{Mmap, MmapMut};

/// Reads a file into huge pages; `None` where the system gives none or has not the memory, and the file may be mapped.
#[cfg(target_os = "linux")]
pub(super) fn read(file: &File) -> Option<Mmap> {
    use std::os::unix::fs::FileExt;

    const PAGE: usize = 2 << 20;
    let len = usize::try_from(file.metadata().ok()?.len()).ok()?;
    if len < PAGE || !given()? || available()? < len.checked_add(len / 2)? {
        return None;
    }
    let mut memory = MmapMut::map_anon(len).ok()?;
    memory.advise(memmap2::Advice::HugePage).ok()?;
    // The pages are cleared before they are filled: work for every core.
    let threads = thread::available_parallelism().map_or(1, usize::from).min(8);
    let part = len.div_ceil(threads).next_multiple_of(PAGE);
    let whole = thread::scope(|scope| {
        let parts = memory.chunks_mut(part).enumerate();
        let read = |(i, bytes): (usize, &mut [u8])| file.read_exact_at(bytes, (i * part) as u64).is_ok();
        let readers: Vec<_> = parts.map(|part| scope.spawn(move || read(part))).collect();
        readers.into_iter().all(|reader| reader.join().unwrap_or(false))
    });
    if whole { memory.make_read_only().ok() } else { None }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn read(_file: &File) -> Option<Mmap> {
    None
}

/// Whether memory gets huge pages if it is asked for.
#[cfg(target_os = "linux")]
fn given() -> Option<bool> {
    let choice = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    Some(!choice.contains("[never]"))
}

/// Bytes of memory that may be had without swapping.
#[cfg(target_os = "linux")]
fn available() -> Option<usize> {
    let all = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = all.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<usize>().ok()?.checked_mul(1024)
}
