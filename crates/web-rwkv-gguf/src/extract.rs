//! Fields out of a document: **doc state** (read it once), **field analysis** (an embedding for each field,
//! beside the document's), **values** (an answer for each field, decoded from forks of the doc state).

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use crate::{
    Error, Model, Pool, Progress, Result, RnnInput, RnnInputBatch, RnnOption, State, Tokenizer, Verdict,
    generate::{END_OF_DOCUMENT, find_stop},
};

/// What the model answers for a field that the document does not have.
const NONE: &str = "none";
const STOP: &str = "\n\n";

/// Something to look for in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Short name, such as `invoice_number`.
    pub name: String,
    /// What it is, such as `number of the invoice`.
    pub description: String,
}

/// How values are decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ExtractOptions {
    /// Decode freely instead of holding values to word-bounded spans of the document.
    pub free: bool,
    /// Taken off the logit of the first token of `none`; by default [`Self::NONE_BIAS`] for quoted values, and 0
    /// for free ones, which are then plain greedy decoding.
    pub none_bias: Option<f32>,
    /// Longest value, in tokens.
    pub max_tokens: usize,
    /// Tokens that go through the model at a time.
    pub token_chunk_size: usize,
}

impl Default for ExtractOptions {
    fn default() -> Self {
        Self { free: false, none_bias: None, max_tokens: 120, token_chunk_size: RnnInput::CHUNK }
    }
}

impl ExtractOptions {
    /// The bias for quoted values, chosen on generated mails (`make accuracy`): the largest that costs nothing on
    /// kinds of mail that the embedded model was trained on (97.2 % exact from 0 to 2, 96.6 % at 3), where it finds
    /// more on kinds that are new to it (68.2, 69.4, 70.5 and 71.5 % at 0, 1, 2 and 3).
    pub const NONE_BIAS: f32 = 2.0;

    fn bias(&self) -> f32 {
        self.none_bias.unwrap_or(if self.free { 0.0 } else { Self::NONE_BIAS })
    }

    fn check(&self) -> Result<()> {
        let wrong = |thing: &str, expected: &str, found: String| {
            Err(Error::Request { thing: thing.into(), expected: expected.into(), found })
        };
        if !self.bias().is_finite() {
            return wrong("none_bias", "a finite number", self.bias().to_string());
        }
        if self.max_tokens == 0 {
            return wrong("max_tokens", "at least 1", "0".into());
        }
        Ok(())
    }
}

/// What was found in a document.
#[derive(Clone, Debug)]
pub struct Extraction {
    /// One result for each field, in their order.
    pub fields: Vec<Extracted>,
    /// Tokens of the document and its prompt.
    pub doc_tokens: usize,
    /// Tokens of all values, their ends included.
    pub generated_tokens: usize,
    /// How long it took.
    pub timings: Timings,
    /// The state after the document, to ask more of it.
    pub state: State,
}

/// The result for one field.
#[derive(Clone, Debug, PartialEq)]
pub struct Extracted {
    /// Name of the field.
    pub name: String,
    /// The value, with white space folded; `None` if the document has none.
    pub value: Option<String>,
    /// Where the value first stands in the document, in bytes; `None` for one that does not stand there.
    pub range: Option<Range<usize>>,
    /// Probability of the answer among those that were allowed, 0 to 1.
    pub confidence: f32,
    /// Cosine of the field's embedding and the document's, −1 to 1.
    pub similarity: f32,
}

/// How long each step took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Document and fields to tokens.
    pub tokenize: Duration,
    /// Reading the document.
    pub doc_state: Duration,
    /// Embedding all fields.
    pub field_analysis: Duration,
    /// Decoding all values.
    pub values: Duration,
}

