//! Whether an endpoint takes what others take.

use super::Filter;
use crate::acceptance::LIKELY;
use crate::scheduling::Candidate;

/// Leaves out those that are likely to refuse the request.
#[derive(Debug)]
pub(in crate::scheduling) struct Accepting;

impl Filter for Accepting {
    fn keeps(&self, candidate: &Candidate) -> bool {
        candidate.refusal <= LIKELY
    }

    fn falls_back(&self) -> bool {
        true
    }
}
