//! What several rivals share: counts in flight, min-max scores, and a random choice among the best.

use crate::random::Random;

/// Requests in flight at each endpoint.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    counts: Vec<usize>,
    total: usize,
}

impl InFlight {
    pub(super) fn new(endpoints: usize) -> InFlight {
        InFlight { counts: vec![0; endpoints], total: 0 }
    }

    pub(super) fn endpoints(&self) -> usize {
        self.counts.len()
    }

    pub(super) fn of(&self, endpoint: usize) -> usize {
        self.counts.get(endpoint).copied().unwrap_or_default()
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }

    pub(super) fn add(&mut self, endpoint: usize) {
        if let Some(count) = self.counts.get_mut(endpoint) {
            *count += 1;
            self.total += 1;
        }
    }

    pub(super) fn remove(&mut self, endpoint: usize) {
        if let Some(count) = self.counts.get_mut(endpoint) {
            *count = count.saturating_sub(1);
            self.total = self.total.saturating_sub(1);
        }
    }
}

/// `(max - x) / (max - min)` for each: less is better, and all are 1 when they are equal.
pub(super) fn less_is_better(values: &[usize]) -> Vec<f64> {
    let (Some(min), Some(max)) = (values.iter().min(), values.iter().max()) else { return Vec::new() };
    let span = (max - min) as f64;
    values.iter().map(|value| if max == min { 1.0 } else { (max - value) as f64 / span }).collect()
}

/// The index of the best score; any of them when there are several.
pub(super) fn best(scores: &[f64], random: &mut Random) -> usize {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let count = scores.iter().filter(|score| **score == max).count();
    let wanted = random.below(count);
    let mut winners = scores.iter().enumerate().filter(|(_, score)| **score == max);
    winners.nth(wanted).map_or(0, |(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_scores_one_and_the_most_zero() {
        assert_eq!(less_is_better(&[4, 0, 1]), [0.0, 1.0, 0.75]);
        assert_eq!(less_is_better(&[7, 7]), [1.0, 1.0]);
    }

    #[test]
    fn ties_are_random() {
        let mut random = Random::new(1);
        let picks: Vec<usize> = (0..100).map(|_| best(&[0.5, 2.0, 2.0], &mut random)).collect();
        assert!(picks.contains(&1) && picks.contains(&2) && !picks.contains(&0));
    }
}
