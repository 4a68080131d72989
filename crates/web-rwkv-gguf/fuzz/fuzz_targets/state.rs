//! Any bytes: an error, or a state that gives the same bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(state) = web_rwkv_gguf::State::from_bytes("fuzz", data) {
        assert_eq!(state.to_bytes().unwrap(), data);
    }
});
