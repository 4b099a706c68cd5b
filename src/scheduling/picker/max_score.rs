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
        // One pass, with the best so far in their order: most endpoints of a large pool fail the first comparison.
        let mut best: Vec<(f32, u64, usize)> = Vec::with_capacity(at_most + 1);
        for (index, &score) in scores.iter().enumerate() {
            let worst = best.last().map_or(f32::NEG_INFINITY, |(worst, _, _)| *worst);
            if best.len() == at_most && score < worst {
                continue;
            }
            // A random number for each that might be in: of equals, the larger one goes first.
            let ticket = rng.next_u64();
            let place = best.partition_point(|(other, other_ticket, _)| {
                other.total_cmp(&score).then(other_ticket.cmp(&ticket)).is_gt()
            });
            best.insert(place, (score, ticket, index));
            best.truncate(at_most);
        }
        best.into_iter().map(|(_, _, index)| index).collect()
    }
}
