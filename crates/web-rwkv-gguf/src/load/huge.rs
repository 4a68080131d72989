//! Files in huge pages: weights are then read from memory at up to one and a half times the speed, because their addresses are
//! translated 512 times as seldom. Some file systems keep a file in huge pages if it is read for a mapping that asks for them
//! (ext4 since Linux 6.16, XFS since 5.18); of others, and of files that were read or written otherwise, parts are read into [`Room`].

use std::{fs::File, ops::Range};

use memmap2::Mmap;
#[cfg(target_os = "linux")]
use memmap2::{Advice, MmapMut, MmapRaw};

use super::moving::InEights;
use crate::format::Format;

/// Puts blocks of eight rows side by side, see [`format::beside`](crate::format::beside).
pub(crate) type TurnEight<'a> = &'a (dyn Fn(Format, &[u8], &mut [u8]) + Sync);

/// Bytes that are read.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub(super) struct Part<'a> {
    pub(super) source: Source<'a>,
    pub(super) range: Range<usize>,
    pub(super) eights: InEights,
    /// Where in the room they come to stand.
    pub(super) to: Range<usize>,
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
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    thread::scope(|scope| {
        for pages in pages.chunks(pages.len().div_ceil(threads)) {
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

/// How many threads read: pages are cleared before they are filled, which is work for several cores.
#[cfg(target_os = "linux")]
const MOST_THREADS: usize = 8;

/// Memory in huge pages, which is taken from the system as it is filled.
#[cfg(target_os = "linux")]
pub(super) struct Room(MmapRaw);

#[cfg(target_os = "linux")]
impl Room {
    /// Room for so many bytes; `None` where the system has no huge pages, or too little memory.
    pub(super) fn new(len: usize) -> Option<Self> {
        (len >= PAGE && given()? && is_free(len)).then(|| Self::map(len))?
    }

    /// Room for so many bytes, whatever the system has.
    pub(super) fn map(len: usize) -> Option<Self> {
        let memory = MmapMut::map_anon(len.checked_next_multiple_of(PAGE)?).ok()?;
        memory.advise(Advice::HugePage).ok()?;
        Some(Self(memory.into()))
    }

    /// Reads these parts by so many threads; whether all could be read. Eight rows are put side by side by `turn`.
    ///
    /// # Safety
    /// Nobody else may use their places meanwhile.
    pub(super) unsafe fn fill(&self, parts: &[Part<'_>], threads: usize, turn: TurnEight<'_>) -> bool {
        use std::{iter, slice, sync::Mutex, thread};

        if !is_free(parts.iter().map(|part| part.to.len()).sum()) {
            return false;
        }
        let mut pieces = vec![];
        for Part { source, range, eights, to } in parts {
            assert!(to.len() == range.len() && to.end <= self.0.len());
            // SAFETY: it lies inside, and the rest is the caller's promise.
            let to = unsafe { slice::from_raw_parts_mut(self.0.as_mut_ptr().add(to.start), to.len()) };
            let len = eights.map_or(PAGE, |(_, eight)| (TURNED / eight).max(1) * eight);
            let to = to.chunks_mut(len);
            pieces.extend(range.clone().step_by(len).zip(to).map(|(at, to)| (source, at, to, eights)));
        }
        // Two threads that are the first in one page would both clear one for it.
        let page = |to: &[u8]| to.as_ptr() as usize / PAGE;
        let pages = Mutex::new(pieces.chunk_by_mut(|a, b| page(a.2) == page(b.2)));
        let next = || pages.lock().ok()?.next();
        let read = || {
            let mut rows = vec![];
            iter::from_fn(next).flatten().all(|(source, at, to, eights)| match **eights {
                None => source.read(to, *at),
                Some((format, eight)) => {
                    rows.resize(to.len(), 0);
                    let whole = source.read(&mut rows, *at);
                    let eights = rows.chunks_exact(eight).zip(to.chunks_exact_mut(eight));
                    eights.for_each(|(rows, to)| turn(format, rows, to));
                    whole
                }
            })
        };
        thread::scope(|scope| {
            let others = 1..threads.min(MOST_THREADS);
            let spawn = |_| thread::Builder::new().spawn_scoped(scope, read).ok();
            let others: Vec<_> = others.filter_map(spawn).collect();
            let own = read();
            others.into_iter().fold(own, |whole, other| other.join().unwrap_or(false) && whole)
        })
    }

    /// What stands there.
    ///
    /// # Safety
    /// It must have been read, and nothing else may come to stand there.
    pub(super) unsafe fn bytes(&self, at: Range<usize>) -> &[u8] {
        assert!(at.end <= self.0.len());
        // SAFETY: it lies inside, and the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().add(at.start), at.len()) }
    }
}

/// There is none.
#[cfg(not(target_os = "linux"))]
pub(super) enum Room {}

#[cfg(not(target_os = "linux"))]
impl Room {
    pub(super) fn new(_: usize) -> Option<Self> {
        None
    }

    pub(super) unsafe fn fill(&self, _: &[Part<'_>], _: usize, _: TurnEight<'_>) -> bool {
        match *self {}
    }

    pub(super) unsafe fn bytes(&self, _: Range<usize>) -> &[u8] {
        match *self {}
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn ask(_: &Mmap) {}

#[cfg(not(target_os = "linux"))]
pub(super) fn are_mapped(_: &[&[u8]]) -> bool {
    false
}

/// Whether memory gets huge pages if it is asked for.
#[cfg(target_os = "linux")]
fn given() -> Option<bool> {
    let choice = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    Some(!choice.contains("[never]"))
}

/// Whether so many bytes may be had, and half as many besides, without swapping.
#[cfg(target_os = "linux")]
fn is_free(bytes: usize) -> bool {
    available().is_some_and(|available| available / 3 * 2 >= bytes)
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

    use super::*;
    use crate::format::beside::ROWS;

    #[test]
    fn mappings_tell_how_much_of_them_is_in_huge_pages() {
        let memory = MmapMut::map_anon(SAMPLE * PAGE).unwrap();
        memory.advise(Advice::HugePage).unwrap();
        assert_eq!(mapped_huge(memory[PAGE..].as_ptr() as usize), Some(0), "it is of no file");
        assert!(!are_mapped(&[&memory]));
        assert_eq!(mapped_huge(0), None, "nothing is mapped there");
    }

    #[test]
    fn parts_stand_where_they_are_wanted() {
        let path = std::env::temp_dir().join(format!("huge-{}", std::process::id()));
        let bytes: Vec<u8> =
            (0..9u32 << 18).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        File::create(&path).unwrap().write_all(&bytes).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let Some(room) = Room::new(5 * PAGE) else {
            return println!("skipped: there are no huge pages");
        };
        // The last are 8,000 rows of two blocks: a piece is no whole page.
        let row = 288;
        let part = |range: Range<usize>, at: usize| Part {
            source: Source::File(&file),
            to: at..at + range.len(),
            range,
            eights: None,
        };
        let parts = [
            part(3..70, 64),
            part(100..100, 131),
            part(101..5_000_001, 192),
            Part { source: Source::Static(bytes.clone().leak()), ..part(17..PAGE, 5_000_128) },
            Part { eights: Some((Format::Q4K, ROWS * row)), ..part(7..7 + 8000 * row, 7_500_032) },
        ];
        let turn: TurnEight<'_> = &|format, rows, eight| format.turn(rows, eight);
        // SAFETY: nobody else knows of this room.
        unsafe {
            assert!(room.fill(&parts[2..], 2, turn) && room.fill(&parts[..2], 1, turn));
            let [plain @ .., turned] = &parts;
            for Part { range, to, .. } in plain {
                assert!(room.bytes(to.clone()) == &bytes[range.clone()], "{range:?}");
            }
            let eights = room.bytes(turned.to.clone()).chunks_exact(ROWS * row);
            for (rows, eight) in bytes[turned.range.clone()].chunks_exact(ROWS * row).zip(eights) {
                for (r, row) in rows.chunks_exact(row).enumerate() {
                    assert_eq!(Format::Q4K.row_of(eight, r), row);
                }
            }
            assert!(!room.fill(&[part(bytes.len() - PAGE..bytes.len() + 1, 0)], 2, turn));
        }
    }
}
