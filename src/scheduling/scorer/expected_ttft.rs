//! `expected-ttft-scorer`: the sooner the first token is expected, the better.
//!
//! (least + 1 ms) / (own + 1 ms), so that half the score is twice the time. The expectation is worked out in
//! `src/gateway/cost.rs`, for every endpoint, from whatever is known of it.

use super::{Candidate, Request, Scorer};

/// Differences below this are no reason to prefer an endpoint.
const GRAIN: f32 = 0.001;

/// Prefers the least expected time to first token.
#[derive(Debug)]
pub struct ExpectedTtft;

impl Scorer for ExpectedTtft {
    fn name(&self) -> &'static str {
        "expected-ttft-scorer"
    }

    fn score(&self, _: &Request, candidates: &[&Candidate], scores: &mut [f32]) {
        let seconds = |candidate: &Candidate| candidate.expected_ttft.max(0.0) + GRAIN;
        let least = candidates.iter().map(|candidate| seconds(candidate)).fold(f32::INFINITY, f32::min);
        for (candidate, score) in candidates.iter().zip(scores) {
            *score = least / seconds(candidate);
        }
    }
}
