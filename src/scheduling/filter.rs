//! Filters: which endpoints may be picked at all. One file each.

mod reachable;

use std::fmt::Debug;

use super::Candidate;
use reachable::Reachable;

/// Decides on one endpoint at a time.
pub trait Filter: Debug {
    /// Whether the endpoint may be picked.
    fn keeps(&self, candidate: &Candidate) -> bool;
}

/// The filters that every profile has.
pub(super) fn defaults() -> Vec<Box<dyn Filter>> {
    vec![Box::new(Reachable)]
}
