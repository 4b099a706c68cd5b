//! `random-picker`: any endpoints that the filters have left, whatever their scores.

use super::{Candidate, Picker, Request, highest};
use crate::rng::Rng;

/// Takes any.
#[derive(Debug)]
pub struct Random;

impl Picker for Random {
    fn name(&self) -> &'static str {
        "random-picker"
    }

    fn pick(&self, _: &Request, _: &[&Candidate], scores: &[f32], at_most: usize, rng: &mut dyn Rng) -> Vec<usize> {
        highest(scores.iter().map(|_| 0.0), at_most, rng)
    }
}