impl Model {
    /// Finds the values of `fields` in a document; `progress` is told how much of it is read, and may stop it.
    ///
    /// The prompts are RWKV's `User: {document}\n\n{name}: {description}\n\nAssistant:`.
    ///
    /// # Errors
    /// For options that make no sense, a model file without a vocabulary, or a vocabulary that does not cover
    /// the text.
    pub fn extract<V: Verdict>(
        &self,
        document: &str,
        fields: &[Field],
        options: &ExtractOptions,
        progress: &mut dyn FnMut(Progress) -> V,
    ) -> Result<Extraction> {
        options.check()?;
        let tokenizer = self.needs_tokenizer()?;
        let mut timings = Timings::default();
        let clock = Instant::now();
        let doc = tokenizer.encode(format!("User: {}\n\n", document.trim()))?;
        let question = |f: &Field| tokenizer.encode(format!("{}: {}\n\nAssistant:", f.name, f.description));
        let questions = fields.iter().map(question).collect::<Result<Vec<_>>>()?;
        timings.tokenize = clock.elapsed();

        let clock = Instant::now();
        let doc_tokens = doc.len();
        let input =
            RnnInput::new(vec![RnnInputBatch::new(doc, RnnOption::EmbedLast)], options.token_chunk_size);
        let mut states = [self.init_state()];
        let embedding = self.infer_with(&input, &mut states, progress)?.0.remove(0);
        let [state] = states;
        timings.doc_state = clock.elapsed();

        let clock = Instant::now();
        let similarities: Vec<_> =
            self.field_analysis(fields)?.iter().map(|field| cosine(field, &embedding)).collect();
        timings.field_analysis = clock.elapsed();

        let clock = Instant::now();
        let answers = self.values(tokenizer, document, &state, questions, options)?;
        timings.values = clock.elapsed();

        let generated_tokens = answers.iter().map(|a| a.tokens).sum();
        let fields = fields
            .iter()
            .zip(answers)
            .zip(similarities)
            .map(|((field, answer), similarity)| Extracted {
                name: field.name.clone(),
                value: answer.value,
                range: answer.range,
                confidence: answer.confidence,
                similarity,
            })
            .collect();
        Ok(Extraction { fields, doc_tokens, generated_tokens, timings, state })
    }

    /// The embedding `[C]` of each field, all in one batch from zero states; the head is not computed.
    ///
    /// # Errors
    /// As [`Model::extract`].
    pub fn field_analysis(&self, fields: &[Field]) -> Result<Vec<Vec<f32>>> {
        let tokenizer = self.needs_tokenizer()?;
        let name = |f: &Field| tokenizer.encode(format!("{}: {}", f.name, f.description));
        self.embed(&fields.iter().map(name).collect::<Result<Vec<_>>>()?, Pool::Last, RnnInput::CHUNK)
    }

    /// Decodes an answer to each question from forks of `state`, all together.
    fn values(
        &self,
        tokenizer: &Tokenizer,
        document: &str,
        state: &State,
        questions: Vec<Vec<u32>>,
        options: &ExtractOptions,
    ) -> Result<Vec<Answer>> {
        let quote = Quote::new(tokenizer, document)?;
        let none = tokenizer.encode(format!(" {NONE}"))?[0];
        let vocab = self.info().num_vocab;
        if let Some(&token) = [none, quote.stop].iter().find(|t| **t as usize >= vocab) {
            return Err(Error::Token { token, vocab });
        }
        let mut answers: Vec<_> = questions.iter().map(|_| Answer::new(&quote)).collect();
        let mut open: Vec<_> = (0..questions.len()).collect();
        let mut states = vec![state.clone(); questions.len()];
        let mut next = questions;
        while !open.is_empty() {
            let batches = next.drain(..).map(|tokens| RnnInputBatch::new(tokens, RnnOption::Last)).collect();
            let output = self.infer(&RnnInput::new(batches, options.token_chunk_size), &mut states)?;
            let mut still_open = vec![];
            let mut forks = std::mem::take(&mut states).into_iter();
            for (answer, mut logits) in open.drain(..).zip(output.0) {
                let fork = forks.next().expect("each open answer has a state");
                if answers[answer].tokens == 0 {
                    logits[none as usize] -= options.bias();
                }
                let token = if options.free {
                    answers[answer].take_free(tokenizer, &logits)
                } else {
                    answers[answer].take_quoted(&quote, &logits)
                };
                if let Some(token) = token.filter(|_| answers[answer].tokens < options.max_tokens) {
                    still_open.push(answer);
                    states.push(fork);
                    next.push(vec![token]);
                }
            }
            open = still_open;
        }
        for answer in &mut answers {
            answer.finish(&quote, options.free);
        }
        Ok(answers)
    }
}

