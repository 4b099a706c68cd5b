//! When a pool has enough to do, and who waits then.

use serde::{Deserialize, Serialize};

/// When a pool has enough to do.
///
/// An endpoint's saturation is the largest of its waiting requests / `queueDepth`, its used share of the KV cache / `kvCacheUsage` and,
/// if it is set, this gateway's requests there / `maxConcurrency`; the pool's is the mean over its endpoints, and at 1 it is saturated.
/// The formula and the first two defaults are the endpoint picker's. Waiting requests are estimated for this moment: what the last scrape said,
/// and what was sent and has ended since. An endpoint with old metrics does not count; where none has fresh ones, only `maxConcurrency` does.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Saturation {
    /// Waiting requests with which an endpoint is saturated, from 1 to 100000. The default is 5.
    pub queue_depth: Option<u64>,
    /// The used share of the KV cache with which an endpoint is saturated, above 0 and at most 1. The default is 0.8.
    pub kv_cache_usage: Option<f64>,
    /// This gateway's requests in flight with which an endpoint is saturated, from 1 to 100000. The default is none. It is a limit over all workers
    /// for requests that may wait or be refused: with flow control for all that name a model, without it for those of a priority below 0. A higher one
    /// keeps engines busier; a lower one leaves more to wait in the gateway, where priorities count.
    pub max_concurrency: Option<u64>,
}

/// Requests wait in the gateway while the pool is saturated, the ones that matter most leaving first.
///
/// Present and empty, it is on with its defaults. A request waits with its whole body in Envoy's memory. With flow control on, nothing is
/// refused for being sheddable: it waits.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct FlowControl {
    /// Requests of one priority that may wait, over all of Envoy's workers, from 1 to 1000000. One more is refused with 429. The default is 5000.
    pub max_requests: Option<u64>,
    /// Bytes of the bodies of one priority's waiting requests, over all of Envoy's workers, from 1 to 1099511627776. The default is 1000000000.
    pub max_bytes: Option<u64>,
    /// How long a request waits at most, from `10ms` to `1h`; then it is refused with 429, or with 503 where no endpoint can be reached.
    /// A request may ask for less in the header `x-llm-d-inference-ttl`, if `trustedHeaders` has it. The default is `60s`.
    pub ttl: Option<String>,
    /// Who is next among the flows of one priority. A flow is what requests name in `x-gateway-inference-fairness-id`, if `trustedHeaders` has it; all others are one flow. The default is `round-robin`.
    pub fairness: Option<Fairness>,
    /// Who is next within a flow. The default is `fcfs`.
    pub ordering: Option<Ordering>,
    /// What differs for a priority.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<Band>>"))]
    pub bands: Option<Vec<Option<Band>>>,
}

/// What differs for the requests of one priority.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Band {
    /// The priority, each once. Required.
    #[cfg_attr(feature = "schema", schemars(with = "i64"))]
    pub priority: Option<i64>,
    /// Requests that may wait. The default is the pool's `maxRequests`.
    pub max_requests: Option<u64>,
    /// Bytes of their bodies. The default is the pool's `maxBytes`.
    pub max_bytes: Option<u64>,
    /// How long a request waits at most. The default is the pool's `ttl`.
    pub ttl: Option<String>,
    /// Who is next within a flow. The default is the pool's `ordering`.
    pub ordering: Option<Ordering>,
    /// The saturation from which on these requests wait, above 0 and at most 10. The default is 1. A lower one for lower priorities keeps room
    /// for the higher ones.
    pub saturation_ceiling: Option<f64>,
}

/// Who is next among the flows of one priority.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Fairness {
    /// Each flow in its turn.
    RoundRobin,
    /// All flows are one.
    GlobalStrict,
}

/// Who is next within a flow.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Ordering {
    /// First come, first served.
    Fcfs,
    /// Earliest deadline first: the request's arrival and its `x-slo-ttft-ms`, or its time to live where it names none.
    Edf,
}
