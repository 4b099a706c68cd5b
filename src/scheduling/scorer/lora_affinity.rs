//! `lora-affinity-scorer`: an endpoint that has the adapter is better than one that must load it.
//!
//! 1 where it runs, 0.8 where there is room for it, 0.6 where a request with it waits, 0 where every place
//! is taken; neutral for a request without an adapter and for an engine that doesn't say.

use super::{Candidate, NEUTRAL, Request, Scorer};
use crate::scheduling::AdapterState;

/// Prefers endpoints that have the adapter.
#[derive(Debug)]
pub struct LoraAffinity;

impl Scorer for LoraAffinity {
    fn name(&self) -> &'static str {
        "lora-affinity-scorer"
    }

    fn score(&self, _: &Request, candidates: &[&Candidate], scores: &mut [f32]) {
        for (candidate, score) in candidates.iter().zip(scores) {
            *score = match candidate.adapter {
                Some(AdapterState::Running) => 1.0,
                Some(AdapterState::Room) => 0.8,
                Some(AdapterState::Waiting) => 0.6,
                Some(AdapterState::Full) => 0.0,
                None => NEUTRAL,
            };
        }
    }
}
