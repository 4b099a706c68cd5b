//! `weighted-random-picker`: at random, each endpoint as likely as its score is of the sum.
//!
//! Efraimidis and Spirakis' A-Res (2006): the highest U^(1/score) with U even in (0, 1) come first. Where every
//! score is zero, all are as likely.

use super::{Candidate, Picker, Request, highest};
use crate::rng::Rng;

/// Takes the better more often.
#[derive(Debug)]
pub struct WeightedRandom;

impl Picker for WeightedRandom {
    fn name(&self) -> &'static str {
        "weighted-random-picker"
    }

    fn pick(&self, _: &Request, _: &[&Candidate], scores: &[f32], at_most: usize, rng: &mut dyn Rng) -> Vec<usize> {
        let all_zero = scores.iter().all(|score| *score <= 0.0);
        let mut keys = Vec::with_capacity(scores.len());
        for score in scores {
            // The logarithm of the key keeps its order, and small scores from being rounded to zero.
            let even = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            let logarithm = even.max(f64::MIN_POSITIVE).ln();
            let weight = if all_zero { 1.0 } else { f64::from(*score) };
            keys.push(if weight > 0.0 { (logarithm / weight) as f32 } else { f32::NEG_INFINITY });
        }
        highest(keys.into_iter(), at_most, rng)
    }
}
