//! Texts that are continued token by token.

mod witness;

use std::ops::ControlFlow;

use web_rwkv_gguf::{Error, Generation, Model, Sampler, SamplerOptions};
use witness::cpu;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/rwkv7-mail/rwkv7-mail-q4_k_m.gguf");

#[test]
fn a_prompt_that_is_read_ahead_changes_nothing() {
    // A CPU reads a prompt in chunks of one size.
    let model = Model::open(MODEL, cpu()).unwrap();
    let prompt = model.tokenizer().unwrap().encode("The parcel arrives on Friday. ".repeat(120)).unwrap();
    assert!(prompt.len() > 600, "three chunks");
    let sampler = Sampler::new(SamplerOptions::greedy());
    let start = Generation::new(&prompt, model.init_state(), sampler, 6, vec![]).unwrap();
    let finish = |mut text: Generation| {
        while text.next(&model).unwrap().is_some() {}
        (text.tokens().to_vec(), text.into_state().into_vec().unwrap())
    };
    let expected = finish(start.clone());

    let mut ahead = start.clone();
    let mut told = vec![];
    ahead.read_prompt(&model, &mut |p| told.push((p.read, p.total))).unwrap();
    let mut again = false;
    ahead.read_prompt(&model, &mut |_| again = true).unwrap();
    assert!(!again, "it is read");
    assert!(told.len() > 2 && told.is_sorted() && told.last() == Some(&(prompt.len(), prompt.len())));
    assert!(finish(ahead) == expected);

    // Stopped after each chunk, and after the last too: the next call goes on.
    let (mut stopped, mut stops) = (start, 0);
    while let Err(e) = stopped.read_prompt(&model, &mut |_| ControlFlow::Break(())) {
        assert!(matches!(e, Error::Stopped));
        stops += 1;
    }
    assert_eq!(stops, told.len() - 1);
    assert!(finish(stopped) == expected);
}
