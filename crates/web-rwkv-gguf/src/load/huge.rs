//! Files in huge pages: weights are then read from memory at up to one and a half times the speed, because their addresses are
//! translated 512 times as seldom. Some file systems keep a file in huge pages if it is read for a mapping that asks for them
//! (ext4 since Linux 6.16, XFS since 5.18); of others, and of files that were read or written otherwise, parts are read into memory.

use std::{fs::File, ops::Range};

use memmap2::Mmap;

use crate::format::Format;

/// Bytes that are read.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub(super) struct Part<'a> {
    pub(super) source: Source<'a>,
    pub(super) range: Range<usize>,
    /// The format and the bytes of eight rows, if these are to stand side by side.
    pub(super) turn: Option<(Format, usize)>,
}

/// Where bytes come from.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub(super) enum Source<'a> {
    File(&'a File),
    Static(&'static [u8]),
}

#[cfg(target_os = "linux")]
impl Source<'_> {
    /// Fills `to` with the bytes from `at`; whether there are as many.
    fn read(self, to: &mut [u8], at: usize) -> bool {
        use std::os::unix::fs::FileExt;
        match self {
            Self::File(file) => file.read_exact_at(to, at as u64).is_ok(),
            Self::Static(bytes) => {
                bytes.get(at..at + to.len()).map(|from| to.copy_from_slice(from)).is_some()
            }
        }
    }
}

/// Bytes of a huge page.
#[cfg(target_os = "linux")]
const PAGE: usize = 2 << 20;

/// Bytes that are turned at a time: they stay in the second-level cache.
#[cfg(target_os = "linux")]
const TURNED: usize = 256 << 10;

/// Bytes of a line of the cache, with which each part begins.
#[cfg(target_os = "linux")]
const LINE: usize = 64;

/// Asks for huge pages, should parts of a mapped file have to be read from the disk.
#[cfg(target_os = "linux")]
pub(super) fn ask(map: &Mmap) {
    drop(map.advise(memmap2::Advice::HugePage)); // the system may not want to
}

/// How many pages tell of what size most of them are, if three of four are huge.
#[cfg(target_os = "linux")]
const SAMPLE: usize = 16;

/// Whether these parts of a mapped file are in huge pages; if so, they are mapped now, and not when they are first used.
#[cfg(target_os = "linux")]
pub(super) fn are_mapped(parts: &[&[u8]]) -> bool {
    use std::{hint::black_box, thread};

    let pages: Vec<_> = parts.iter().flat_map(|part| part.chunks_exact(PAGE)).collect();
    if pages.len() < SAMPLE {
        return false;
    }
    let touch = |page: &[u8]| _ = black_box(page[0]);
    (0..SAMPLE).for_each(|i| touch(pages[i * pages.len() / SAMPLE]));
    if mapped_huge(pages[0].as_ptr() as usize).is_none_or(|bytes| bytes < SAMPLE * 3 / 4 * PAGE) {
        return false;
    }
    thread::scope(|scope| {
        for pages in pages.chunks(pages.len().div_ceil(threads())) {
            scope.spawn(move || pages.iter().for_each(|page| touch(page)));
        }
    });
    true
}

/// How much of the mapping that has an address is mapped in huge pages, in bytes.
#[cfg(target_os = "linux")]
fn mapped_huge(at: usize) -> Option<usize> {
    let all = std::fs::read_to_string("/proc/self/smaps").ok()?;
    // Each mapping has a line that starts with its addresses, and after it one for each size.
    let range = |line: &str| -> Option<Range<usize>> {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
    };
    let own = all.lines().skip_while(|line| range(line).is_none_or(|range| !range.contains(&at)));
    let mut sizes = own.skip(1).take_while(|line| range(line).is_none());
    kilobytes(sizes.find_map(|line| line.strip_prefix("FilePmdMapped:"))?)
}

/// Bytes, where the system writes ` 42 kB`.
#[cfg(target_os = "linux")]
fn kilobytes(size: &str) -> Option<usize> {
    size.trim().strip_suffix(" kB")?.parse::<usize>().ok()?.checked_mul(1024)
}

/// Threads that read: pages are cleared before they are filled, which is work for every core.
#[cfg(target_os = "linux")]
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(8)
}

