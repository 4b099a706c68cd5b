//! `scheduling` as it may be written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How an endpoint is chosen: filters, scorers and a picker, under the names of the Inference Extension's endpoint picker.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Scheduling {
    /// A set of scorers and a picker. The default is `default`, unless `scorers` are given.
    pub profile: Option<ProfileName>,
    /// Which endpoints may be picked, in this order; besides, those that are unreachable, silent or ejected are left out. The default is none.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<Filter>>"))]
    pub filters: Option<Vec<Option<Filter>>>,
    /// What counts for an endpoint, and how much: the endpoint with the highest sum of weight times score is the best. They take the place of the profile's.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<Scorer>>"))]
    pub scorers: Option<Vec<Option<Scorer>>>,
    /// How the list of endpoints is made from the scores.
    pub picker: Option<Picker>,
}

/// A set of scorers and a picker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ProfileName {
    /// This project's own: `expected-ttft-scorer` and `rendezvous-picker`. `docs/decisions/0001-default-profile.md` compares it with others.
    #[default]
    Default,
    /// The endpoint picker's default: `queue-scorer` 2, `kv-cache-utilization-scorer` 2, `prefix-cache-scorer` 3, and `max-score-picker`.
    Epp,
}

/// A condition on endpoints.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Filter {
    /// The filter's name: `label-selector-filter` (endpoints, or pods, that have all of `matchLabels`) or `utilization-filter` (endpoints within the
    /// limits). Required.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub type_: Option<String>,
    /// What the filter needs to know.
    pub parameters: Option<FilterParameters>,
}

/// What a filter needs to know.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct FilterParameters {
    /// Labels that an endpoint must have, for `label-selector-filter`; at least one.
    pub match_labels: Option<BTreeMap<String, String>>,
    /// The most requests of this gateway in flight, for `utilization-filter`.
    pub max_active: Option<u64>,
    /// The most running requests, for `utilization-filter`.
    pub max_running: Option<u64>,
    /// The most waiting requests, for `utilization-filter`.
    pub max_waiting: Option<u64>,
    /// The highest used share of the KV cache, from 0 to 1, for `utilization-filter`.
    pub max_kv_cache_usage: Option<f64>,
    /// Whether all endpoints are kept where none is within the limits, for `utilization-filter`. The default is true; with false the pool's
    /// `failureMode` decides.
    pub fallback_on_empty: Option<bool>,
}

/// One term of an endpoint's score.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Scorer {
    /// The scorer's name, one of `expected-ttft-scorer` (the first token is expected sooner), `queue-scorer` (fewer waiting requests),
    /// `running-requests-size-scorer` (fewer running ones), `kv-cache-utilization-scorer` (a less used KV cache), `prefix-cache-scorer` (more
    /// of the prompt is cached), `lora-affinity-scorer` (the adapter is active there, or there is room for it), `active-request-scorer` (fewer
    /// of this gateway's requests in flight), `token-load-scorer` (fewer of its prompt tokens to compute), `no-hit-lru-scorer` (got a cold
    /// prompt longer ago), `session-affinity-scorer` (the home of the session in `x-session-id`), `load-aware-scorer` (a shorter queue, in
    /// absolute terms) and `context-length-aware` (its label's range holds the prompt). Required.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub type_: Option<String>,
    /// What its score, from 0 to 1, is multiplied by; from 0 to 1000. The default is 1.
    pub weight: Option<f64>,
    /// What the scorer needs to know; the defaults are the endpoint picker's.
    pub parameters: Option<ScorerParameters>,
}

/// What a scorer needs to know.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ScorerParameters {
    /// The queue at which the score is zero, for `load-aware-scorer`; from 1. The default is 128.
    pub threshold: Option<u64>,
    /// How much the match's length counts against its share, from 0 to 1, for `prefix-cache-scorer`. The default is 0.
    pub match_length_weight: Option<f64>,
    /// The match that counts in full, in tokens, for `prefix-cache-scorer`; from 1. The default is 8192.
    pub match_length_scale_tokens: Option<u64>,
    /// Up to this many requests in flight an endpoint counts as idle, for `active-request-scorer`. The default is 0.
    pub idle_threshold: Option<u64>,
    /// The most that a busy endpoint scores, from 0 to 1, for `active-request-scorer`. The default is 1.
    pub max_busy_score: Option<f64>,
    /// The tokens at which the score is zero, for `token-load-scorer`; from 1. The default is 4194304.
    pub queue_threshold_tokens: Option<u64>,
}

/// How the list of endpoints is made from the scores.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Picker {
    /// The picker's name: `max-score-picker` (the highest scores, ties at random), `random-picker` (any), `weighted-random-picker` (at random, the
    /// higher scores more often) or `rendezvous-picker` (the highest scores; of those within 5 % of the best, the one that the prompt's
    /// beginning chooses, the same on every gateway). The default is the profile's, and `max-score-picker` with `scorers`.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// How many endpoints are named, best first, from 1 to 3; Envoy's retries walk down the list. The default is 3.
    pub max_num_of_endpoints: Option<u64>,
}
