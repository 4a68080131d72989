//! Fields out of documents, with the embedded model.

mod witness;

use std::path::Path;

use web_rwkv_gguf::{
    ExtractOptions, Field, Generation, Model, RnnOption, Sampler, SamplerOptions, Tokenizer,
};
use witness::cpu;

fn models() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/rwkv7-mail")
}

fn model() -> Model {
    Model::open(models().join("rwkv7-mail-q4_k_m.gguf"), cpu()).unwrap()
}

/// Mail, fields and gold values of each demo mail.
fn demo() -> Vec<(String, Vec<Field>, Vec<String>)> {
    let text = std::fs::read_to_string(models().join("demo-emails.jsonl")).unwrap();
    let mail = |line: &str| {
        let mail: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
        let schema = mail["schema"].as_object().unwrap().iter();
        let fields: Vec<_> =
            schema.map(|(name, d)| Field { name: name.clone(), description: text(d) }).collect();
        let gold = fields.iter().map(|f| text(&mail["gold"][&f.name])).collect();
        (text(&mail["email"]), fields, gold)
    };
    text.lines().map(mail).collect()
}

fn fold(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn options(free: bool) -> ExtractOptions {
    let mut options = ExtractOptions::default();
    options.free = free;
    options.none_bias = Some(0.0);
    options
}

/// Exact match as the model card counts it.
fn same(a: &str, b: &str) -> bool {
    let normal = |x: &str| fold(x).trim_matches(|c| ".,;:!".contains(c)).to_lowercase();
    normal(a) == normal(b)
}

#[test]
fn demo_mails_reach_the_accuracy_of_the_model_card() {
    let model = model();
    for (free, least) in [(true, 26), (false, 26)] {
        let (mut right, mut all) = (0, 0);
        for (mail, fields, gold) in demo() {
            let found = model.extract(&mail, &fields, &options(free), &mut |_| ()).unwrap();
            for (field, gold) in found.fields.iter().zip(gold) {
                right += usize::from(same(field.value.as_deref().unwrap_or("none"), &gold));
                all += 1;
            }
        }
        // The card: 86.7 % of 30, by the reference implementation.
        assert!(right >= least && all == 30, "free {free}: {right} of {all}");
    }
}

#[test]
fn quoted_values_stand_in_the_mail() {
    let model = model();
    for (mail, fields, _) in demo() {
        let mail = mail.replace(' ', "  \n");
        let found = model.extract(&mail, &fields, &options(false), &mut |_| ()).unwrap();
        for field in found.fields {
            assert!(field.confidence > 0.0 && field.confidence <= 1.0 && field.similarity.abs() <= 1.001);
            assert_eq!(field.value.is_some(), field.range.is_some());
            if let (Some(value), Some(range)) = (field.value, field.range) {
                assert_eq!(fold(&mail[range]), value, "{}", field.name);
            }
        }
    }
}

#[test]
fn free_values_are_those_of_plain_greedy_decoding() {
    let model = model();
    let tokenizer = model.tokenizer().unwrap();
    let (mail, fields, _) = demo().remove(0);
    let found = model.extract(&mail, &fields, &options(true), &mut |_| ()).unwrap();
    for (field, found) in fields.iter().zip(found.fields) {
        let mut state = model.init_state();
        let doc = tokenizer.encode(format!("User: {}\n\n", mail.trim())).unwrap();
        model.run(&doc, RnnOption::EmbedLast, &mut state).unwrap();
        let question =
            tokenizer.encode(format!("{}: {}\n\nAssistant:", field.name, field.description)).unwrap();
        let sampler = Sampler::new(SamplerOptions::greedy());
        let mut answer = Generation::new(&question, state, sampler, 120, vec![b"\n\n".into()]).unwrap();
        let mut streamed: Vec<u8> = vec![];
        while let Some(bytes) = answer.next(&model).unwrap() {
            streamed.extend(bytes);
        }
        assert!(answer.stopped());
        assert_eq!(streamed, answer.bytes());
        let answer = String::from_utf8(streamed).unwrap().trim().to_owned();
        assert_eq!(found.value.unwrap_or("none".into()), answer);
    }
}

#[test]
fn options_that_make_no_sense_are_errors() {
    let model = model();
    let extract =
        |options: &ExtractOptions| model.extract("x", &[], options, &mut |_| ()).unwrap_err().to_string();
    let mut o = options(false);
    o.none_bias = Some(f32::NAN);
    assert_eq!(extract(&o), "none_bias: expected a finite number, found NaN");
    let mut o = options(false);
    o.max_tokens = 0;
    assert_eq!(extract(&o), "max_tokens: expected at least 1, found 0");

    // A vocabulary whose ` none` the model has no logit for.
    let mut vocab: String = (0..256).map(|b| format!("{} b'\\x{b:02x}' 1\n", b + 1)).collect();
    vocab += "9000 ' none' 5\n";
    let path = std::env::temp_dir().join(format!("web-rwkv-vocab-{}", std::process::id()));
    std::fs::write(&path, vocab).unwrap();
    let model = model.with_tokenizer(Tokenizer::open(&path).unwrap());
    std::fs::remove_file(path).unwrap();
    let field = Field { name: "a".into(), description: "b".into() };
    let error = model.extract("x", &[field], &options(false), &mut |_| ()).unwrap_err().to_string();
    assert_eq!(error, "token 9000 is not in the vocabulary of 8192 tokens");
}

#[test]
fn odd_documents_and_schemas_are_fine() {
    let model = model();
    let field = |name: &str| Field { name: name.into(), description: "anything".into() };
    for mail in ["", " \n ", "x", "none", "\u{1F600}", "a\u{0}b\u{7f}", "é\u{300} ÄÖ\r\n\r\n\r\nß"] {
        for free in [false, true] {
            let found = model.extract(mail, &[field("a"), field("")], &options(free), &mut |_| ()).unwrap();
            assert_eq!(found.fields.len(), 2);
        }
    }
    assert!(model.extract("mail", &[], &options(false), &mut |_| ()).unwrap().fields.is_empty());
}

#[test]
fn a_bias_moves_answers_away_from_none() {
    let model = model();
    let (mail, _, _) = demo().remove(0);
    let fields = [Field { name: "insurance_policy".into(), description: "number of the policy".into() }];
    let mut options = options(false);
    options.none_bias = Some(1e4);
    let value = |o| model.extract(&mail, &fields, &o, &mut |_| ()).unwrap().fields.remove(0).value;
    assert!(value(options).is_some());
    options.none_bias = Some(-1e4);
    assert_eq!(value(options), None);
}
