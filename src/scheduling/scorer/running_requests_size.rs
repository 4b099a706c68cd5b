//! `running-requests-size-scorer`: fewer running requests are better.
//!
//! (max - n) / (max - min) over the candidates, 1 when all are equal. Tells endpoints apart that have no
//! queue, which is most of the time.

use super::{Candidate, Request, Scorer, Signal, fewer_is_better};

/// Prefers small batches.
#[derive(Debug)]
pub struct RunningRequestsSize;

impl Scorer for RunningRequestsSize {
    fn name(&self) -> &'static str {
        "running-requests-size-scorer"
    }

    fn needs(&self) -> Option<Signal> {
        Some(Signal::Running)
    }

    fn score(&self, _: &Request, candidates: &[&Candidate], scores: &mut [f32]) {
        fewer_is_better(candidates, scores, |candidate| candidate.running);
    }
}
