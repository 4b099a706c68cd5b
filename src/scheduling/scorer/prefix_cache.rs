//! `prefix-cache-scorer`: the more of the prompt an endpoint has in its KV cache, the better.
//!
//! w * min(1, m / S)^2 + (1 - w) * m / n, with m tokens matched of the prompt's n, the scale S, and w = 0 unless
//! configured: the share that need not be computed. Without a match it is zero.

use super::{Candidate, Request, Scorer};

/// Prefers endpoints that have the prompt's beginning.
#[derive(Debug)]
pub struct PrefixCache {
    /// How much the match's length counts against its share, from 0 to 1.
    pub match_length_weight: f32,
    /// The length that counts in full, in tokens.
    pub match_length_scale_tokens: u32,
}

impl Default for PrefixCache {
    fn default() -> PrefixCache {
        PrefixCache { match_length_weight: 0.0, match_length_scale_tokens: 8192 }
    }
}

impl Scorer for PrefixCache {
    fn name(&self) -> &'static str {
        "prefix-cache-scorer"
    }

    fn score(&self, request: &Request, candidates: &[&Candidate], scores: &mut [f32]) {
        let total = request.prompt_tokens.max(1) as f32;
        let scale = self.match_length_scale_tokens.max(1) as f32;
        for (candidate, score) in candidates.iter().zip(scores) {
            let matched = candidate.cached_tokens as f32;
            let length = (matched / scale).min(1.0).powi(2);
            *score = self.match_length_weight * length + (1.0 - self.match_length_weight) * (matched / total).min(1.0);
        }
    }
}
