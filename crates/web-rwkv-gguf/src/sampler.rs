//! Choosing the next token.

use std::{array, borrow::Cow, collections::BTreeMap};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Error, Result, cpu::exps};

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerOptions {
    /// 0 takes the likeliest token; above it, `p^(1/temperature)`.
    pub temperature: f32,
    /// Only the so many likeliest tokens; 0 is all.
    pub top_k: usize,
    /// Only the likeliest tokens that together have this probability, before the temperature is applied.
    pub top_p: f32,
    /// Taken off the logit of each token that has come.
    pub presence_penalty: f32,
    /// Taken off it again for each time that it has come.
    pub frequency_penalty: f32,
    /// What a count is multiplied by at each new token.
    pub penalty_decay: f32,
    /// The same seed gives the same tokens.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 0.7,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_decay: 0.996,
            seed: 0,
        }
    }
}

impl SamplerOptions {
    /// The likeliest token, without penalties.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    fn check(&self) -> Result<()> {
        let request = |thing: &str, expected: &str, found: f32| {
            Err(Error::Request { thing: thing.into(), expected: expected.into(), found: found.to_string() })
        };
        if !(0.0..f32::INFINITY).contains(&self.temperature) {
            return request("temperature", "0 or more", self.temperature);
        }
        for (thing, share) in [("top_p", self.top_p), ("penalty_decay", self.penalty_decay)] {
            if !(0.0..=1.0).contains(&share) {
                return request(thing, "0 to 1", share);
            }
        }
        for (thing, penalty) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            if !penalty.is_finite() {
                return request(thing, "a finite number", penalty);
            }
        }
        Ok(())
    }
}

/// Chooses tokens, and remembers which have come.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    /// How often tokens have come, if there are penalties.
    counts: BTreeMap<u32, f32>,
    rng: ChaCha8Rng,
}

/// How one token is chosen, whatever its logits will be.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Choice {
    /// 0 takes the likeliest token.
    pub(crate) temperature: f32,
    pub(crate) top_k: usize,
    pub(crate) top_p: f32,
    /// Which of the tokens that are kept, in [0, 1).
    pub(crate) random: f32,
    /// What is taken off logits.
    pub(crate) penalties: Vec<(u32, f32)>,
}

impl Sampler {
    /// A sampler that has seen no token.
    pub fn new(options: SamplerOptions) -> Self {
        Self { options, counts: BTreeMap::new(), rng: ChaCha8Rng::seed_from_u64(options.seed) }
    }

    /// Whether the options make sense.
    pub(crate) fn check(&self) -> Result<()> {
        self.options.check()
    }

    /// Whether a choice depends on the tokens before it.
    pub(crate) fn has_penalties(&self) -> bool {
        self.options.presence_penalty != 0.0 || self.options.frequency_penalty != 0.0
    }

    /// The next token by its logits `[V]`.
    ///
    /// # Panics
    /// If there are no logits.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        let token = self.choice().take(logits);
        self.count(token);
        token
    }

    /// How the next token is chosen.
    pub(crate) fn choice(&mut self) -> Choice {
        let SamplerOptions { temperature, top_k, top_p, presence_penalty, frequency_penalty, .. } =
            self.options;
        let counts = self.counts.iter().filter(|(_, n)| **n > 0.0);
        let mut choice = Choice {
            temperature: if top_k == 1 { 0.0 } else { temperature },
            top_k,
            top_p,
            random: 0.0,
            penalties: counts.map(|(t, n)| (*t, presence_penalty + frequency_penalty * n)).collect(),
        };
        if choice.temperature > 0.0 {
            // 24 random bits are the fraction of an f32 in [0, 1).
            choice.random = (self.rng.next_u32() >> 8) as f32 / (1 << 24) as f32;
        }
        choice
    }

    /// Remembers a token.
    pub(crate) fn count(&mut self, token: u32) {
        if self.has_penalties() {
            self.counts.values_mut().for_each(|n| *n *= self.options.penalty_decay);
            *self.counts.entry(token).or_default() += 1.0;
        }
    }
}

impl Choice {
    /// The token that is chosen by logits `[V]`.
    ///
    /// # Panics
    /// If there are no logits.
    pub(crate) fn take(&self, logits: &[f32]) -> u32 {
        let mut logits = Cow::Borrowed(logits);
        for (token, penalty) in &self.penalties {
            logits.to_mut().get_mut(*token as usize).into_iter().for_each(|x| *x -= penalty);
        }
        let token = if self.temperature <= 0.0 {
            // The first of equals, as numpy's argmax.
            let better = |a, b| if logits[b] > logits[a] { b } else { a };
            (0..logits.len()).reduce(better).expect("there are logits")
        } else {
            self.draw(&logits)
        };
        token as u32
    }

