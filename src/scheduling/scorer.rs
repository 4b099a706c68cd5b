//! Scorers: how good an endpoint is in one respect. One file each, under the endpoint picker's names.
//!
//! Scores are from 0 to 1, and higher is better. A signal that an endpoint doesn't have scores
//! [`NEUTRAL`]: worse than an endpoint that is known to be idle, better than one that is known to be busy.

mod active_request;
mod context_length_aware;
mod expected_ttft;
mod kv_cache_utilization;
mod load_aware;
mod lora_affinity;
mod no_hit_lru;
mod prefix_cache;
mod queue;
mod running_requests_size;
mod session_affinity;
mod token_load;

use std::fmt::Debug;

use super::{Candidate, Request};

pub use active_request::ActiveRequest;
pub use context_length_aware::{ContextLengthAware, NAME as CONTEXT_LENGTH_AWARE};
pub use expected_ttft::ExpectedTtft;
pub use kv_cache_utilization::KvCacheUtilization;
pub use load_aware::LoadAware;
pub use lora_affinity::LoraAffinity;
pub use no_hit_lru::NoHitLru;
pub use prefix_cache::PrefixCache;
pub use queue::Queue;
pub use running_requests_size::RunningRequestsSize;
pub use session_affinity::SessionAffinity;
pub use token_load::TokenLoad;

/// The score of an endpoint about which nothing is known.
pub(super) const NEUTRAL: f32 = 0.5;

/// What an engine may or may not say on its metrics page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Requests that wait.
    Waiting,
    /// Requests that run.
    Running,
    /// The used share of the KV cache.
    KvCacheUsage,
}

impl Signal {
    /// What it is called in messages.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Waiting => "waiting requests",
            Signal::Running => "running requests",
            Signal::KvCacheUsage => "KV-cache use",
        }
    }
}

/// Scores the candidates of one request in one respect.
pub trait Scorer: Debug {
    /// The name in the configuration.
    fn name(&self) -> &'static str;

    /// The signal without which all endpoints score alike.
    fn needs(&self) -> Option<Signal> {
        None
    }

    /// Writes one score for each candidate; both slices have the same length.
    fn score(&self, request: &Request, candidates: &[&Candidate], scores: &mut [f32]);
}

/// One of each, with the endpoint picker's default parameters.
pub fn all() -> Vec<Box<dyn Scorer>> {
    vec![
        Box::new(ExpectedTtft),
        Box::new(Queue),
        Box::new(RunningRequestsSize),
        Box::new(KvCacheUtilization),
        Box::new(PrefixCache::default()),
        Box::new(LoraAffinity),
        Box::new(ActiveRequest::default()),
        Box::new(TokenLoad::default()),
        Box::new(NoHitLru),
        Box::new(SessionAffinity),
        Box::new(LoadAware::default()),
        Box::new(ContextLengthAware),
    ]
}

/// The endpoint picker's formula for counts: (max - n) / (max - min), and 1 for all when they are equal.
fn fewer_is_better(candidates: &[&Candidate], scores: &mut [f32], count: impl Fn(&Candidate) -> Option<u32>) {
    let known = || candidates.iter().filter_map(|candidate| count(candidate));
    let most = known().max().unwrap_or(0);
    let least = known().min().unwrap_or(0);
    for (candidate, score) in candidates.iter().zip(scores) {
        *score = match count(candidate) {
            None => NEUTRAL,
            Some(_) if most == least => 1.0,
            Some(count) => (most - count) as f32 / (most - least) as f32,
        };
    }
}

#[cfg(test)]
mod tests;
