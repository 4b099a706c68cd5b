//! `load-aware-scorer`: an empty queue is half a point, and a longer one less.
//!
//! 0.5 without a queue, else 0.5 * (1 - min(n, T) / T) with the threshold T.

use super::{Candidate, NEUTRAL, Request, Scorer, Signal};

/// Prefers short queues, in absolute terms.
#[derive(Debug)]
pub struct LoadAware {
    /// The queue at which the score is zero.
    pub threshold: u32,
}

impl Default for LoadAware {
    fn default() -> LoadAware {
        LoadAware { threshold: 128 }
    }
}

impl Scorer for LoadAware {
    fn name(&self) -> &'static str {
        "load-aware-scorer"
    }

    fn needs(&self) -> Option<Signal> {
        Some(Signal::Waiting)
    }

    fn score(&self, _: &Request, candidates: &[&Candidate], scores: &mut [f32]) {
        let threshold = self.threshold.max(1);
        for (candidate, score) in candidates.iter().zip(scores) {
            // A missing signal gets half of what an empty queue gets.
            let share =
                candidate.waiting.map_or(NEUTRAL, |waiting| 1.0 - waiting.min(threshold) as f32 / threshold as f32);
            *score = 0.5 * share;
        }
    }
}