    /// One of the tokens that are kept, in their order: it is the same on a GPU.
    fn draw(&self, logits: &[f32]) -> usize {
        let best = largest(logits);
        let mut weights = exps(logits, best, 1.0);
        let last = self.last(logits, &weights);
        let kept = |token: usize| last.is_none_or(|last| !falls(last, (token, logits[token])));
        if self.temperature != 1.0 {
            weights = exps(logits, best, self.temperature);
        }
        weights.iter_mut().enumerate().for_each(|(token, w)| *w = if kept(token) { *w } else { 0.0 });
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        if total.is_nan() {
            // All are ruled out, or one is beyond all others.
            return logits.iter().position(|x| *x == best).unwrap_or(0);
        }
        let mut left = f64::from(self.random) * total;
        let drawn = weights.iter().position(|weight| {
            left -= f64::from(*weight);
            left < 0.0
        });
        drawn.or_else(|| (0..logits.len()).rfind(|token| kept(*token))).expect("the likeliest is kept")
    }

    /// The last that `top_k` and `top_p` keep of the tokens, the likeliest first, by their weights at temperature 1; `None` if
    /// they keep all.
    fn last(&self, logits: &[f32], weights: &[f32]) -> Option<(usize, f32)> {
        if self.top_k == 0 && self.top_p >= 1.0 {
            return None;
        }
        let most = if self.top_k == 0 { logits.len() } else { self.top_k };
        // How many tokens stand in each bin, and their weights together.
        let mut bins = [(0, 0.0); BINS];
        for weight in weights {
            let (count, sum) = &mut bins[bin(*weight)];
            (*count, *sum) = (*count + 1, *sum + f64::from(*weight));
        }
        let total: f64 = bins.iter().map(|(_, sum)| sum).sum();
        let limit = if self.top_p < 1.0 { f64::from(self.top_p) * total } else { f64::INFINITY };
        let enough = |count: usize, sum: f64| count >= most || sum >= limit;
        let (mut count, mut sum, mut at) = (0, 0.0, 0);
        while at < BINS - 1 && !enough(count + bins[at].0, sum + bins[at].1) {
            (count, sum, at) = (count + bins[at].0, sum + bins[at].1, at + 1);
        }
        let mut tokens: Vec<_> = (0..logits.len()).filter(|t| bin(weights[*t]) == at).collect();
        // −0 is as likely as 0.
        tokens.sort_unstable_by(|a, b| (logits[*b] + 0.0).total_cmp(&(logits[*a] + 0.0)).then(a.cmp(b)));
        let last = tokens.iter().find(|token| {
            (count, sum) = (count + 1, sum + f64::from(weights[**token]));
            enough(count, sum)
        });
        last.or(tokens.last()).map(|token| (*token, logits[*token]))
    }
}

/// Bins of weights, which are at most 1, by their upper bits: 32 for each power of two, the largest first.
const BINS: usize = bin(0.0) + 1;

const fn bin(weight: f32) -> usize {
    (1f32.to_bits().saturating_sub(weight.to_bits()) >> 18) as usize
}

/// Whether a token is less likely than another one, or as likely and behind it.
fn falls(before: (usize, f32), after: (usize, f32)) -> bool {
    after.1 < before.1 || after.1 == before.1 && after.0 > before.0
}