/// `a · b / (|a| |b|)`
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f32::MIN_POSITIVE)
}

/// A document with white space folded to single blanks, in which values are quoted. `none` stands behind it.
struct Quote<'a> {
    tokenizer: &'a Tokenizer,
    text: Vec<u8>,
    /// For each byte of `text` its place in the document; one more for the end.
    places: Vec<usize>,
    /// Where words begin and, for each place of `text`, whether one ends before it.
    starts: Vec<usize>,
    ends: Vec<bool>,
    /// Where `none` begins.
    none: usize,
    /// First token of what ends an answer.
    stop: u32,
}

impl<'a> Quote<'a> {
    fn new(tokenizer: &'a Tokenizer, document: &str) -> Result<Self> {
        let (mut text, mut places): (Vec<u8>, _) = (vec![], vec![]);
        let (mut starts, mut ends) = (vec![], vec![]);
        let mut before = ' ';
        for (place, c) in document.char_indices().chain([(document.len(), ' ')]) {
            if !c.is_whitespace() || !before.is_whitespace() {
                let boundary = !(before.is_alphanumeric() && c.is_alphanumeric());
                if boundary && !c.is_whitespace() {
                    starts.push(text.len());
                }
                ends.push(boundary && !before.is_whitespace());
                let c = if c.is_whitespace() { ' ' } else { c };
                for i in 0..c.len_utf8() {
                    places.push(place + i);
                }
                let mut utf8 = [0; 4];
                text.extend(c.encode_utf8(&mut utf8).as_bytes());
                ends.resize(text.len(), false);
            }
            before = c;
        }
        // A gap that no quotation crosses (`rest`), and then the `none`.
        text.push(0);
        let none = text.len();
        starts.push(none);
        text.extend(NONE.bytes());
        ends.resize(text.len(), false);
        ends.push(true);
        places.resize(text.len() + 1, document.len());
        Ok(Self { tokenizer, text, places, starts, ends, none, stop: tokenizer.encode(STOP)?[0] })
    }

    /// The text from `at`, but not from the document into the `none` behind it.
    fn rest(&self, at: usize) -> &[u8] {
        if at < self.none { &self.text[at..self.none - 1] } else { &self.text[at..] }
    }
}

/// A quotation under way: it began at `start`, and goes on at `at`; `None` before its leading blank.
#[derive(Clone, Copy)]
struct Span {
    start: usize,
    at: Option<usize>,
}

/// An answer under way, and then its result.
struct Answer {
    tokens: usize,
    bytes: Vec<u8>,
    spans: Vec<Span>,
    log_probability: f32,
    value: Option<String>,
    range: Option<Range<usize>>,
    confidence: f32,
}

impl Answer {
    fn new(quote: &Quote<'_>) -> Self {
        Self {
            tokens: 0,
            bytes: vec![],
            spans: quote.starts.iter().map(|&start| Span { start, at: None }).collect(),
            log_probability: 0.0,
            value: None,
            range: None,
            confidence: 0.0,
        }
    }

