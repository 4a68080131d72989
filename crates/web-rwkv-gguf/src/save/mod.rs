//! Writing model files: a checkpoint's tensors, in other formats if wanted, a part at a time.

mod gguf;
mod safetensors;

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    thread,
};

use crate::{
    Error, Result,
    format::{Format, decode, encode},
    load::{Checkpoint, Tensor},
};

/// Values that a thread takes at a time.
const PART: usize = 1 << 18;

/// How much each column of each matrix matters, by official name: mean squares of what it is multiplied with.
pub type Importance = HashMap<String, Vec<f32>>;

/// The format that a tensor, by official name, is written in.
pub type Choice<'a> = dyn Fn(&str, &Tensor) -> Format + Sync + 'a;

/// How a file is written.
pub struct SaveOptions<'a> {
    /// The format of each tensor. GGUF takes vectors as f32, and safetensors plain floats only; there it is f16 instead.
    pub format: &'a Choice<'a>,
    /// What counts in blocks; all values alike if absent.
    pub importance: Option<&'a Importance>,
    /// Threads; by default the physical cores of the machine.
    pub threads: Option<usize>,
}

/// Writes a checkpoint to a file: GGUF to `.gguf`, safetensors with official names to `.safetensors` and `.st`.
///
/// The file appears when it is whole, and may replace the one that the checkpoint was read from. No more than a few
/// megabytes of each tensor are in memory at a time (of safetensors, one tensor). `progress` is told how many values
/// of how many are done.
///
/// # Errors
/// For another extension, a model that the kind of file cannot hold, values that a format cannot hold, and files that
/// cannot be written.
pub fn save(
    checkpoint: &Checkpoint,
    path: impl AsRef<Path>,
    options: &SaveOptions<'_>,
    progress: &mut (dyn FnMut(usize, usize) + Send),
) -> Result<()> {
    let path = path.as_ref();
    let write = match path.extension().and_then(|e| e.to_str()) {
        Some("gguf") => gguf::write,
        Some("safetensors" | "st") => safetensors::write,
        _ => {
            let expected = "a name that ends in .gguf, .safetensors or .st";
            return Err(Error::Request {
                thing: "file to write".into(),
                expected: expected.into(),
                found: path.display().to_string(),
            });
        }
    };
    let part = PathBuf::from(format!("{}.part", path.display()));
    let threads = options.threads.unwrap_or_else(num_cpus::get_physical).max(1);
    let done = write(checkpoint, &part, options, &mut Writing { threads, done: 0, progress })
        .and_then(|()| fs::rename(&part, path).map_err(|e| Error::io(path, e)));
    if done.is_err() {
        let _ = fs::remove_file(&part); // the error tells why; a part that is not there is as good
    }
    done
}

/// A tensor as it is written: the rows of its parts, one after another.
struct Entry<'a> {
    name: String,
    shape: Vec<usize>,
    format: Format,
    parts: Vec<Tensor>,
    importance: Option<&'a [f32]>,
}

impl Entry<'_> {
    fn values(&self) -> usize {
        self.shape.iter().product()
    }

    fn bytes(&self) -> usize {
        self.values() / self.format.block_len() * self.format.block_bytes()
    }
}

struct Writing<'a> {
    threads: usize,
    done: usize,
    progress: &'a mut (dyn FnMut(usize, usize) + Send),
}

