//! Chooses endpoints: filter, score, pick, in the words of the Gateway API Inference Extension.
//!
//! A new scorer, filter or picker is one file in `scorer/`, `filter/` or `picker/` and one line in that
//! folder's list. Picking cannot fail: it ends in a [`Decision`], one of whose variants says "no opinion,
//! and why".

pub mod filter;
pub mod labels;
pub mod picker;
mod profile;
pub mod scorer;

use crate::load::Health;

pub use filter::Filter;
pub use picker::Picker;
pub use profile::{Profile, WeightedScorer};
pub use scorer::Scorer;

/// Envoy's retries rarely go past two; a longer list would only make the header longer.
pub const MAX_PICKS: usize = 3;

/// A request, as far as scorers and pickers look at it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Request {
    /// The prompt's tokens, as far as that can be told.
    pub prompt_tokens: u32,
    /// A hash of what the prompt begins with, the same for requests that share a beginning.
    pub opening: u64,
    /// A hash of the session that the client names.
    pub session: Option<u64>,
    /// What the client hopes for.
    pub slo: Slo,
    /// The most requests of this gateway that its endpoint may have, itself included, where that is limited.
    pub limit: Option<u32>,
}

/// Service level objectives of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slo {
    /// The time to its first token, in seconds.
    pub ttft: Option<f32>,
    /// The time for each further token, in seconds.
    pub tpot: Option<f32>,
}

/// What is known about an endpoint at the moment of a pick. A missing or stale signal is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidate {
    /// The endpoint's position in its pool.
    pub endpoint: usize,
    /// The endpoint's [`crate::hash::endpoint`], equal on every gateway replica.
    pub key: u64,
    /// What its labels say.
    pub traits: labels::Traits,
    /// Whether it answers the poller.
    pub health: Health,
    /// Whether live traffic has shown it to be broken.
    pub ejected: bool,
    /// Whether its metrics are fresh, old, or were never seen.
    pub freshness: Freshness,
    /// Requests that wait there.
    pub waiting: Option<u32>,
    /// Requests that run there.
    pub running: Option<u32>,
    /// The used share of its KV cache.
    pub kv_cache_usage: Option<f32>,
    /// How the requested adapter stands there; `None` when the request needs none or nothing is known.
    pub adapter: Option<AdapterState>,
    /// Requests that this gateway has in flight there.
    pub in_flight: u32,
    /// Prompt tokens of these that are not known to be computed.
    pub prefill_tokens: u64,
    /// Tokens of the request's prompt that are in its KV cache, as far as this gateway knows.
    pub cached_tokens: u32,
    /// The time to the request's first token there, in seconds, with what a pick of it would cost others.
    pub expected_ttft: f32,
    /// The time to the request's first token there, in seconds, and nothing else.
    pub ttft: f32,
    /// The time that each further token takes there, in seconds, if its counters tell.
    pub tpot: Option<f32>,
    /// The probability that it refuses what others accept, from 0 to 1.
    pub refusal: f32,
    /// The number of this worker's last pick of it for a prompt that was cached nowhere; zero for never.
    pub last_cold_pick: u64,
}

/// How old an endpoint's metrics are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freshness {
    /// Never seen.
    #[default]
    Never,
    /// Older than `poller.staleAfter`.
    Stale,
    /// Recent enough to count.
    Fresh,
}

/// How an endpoint stands to the adapter that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterState {
    /// A request with it is running.
    Running,
    /// A request with it is waiting.
    Waiting,
    /// It is not active, and there is room for another one.
    Room,
    /// It is not active, and every place is taken.
    Full,
}

/// The outcome of a pick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// These endpoints, best first; at least one.
    Picked {
        /// Positions in the pool.
        endpoints: Vec<usize>,
        /// What the choice rests on.
        tier: Tier,
    },
    /// Nothing can be said.
    NoOpinion(NoOpinion),
}

/// What a choice rests on, from much to little.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Fresh metrics of at least one endpoint.
    Fresh,
    /// Only this gateway's requests in flight: all metrics are stale.
    InFlight,
    /// Only the request itself: nothing was ever scraped.
    Hash,
    /// Nothing: the pool's failure mode decides.
    None,
}

/// Why there is no opinion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoOpinion {
    /// The pool has no endpoints.
    NoEndpoints,
    /// None of its endpoints can be connected to.
    AllUnreachable,
    /// The filters that the configuration or the request asks for leave none.
    AllFiltered,
}

impl Tier {
    /// Every tier.
    pub const ALL: [Tier; 4] = [Tier::Fresh, Tier::InFlight, Tier::Hash, Tier::None];

    /// The tier's name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Fresh => "fresh",
            Tier::InFlight => "in-flight",
            Tier::Hash => "hash",
            Tier::None => "none",
        }
    }
}

impl Decision {
    /// The tier that the decision was made on.
    pub fn tier(&self) -> Tier {
        match self {
            Decision::Picked { tier, .. } => *tier,
            Decision::NoOpinion(_) => Tier::None,
        }
    }
}