    /// Takes the likeliest token; `None` where the answer ends.
    fn take_free(&mut self, tokenizer: &Tokenizer, logits: &[f32]) -> Option<u32> {
        let token = self.take((0..logits.len() as u32).collect(), logits);
        let from = self.bytes.len();
        self.bytes.extend(tokenizer.token(token).unwrap_or_default());
        let end = find_stop(&self.bytes, from, &[STOP.into()]);
        self.bytes.truncate(end.unwrap_or(self.bytes.len()));
        (token != END_OF_DOCUMENT && end.is_none()).then_some(token)
    }

    /// Takes the likeliest token that goes on with a quotation or ends it; `None` where it ends.
    fn take_quoted(&mut self, quote: &Quote<'_>, logits: &[f32]) -> Option<u32> {
        let mut next: Vec<(u32, Span)> = vec![];
        let mut allowed = vec![];
        let mut first = vec![];
        for &span in &self.spans {
            let (rest, blank) = match span.at {
                Some(at) => (quote.rest(at), 0),
                None => {
                    first.clear();
                    first.push(b' ');
                    first.extend(quote.rest(span.start).iter().take(256));
                    (&first[..], 1)
                }
            };
            for (token, len) in quote.tokenizer.prefixes(rest) {
                let at = span.at.unwrap_or(span.start) + len - blank;
                next.push((token, Span { at: Some(at), ..span }));
                allowed.push(token);
            }
            if span.at.is_some_and(|at| at > span.start && quote.ends[at]) {
                allowed.push(quote.stop);
            }
        }
        allowed.retain(|token| (*token as usize) < logits.len());
        allowed.sort_unstable();
        allowed.dedup();
        if allowed.is_empty() {
            return None;
        }
        let token = self.take(allowed, logits);
        let ends = |span: &&Span| span.at.is_some_and(|at| at > span.start && quote.ends[at]);
        if token == quote.stop && self.spans.iter().any(|span| ends(&span)) {
            return None;
        }
        self.spans = next.into_iter().filter(|(t, _)| *t == token).map(|(_, span)| span).collect();
        Some(token)
    }

    /// The likeliest of the allowed tokens.
    fn take(&mut self, allowed: Vec<u32>, logits: &[f32]) -> u32 {
        let logit = |token: u32| logits[token as usize];
        let best = allowed.iter().copied().reduce(|a, b| if logit(b) > logit(a) { b } else { a });
        let best = best.expect("some token is allowed");
        let total: f32 = allowed.iter().map(|token| (logit(*token) - logit(best)).exp()).sum();
        self.log_probability -= total.ln();
        self.tokens += 1;
        best
    }

    fn finish(&mut self, quote: &Quote<'_>, free: bool) {
        self.confidence = self.log_probability.exp();
        let text = if free {
            String::from_utf8_lossy(&self.bytes).trim().to_owned()
        } else {
            // An answer that ran into the limit goes back to its last whole word.
            let spans = self.spans.iter().filter_map(|span| {
                let end = (span.start + 1..=span.at?).rev().find(|end| quote.ends[*end])?;
                Some(span.start..end)
            });
            let Some(span) = spans.min_by_key(|span| span.start) else { return };
            self.range = Some(quote.places[span.start]..quote.places[span.end - 1] + 1);
            String::from_utf8_lossy(&quote.text[span]).into_owned()
        };
        if text.is_empty() || text == NONE {
            self.range = None;
            return;
        }
        if free {
            self.range = quote.find(&text);
        }
        self.value = Some(text);
    }
}

impl Quote<'_> {
    /// Where a text first stands in the document, as whole words.
    fn find(&self, text: &str) -> Option<Range<usize>> {
        let text: Vec<u8> = text.split_whitespace().collect::<Vec<_>>().join(" ").into_bytes();
        let mut starts = self.starts.iter().filter(|start| **start < self.none);
        let start =
            *starts.find(|&&start| self.rest(start).starts_with(&text) && self.ends[start + text.len()])?;
        Some(self.places[start]..self.places[start + text.len() - 1] + 1)
    }
}
