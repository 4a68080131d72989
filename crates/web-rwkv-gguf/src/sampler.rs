//! Choosing the next token.

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
    counts: Vec<f32>,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// A sampler that has seen no token.
    pub fn new(options: SamplerOptions) -> Self {
        Self { options, counts: vec![], rng: ChaCha8Rng::seed_from_u64(options.seed) }
    }

    /// Whether the options make sense.
    pub(crate) fn check(&self) -> Result<()> {
        self.options.check()
    }

    /// The next token by its logits `[V]`.
    ///
    /// # Panics
    /// If there are no logits.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        let o = self.options;
        self.counts.resize(logits.len(), 0.0);
        let candidates: Vec<(usize, f32)> = logits
            .iter()
            .zip(&self.counts)
            .map(|(x, n)| if *n > 0.0 { x - o.presence_penalty - o.frequency_penalty * n } else { *x })
            .enumerate()
            .collect();
        let token = if o.temperature <= 0.0 || o.top_k == 1 {
            // The first of equals, as numpy's argmax.
            candidates
                .iter()
                .copied()
                .reduce(|a, b| if b.1 > a.1 { b } else { a })
                .expect("there are logits")
                .0
        } else {
            self.draw(candidates)
        };
        self.counts.iter_mut().for_each(|n| *n *= o.penalty_decay);
        self.counts[token] += 1.0;
        token as u32
    }

    /// Draws from candidates.
    fn draw(&mut self, mut candidates: Vec<(usize, f32)>) -> usize {
        let o = self.options;
        let best = candidates.iter().map(|(_, x)| *x).fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = candidates.iter().map(|(_, x)| (x - best).exp()).sum();
        let most = if o.top_k == 0 { candidates.len() } else { o.top_k.min(candidates.len()) };
        // Seldom are many kept, so only as many are sorted as it takes.
        let mut sorted = 64;
        let kept = loop {
            sorted = most.min(sorted);
            let falling = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
            candidates.select_nth_unstable_by(sorted - 1, falling);
            candidates[..sorted].sort_unstable_by(falling);
            let mut sum = 0.0;
            let kept = candidates[..sorted].iter().take_while(|(_, x)| {
                let before = sum;
                sum += (x - best).exp() / total;
                before < o.top_p
            });
            let kept = kept.count().max(1);
            if kept < sorted || sorted == most {
                break kept;
            }
            sorted *= 8;
        };
        candidates.truncate(kept);
        let weight = |x: f32| ((x - best) / o.temperature).exp();
        let total: f32 = candidates.iter().map(|(_, x)| weight(*x)).sum();
        // 24 random bits are the fraction of an f32 in [0, 1).
        let mut left = (self.rng.next_u32() >> 8) as f32 / (1 << 24) as f32 * total;
        for (token, x) in &candidates {
            left -= weight(*x);
            if left < 0.0 {
                return *token;
            }
        }
        candidates[candidates.len() - 1].0
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
            sampler.counts.clear();
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
