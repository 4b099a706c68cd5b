//! `rendezvous-picker`: the highest scores; of those as good as the best, the one that the prompt's beginning chooses.
//!
//! Scores rest on measurements, and a difference of some percent is noise. Among equals the choice is Thaler and
//! Ravishankar's highest random weight of the prompt's beginning and the endpoint's address, so gateways that know
//! nothing of each other send one conversation to one endpoint.

use super::{Candidate, Picker, Request, highest};
use crate::hash;
use crate::rng::Rng;

/// As good as the best: within 5 % of its score. Less leaves the choice to noise; more sends requests to busier
/// endpoints.
const AS_GOOD: f32 = 0.95;

/// Takes the best, and agrees with others on ties.
#[derive(Debug)]
pub struct Rendezvous;

impl Picker for Rendezvous {
    fn name(&self) -> &'static str {
        "rendezvous-picker"
    }

    fn pick(
        &self,
        request: &Request,
        candidates: &[&Candidate],
        scores: &[f32],
        at_most: usize,
        rng: &mut dyn Rng,
    ) -> Vec<usize> {
        let mut picked = highest(scores.iter().copied(), at_most, rng);
        let best = picked.first().and_then(|index| scores.get(*index)).copied().unwrap_or(0.0);
        let weight =
            |index: usize| candidates.get(index).map(|candidate| hash::combine(request.opening, candidate.key));
        let as_good = scores.iter().enumerate().filter(|(_, score)| **score >= best * AS_GOOD);
        if let Some((chosen, _)) = as_good.max_by_key(|(index, _)| weight(*index)) {
            picked.retain(|index| *index != chosen);
            picked.insert(0, chosen);
            picked.truncate(at_most);
        }
        picked
    }
}
