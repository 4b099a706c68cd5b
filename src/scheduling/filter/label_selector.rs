//! `label-selector-filter`: endpoints that have every one of the wanted labels.

use super::{Candidate, Filter};

pub(super) const NAME: &str = "label-selector-filter";

/// Keeps what has the labels of one of the profile's selectors.
#[derive(Debug)]
pub struct LabelSelector {
    /// The selector's number, below [`MAX_SELECTORS`](crate::scheduling::labels::MAX_SELECTORS).
    pub selector: usize,
}

impl Filter for LabelSelector {
    fn keeps(&self, candidate: &Candidate) -> bool {
        candidate.traits.selected >> self.selector & 1 == 1
    }

    fn falls_back(&self) -> bool {
        false
    }
}
