//! Filters: which endpoints may be picked at all. One file each.

mod reachable;
mod responsive;

use std::fmt::Debug;

use super::Candidate;
use reachable::Reachable;
use responsive::Responsive;

/// Decides on one endpoint at a time.
pub trait Filter: Debug {
    /// Whether the endpoint may be picked.
    fn keeps(&self, candidate: &Candidate) -> bool;

    /// Whether all are kept where none would be.
    fn falls_back(&self) -> bool;
}

/// The filters that every profile has.
pub(super) fn defaults() -> Vec<Box<dyn Filter>> {
    vec![Box::new(Reachable), Box::new(Responsive)]
}
