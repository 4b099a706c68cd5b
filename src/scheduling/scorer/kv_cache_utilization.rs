//! `kv-cache-utilization-scorer`: a less used KV cache is better.
//!
//! 1 - use, where use is the engine's own figure from 0 to 1.

use super::{Candidate, NEUTRAL, Request, Scorer, Signal};

/// Prefers a less used KV cache.
#[derive(Debug)]
pub struct KvCacheUtilization;

impl Scorer for KvCacheUtilization {
    fn name(&self) -> &'static str {
        "kv-cache-utilization-scorer"
    }

    fn needs(&self) -> Option<Signal> {
        Some(Signal::KvCacheUsage)
    }

    fn score(&self, _: &Request, candidates: &[&Candidate], scores: &mut [f32]) {
        for (candidate, score) in candidates.iter().zip(scores) {
            *score = candidate.kv_cache_usage.map_or(NEUTRAL, |usage| 1.0 - usage);
        }
    }
}
