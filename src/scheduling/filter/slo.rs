//! Keeps the endpoints that are expected to do what the client hopes for, while there is one.

use super::Filter;
use crate::scheduling::{Candidate, Slo};

/// The endpoints that meet a request's service level objectives; what is not known meets them.
#[derive(Debug)]
pub(in crate::scheduling) struct MeetsSlo(pub(in crate::scheduling) Slo);

impl Filter for MeetsSlo {
    fn keeps(&self, candidate: &Candidate) -> bool {
        let meets_ttft = self.0.ttft.is_none_or(|ttft| candidate.ttft <= ttft);
        let meets_tpot = self.0.tpot.is_none_or(|tpot| candidate.tpot.is_none_or(|expected| expected <= tpot));
        meets_ttft && meets_tpot
    }

    fn falls_back(&self) -> bool {
        true
    }
}