impl Writing<'_> {
    /// Gives `write` the bytes of a tensor, in order.
    fn tensor(
        &mut self,
        file: &str,
        entry: &Entry<'_>,
        total: usize,
        write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<()> {
        let mut write = |bytes: &[u8]| write(bytes).map_err(|e| Error::io(Path::new(file), e));
        for part in &entry.parts {
            let columns = part.shape.last().copied().unwrap_or(1);
            let rows = part.shape.iter().product::<usize>() / columns;
            let (Some(from), Some(to)) = (part.format.row_bytes(columns), entry.format.row_bytes(columns))
            else {
                let expected = format!("rows of a multiple of {} values", entry.format.block_len());
                return Err(Error::invalid(
                    file,
                    format!("tensor `{}`", entry.name),
                    expected,
                    columns.to_string(),
                ));
            };
            let few = PART.div_ceil(columns);
            for start in (0..rows).step_by(few * self.threads) {
                let end = rows.min(start + few * self.threads);
                let source = part.data.slice(start * from..end * from).expect("the rows are in the tensor");
                if part.format == entry.format {
                    write(&source)?;
                } else {
                    let encoded = |rows: &[u8]| reencoded(file, entry, part.format, rows, columns, to);
                    let parts: Vec<_> = thread::scope(|scope| {
                        let mut parts = source.chunks(few * from);
                        let own = parts.next().unwrap_or_default();
                        let others: Vec<_> = parts.map(|rows| scope.spawn(move || encoded(rows))).collect();
                        let own = encoded(own);
                        let joined =
                            |t: thread::ScopedJoinHandle<'_, _>| t.join().expect("encoding does not panic");
                        std::iter::once(own).chain(others.into_iter().map(joined)).collect()
                    });
                    for part in parts {
                        write(&part?)?;
                    }
                }
                source.release();
                self.done += (end - start) * columns;
                (self.progress)(self.done, total);
            }
        }
        Ok(())
    }
}

/// Rows in the format of an entry.
fn reencoded(
    file: &str,
    entry: &Entry<'_>,
    from: Format,
    rows: &[u8],
    columns: usize,
    row_bytes: usize,
) -> Result<Vec<u8>> {
    /// The largest f16 number; scales are f16.
    const MOST: f32 = 65504.0;
    let from_bytes = from.row_bytes(columns).unwrap_or(1);
    let mut values = vec![0.0; columns];
    let mut out = vec![0; rows.len() / from_bytes * row_bytes];
    for (row, out) in rows.chunks_exact(from_bytes).zip(out.chunks_exact_mut(row_bytes)) {
        decode(from, row, &mut values);
        let wide = matches!(entry.format, Format::F32 | Format::BF16);
        if let (false, Some(x)) = (wide, values.iter().find(|x| x.is_nan() || x.abs() > MOST)) {
            let expected = format!("values that {} can hold", entry.format.name());
            return Err(Error::invalid(file, format!("tensor `{}`", entry.name), expected, x.to_string()));
        }
        encode(entry.format, &values, entry.importance, out);
    }
    Ok(out)
}

/// A tensor in another format, in memory.
pub(crate) fn reencode(
    file: &str,
    name: &str,
    tensor: &Tensor,
    format: Format,
    importance: Option<&[f32]>,
) -> Result<Tensor> {
    let (shape, parts) = (tensor.shape.clone(), vec![tensor.clone()]);
    let entry = Entry { name: name.into(), shape, format, parts, importance };
    let mut data = Vec::with_capacity(entry.bytes());
    let mut writing = Writing { threads: num_cpus::get_physical(), done: 0, progress: &mut |_, _| () };
    writing.tensor(file, &entry, entry.values(), &mut |bytes| {
        data.extend_from_slice(bytes);
        Ok(())
    })?;
    Ok(Tensor { shape: entry.shape, format, data: data.into() })
}

/// Number of the layer that a tensor is of.
pub(crate) fn layer(official: &str) -> Option<usize> {
    official.strip_prefix("blocks.")?.split('.').next()?.parse().ok()
}

/// The names of a checkpoint's tensors, in the order of the model.
fn in_order(checkpoint: &Checkpoint) -> Vec<&String> {
    let mut names: Vec<_> = checkpoint.tensors.keys().collect();
    names.sort_by_key(|name| {
        (layer(name).unwrap_or(if name.starts_with("emb") { 0 } else { usize::MAX }), *name)
    });
    names.sort_by_key(|name| !name.starts_with("emb"));
    names
}
