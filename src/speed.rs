//! How long an endpoint takes to a first token, learnt from the times that this gateway sees.
//!
//! The time is a line: a part that every request waits for (the network, the step under way) and a part for each
//! prompt token that is computed before or for it. Both are fitted by least squares with forgetting, one fit for
//! each endpoint and one for its pool. The pool's line is the prior of its endpoints', so that a new endpoint
//! starts as an average one, and one that is much slower or faster is known after a few requests. What was seen of
//! an endpoint fades when nobody sends it anything: one that a single pause has made look slow would never get the
//! request that shows it is not.

use std::time::Duration;

/// An observation counts for 1/e after this many further ones: enough to average a batch's noise, few enough
/// to follow an engine that slows down.
const MEMORY: f64 = 60.0;
/// A prior weighs as much as two observations at each of two points.
const PRIOR_WEIGHT: f64 = 2.0;
/// The prior's second point, in tokens: a usual prompt.
const PRIOR_POINT: f64 = 2048.0;
/// An endpoint that is in use has a first token to show within this time.
const SILENCE: Duration = Duration::from_secs(5);
/// What was seen counts for 1/e after so long a silence beyond that. In a fleet of fast and slow cards 20 s cost 12 % of
/// the mean time to first token, 120 s 4 %: each slow endpoint gets a request every few minutes to prove the contrary.
const FADING: Duration = Duration::from_secs(120);
/// Times beyond this are hung requests, not slow ones.
const LONGEST: f64 = 30.0;

/// Seconds to the first token, for a number of tokens to compute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Seconds that every request takes.
    pub base: f32,
    /// Seconds for each token.
    pub per_token: f32,
}

/// In a fit by least squares a point counts by its distance: a million tokens would outweigh all others for long.
const MOST_TOKENS: f64 = 65_536.0;

/// Before anything was seen: 8,000 tokens a second is an 8B model on one GPU of the middle class, or a 70B model
/// on eight large ones; 30 ms are a decode step and a network.
pub const PRIOR: Line = Line { base: 0.03, per_token: 1.0 / 8_000.0 };

/// From a million tokens a second, which no engine reaches, to two hundred: a CPU.
const PER_TOKEN: std::ops::RangeInclusive<f64> = 1.0e-6..=5.0e-3;

impl Line {
    /// The time for this many tokens.
    pub fn seconds(&self, tokens: f32) -> f32 {
        self.base + self.per_token * tokens
    }
}

/// A fit under way: sums over observations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fit {
    count: f64,
    tokens: f64,
    seconds: f64,
    tokens_squared: f64,
    product: f64,
}

impl Fit {
    /// Takes a time to first token in, with the tokens that were computed until then.
    pub fn observe(&mut self, tokens: f32, seconds: f32) {
        if !(tokens >= 0.0 && seconds >= 0.0) {
            return;
        }
        let (tokens, seconds) = (f64::from(tokens).min(MOST_TOKENS), f64::from(seconds).min(LONGEST));
        self.scale(1.0 - 1.0 / MEMORY);
        self.add(1.0, tokens, seconds);
    }

    /// What is left of this after a time without observations.
    pub fn faded(mut self, silence: Duration) -> Fit {
        if silence > SILENCE {
            let beyond = silence.saturating_sub(SILENCE).as_secs_f64();
            self.scale((-beyond / FADING.as_secs_f64()).exp());
        }
        self
    }

    /// The line through what was seen and the prior.
    pub fn line(&self, prior: Line) -> Line {
        let mut sums = *self;
        for tokens in [0.0, PRIOR_POINT] {
            sums.add(PRIOR_WEIGHT, tokens, f64::from(prior.seconds(tokens as f32)));
        }
        let Fit { count, tokens, seconds, tokens_squared, product } = sums;
        // The prior's two points keep the determinant away from zero.
        let slope = (count * product - tokens * seconds) / (count * tokens_squared - tokens * tokens);
        let slope = slope.clamp(*PER_TOKEN.start(), *PER_TOKEN.end());
        let base = ((seconds - slope * tokens) / count).max(0.0);
        Line { base: base as f32, per_token: slope as f32 }
    }

    fn scale(&mut self, by: f64) {
        for sum in [&mut self.count, &mut self.tokens, &mut self.seconds, &mut self.tokens_squared, &mut self.product] {
            *sum *= by;
        }
    }

    fn add(&mut self, weight: f64, tokens: f64, seconds: f64) {
        self.count += weight;
        self.tokens += weight * tokens;
        self.seconds += weight * seconds;
        self.tokens_squared += weight * tokens * tokens;
        self.product += weight * tokens * seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn without_observations_the_prior_holds() {
        let line = Fit::default().line(PRIOR);
        assert!((line.base - PRIOR.base).abs() < 1e-6 && (line.per_token - PRIOR.per_token).abs() < 1e-9);
    }

    #[test]
    fn a_line_is_found_and_followed() {
        let mut fit = Fit::default();
        for per_token in [1.0 / 4_000.0, 1.0 / 20_000.0] {
            for round in 0..400u32 {
                let tokens = f32::from((round * 37 % 100) as u16) * 50.0;
                fit.observe(tokens, 0.05 + tokens * per_token);
            }
            let line = fit.line(PRIOR);
            assert!((line.per_token / per_token - 1.0).abs() < 0.1, "{line:?}");
            assert!((line.base - 0.05).abs() < 0.02, "{line:?}");
        }
    }

    #[test]
    fn a_slow_moment_is_forgotten_when_nobody_tries_the_endpoint() {
        let mut fit = Fit::default();
        fit.observe(1000.0, 5.0);
        let after = |seconds| fit.faded(Duration::from_secs(seconds)).line(PRIOR).seconds(1000.0);
        assert_eq!(after(0), fit.line(PRIOR).seconds(1000.0));
        assert_eq!(after(5), after(0), "requests are seldom, that is all");
        assert!(after(125) < after(5) * 0.6 && after(125) > PRIOR.seconds(1000.0) * 1.2, "{} {}", after(125), after(5));
        assert!(after(1200) < PRIOR.seconds(1000.0) * 1.01 && after(u64::MAX).is_finite());
    }

    #[test]
    fn nonsense_is_no_observation_and_bounds_hold() {
        let mut fit = Fit::default();
        fit.observe(f32::NAN, 1.0);
        fit.observe(10.0, -1.0);
        assert_eq!(fit.line(PRIOR), Fit::default().line(PRIOR));
        for _ in 0..100 {
            fit.observe(0.0, 1e9);
            fit.observe(1.0, 0.0);
        }
        let line = fit.line(PRIOR);
        assert!(line.base >= 0.0 && line.base <= 30.0 && line.per_token >= 1e-6, "{line:?}");
    }
}
