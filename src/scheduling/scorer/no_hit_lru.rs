//! `no-hit-lru-scorer`: prompts that nobody has cached go to the endpoint that got the last such one longest ago.
//!
//! 0.5 for all when the prompt is cached anywhere; else 1 - i / (n - 1) for the i-th in the order of their last
//! cold prompts, those that never had one first. It spreads new conversations, whose caches will grow, instead
//! of starting them all where the load happens to be low. The order is this worker's own.

use super::{Candidate, Request, Scorer};

/// Spreads cold prompts.
#[derive(Debug)]
pub struct NoHitLru;

impl Scorer for NoHitLru {
    fn name(&self) -> &'static str {
        "no-hit-lru-scorer"
    }

    fn score(&self, _: &Request, candidates: &[&Candidate], scores: &mut [f32]) {
        if candidates.iter().any(|candidate| candidate.cached_tokens > 0) {
            scores.fill(0.5);
            return;
        }
        let last = candidates.len().saturating_sub(1).max(1) as f32;
        for (candidate, score) in candidates.iter().zip(scores) {
            let earlier = |other: &&&Candidate| other.last_cold_pick < candidate.last_cold_pick;
            *score = 1.0 - candidates.iter().filter(earlier).count() as f32 / last;
        }
    }
}
