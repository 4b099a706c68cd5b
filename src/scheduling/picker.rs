//! Pickers: from scores to an ordered list. One file each, under the endpoint picker's names.

mod max_score;

use std::fmt::Debug;

use crate::rng::Rng;

pub(super) use max_score::MaxScore;

/// Makes the list of a request's endpoints.
pub trait Picker: Debug {
    /// The name in the configuration.
    fn name(&self) -> &'static str;

    /// Positions in `scores`, best first, at most `at_most`; at least one unless there is no score.
    fn pick(&self, scores: &[f32], at_most: usize, rng: &mut dyn Rng) -> Vec<usize>;
}

/// One of each.
pub(super) fn all() -> Vec<Box<dyn Picker>> {
    vec![Box::new(MaxScore)]
}
