//! `max-score-picker`: the highest scores, ties in random order.

use super::{Candidate, Picker, Request, highest};
use crate::rng::Rng;

/// Takes the best.
#[derive(Debug)]
pub struct MaxScore;

impl Picker for MaxScore {
    fn name(&self) -> &'static str {
        "max-score-picker"
    }

    fn pick(&self, _: &Request, _: &[&Candidate], scores: &[f32], at_most: usize, rng: &mut dyn Rng) -> Vec<usize> {
        highest(scores.iter().copied(), at_most, rng)
    }
}
