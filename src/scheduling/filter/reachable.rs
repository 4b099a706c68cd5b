//! Leaves out endpoints that cannot be connected to.
//!
//! Envoy's `override_host` policy sends a request to a host that its own health checks have given up on, so
//! leaving dead endpoints out is up to the picker. Where none is left, the pool's failure mode decides.

use super::{Candidate, Filter};
use crate::load::Health;

#[derive(Debug)]
pub(in crate::scheduling) struct Reachable;

impl Filter for Reachable {
    fn keeps(&self, candidate: &Candidate) -> bool {
        candidate.health != Health::Unreachable
    }

    fn falls_back(&self) -> bool {
        false
    }
}
