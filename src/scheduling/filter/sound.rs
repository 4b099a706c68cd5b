//! Leaves out endpoints that live traffic has shown to be broken, while others are there.

use super::{Candidate, Filter};

#[derive(Debug)]
pub(in crate::scheduling) struct Sound;

impl Filter for Sound {
    fn keeps(&self, candidate: &Candidate) -> bool {
        !candidate.ejected
    }

    fn falls_back(&self) -> bool {
        true
    }
}
