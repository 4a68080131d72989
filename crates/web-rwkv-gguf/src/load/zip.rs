//! Zip archives, as far as PyTorch writes them: their entries are stored, not compressed.
//! Layout: <https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT>

use std::{collections::HashMap, ops::Range};

use crate::{Error, Result};

/// Longest comment behind the end record.
const MAX_COMMENT: usize = u16::MAX as usize;

/// A number that stands for one in a zip64 record.
const ELSEWHERE: u64 = u32::MAX as u64;

/// Where the bytes of each entry lie in the archive, by name.
pub(super) fn entries<'a>(file: &str, bytes: &'a [u8]) -> Result<HashMap<&'a str, Range<usize>>> {
    let archive = Archive { bytes };
    let invalid = |thing: &str, expected: &str, found: String| Error::invalid(file, thing, expected, found);
    let directory = archive.directory().ok_or_else(|| {
        invalid("zip archive", "a directory of entries at its end", format!("{} bytes without", bytes.len()))
    })?;
    let mut entries = HashMap::new(); // grows with what the directory really has
    let mut at = directory.start;
    while at < directory.end {
        let entry = archive.entry(at, directory.end).ok_or_else(|| {
            invalid("zip archive", "an entry of its directory", format!("other bytes at {at}"))
        })?;
        let thing = format!("zip entry `{}`", entry.name.escape_ascii());
        let name =
            std::str::from_utf8(entry.name).map_err(|_| invalid(&thing, "UTF-8", "other bytes".into()))?;
        match (entry.flags & 1, entry.method) {
            (0, 0) => {}
            (0, 8) => return Err(invalid(&thing, "bytes as they are", "deflated ones".into())),
            (0, other) => return Err(invalid(&thing, "bytes as they are", format!("method {other}"))),
            _ => return Err(invalid(&thing, "bytes as they are", "encrypted ones".into())),
        }
        let data = archive.data(&entry).ok_or_else(|| {
            let found = format!("{} bytes at {} of {}", entry.size, entry.offset, bytes.len());
            invalid(&thing, "data inside the file", found)
        })?;
        if entries.insert(name, data).is_some() {
            return Err(invalid(&thing, "one", "a second".into()));
        }
        at = entry.end;
    }
    Ok(entries)
}

/// An entry of the directory.
struct Entry<'a> {
    name: &'a [u8],
    flags: u64,
    method: u64,
    size: u64,
    /// Of the entry's own header.
    offset: u64,
    /// Where the directory goes on.
    end: usize,
}

/// The bytes of an archive, little-endian.
struct Archive<'a> {
    bytes: &'a [u8],
}

impl<'a> Archive<'a> {
    fn number<const N: usize>(&self, at: usize) -> Option<u64> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(self.bytes.get(at..at.checked_add(N)?)?);
        Some(u64::from_le_bytes(wide))
    }

    fn starts(&self, at: usize, kind: &[u8; 2]) -> Option<()> {
        let magic = self.bytes.get(at..at.checked_add(4)?)?;
        (magic == [b'P', b'K', kind[0], kind[1]]).then_some(())
    }

    /// The range of the directory, which the end record names.
    fn directory(&self) -> Option<Range<usize>> {
        let last = self.bytes.len().checked_sub(22)?;
        let end = (last.saturating_sub(MAX_COMMENT)..=last).rev().find(|&at| {
            self.starts(at, b"\x05\x06").is_some()
                && self.number::<2>(at + 20) == Some((self.bytes.len() - at - 22) as u64)
        })?;
        let (mut size, mut offset) = (self.number::<4>(end + 12)?, self.number::<4>(end + 16)?);
        // PyTorch writes the wide record always, others where the numbers need it.
        if let Some(locator) = end.checked_sub(20).filter(|&at| self.starts(at, b"\x06\x07").is_some()) {
            let wide = usize::try_from(self.number::<8>(locator + 8)?).ok()?;
            self.starts(wide, b"\x06\x06")?;
            (size, offset) = (self.number::<8>(wide + 40)?, self.number::<8>(wide + 48)?);
        }
        let start = usize::try_from(offset).ok()?;
        let stop = start.checked_add(usize::try_from(size).ok()?)?;
        (stop <= end).then_some(start..stop)
    }

    /// The entry at `at` of a directory that ends at `stop`.
    fn entry(&self, at: usize, stop: usize) -> Option<Entry<'a>> {
        self.starts(at, b"\x01\x02")?;
        let short = |field: usize| self.number::<2>(at + field).map(|n| n as usize);
        let (name, extra, comment) = (short(28)?, short(30)?, short(32)?);
        let (from, to) = (at + 46 + name, at + 46 + name + extra);
        let end = to + comment;
        if end > stop {
            return None;
        }
        let (mut size, mut offset) = (self.number::<4>(at + 24)?, self.number::<4>(at + 42)?);
        let mut packed = self.number::<4>(at + 20)?;
        let mut field = from;
        while field + 4 <= to {
            let (id, len) = (self.number::<2>(field)?, self.number::<2>(field + 2)? as usize);
            let mut wide = field + 4;
            field = wide + len;
            // The wide record holds those numbers, in this order, that have no room before.
            if id == 1 && field <= to {
                for narrow in [&mut size, &mut packed, &mut offset] {
                    if *narrow == ELSEWHERE && wide + 8 <= field {
                        *narrow = self.number::<8>(wide)?;
                        wide += 8;
                    }
                }
            }
        }
        let name = self.bytes.get(at + 46..from)?;
        let (flags, method) = (self.number::<2>(at + 8)?, self.number::<2>(at + 10)?);
        Some(Entry { name, flags, method, size, offset, end })
    }

    /// The bytes of an entry, which follow its own header.
    fn data(&self, entry: &Entry<'_>) -> Option<Range<usize>> {
        let at = usize::try_from(entry.offset).ok()?;
        self.starts(at, b"\x03\x04")?;
        let (name, extra) = (self.number::<2>(at + 26)?, self.number::<2>(at + 28)?);
        let start = at + 30 + name as usize + extra as usize;
        let end = start.checked_add(usize::try_from(entry.size).ok()?)?;
        (end <= self.bytes.len()).then_some(start..end)
    }
}
