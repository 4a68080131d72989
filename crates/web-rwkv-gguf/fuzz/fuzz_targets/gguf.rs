//! Any bytes behind the magic of GGUF: an error or a consistent file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let file = [b"GGUF", bytes].concat();
    if let Ok(file) = web_rwkv_gguf::load::Checkpoint::from_bytes("fuzz", file.into()) {
        for t in file.tensors.values() {
            let (row, rows) = t.shape.split_last().expect("no tensor is a scalar");
            let row = t.format.row_bytes(*row).expect("rows are whole blocks");
            assert_eq!(row * rows.iter().product::<usize>(), t.data.len());
        }
    }
});
