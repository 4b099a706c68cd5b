//! Pickers: from scores to an ordered list. One file each, under the endpoint picker's names.

mod max_score;
mod random;
mod rendezvous;
mod weighted_random;

use std::fmt::Debug;

use super::{Candidate, Request};
use crate::rng::Rng;

pub use max_score::MaxScore;
pub use random::Random;
pub use rendezvous::Rendezvous;
pub use weighted_random::WeightedRandom;

/// Makes the list of a request's endpoints.
pub trait Picker: Debug {
    /// The name in the configuration.
    fn name(&self) -> &'static str;

    /// Positions in `scores`, best first, at most `at_most`; at least one unless there is no score.
    fn pick(
        &self,
        request: &Request,
        candidates: &[&Candidate],
        scores: &[f32],
        at_most: usize,
        rng: &mut dyn Rng,
    ) -> Vec<usize>;
}

/// One of each.
pub fn all() -> Vec<Box<dyn Picker>> {
    vec![Box::new(MaxScore), Box::new(Random), Box::new(WeightedRandom), Box::new(Rendezvous)]
}

/// The positions of the highest `keys`, best first, ties in random order, in one pass: most endpoints of a large
/// pool fail the first comparison.
fn highest(keys: impl Iterator<Item = f32>, at_most: usize, rng: &mut dyn Rng) -> Vec<usize> {
    let mut best: Vec<(f32, u64, usize)> = Vec::with_capacity(at_most + 1);
    for (index, key) in keys.enumerate() {
        let worst = best.last().map_or(f32::NEG_INFINITY, |(worst, _, _)| *worst);
        if best.len() == at_most && key < worst {
            continue;
        }
        // A random number for each that might be in: of equals, the larger one goes first.
        let ticket = rng.next_u64();
        let place = best
            .partition_point(|(other, other_ticket, _)| other.total_cmp(&key).then(other_ticket.cmp(&ticket)).is_gt());
        best.insert(place, (key, ticket, index));
        best.truncate(at_most);
    }
    best.into_iter().map(|(_, _, index)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::SplitMix64;
    use crate::testing::test;

    fn candidates(count: usize) -> Vec<Candidate> {
        (0..count)
            .map(|endpoint| Candidate { endpoint, key: crate::hash::mix(endpoint as u64), ..Candidate::default() })
            .collect()
    }

    fn pick(picker: &dyn Picker, request: &Request, scores: &[f32], at_most: usize, rng: &mut dyn Rng) -> Vec<usize> {
        let candidates = candidates(scores.len());
        let candidates: Vec<&Candidate> = candidates.iter().collect();
        picker.pick(request, &candidates, scores, at_most, rng)
    }

    /// What holds for every picker, whatever it prefers.
    #[test]
    fn the_contract() {
        let mut rng = SplitMix64::new(5);
        for picker in all() {
            for scores in [&[][..], &[0.0], &[0.0, 0.0, 0.0], &[0.5, 1.0, 0.0, 0.25, 3.0], &[f32::NAN, 1.0]] {
                for at_most in 1..=3 {
                    let mut picked = pick(picker.as_ref(), &Request::default(), scores, at_most, &mut rng);
                    assert_eq!(picked.len(), scores.len().min(at_most), "{}: {scores:?}", picker.name());
                    picked.sort_unstable();
                    picked.dedup();
                    assert_eq!(picked.len(), scores.len().min(at_most), "{} lists one twice", picker.name());
                    assert!(picked.iter().all(|index| *index < scores.len()));
                }
            }
        }
    }

    /// How often each endpoint comes first in 10,000 picks.
    fn firsts(picker: &dyn Picker, scores: &[f32]) -> Vec<i32> {
        let mut rng = SplitMix64::new(3);
        let mut counts = vec![0; scores.len()];
        for opening in 0..10_000 {
            let request = Request { opening: crate::hash::mix(opening), ..Request::default() };
            counts[pick(picker, &request, scores, 3, &mut rng)[0]] += 1;
        }
        counts
    }

    #[test]
    fn each_prefers_what_it_says() {
        // 4.5 sigma of a binomial with n = 10,000: 225 at 1/2, 212 at 1/3, 195 at 1/4.
        let near = |count: i32, expected: i32| (count - expected).abs() < 225;
        let max_score = firsts(&MaxScore, &[1.0, 1.0, 0.9]);
        assert!(near(max_score[0], 5_000) && near(max_score[1], 5_000) && max_score[2] == 0, "{max_score:?}");
        let random = firsts(&Random, &[1.0, 0.0, 0.5]);
        assert!(random.iter().all(|count| near(*count, 3_333)), "{random:?}");
        // The chance of coming first in A-Res is the score's share of the sum.
        let weighted = firsts(&WeightedRandom, &[3.0, 1.0, 0.0]);
        assert!(near(weighted[0], 7_500) && near(weighted[1], 2_500) && weighted[2] == 0, "{weighted:?}");
        let weighted = firsts(&WeightedRandom, &[0.0, 0.0, 0.0]);
        assert!(weighted.iter().all(|count| near(*count, 3_333)), "{weighted:?}");
        let rendezvous = firsts(&Rendezvous, &[1.0, 0.99, 0.5]);
        assert!(near(rendezvous[0], 5_000) && near(rendezvous[1], 5_000) && rendezvous[2] == 0, "{rendezvous:?}");
    }

    #[test]
    fn gateways_with_the_same_scores_agree_on_a_prompt() {
        for opening in 0..100 {
            let request = Request { opening, ..Request::default() };
            let picks: Vec<Vec<usize>> = (0..5)
                .map(|seed| pick(&Rendezvous, &request, &[1.0, 1.0, 0.99, 1.0], 3, &mut SplitMix64::new(seed)))
                .collect();
            assert!(picks.windows(2).all(|pair| pair[0][0] == pair[1][0]), "{picks:?}");
        }
    }
}
