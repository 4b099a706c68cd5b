//! `active-request-scorer`: fewer requests of this gateway in flight are better.
//!
//! 1 up to the idle threshold, else (max - n) / max, times the most that a busy endpoint may have. The count is
//! this gateway's own and always known, so it alone moves between two scrapes and keeps a burst from landing on
//! one endpoint.

use super::{Candidate, Request, Scorer};

/// Prefers endpoints to which this gateway has sent little.
#[derive(Debug)]
pub struct ActiveRequest {
    /// Up to this many requests an endpoint counts as idle.
    pub idle_threshold: u32,
    /// The most that one above the threshold scores.
    pub max_busy_score: f32,
}

impl Default for ActiveRequest {
    fn default() -> ActiveRequest {
        ActiveRequest { idle_threshold: 0, max_busy_score: 1.0 }
    }
}

impl Scorer for ActiveRequest {
    fn name(&self) -> &'static str {
        "active-request-scorer"
    }

    fn score(&self, _: &Request, candidates: &[&Candidate], scores: &mut [f32]) {
        let most = candidates.iter().map(|candidate| candidate.in_flight).max().unwrap_or(0);
        for (candidate, score) in candidates.iter().zip(scores) {
            *score = match candidate.in_flight {
                count if count <= self.idle_threshold => 1.0,
                count => (most - count) as f32 / most as f32 * self.max_busy_score,
            };
        }
    }
}
