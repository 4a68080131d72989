//! Choosing the next token.

use std::{borrow::Cow, collections::BTreeMap};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Error, Result};

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

    fn draw(&self, logits: &[f32]) -> usize {
        // −0 is as likely as 0.
        let mut candidates: Vec<(usize, f32)> = logits.iter().map(|x| x + 0.0).enumerate().collect();
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if self.top_k > 0 || self.top_p < 1.0 {
            let kept = self.keep(&mut candidates, best);
            candidates.truncate(kept);
            // Nothing but the order of the tokens is the same on a GPU, which does not sort.
            candidates.sort_unstable_by_key(|(token, _)| *token);
        }
        let weight = |x: f32| ((x - best) / self.temperature).exp();
        let total: f32 = candidates.iter().map(|(_, x)| weight(*x)).sum();
        if total.is_nan() {
            return candidates[0].0; // all are ruled out
        }
        let mut left = self.random * total;
        for (token, x) in &candidates {
            left -= weight(*x);
            if left < 0.0 {
                return *token;
            }
        }
        candidates[candidates.len() - 1].0
    }

    /// Puts the candidates in front that `top_k` and `top_p` keep; how many.
    fn keep(&self, candidates: &mut [(usize, f32)], best: f32) -> usize {
        let total: f32 = candidates.iter().map(|(_, x)| (x - best).exp()).sum();
        let most = if self.top_k == 0 { candidates.len() } else { self.top_k.min(candidates.len()) };
        // Seldom are many kept, so only as many are sorted as it takes.
        let mut sorted = 64;
        loop {
            sorted = most.min(sorted);
            let falling = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
            candidates.select_nth_unstable_by(sorted - 1, falling);
            candidates[..sorted].sort_unstable_by(falling);
            let mut sum = 0.0;
            let kept = candidates[..sorted].iter().take_while(|(_, x)| {
                let before = sum;
                sum += (x - best).exp() / total;
                before < self.top_p || self.top_p >= 1.0
            });
            let kept = kept.count().max(1);
            if kept < sorted || sorted == most {
                return kept;
            }
            sorted *= 8;
        }
    }
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
