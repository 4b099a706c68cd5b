//! `label-selector-filter`: endpoints that have every one of the wanted labels.

use super::{Candidate, Filter};

pub(super) const NAME: &str = "label-selector-filter";

/// Labels don't change while a configuration lives, so which endpoints match is worked out once.
#[derive(Debug)]
pub struct LabelSelector {
    matching: Vec<bool>,
}

impl LabelSelector {
    /// Keeps the endpoints whose position is true.
    pub fn new(matching: Vec<bool>) -> LabelSelector {
        LabelSelector { matching }
    }
}

impl Filter for LabelSelector {
    fn keeps(&self, candidate: &Candidate) -> bool {
        self.matching.get(candidate.endpoint).copied().unwrap_or(false)
    }

    fn falls_back(&self) -> bool {
        false
    }
}