fn largest(logits: &[f32]) -> f32 {
    let (chunks, rest) = logits.as_chunks::<16>();
    let most = chunks.iter().fold([f32::NEG_INFINITY; 16], |most, x| array::from_fn(|i| most[i].max(x[i])));
    most.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [0.0, 2.0, 1.0, -1.0];

    fn shares(options: SamplerOptions) -> [f32; 4] {
        let mut counts = [0.0; 4];
        let mut sampler = Sampler::new(options);
        for _ in 0..20_000 {
            counts[sampler.sample(&LOGITS) as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    /// Softmax of the given logits over `kept` tokens, computed by hand.
    fn expected(kept: &[usize], temperature: f32) -> [f32; 4] {
        let mut p = [0.0; 4];
        let total: f32 = kept.iter().map(|i| (LOGITS[*i] / temperature).exp()).sum();
        kept.iter().for_each(|i| p[*i] = (LOGITS[*i] / temperature).exp() / total);
        p
    }

    fn agree(options: SamplerOptions, want: [f32; 4]) {
        let got = shares(options);
        assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 0.015), "{got:?} {want:?}");
    }

    #[test]
    fn shares_are_those_of_the_formulas() {
        let all = SamplerOptions { top_p: 1.0, ..Default::default() };
        agree(all, expected(&[0, 1, 2, 3], 1.0));
        agree(SamplerOptions { temperature: 2.0, ..all }, expected(&[0, 1, 2, 3], 2.0));
        agree(SamplerOptions { top_k: 2, ..all }, expected(&[1, 2], 1.0));
        // Softmax gives 0.64, 0.24, 0.09, 0.03; at temperature 5 all four would be needed for 0.85.
        agree(SamplerOptions { top_p: 0.85, temperature: 5.0, ..all }, expected(&[1, 2], 5.0));
        agree(SamplerOptions { top_p: 0.0, ..all }, [0.0, 1.0, 0.0, 0.0]);
        agree(SamplerOptions::greedy(), [0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn what_is_kept_is_the_nucleus() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut number = || (rng.next_u32() >> 8) as f32 / (1 << 24) as f32;
        for spread in [0.01, 3.0, 30.0] {
            let logits: Vec<f32> = (0..3001).map(|_| spread * number()).collect();
            let best = largest(&logits);
            assert!(logits.iter().all(|x| *x <= best) && logits.contains(&best));
            let weight = |token: usize| f64::from(logits[token] - best).exp();
            let total: f64 = (0..logits.len()).map(weight).sum();
            let mut falling: Vec<usize> = (0..logits.len()).collect();
            falling.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
            for (top_p, top_k) in [(0.0, 0), (0.3, 0), (0.7, 0), (0.999, 0), (0.9, 5), (1.0, 100)] {
                let choice = Choice { temperature: 1.0, top_k, top_p, ..Choice::default() };
                let last = choice.last(&logits, &exps(&logits, best, 1.0)).unwrap();
                let kept = |token: &usize| !falls(last, (*token, logits[*token]));
                let got = falling.iter().take_while(|token| kept(token)).count();
                // Two tokens more or fewer are what rounding moves.
                let mut before = 0.0;
                let nucleus = falling.iter().take_while(|token| {
                    let share: f64 = before;
                    before += weight(**token) / total;
                    share < f64::from(top_p) || top_p >= 1.0
                });
                let count = nucleus.take(if top_k == 0 { usize::MAX } else { top_k }).count().max(1);
                assert!(got.abs_diff(count) <= 2, "{spread} {top_p} {top_k}: {got} {count}");
                assert_eq!(falling.iter().filter(|token| kept(token)).count(), got);
            }
        }
    }

    #[test]
    fn penalties_move_the_choice_and_decay() {
        let mut sampler = Sampler::new(SamplerOptions {
            presence_penalty: 1.5,
            penalty_decay: 0.5,
            ..SamplerOptions::greedy()
        });
        assert_eq!([0; 3].map(|_| sampler.sample(&LOGITS)), [1, 2, 1]);
        let mut sampler = Sampler::new(SamplerOptions {
            frequency_penalty: 0.6,
            penalty_decay: 1.0,
            ..SamplerOptions::greedy()
        });
        assert_eq!([0; 4].map(|_| sampler.sample(&LOGITS)), [1, 1, 2, 1]);
    }

    #[test]
    fn options_out_of_range_are_named() {
        let d = SamplerOptions::default();
        let error = |o: SamplerOptions| o.check().unwrap_err().to_string();
        assert!(d.check().is_ok() && SamplerOptions::greedy().check().is_ok());
        let temperature = error(SamplerOptions { temperature: f32::NAN, ..d });
        assert_eq!(temperature, "temperature: expected 0 or more, found NaN");
        assert_eq!(error(SamplerOptions { top_p: 1.5, ..d }), "top_p: expected 0 to 1, found 1.5");
        assert!(error(SamplerOptions { presence_penalty: f32::INFINITY, ..d }).starts_with("presence"));
    }

    #[test]
    fn a_seed_repeats() {
        let run = |seed| {
            let mut s = Sampler::new(SamplerOptions { seed, top_p: 1.0, ..Default::default() });
            [0; 50].map(|_| s.sample(&LOGITS))
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
