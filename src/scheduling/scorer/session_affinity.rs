//! `session-affinity-scorer`: every request of a session goes to one endpoint.
//!
//! 1 for the endpoint that the session's id chooses by highest random weight, 0 for the others and for requests
//! without a session. Nothing is remembered: all gateways and workers agree, a session moves only when its
//! endpoint goes, and no table can grow. The id is the value of the header `x-session-id`.

use super::{Candidate, Request, Scorer};
use crate::hash;

/// Prefers the session's endpoint.
#[derive(Debug)]
pub struct SessionAffinity;

impl Scorer for SessionAffinity {
    fn name(&self) -> &'static str {
        "session-affinity-scorer"
    }

    fn score(&self, request: &Request, candidates: &[&Candidate], scores: &mut [f32]) {
        scores.fill(0.0);
        let Some(session) = request.session else { return };
        let home = candidates.iter().enumerate().max_by_key(|(_, candidate)| hash::combine(session, candidate.key));
        if let Some(score) = home.and_then(|(home, _)| scores.get_mut(home)) {
            *score = 1.0;
        }
    }
}
