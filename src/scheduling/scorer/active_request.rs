//! `active-request-scorer`: fewer requests of this gateway in flight are better.
//!
//! 1 for an idle endpoint, else (max - n) / max. The count is this gateway's own and always known, so it
//! alone moves between two scrapes and keeps a burst from landing on one endpoint.

use super::{Candidate, Scorer};

#[derive(Debug)]
pub(crate) struct ActiveRequest;

impl Scorer for ActiveRequest {
    fn name(&self) -> &'static str {
        "active-request-scorer"
    }

    fn score(&self, candidates: &[&Candidate], scores: &mut [f32]) {
        let most = candidates.iter().map(|candidate| candidate.in_flight).max().unwrap_or(0);
        for (candidate, score) in candidates.iter().zip(scores) {
            *score = match candidate.in_flight {
                0 => 1.0,
                count => (most - count) as f32 / most as f32,
            };
        }
    }
}
