//! Any bytes: an error, or a tokenizer that gives each of its tokens back.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(tokenizer) = web_rwkv_gguf::Tokenizer::from_bytes("fuzz", data) {
        for id in 0..tokenizer.vocab_len() as u32 {
            let Some(token) = tokenizer.token(id) else { continue };
            let ids = tokenizer.encode(token).expect("a token covers itself");
            assert_eq!(tokenizer.decode(&ids).expect("its ids are in the vocabulary"), token);
        }
    }
});
