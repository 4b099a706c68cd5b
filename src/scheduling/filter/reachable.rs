//! Leaves out endpoints that cannot be connected to.
//!
//! Envoy's `override_host` policy sends a request to a host that its own health checks have given up on, so
//! leaving dead endpoints out is up to the picker.

use super::{Candidate, Filter};

#[derive(Debug)]
pub(super) struct Reachable;

impl Filter for Reachable {
    fn keeps(&self, candidate: &Candidate) -> bool {
        !candidate.unreachable
    }
}
