//! The tokenizer against the reference's ids (`tools/witness_tokenizer.py`) and by hand.

use std::path::{Path, PathBuf};

use web_rwkv_gguf::{Error, Tokenizer};

fn small() -> Tokenizer {
    // Id 4 is a gap, and 6 has the bytes of 1.
    let vocab: [&[u8]; 8] = [b"", b"a", b"ab", b"abcd", b"", b"c", b"a", b"\xff\xfe"];
    Tokenizer::new(vocab.map(<[u8]>::to_vec).into())
}

fn file(name: &str, content: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("web-rwkv-tokenizer-{}-{name}", std::process::id()));
    std::fs::write(&path, content).unwrap();
    path
}

fn open(name: &str, content: &[u8]) -> Result<Tokenizer, Error> {
    let path = file(name, content);
    let result = Tokenizer::open(&path);
    std::fs::remove_file(path).unwrap();
    result
}

#[test]
fn longest_match_and_back() {
    let tokenizer = small();
    assert_eq!(tokenizer.vocab_len(), 8);
    assert_eq!(
        (tokenizer.token(3), tokenizer.token(4), tokenizer.token(8)),
        (Some(&b"abcd"[..]), None, None)
    );
    for (text, ids) in [
        (&b""[..], &[][..]),
        (b"a", &[6]),
        (b"abc", &[2, 5]),
        (b"abcda", &[3, 6]),
        (b"aabcabcd", &[6, 2, 5, 3]),
        (b"c\xff\xfe", &[5, 7]),
    ] {
        assert_eq!(tokenizer.encode(text).unwrap(), ids);
        assert_eq!(tokenizer.decode(ids).unwrap(), text);
    }
    assert_eq!(tokenizer.decode(&[0, 1, 0, 5, 0]).unwrap(), b"ac");
}

#[test]
fn what_no_token_covers() {
    let tokenizer = small();
    for (text, at, value) in [(&b"abz"[..], 2, b'z'), (b"abd", 2, b'd'), (b"a\xff", 1, 0xff), (b"b", 0, b'b')]
    {
        let error = tokenizer.encode(text).unwrap_err();
        assert!(matches!(error, Error::Untokenizable { byte, offset } if byte == value && offset == at));
    }
    for id in [4, 8, u32::MAX] {
        let error = tokenizer.decode(&[1, id]).unwrap_err();
        assert!(matches!(error, Error::Token { token, vocab: 8 } if token == id));
    }
    assert!(matches!(Tokenizer::new(Vec::new()).encode("a"), Err(Error::Untokenizable { .. })));
}

#[test]
fn python_literals() {
    let lines = "1 ' ' 1\r\n2 '\\u00e9\\x41\\101\\\\' 5\n3 b\"\\xff'\" 2\n\n900 'é\" \\'' 5\n4 '\\q' 2";
    let tokenizer = open("good.txt", lines.as_bytes()).unwrap();
    assert_eq!(tokenizer.vocab_len(), 901);
    assert_eq!(tokenizer.token(1), Some(&b" "[..]));
    assert_eq!(tokenizer.token(2), Some("éAA\\".as_bytes()));
    assert_eq!(tokenizer.token(3), Some(&b"\xff'"[..]));
    assert_eq!(tokenizer.token(900), Some("é\" '".as_bytes()));
    assert_eq!(tokenizer.token(4), Some(&b"\\q"[..]));
}

#[test]
fn a_vocabulary_in_memory_is_named() {
    assert_eq!(Tokenizer::from_bytes("v.txt", b"1 'a' 1").unwrap().encode("aa").unwrap(), [1, 1]);
    let error = Tokenizer::from_bytes("v.txt", b"1 'a' 1\n2 b 1").err().unwrap().to_string();
    assert!(error.starts_with("v.txt: line 2: "), "{error}");
}

