//! Any bytes as a zip archive, and as the pickle of one with 256 bytes of storage: an error or a consistent file.
#![no_main]

use web_rwkv_gguf::load::Checkpoint;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let archives = [[b"PK\x03\x04", bytes].concat(), archive(bytes)];
    for archive in archives {
        let Ok(file) = Checkpoint::from_bytes("fuzz", archive.into()) else { continue };
        for t in file.tensors.values() {
            let (row, rows) = t.shape.split_last().expect("no tensor is a scalar");
            let row = t.format.row_bytes(*row).expect("rows are whole blocks");
            assert_eq!(row * rows.iter().product::<usize>(), t.data.len());
        }
    }
});

/// A stored archive of `data.pkl` and `data/0`.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let (mut out, mut directory) = (vec![], vec![]);
    for (name, data) in [("x/data.pkl", pickle), ("x/data/0", &[0; 256])] {
        let (len, at) = ((data.len() as u32).to_le_bytes(), (out.len() as u32).to_le_bytes());
        let header = [&[20, 0][..], &[0; 12], &len, &len, &[name.len() as u8, 0, 0, 0]].concat();
        directory.extend([b"PK\x01\x02\x14\0", &header[..], &[0; 10], &at, name.as_bytes()].concat());
        out.extend([b"PK\x03\x04", &header[..], name.as_bytes(), data].concat());
    }
    let (size, at) = ((directory.len() as u32).to_le_bytes(), (out.len() as u32).to_le_bytes());
    out.extend(directory);
    out.extend([b"PK\x05\x06\0\0\0\0\x02\0\x02\0", &size[..], &at, &[0; 2]].concat());
    out
}
