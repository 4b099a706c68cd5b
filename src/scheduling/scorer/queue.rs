//! `queue-scorer`: fewer waiting requests are better.
//!
//! (max - n) / (max - min) over the candidates, 1 when all are equal. Says nothing about how long the queue
//! is in absolute terms: one waiting request against none is a full point.

use super::{Candidate, Request, Scorer, Signal, fewer_is_better};

/// Prefers short queues.
#[derive(Debug)]
pub struct Queue;

impl Scorer for Queue {
    fn name(&self) -> &'static str {
        "queue-scorer"
    }

    fn needs(&self) -> Option<Signal> {
        Some(Signal::Waiting)
    }

    fn score(&self, _: &Request, candidates: &[&Candidate], scores: &mut [f32]) {
        fewer_is_better(candidates, scores, |candidate| candidate.waiting);
    }
}
