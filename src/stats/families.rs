//! The table of metrics: names, kinds, labels and help texts; the manual is made of it.

/// What kind of metric a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations by size.
    Histogram,
}

/// A family of metrics.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The name, without Envoy's prefix.
    pub name: &'static str,
    /// The kind.
    pub kind: Kind,
    /// The labels, in their order in the name.
    pub labels: &'static [&'static str],
    /// What it counts, for the manual.
    pub help: &'static str,
}

/// Every family, in the manual's order.
pub const FAMILIES: [&Family; 18] = [
    &PICKS,
    &ENDPOINT_PICKS,
    &OVERRIDE_MISSED,
    &TIME_TO_FIRST_TOKEN,
    &EJECTIONS,
    &ENDPOINT_REFUSALS,
    &REFUSALS,
    &PASSED_THROUGH,
    &SATURATION,
    &WAITING,
    &WAITED,
    &WAIT_TIME,
    &RULE_MATCHES,
    &RULE_ERRORS,
    &DECISION_MICROSECONDS,
    &SCRAPES,
    &ENDPOINTS,
    &POLLING,
];

pub(super) const PICKS: Family = Family {
    name: "inference_picks_total",
    kind: Kind::Counter,
    labels: &["pool", "tier"],
    help: "Requests for which endpoints were picked, by what the pick rests on: fresh metrics, in-flight requests, a hash of the request, or none (left to Envoy's fallback).",
};
pub(super) const ENDPOINT_PICKS: Family = Family {
    name: "inference_endpoint_picks_total",
    kind: Kind::Counter,
    labels: &["pool", "endpoint"],
    help: "Requests for which the endpoint was the first choice.",
};
pub(super) const OVERRIDE_MISSED: Family = Family {
    name: "inference_override_missed_total",
    kind: Kind::Counter,
    labels: &["pool"],
    help: "Requests that an endpoint served which was not among the picked ones: the cluster lacks the picked endpoints, has no override_host policy, or a retry went past the list.",
};
pub(super) const TIME_TO_FIRST_TOKEN: Family = Family {
    name: "inference_time_to_first_token_milliseconds",
    kind: Kind::Histogram,
    labels: &["pool"],
    help: "Time from the decision to the first byte of a streamed answer's body, in milliseconds.",
};
pub(super) const EJECTIONS: Family = Family {
    name: "inference_ejections_total",
    kind: Kind::Counter,
    labels: &["pool", "reason"],
    help: "How often an endpoint was left out for failing requests: errors (several in a row), or stalled (it takes requests and gives no sign of work).",
};
pub(super) const ENDPOINT_REFUSALS: Family = Family {
    name: "inference_endpoint_refusals_total",
    kind: Kind::Counter,
    labels: &["pool", "about"],
    help: "Requests that an endpoint refused, also where the next one took them, by what it was about: the endpoint (a redirect, an error event), the client's credentials (401, 403), its room (429, 503), the model (404), or the request (400, 413, 422).",
};
pub(super) const REFUSALS: Family = Family {
    name: "inference_refusals_total",
    kind: Kind::Counter,
    labels: &["reason"],
    help: "Requests that the plugin answered itself, by the reason in x-llm-d-request-dropped-reason.",
};
pub(super) const PASSED_THROUGH: Family = Family {
    name: "inference_passed_through_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Requests that are no inference requests and whose route leads to no pool.",
};
pub(super) const SATURATION: Family = Family {
    name: "inference_saturation_percent",
    kind: Kind::Gauge,
    labels: &["pool"],
    help: "The pool's saturation as a worker last saw it, in percent; at 100 it has enough to do.",
};
pub(super) const WAITING: Family = Family {
    name: "inference_waiting_requests",
    kind: Kind::Gauge,
    labels: &["pool"],
    help: "Requests that wait in the gateway for the pool, over all workers.",
};
pub(super) const WAITED: Family = Family {
    name: "inference_waited_total",
    kind: Kind::Counter,
    labels: &["pool", "outcome"],
    help: "Requests that have waited in the gateway, by what became of them: dispatched, capacity (too many waited), expired (their time to live), or left (the client).",
};
pub(super) const WAIT_TIME: Family = Family {
    name: "inference_wait_milliseconds",
    kind: Kind::Histogram,
    labels: &["pool"],
    help: "How long requests have waited in the gateway that were dispatched then, in milliseconds.",
};
pub(super) const RULE_MATCHES: Family = Family {
    name: "inference_rule_matches_total",
    kind: Kind::Counter,
    labels: &["rule"],
    help: "Requests that a rule has decided, by the rule's position in the configuration.",
};
pub(super) const RULE_ERRORS: Family = Family {
    name: "inference_rule_errors_total",
    kind: Kind::Counter,
    labels: &["rule"],
    help: "Requests for which a rule could not be evaluated and was passed over, by the rule's position in the configuration.",
};
pub(super) const DECISION_MICROSECONDS: Family = Family {
    name: "inference_decision_microseconds",
    kind: Kind::Histogram,
    labels: &[],
    help: "Time from the request's last byte to the decision, in microseconds of wall-clock time.",
};
pub(super) const SCRAPES: Family = Family {
    name: "inference_scrapes_total",
    kind: Kind::Counter,
    labels: &["pool", "result"],
    help: "Scrapes of the pool's endpoints, by result: ok, unreachable (connection refused, 503, or another host in its place), timeout, or unreadable.",
};
pub(super) const ENDPOINTS: Family = Family {
    name: "inference_endpoints",
    kind: Kind::Gauge,
    labels: &["pool", "health"],
    help: "The pool's endpoints as the polling VM last published them, by health: up, unreachable (connections are refused), silent (no answer in time), or unknown.",
};
pub(super) const POLLING: Family = Family {
    name: "inference_lease_acquired_total",
    kind: Kind::Counter,
    labels: &["rank"],
    help: "How often a VM took over polling: the singleton, or an inference VM as its backup. A start counts two singletons, since Envoy tries the configuration out in a VM that it throws away; a backup that counts means that the singleton is gone, or that the listener has a newer configuration than the singleton.",
};
