//! The command itself, as a user runs it.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

/// On the CPU, also where there is a GPU.
fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_web-rwkv"));
    command.env("WEB_RWKV_DEVICE", "cpu");
    command
}

fn run(args: &[&str], input: &[u8]) -> Output {
    let piped = Stdio::piped;
    let mut child = command().args(args).stdin(piped()).stdout(piped()).stderr(piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // The command may end without having read its input.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// Standard output of a run that must succeed.
fn good(args: &[&str], input: &[u8]) -> Vec<u8> {
    let output = run(args, input);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The one line of standard error of a run that must fail with `code`.
fn bad(args: &[&str], input: &[u8], code: i32) -> String {
    let output = run(args, input);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    stderr
}

fn json(bytes: &[u8]) -> Vec<Value> {
    std::str::from_utf8(bytes).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/rwkv7-mail")
}

fn demo(file: &str) -> String {
    models().join("demo").join(file).to_str().unwrap().to_owned()
}

fn written(name: &str, bytes: &[u8]) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Every value stands in the document where its range says, but for white space.
fn check_spans(line: &Value) -> usize {
    let document = line["document"].as_str().unwrap();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut found = 0;
    for field in line["fields"].as_object().unwrap().values() {
        let Some(value) = field["value"].as_str() else { continue };
        let at = |i: usize| field["range"][i].as_u64().unwrap() as usize;
        assert_eq!(words(&document[at(0)..at(1)]), words(value));
        found += 1;
    }
    found
}

#[test]
fn extract_gives_values_that_stand_in_the_mail() {
    let expected = fs::read(models().join("demo-emails.jsonl")).unwrap();
    for mail in json(&expected) {
        let id = mail["id"].as_str().unwrap();
        let (eml, schema) = (demo(&format!("{id}.eml")), demo(&format!("{id}.toml")));
        let lines = json(&good(&["extract", &eml, "--schema", &schema], b""));
        assert_eq!(lines.len(), 1);
        let line = &lines[0];
        assert_eq!(line["file"], eml);
        assert_eq!(line["document"], mail["email"]);
        let names = |of: &Value| of.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&line["fields"]), names(&mail["schema"]));
        assert!(check_spans(line) > 0, "{line}");
        assert!(line["ms"]["doc_state"].is_number() && line["doc_tokens"].as_u64() > Some(0));
    }
}

#[test]
fn extract_reads_standard_input_and_prints_tables() {
    let schema = written("order.json", br#"{"order_number": "number of the order"}"#);
    let mail = fs::read(demo("shipping.eml")).unwrap();
    let line = &json(&good(&["extract", "--schema", &schema], &mail))[0];
    assert_eq!(line["file"], "standard input");
    let table = String::from_utf8(good(&["extract", "-", "--table", "--schema", &schema], &mail)).unwrap();
    assert!(table.contains("order_number") && table.contains("doc state"), "{table}");
    let plain = b"Hello Nadia,\n\nyour order ORD-88213 was handed over to DHL.\n";
    let line = &json(&good(&["extract", "--schema", &schema], plain))[0];
    assert_eq!(line["document"].as_str().unwrap().as_bytes(), plain);
    check_spans(line);
    let like_a_mail = b"Sent: 12 June\nSubject: Your order\n\nIt is ORD-88213.\n";
    let line = &json(&good(&["extract", "--text", "--schema", &schema], like_a_mail))[0];
    assert_eq!(line["document"].as_str().unwrap().as_bytes(), like_a_mail);
}

#[test]
fn a_mail_that_cannot_be_read_does_not_stop_the_others() {
    let (eml, schema, empty) = (demo("support.eml"), demo("support.toml"), written("empty.eml", b""));
    let output = run(&["extract", "absent.eml", &empty, &eml, "--schema", &schema], b"");
    assert_eq!(output.status.code(), Some(1));
    let lines = json(&output.stdout);
    assert_eq!((lines.len(), lines[0]["file"].as_str()), (1, Some(eml.as_str())));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let errors: Vec<_> = stderr.lines().collect();
    assert_eq!(errors.len(), 2, "{stderr}");
    assert!(errors[0].starts_with("web-rwkv: absent.eml: "), "{stderr}");
    assert!(errors[1].contains("empty.eml: expected a mail or text"), "{stderr}");
}

#[test]
fn errors_are_one_line_with_the_name_of_the_file() {
    let eml = demo("invoice.eml");
    let schema = demo("invoice.toml");
    let broken = written("broken.toml", b"a = \"x\"\nb =\n");
    let number = written("number.json", b"{\"a\": 1}");
    let junk = written("junk.gguf", b"GGUF and nothing else");
    let cases: [(&[&str], &str); 7] = [
        (&["info", env!("CARGO_TARGET_TMPDIR")], ": expected a file, found a directory"),
        (&["extract", &eml, "--schema", &broken], "broken.toml: schema: line 2: "),
        (&["extract", &eml, "--schema", &number], "number.json: field `a`: expected a description, found 1"),
        (&["extract", &eml, "--schema", "absent.toml"], "absent.toml: "),
        (&["extract", &eml, "--schema", &schema, "--model", &junk], "junk.gguf: "),
        (&["info", "absent.gguf"], "absent.gguf: "),
        (&["tokenize", "--decode", "99999"], "99999"),
    ];
    for (args, expected) in cases {
        let stderr = bad(args, b"", 1);
        assert!(stderr.starts_with("web-rwkv: ") && stderr.contains(expected), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    for args in [&["extract"][..], &["frobnicate"], &["bench", "--repeats", "0"], &[]] {
        bad(args, b"", 2);
    }
    let level = if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" };
    let cases: [(&[&str], &str); 14] = [
        (&["info", "--simd", "mmx"], "expected one that this machine has: scalar"),
        (&["info", "--simd", level], "expected one that this machine has: scalar"),
        (&["info", "--threads", "0"], "0 is not in 1..=1024"),
        (&["info", "--threads", "1025"], "1025 is not in 1..=1024"),
        (&["info", "--lora", "x.pth"], "--alpha <X>"),
        (&["info", "--alpha", "8"], "--lora <FILE>"),
        (&["generate", "a", "--temperature", "nan"], "expected a number from 0 on"),
        (&["generate", "a", "--temperature", "-1"], "expected a number from 0 on"),
        (&["generate", "a", "--top-p", "2"], "expected a number from 0 to 1"),
        (&["generate", "a", "--penalty-decay", "1.5"], "expected a number from 0 to 1"),
        (&["generate", "a", "--presence-penalty", "inf"], "expected a finite number"),
        (&["generate", "a", "--max-tokens", "0"], "0 is not in 1.."),
        (&["extract", "--schema", "x", "--max-tokens", "0"], "0 is not in 1.."),
        (&["extract", "--schema", "x", "--none-bias", "nan"], "expected a finite number"),
    ];
    for (args, expected) in cases {
        let stderr = bad(args, b"", 2);
        assert!(stderr.contains(expected), "{args:?}: {stderr}");
    }
    good(&["generate", "a", "--max-tokens", "1", "--presence-penalty", "-0.5"], b"");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_error_changes_no_exit_code() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = command().args(["info", "/nope"]).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn a_dash_is_standard_input() {
    let (prompt, lines) = (b"Subject: Invoice", b"first\n\n \t\r\nsec\xffond\r\n");
    let greedy = ["generate", "--json", "--max-tokens", "3", "--temperature", "0"];
    let text = |args: &[&str]| json(&good(args, prompt))[0]["tokens"].clone();
    assert_eq!(text(&greedy), text(&[&greedy[..], &["-"]].concat()));
    assert_eq!(good(&["tokenize", "-"], prompt), good(&["tokenize", "Subject: Invoice"], b""));
    let embedded = json(&good(&["embed", "-"], lines));
    assert_eq!(embedded.len(), 2, "blank lines are skipped");
    assert_eq!((&embedded[0]["text"], &embedded[1]["text"]), (&"first".into(), &"sec\u{fffd}ond".into()));
    assert_eq!(good(&["embed"], lines), good(&["embed", "-"], lines));
}

#[test]
fn what_is_named_twice_is_measured_once() {
    let args = ["bench", "--json", "--lengths", "4,2,4", "--sequences", "2,1,2", "--repeats", "1"];
    let line = &json(&good(&args, b""))[0];
    let names: Vec<_> = line["measured"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names[..4], ["load", "load to first token", "prefill 4 tokens", "prefill 2 tokens"]);
    assert_eq!(names[4..6], ["decode 64 tokens of 2 sequences", "decode 64 tokens"]);
    let percent = |name: &str| &line["measured"][name]["percent"];
    assert!(percent("prefill 2 tokens").is_number() && percent("decode 64 tokens").is_number());
    assert!(percent("decode 64 tokens of 2 sequences").is_null());
}

#[test]
fn tokens_are_the_text_again() {
    let text = "Grüße, 世界!\n\n\tTotal: €1,284.60 \u{1f600}\r\n".as_bytes();
    for text in [text, b"\xff\x00\xfe raw bytes", b""] {
        let ids = good(&["tokenize"], text);
        assert_eq!(good(&["tokenize", "--decode"], &ids), text);
    }
    let line = &json(&good(&["tokenize", "--json", "invoice"], b""))[0];
    assert!(!line["tokens"].as_array().unwrap().is_empty());
}

#[test]
fn info_tells_sizes() {
    let line = &json(&good(&["info", "--json"], b""))[0];
    assert_eq!(
        (line["layers"].as_u64(), line["channels"].as_u64(), line["vocab"].as_u64()),
        (Some(8), Some(512), Some(8192))
    );
    let file = models().join("rwkv7-mail-q4_k_m.gguf");
    let text = String::from_utf8(good(&["info", file.to_str().unwrap()], b"")).unwrap();
    assert!(text.contains("RWKV-7") && text.contains("q4_k") && text.contains("in the file"), "{text}");
    let vocab = written("vocabulary.txt", b"1 'a' 1\n");
    let text = String::from_utf8(good(&["info", "--vocab", &vocab], b"")).unwrap();
    assert!(text.contains(&format!("8192 tokens, in {vocab}")), "{text}");
}

/// Models that `make test` writes: skipped where it did not.
#[test]
fn info_tells_the_version() {
    let Some(witness) = std::env::var_os("WITNESS_DIR") else {
        return eprintln!("skipped: no witness (make test writes it)");
    };
    for (file, version) in [("v4", "RWKV-4"), ("v5_0", "RWKV-5"), ("v6", "RWKV-6")] {
        let path = Path::new(&witness).join(format!("versions/{file}.safetensors"));
        let line = &json(&good(&["info", "--json", path.to_str().unwrap()], b""))[0];
        assert_eq!((line["version"].as_str(), line["layers"].as_u64()), (Some(version), Some(4)));
    }
}

#[test]
fn tuned_files_that_do_not_fit_are_named() {
    let model = models().join("rwkv7-mail-q4_k_m.gguf");
    let model = model.to_str().unwrap();
    for (args, expected) in [
        (["info", "--alpha", "8", "--lora", model], "expected a LoRA in safetensors or PyTorch's .pth"),
        (["info", "--alpha", "8", "--lora", "/nope"], "/nope: "),
        (["generate", "a", "--state", model, "--json"], "expected a state of RWKV"),
    ] {
        let stderr = bad(&args, b"", 1);
        assert!(stderr.contains(expected), "{args:?}: {stderr}");
    }
}

#[test]
fn embeddings_have_the_width_of_the_model() {
    let vectors = |pool: &str, key: &str| -> Vec<Value> {
        let lines = json(&good(&["embed", "--pool", pool], b"first text\nsecond\n"));
        assert_eq!(lines.len(), 2);
        lines.into_iter().map(|mut l| l[key].take()).collect()
    };
    let (last, every) = (vectors("last", "embedding"), vectors("none", "embeddings"));
    let mean = vectors("mean", "embedding");
    for i in 0..2 {
        let rows = every[i].as_array().unwrap();
        assert_eq!(last[i], rows[rows.len() - 1]);
        let sum: f64 = rows.iter().map(|r| r[7].as_f64().unwrap()).sum();
        assert!((sum / rows.len() as f64 - mean[i][7].as_f64().unwrap()).abs() < 1e-4);
        assert_eq!(last[i].as_array().unwrap().len(), 512);
    }
    assert!(bad(&["embed", ""], b"", 1).contains("text 1: expected at least one token"));
}

#[test]
fn generation_is_reproducible() {
    let args = ["generate", "Subject: Invoice", "--max-tokens", "12", "--temperature", "1", "--seed", "5"];
    let text = good(&args, b"");
    assert_eq!(text, good(&args, b""));
    let greedy = ["generate", "--json", "--max-tokens", "5", "--temperature", "0"];
    let line = &json(&good(&greedy, b"Subject: Invoice"))[0];
    assert!(line["tokens"].as_array().unwrap().len() <= 5 && line["prompt_tokens"].as_u64() > Some(0));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = command()
        .args(["embed", "--pool", "none"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    child.stdin.take().unwrap().write_all("a text of some words\n".repeat(50).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());

    // A text without end is cut short.
    let endless =
        ["generate", "Subject:", "--max-tokens", "1000000000", "--top-p", "1", "--temperature", "2"];
    let mut child = command().args(endless).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

/// A safetensors file of zeros, which takes no room on the disk: of an RWKV-7 what `quantize` needs to see.
fn zeros(name: &str, vocab: usize) -> PathBuf {
    let mut tensors = vec![];
    for name in ["emb.weight", "head.weight"] {
        tensors.push((name.to_owned(), vec![vocab, 1024]));
    }
    for layer in ["blocks.0", "blocks.1"] {
        for lora in ["w", "a", "v", "g"] {
            tensors.push((format!("{layer}.att.{lora}1"), vec![1024, 64]));
        }
        tensors.push((format!("{layer}.ffn.key.weight"), vec![4096, 1024]));
    }
    let mut end = 0;
    let info = tensors.iter().map(|(name, shape)| {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        (name.clone(), serde_json::json!({ "dtype": "F16", "shape": shape, "data_offsets": [start, end] }))
    });
    let header = Value::Object(info.collect()).to_string();
    let path = PathBuf::from(written(name, &(header.len() as u64).to_le_bytes()));
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
    path
}

#[cfg(target_os = "linux")]
#[test]
fn quantize_needs_a_fraction_of_the_memory_of_a_model() {
    let (model, vocab) = (zeros("zeros.safetensors", 65536), written("short.txt", b"1 'a' 1\n"));
    let output = model.with_extension("gguf");
    assert!(fs::metadata(&model).unwrap().len() > 280_000_000);
    // 32 MiB for everything that is not the file itself, whose pages leave when they are read.
    let script = r#"ulimit -d 32768; exec "$0" "$@" & child=$!
        while peak=$(grep VmHWM /proc/$child/status 2>/dev/null); do last=$peak; sleep 0.02; done
        wait $child && echo "$last""#;
    let quantize =
        [env!("CARGO_BIN_EXE_web-rwkv"), "quantize", "--type", "q4_k_m", "--threads", "2", "--vocab", &vocab];
    let done =
        Command::new("sh").args(["-c", script]).args(quantize).arg(&model).arg(&output).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let told = String::from_utf8(done.stdout).unwrap();
    assert!(told.contains("zeros.gguf: 143.1 M weights"), "{told}");
    // The peak of the process, with what is mapped: 69 MB of the quantized model were written.
    if let Some(peak) = told.lines().last().and_then(|l| l.strip_prefix("VmHWM:")) {
        let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(kib < 65_536, "{kib} KiB");
    }
    assert!(!PathBuf::from(format!("{}.part", output.display())).exists());
    fs::remove_file(output).unwrap();
}

#[test]
fn files_that_cannot_be_made_leave_nothing_behind() {
    let embedded = models().join("rwkv7-mail-q4_k_m.gguf").to_str().unwrap().to_owned();
    let vocab = written("one.txt", b"1 'a' 1\n");
    let out = |name: &str| Path::new(env!("CARGO_TARGET_TMPDIR")).join(name).to_str().unwrap().to_owned();
    let odd = zeros("odd.safetensors", 512);
    let mut nan = fs::read(&odd).unwrap();
    let len = nan.len();
    nan[len - 1] = 0x7e;
    let nan = written("nan.safetensors", &nan);
    let odd = odd.to_str().unwrap();
    let many = written(
        "many.txt",
        &(1..=600)
            .flat_map(|i| format!("{i} 'a{i}' {}\n", 1 + i.to_string().len()).into_bytes())
            .collect::<Vec<_>>(),
    );
    let cases: [(&[&str], &str); 7] = [
        (&["convert", "absent.gguf", &out("a.gguf")], "absent.gguf: "),
        (&["convert", &embedded, &out("a.pth")], "expected a name that ends in .gguf, .safetensors or .st"),
        (&["convert", &embedded, &out("absent/a.gguf")], "absent/a.gguf.part: "),
        (&["convert", odd, &out("a.gguf")], "odd.safetensors: the vocabulary, which GGUF needs, is missing"),
        (
            &["convert", odd, &out("a.gguf"), "--vocab", &many],
            "expected at most 512 tokens, as the embedding has, found 601",
        ),
        (
            &["quantize", &nan, &out("a.gguf"), "--vocab", &vocab, "--type", "q4_0"],
            "expected values that q4_0 can hold, found NaN",
        ),
        (
            &["compare", &embedded, &embedded, "--text", &written("no.txt", b"")],
            "no.txt: expected at least one token",
        ),
    ];
    for (args, expected) in cases {
        let stderr = bad(args, b"", 1);
        assert!(stderr.contains(expected), "{args:?}: {stderr}");
        assert!(!Path::new(&out("a.gguf")).exists() && !Path::new(&out("a.gguf.part")).exists());
    }
    for (args, expected) in [
        (&["quantize", "a", "b.gguf", "--type", "q9"][..], "expected one of f32, f16"),
        (&["quantize", "a", "b.st", "--type", "q8_0"], "expected a name that ends in .gguf"),
        (
            &["quantize", "a", "b.gguf", "--type", "q8_0", "--tensor", "head"],
            "expected a part of a tensor's name",
        ),
        (&["compare", "a", "b"], "--text"),
    ] {
        let stderr = bad(args, b"", 2);
        assert!(stderr.contains(expected), "{args:?}: {stderr}");
    }
}

#[test]
fn a_model_may_be_quantized_in_place() {
    let path = written("place.gguf", &fs::read(models().join("rwkv7-mail-q4_k_m.gguf")).unwrap());
    let text = written("place.txt", b"User: The parcel arrives on Friday.\n\n");
    let told = &json(&good(&["quantize", "--json", &path, &path, "--type", "q3_k_m"], b""))[0];
    assert_eq!(told["bytes"].as_u64(), Some(fs::metadata(&path).unwrap().len()));
    let embedded = models().join("rwkv7-mail-q4_k_m.gguf");
    let both = [embedded.to_str().unwrap(), &path, embedded.to_str().unwrap()];
    let found = json(&good(&[&["compare", "--json", "--text", &text][..], &["--"], &both].concat(), b""));
    assert!(found[0]["kl_mean"].as_f64() > Some(0.0) && found[0]["logits_nmse"].as_f64() < Some(0.5));
    assert_eq!((found[1]["kl_max"].as_f64(), found[1]["top1_agreement"].as_f64()), (Some(0.0), Some(1.0)));
    let table = String::from_utf8(good(&["compare", both[0], both[1], "--text", &text], b"")).unwrap();
    assert!(table.contains("same first token") && table.contains("KL divergence, mean"), "{table}");
}
