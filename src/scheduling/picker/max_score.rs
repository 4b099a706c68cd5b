//! `max-score-picker`: the highest scores, ties in random order.

use super::Picker;
use crate::rng::Rng;

#[derive(Debug)]
pub(crate) struct MaxScore;

impl Picker for MaxScore {
    fn name(&self) -> &'static str {
        "max-score-picker"
    }

    fn pick(&self, scores: &[f32], at_most: usize, rng: &mut dyn Rng) -> Vec<usize> {
        let mut order: Vec<(f32, u64, usize)> =
            scores.iter().enumerate().map(|(index, &score)| (score, rng.next_u64(), index)).collect();
        order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        order.into_iter().take(at_most).map(|(_, _, index)| index).collect()
    }
}
