//! `token-load-scorer`: fewer tokens in flight are better.
//!
//! 1 - min(n, T) / T, where n are this gateway's prompt tokens at the endpoint that are not computed yet and what
//! of this prompt would have to be, and T is the threshold.

use super::{Candidate, Request, Scorer};

/// Prefers endpoints with little to compute.
#[derive(Debug)]
pub struct TokenLoad {
    /// The tokens at which the score is zero.
    pub queue_threshold_tokens: u64,
}

impl Default for TokenLoad {
    fn default() -> TokenLoad {
        TokenLoad { queue_threshold_tokens: 4_194_304 }
    }
}

impl Scorer for TokenLoad {
    fn name(&self) -> &'static str {
        "token-load-scorer"
    }

    fn score(&self, request: &Request, candidates: &[&Candidate], scores: &mut [f32]) {
        let threshold = self.queue_threshold_tokens.max(1);
        for (candidate, score) in candidates.iter().zip(scores) {
            let uncached = u64::from(request.prompt_tokens.saturating_sub(candidate.cached_tokens));
            let tokens = candidate.prefill_tokens.saturating_add(uncached).min(threshold);
            *score = 1.0 - (tokens as f64 / threshold as f64) as f32;
        }
    }
}