#[test]
fn json() {
    let ids = open("ids.json", br#" {"1": "a", "7": "\u00e9", "3": [255, 0]}"#).unwrap();
    assert_eq!(ids.encode(b"a\xc3\xa9\xff\x00").unwrap(), [1, 7, 3]);
    let tokens = open("tokens.json", r#"{"a": 1, "é": 7, "aé": 0}"#.as_bytes()).unwrap();
    assert_eq!(tokens.encode("aaé").unwrap(), [1, 0]);
    assert_eq!(tokens.decode(&[1, 0]).unwrap(), "aaé".as_bytes());
}

#[test]
fn bad_files() {
    for (index, (content, at)) in [
        (&b"1 'a' 1\n2 'b'\n"[..], "line 2"),
        (b"1 'a' 1\n2\n", "line 2"),
        (b"x 'a' 1", "line 1"),
        (b"-1 'a' 1", "line 1"),
        (b"99999999999 'a' 1", "line 1"),
        (b"1 'a' 2", "line 1"),
        (b"1 'a' x", "line 1"),
        (b"1 'a\" 1", "line 1"),
        (b"1 ' 1", "line 1"),
        (b"1 'a\\' 2", "line 1"),
        (b"1 'a'b' 3", "line 1"),
        (b"1 '\\xg0' 1", "line 1"),
        (b"1 '\\x\xc3\xa9' 1", "line 1"),
        (b"1 '\\x+1' 1", "line 1"),
        (b"1 '\\ud800' 3", "line 1"),
        (b"1 '\\U00110000' 4", "line 1"),
        (b"1 b'\xc3\xa9' 2", "line 1"),
        (b"1 'a' 1\n\xff", "line 2"),
        (b"", "missing"),
        (b"{}", "missing"),
        (b"{\"1\":\n\"a\"", "line 2"),
        (b"{\"x\": \"a\"}", "key `x`"),
        (b"{\"1\": [256]}", "key `1`"),
        (b"{\"1\": null}", "key `1`"),
        (b"{\"a\": -1}", "key `a`"),
        (b"{\"99999999999\": \"a\"}", "key `99999999999`"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("bad-{index}");
        let error = open(&name, content).err().unwrap_or_else(|| panic!("{content:?} passed")).to_string();
        assert!(error.contains(&name) && error.contains(at), "{error}");
    }
    let missing = Tokenizer::open(Path::new("/no/such/vocab.txt"));
    assert!(matches!(missing, Err(Error::Io { file, .. }) if file == "/no/such/vocab.txt"));
}

fn witness() -> Option<PathBuf> {
    let dir = std::env::var_os("WITNESS_DIR").map(|dir| PathBuf::from(dir).join("tokenizer"));
    if dir.is_none() {
        println!("skipped: WITNESS_DIR is not set (tools/witness_tokenizer.py OUT_DIR)");
    }
    dir
}

#[derive(Debug)]
struct Case {
    text: Vec<u8>,
    ids: Vec<u32>,
}

fn cases(path: &Path) -> Vec<Case> {
    let case = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let hex = line["hex"].as_str().unwrap();
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let ids = line["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32);
        Case { text: (0..hex.len()).step_by(2).map(byte).collect(), ids: ids.collect() }
    };
    std::fs::read_to_string(path).unwrap().lines().map(case).collect()
}

#[test]
fn ids_of_the_reference() {
    let Some(dir) = witness() else { return };
    for (vocab, witness, least) in [
        ("vocab.txt", "cases.jsonl", 2000),
        ("vocab.json", "cases.jsonl", 2000),
        ("odd.txt", "odd.jsonl", 100),
    ] {
        let tokenizer = Tokenizer::open(&dir.join(vocab)).unwrap();
        let cases = cases(&dir.join(witness));
        assert!(cases.len() >= least);
        for case in cases {
            assert_eq!(tokenizer.encode(&case.text).unwrap(), case.ids, "{vocab}: {case:?}");
            assert_eq!(tokenizer.decode(&case.ids).unwrap(), case.text, "{vocab}: {case:?}");
        }
    }
}

/// Prints MB/s over the texts of the witness; `cargo test --release -- --ignored --nocapture encoding_rate`.
#[test]
#[ignore = "a measurement"]
fn encoding_rate() {
    let Some(dir) = witness() else { return };
    let opening = std::time::Instant::now();
    let tokenizer = Tokenizer::open(&dir.join("vocab.txt")).unwrap();
    println!("open: {:?}", opening.elapsed());
    let cases = cases(&dir.join("cases.jsonl"));
    let samples: Vec<_> = cases[1..15].iter().map(|case| case.text.as_slice()).collect(); // SAMPLES
    let prose = std::env::var_os("TOKENIZER_TEXT").map(|path| std::fs::read(path).unwrap());
    let all: Vec<_> = cases.iter().map(|case| case.text.as_slice()).collect();
    for (name, text) in [("samples", samples.concat()), ("all cases", all.concat())]
        .into_iter()
        .chain(prose.map(|text| ("$TOKENIZER_TEXT", text)))
    {
        let text = text.repeat((16 << 20) / text.len() + 1);
        let start = std::time::Instant::now();
        let tokens = tokenizer.encode(&text).unwrap();
        let rate = text.len() as f64 / start.elapsed().as_secs_f64() / 1e6;
        println!("{name}: {rate:.1} MB/s, {:.2} bytes a token", text.len() as f64 / tokens.len() as f64);
    }
}