/// Reads parts of files, one behind the other, and tells where each stands; `None` where the system has no huge pages, or
/// too little memory.
#[cfg(target_os = "linux")]
pub(super) fn read(parts: &[Part<'_>]) -> Option<(Mmap, Vec<Range<usize>>)> {
    use std::{iter, sync::Mutex, thread};

    use memmap2::{Advice, MmapMut};

    let mut len = 0;
    let places: Vec<_> = parts
        .iter()
        .map(|Part { range, .. }| {
            let at = len;
            len += range.len().next_multiple_of(LINE);
            at..at + range.len()
        })
        .collect();
    if len < PAGE || !given()? || available()? < len.checked_add(len / 2)? {
        return None;
    }
    let mut memory = MmapMut::map_anon(len).ok()?;
    memory.advise(Advice::HugePage).ok()?;
    let (mut pieces, mut left) = (vec![], &mut memory[..]);
    for Part { source, range, turn } in parts {
        let (to, rest) = left.split_at_mut(range.len().next_multiple_of(LINE));
        let len = turn.map_or(PAGE, |(_, eight)| (TURNED / eight).max(1) * eight);
        let to = to[..range.len()].chunks_mut(len);
        pieces.extend(range.clone().step_by(len).zip(to).map(|(at, to)| (source, at, to, turn)));
        left = rest;
    }
    // Two threads that are the first in one page would both clear one for it.
    let page = |to: &[u8]| to.as_ptr() as usize / PAGE;
    let pages = Mutex::new(pieces.chunk_by_mut(|a, b| page(a.2) == page(b.2)));
    let next = || pages.lock().ok()?.next();
    let read = || {
        let mut rows = vec![];
        iter::from_fn(next).flatten().all(|(source, at, to, turn)| match **turn {
            None => source.read(to, *at),
            Some((format, eight)) => {
                rows.resize(to.len(), 0);
                let whole = source.read(&mut rows, *at);
                let eights = rows.chunks_exact(eight).zip(to.chunks_exact_mut(eight));
                eights.for_each(|(rows, eight)| format.turn(rows, eight));
                whole
            }
        })
    };
    let whole = thread::scope(|scope| {
        let readers: Vec<_> = (0..threads()).map(|_| scope.spawn(read)).collect();
        readers.into_iter().all(|reader| reader.join().unwrap_or(false))
    });
    if whole { Some((memory.make_read_only().ok()?, places)) } else { None }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn ask(_: &Mmap) {}

#[cfg(not(target_os = "linux"))]
pub(super) fn are_mapped(_: &[&[u8]]) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
pub(super) fn read(_: &[Part<'_>]) -> Option<(Mmap, Vec<Range<usize>>)> {
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
    kilobytes(line)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write;

    use memmap2::{Advice, MmapMut};

    use super::*;

    #[test]
    fn mappings_tell_how_much_of_them_is_in_huge_pages() {
        let memory = MmapMut::map_anon(SAMPLE * PAGE).unwrap();
        memory.advise(Advice::HugePage).unwrap();
        assert_eq!(mapped_huge(memory[PAGE..].as_ptr() as usize), Some(0), "it is of no file");
        assert!(!are_mapped(&[&memory]));
        assert_eq!(mapped_huge(0), None, "nothing is mapped there");
    }

    #[test]
    fn parts_stand_one_behind_the_other() {
        let path = std::env::temp_dir().join(format!("huge-{}", std::process::id()));
        let bytes: Vec<u8> =
            (0..9u32 << 18).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        File::create(&path).unwrap().write_all(&bytes).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let ranges = [3..70, 100..100, 101..5_000_001, 5_000_001..5_000_129, 6_000_000..bytes.len()];
        let Some((memory, places)) =
            read(&ranges.clone().map(|range| Part { source: Source::File(&file), range, turn: None }))
        else {
            return println!("skipped: there are no huge pages");
        };
        let mut end = 0_usize;
        for (range, place) in ranges.into_iter().zip(places) {
            assert_eq!(place.start, end.next_multiple_of(LINE));
            assert!(memory[place.clone()] == bytes[range.clone()], "{range:?}");
            end = place.end;
        }
        // 8,000 rows of two blocks: a piece is no whole page.
        let (range, row) = (7..7 + 8000 * 288, 288);
        let source = Source::Static(bytes[..3_000_000].to_vec().leak());
        let all = Part { source, range: range.clone(), turn: Some((Format::Q4K, 8 * row)) };
        let rest = Part { source: Source::File(&file), range: 0..PAGE, turn: None };
        let (memory, places) = read(&[rest, all]).unwrap();
        let eights = memory[places[1].clone()].chunks_exact(8 * row);
        for (rows, eight) in bytes[range].chunks_exact(8 * row).zip(eights) {
            for (r, row) in rows.chunks_exact(row).enumerate() {
                assert_eq!(Format::Q4K.row_of(eight, r), row);
            }
        }
        let beyond = bytes.len() - PAGE..bytes.len() + 1;
        let beyond = Part { source: Source::File(&file), range: beyond, turn: None };
        assert!(read(&[beyond]).is_none());
    }
}
