//! PyTorch's files: what `torch.save` writes is read, and nothing else gets further than an error.

use std::path::Path;

use web_rwkv_gguf::{Error, ModelVersion, format::Format, load::Checkpoint};

/// A pickle as `torch.save` writes it, opcode by opcode.
#[derive(Clone, Default)]
struct Pickle(Vec<u8>);

impl Pickle {
    /// `{ "emb.weight": tensor, ... }`
    fn dict(tensors: &[(&str, View<'_>)]) -> Self {
        let mut p = Self::default().raw(b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(");
        for (name, view) in tensors {
            p = p.text(name).tensor(view);
        }
        // Attributes of the dictionary, as `state_dict()` has them.
        p.raw(b"u}").text("_metadata").raw(b"}sb.")
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    fn number(self, n: i32) -> Self {
        self.raw(b"J").raw(&n.to_le_bytes())
    }

    fn tuple(self, numbers: &[i32]) -> Self {
        numbers.iter().fold(self.raw(b"("), |p, n| p.number(*n)).raw(b"t")
    }

    fn tensor(self, view: &View<'_>) -> Self {
        self.raw(b"ctorch._utils\n_rebuild_tensor_v2\n((")
            .text("storage")
            .raw(format!("ctorch\n{}\n", view.class).as_bytes())
            .text(view.key)
            .text("cpu")
            .number(view.len)
            .raw(b"tQ")
            .number(view.offset)
            .tuple(view.shape)
            .tuple(view.stride)
            .raw(b"\x89ccollections\nOrderedDict\n)RtR")
    }
}

#[derive(Clone, Copy)]
struct View<'a> {
    class: &'a str,
    key: &'a str,
    len: i32,
    offset: i32,
    shape: &'a [i32],
    stride: &'a [i32],
}

const PLAIN: View<'_> =
    View { class: "FloatStorage", key: "0", len: 6, offset: 0, shape: &[2, 3], stride: &[3, 1] };

/// An archive of stored entries, without checksums.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (vec![], vec![]);
    for (name, data) in entries {
        let (len, at) = (data.len() as u32, out.len() as u32);
        // Version, then flags, method, time and checksum, none of them set.
        let (len, name_len) = (len.to_le_bytes(), (name.len() as u16).to_le_bytes());
        let header = [&[20, 0][..], &[0; 12], &len, &len, &name_len, &[0; 2]].concat();
        directory.extend([b"PK\x01\x02\x14\0", &header[..], &[0; 10], &at.to_le_bytes()].concat());
        directory.extend(name.as_bytes());
        out.extend([b"PK\x03\x04", &header[..], name.as_bytes(), data].concat());
    }
    let (count, at) = ((entries.len() as u16).to_le_bytes(), out.len() as u32);
    let size = (directory.len() as u32).to_le_bytes();
    out.extend(directory);
    out.extend([b"PK\x05\x06\0\0\0\0", &count[..], &count, &size, &at.to_le_bytes(), &[0; 2]].concat());
    out
}

fn floats(n: usize) -> Vec<u8> {
    (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect()
}

fn file(pickle: &Pickle) -> Vec<u8> {
    zip(&[
        ("x/data.pkl", &pickle.0),
        ("x/byteorder", b"little"),
        ("x/data/0", &floats(6)),
        ("x/version", b"3\n"),
    ])
}

fn read(bytes: Vec<u8>) -> web_rwkv_gguf::Result<Checkpoint> {
    Checkpoint::from_bytes("x.pth", bytes.into())
}

fn error(bytes: Vec<u8>) -> String {
    read(bytes).err().map_or("none".into(), |e| e.to_string())
}

fn values(file: &Checkpoint, name: &str) -> (Vec<usize>, Vec<f32>) {
    let t = &file.tensors[name];
    (t.shape.clone(), t.data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
}

#[test]
fn views_of_storages() {
    let view = |offset, shape, stride| View { offset, shape, stride, ..PLAIN };
    let pickle = Pickle::dict(&[
        ("emb.weight", PLAIN),
        ("head.weight", view(0, &[3, 2], &[1, 3])), // transposed, in the same storage
        ("ln_out.weight", view(2, &[3], &[1])),
        ("ln_out.bias", view(1, &[2], &[3])),
        ("blocks.0.ln0.bias", view(0, &[1, 1, 2], &[99, 7, 1])),
    ]);
    let file = read(file(&pickle)).unwrap();
    assert_eq!(file.version, ModelVersion::V7);
    assert_eq!(values(&file, "emb.weight"), (vec![2, 3], vec![0., 1., 2., 3., 4., 5.]));
    assert_eq!(values(&file, "head.weight"), (vec![3, 2], vec![0., 3., 1., 4., 2., 5.]));
    assert_eq!(values(&file, "ln_out.weight"), (vec![3], vec![2., 3., 4.]));
    assert_eq!(values(&file, "ln_out.bias"), (vec![2], vec![1., 4.]));
    assert_eq!(values(&file, "blocks.0.ln0.bias"), (vec![2], vec![0., 1.]));
}

#[test]
fn dictionaries_in_other_clothes() {
    let tensor = Pickle::default().tensor(&PLAIN);
    // Protocol 4 with a frame, a plain dictionary, and a checkpoint around its `state_dict`.
    let inner = Pickle::default().raw(b"}\x94\x8c\x0aemb.weight").raw(&tensor.0).raw(b"s");
    let outer = Pickle::default().raw(b"\x80\x04\x95\0\0\0\0\0\0\0\0}(\x8c\x0astate_dict");
    let wrapped = outer.raw(&inner.0).raw(b"\x8c\x05epochK\x03u.");
    assert!(read(file(&wrapped)).unwrap().tensors.contains_key("emb.weight"));
    // A parameter around a tensor, in a dictionary made at once.
    let parameter = Pickle::default().raw(b"\x80\x02(").text("emb.weight");
    let parameter = parameter.raw(b"ctorch._utils\n_rebuild_parameter\n(").raw(&tensor.0).raw(b"\x88NtRd.");
    assert!(read(file(&parameter)).unwrap().tensors.contains_key("emb.weight"));
}

#[test]
fn code_is_refused_by_name() {
    let call = |module: &str, name: &str| {
        let global = format!("c{module}\n{name}\n");
        error(file(&Pickle::default().raw(b"\x80\x02").raw(global.as_bytes()).text("echo").raw(b"\x85R.")))
    };
    for (module, name) in
        [("os", "system"), ("builtins", "eval"), ("torch", "load"), ("torch._utils", "_rebuild")]
    {
        let found = call(module, name);
        assert!(found.contains(&format!("expected plain tensors, found `{module}.{name}`")), "{found}");
    }
    // By the opcodes that make instances, build objects, or look names up on the stack.
    for (opcode, name) in [(b'i', "0x69"), (b'o', "0x6f"), (0x81, "0x81"), (0x92, "0x92"), (0x82, "0x82")] {
        let found = error(file(&Pickle(vec![0x80, 2, opcode])));
        assert!(found.contains(&format!("expected an opcode of plain data, found {name}")), "{found}");
    }
    let stacked = Pickle::default().raw(b"\x80\x04").text("os").text("system").raw(b"\x93)R.");
    assert!(error(file(&stacked)).contains("found `os.system`"));
}

#[test]
fn broken_pickles() {
    let with = |view: View<'_>| Pickle::dict(&[("emb.weight", view)]);
    let raw = |bytes: &[u8]| Pickle(bytes.to_vec());
    let cases = [
        ("pickle at byte 0: expected 1 bytes", raw(b"")),
        ("pickle at byte 2: expected protocol 2 to 5, found 0", raw(b"\x80\0.")),
        ("pickle at byte 1: expected a value on the stack", raw(b".")),
        ("pickle at byte 3: expected a value on the stack", raw(b"((.")),
        ("pickle at byte 2: expected a dictionary, found None", raw(b"N.")),
        ("pickle at byte 1: expected a mark, found none", raw(b"t.")),
        ("pickle at byte 2: expected a remembered value", raw(b"h\x07.")),
        ("pickle at byte 6: expected 4294967295 bytes", raw(b"}X\xff\xff\xff\xff.")),
        ("pickle at byte 5: expected keys with values", raw(b"}(K\0u.")),
        ("pickle at byte 2: expected a number of 63 bits", raw(b"\x8a\x09........")),
        ("pickle: expected names as keys, found a number", raw(b"}K\0K\0s.")),
        ("`a`: expected a tensor, found a number", raw(b"}\x8c\x01aK\0s.")),
        ("tensor `emb.weight`: type Double is not supported", with(View { class: "DoubleStorage", ..PLAIN })),
        ("storage `9` of tensor `emb.weight` is missing", with(View { key: "9", ..PLAIN })),
        ("storage `../version` of tensor", with(View { key: "../version", ..PLAIN })),
        ("tensor `emb.weight`: expected a storage of 7 values", with(View { len: 7, ..PLAIN })),
        ("tensor `emb.weight`: expected a part of 6 values", with(View { offset: 1, ..PLAIN })),
        ("tensor `emb.weight`: expected a part of 6 values", with(View { stride: &[4, 1], ..PLAIN })),
        ("tensor `emb.weight`: expected a part of 6 values", with(View { stride: &[1], ..PLAIN })),
        // One value of the storage many times over.
        ("tensor `emb.weight`: expected a part of 6 values", {
            with(View { shape: &[1 << 20, 1 << 10], stride: &[0, 0], ..PLAIN })
        }),
        ("tensor `emb.weight`: expected a part of 6 values", {
            with(View { shape: &[i32::MAX; 3], stride: &[1, 1, 1], ..PLAIN })
        }),
        ("tensor `emb.weight`: expected 1 to 4 dimensions", with(View { shape: &[0, 3], ..PLAIN })),
        ("tensor `emb.weight`: expected 1 to 4 dimensions", with(View { shape: &[], stride: &[], ..PLAIN })),
        ("expected a size, found -1", with(View { offset: -1, ..PLAIN })),
        ("expected at most 8 dimensions, found 9", with(View { shape: &[1; 9], stride: &[1; 9], ..PLAIN })),
    ];
    for (expected, pickle) in cases {
        let found = error(file(&pickle));
        assert!(found.contains(expected), "expected {expected}, found {found}");
    }
    // Deep nesting is neither deep in memory nor on the stack.
    let deep = [&b"\x80\x02)"[..], &b"\x85".repeat(1 << 20), b"."].concat();
    assert!(error(file(&Pickle(deep))).contains("expected a dictionary, found a tuple"));
}

#[test]
fn broken_archives() {
    let whole = file(&Pickle::dict(&[("emb.weight", PLAIN)]));
    read(whole.clone()).unwrap();
    let end = whole.len() - 22;
    let put = |at: usize, bytes: &[u8]| {
        let mut broken = whole.clone();
        broken[at..at + bytes.len()].copy_from_slice(bytes);
        broken
    };
    let start = u32::from_le_bytes(whole[end + 16..end + 20].try_into().unwrap()) as usize;
    let cases = [
        ("zip archive: expected a directory of entries at its end", whole[..end + 21].to_vec()),
        ("zip archive: expected a directory of entries at its end", put(end + 16, &[0xff; 4])),
        ("zip archive: expected an entry of its directory", put(start, b"??")),
        ("zip archive: expected an entry of its directory", put(start + 28, &[0xff; 2])),
        ("zip entry `x/data.pkl`: expected bytes as they are, found deflated ones", put(start + 10, &[8])),
        ("zip entry `x/data.pkl`: expected bytes as they are, found method 99", put(start + 10, &[99])),
        ("zip entry `x/data.pkl`: expected bytes as they are, found encrypted ones", put(start + 8, &[1])),
        ("zip entry `x/data.pkl`: expected data inside the file", put(start + 24, &[0xff; 4])),
        ("zip entry `x/data.pkl`: expected data inside the file", put(start + 42, &[0xff; 4])),
        ("zip entry `x/data.pkl`: expected data inside the file", put(start + 42, &[1])),
        ("zip entry `\\xff/data.pkl`: expected UTF-8", put(start + 46, &[0xff])),
        ("zip entry `a`: expected one, found a second", zip(&[("a", b""), ("a", b"")])),
        ("entry `data.pkl` of PyTorch is missing", zip(&[("x/data.pk", b"")])),
        ("big-endian PyTorch data is not supported", zip(&[("x/data.pkl", b"}."), ("x/byteorder", b"big")])),
    ];
    for (expected, bytes) in cases {
        let found = error(bytes);
        assert!(found.starts_with(&format!("x.pth: {expected}")), "expected {expected}, found {found}");
    }
    // Every cut and every changed byte: an error or a file, and never a panic.
    for at in 0..whole.len() {
        _ = read(whole[..at].to_vec());
        for byte in [0, 1, 0x7f, 0xff] {
            _ = read(put(at, &[byte]));
        }
    }
}

/// As PyTorch writes what begins behind 4 GiB: the numbers stand in wide records.
#[test]
fn wide_archives() {
    let mut bytes = file(&Pickle::dict(&[("emb.weight", PLAIN)]));
    let end = bytes.len() - 22;
    let field = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as u64;
    let (mut at, start) = (field(&bytes, end + 16) as usize, field(&bytes, end + 16));
    let old = bytes.split_off(at);
    let (mut directory, narrow) = (vec![], [0xff; 4]);
    at = 0;
    while old[at..].starts_with(b"PK\x01\x02") {
        let (size, offset, name) = (field(&old, at + 24), field(&old, at + 42), old[at + 28] as usize);
        let mut entry = old[at..at + 46 + name].to_vec();
        for narrowed in [20, 24, 42] {
            entry[narrowed..narrowed + 4].copy_from_slice(&narrow);
        }
        // A record of another kind, then the wide one: size, packed size, offset.
        let wide = [size, size, offset].map(u64::to_le_bytes).concat();
        let extra = [&b"FB\x02\0zz\x01\0\x18\0"[..], &wide].concat();
        entry[30] = extra.len() as u8;
        directory.extend([entry, extra].concat());
        at += 46 + name;
    }
    let numbers = |numbers: &[u64]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
    let (size, wide_end) = (directory.len() as u64, start + directory.len() as u64);
    let wide = [&b"PK\x06\x06"[..], &numbers(&[44]), &[0; 12], &numbers(&[4, 4, size, start])].concat();
    let locator = [&b"PK\x06\x07\0\0\0\0"[..], &numbers(&[wide_end]), &[1, 0, 0, 0]].concat();
    let last = [&b"PK\x05\x06\0\0\0\0"[..], &[0xff; 12], &[0; 2]].concat();
    bytes.extend([directory, wide, locator, last].concat());
    assert!(read(bytes.clone()).unwrap().tensors.contains_key("emb.weight"));
    for at in start as usize..bytes.len() {
        for byte in [0, 0x80, 0xff] {
            let mut broken = bytes.clone();
            broken[at] = byte;
            _ = read(broken);
        }
    }
}

#[test]
fn older_files_are_refused_by_name() {
    let old = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";
    let error = read(old.to_vec()).err().unwrap();
    assert!(
        matches!(&error, Error::UnsupportedModel { what, .. } if what.contains("before version 1.6")),
        "{error}"
    );
}

/// What `torch.save` itself writes, beside the same tensors as safetensors; `tools/witness_models.py` has both
/// written where PyTorch is installed.
#[test]
fn files_of_torch_hold_the_same_tensors() {
    let witness = std::env::var_os("WITNESS_DIR").map(|d| Path::new(&d).join("models"));
    let Some(directory) = witness.filter(|d| d.join("torch-f32.pth").exists()) else {
        return eprintln!("skipped: no files of torch (make test writes them where PyTorch is installed)");
    };
    for (name, format) in [("f32", Format::F32), ("f16", Format::F16), ("bf16", Format::BF16)] {
        let open = |kind: &str| Checkpoint::open(&directory.join(format!("torch-{name}.{kind}"))).unwrap();
        let (a, b) = (open("pth"), open("st"));
        assert_eq!((a.version, a.tensors.len()), (b.version, b.tensors.len()));
        for (name, x) in &a.tensors {
            let y = &b.tensors[name];
            assert_eq!((x.format, &x.shape), (format, &y.shape), "{name}");
            assert!(x.data[..] == y.data[..], "{name}");
        }
    }
}
