//! `utilization-filter`: endpoints that are below every limit. A missing signal is below.

use super::{Candidate, Filter};

pub(super) const NAME: &str = "utilization-filter";

/// The most that an endpoint may have; `None` for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// This gateway's requests in flight.
    pub max_active: Option<u32>,
    /// Requests that run.
    pub max_running: Option<u32>,
    /// Requests that wait.
    pub max_waiting: Option<u32>,
    /// The used share of the KV cache.
    pub max_kv_cache_usage: Option<f32>,
}

/// Keeps what is within the limits.
#[derive(Debug)]
pub struct Utilization {
    /// The limits.
    pub limits: Limits,
    /// Whether all are kept where none is within them.
    pub falls_back: bool,
}

impl Filter for Utilization {
    fn keeps(&self, candidate: &Candidate) -> bool {
        let within = |value: Option<u32>, limit: Option<u32>| limit.is_none_or(|limit| value.unwrap_or(0) <= limit);
        let Limits { max_active, max_running, max_waiting, max_kv_cache_usage } = self.limits;
        within(Some(candidate.in_flight), max_active)
            && within(candidate.running, max_running)
            && within(candidate.waiting, max_waiting)
            && max_kv_cache_usage.is_none_or(|limit| candidate.kv_cache_usage.unwrap_or(0.0) <= limit)
    }

    fn falls_back(&self) -> bool {
        self.falls_back
    }
}
