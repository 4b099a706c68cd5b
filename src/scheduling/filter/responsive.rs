//! Leaves out endpoints that take a scrape and do not answer, while others do.
//!
//! A hung server or a black hole has no requests that it finishes, so its counts would soon look good. A
//! slow metrics page alone is no proof, so where every endpoint is silent, all are kept.

use super::{Candidate, Filter};
use crate::load::Health;

#[derive(Debug)]
pub(in crate::scheduling) struct Responsive;

impl Filter for Responsive {
    fn keeps(&self, candidate: &Candidate) -> bool {
        candidate.health != Health::Silent
    }

    fn falls_back(&self) -> bool {
        true
    }
}
