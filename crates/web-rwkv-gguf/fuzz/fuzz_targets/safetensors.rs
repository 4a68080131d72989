//! Any header with the right length, and 256 bytes of data: an error or a consistent file.
#![no_main]

libfuzzer_sys::fuzz_target!(|header: &[u8]| {
    let file = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 256]].concat();
    if let Ok(file) = web_rwkv_gguf::load::Checkpoint::from_bytes("fuzz", file.into()) {
        for t in file.tensors.values() {
            let (row, rows) = t.shape.split_last().expect("no tensor is a scalar");
            let row = t.format.row_bytes(*row).expect("rows are whole blocks");
            assert_eq!(row * rows.iter().product::<usize>(), t.data.len());
        }
    }
});
