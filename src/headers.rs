//! The names of the headers that are read and written, all in lower case as Envoy has them.

/// Names the endpoints, best first; steers the `override_host` policy.
pub const DESTINATION: &str = "x-gateway-destination-endpoint";
/// Names the endpoint that served, on the response.
pub const SERVED: &str = "x-gateway-destination-endpoint-served";
/// The model that the engine is asked for.
pub const MODEL: &str = "x-gateway-model-name";
/// The base model of the pool; routes match on it.
pub const BASE_MODEL: &str = "x-gateway-base-model-name";
/// The endpoints that a request may go to, from an earlier filter.
pub const SUBSET: &str = "x-gateway-destination-endpoint-subset";
/// The same under its other name; the first one counts where both are there.
pub const SUBSET_TWIN: &str = "x-llm-d-destination-endpoint-subset";
/// Names a session, whose requests `session-affinity-scorer` keeps together.
pub const SESSION: &str = "x-session-id";
/// Asks an engine to report its load in the answer.
pub const LOAD_METRICS_FORMAT: &str = "endpoint-load-metrics-format";
/// An engine's report of its load.
pub const LOAD_METRICS: &str = "endpoint-load-metrics";
/// Why a request was refused, on the response.
pub const DROPPED_REASON: &str = "x-llm-d-request-dropped-reason";

/// Names an objective, and so a priority; the second name is the endpoint picker's present one, and counts first.
pub const OBJECTIVE: &str = "x-gateway-inference-objective";
/// Its other name.
pub const OBJECTIVE_TWIN: &str = "x-llm-d-inference-objective";
/// Names the flow that a request waits in.
pub const FAIRNESS_ID: &str = "x-gateway-inference-fairness-id";
/// Its other name, which counts first.
pub const FAIRNESS_ID_TWIN: &str = "x-llm-d-inference-fairness-id";
/// How long a request will wait, as a duration.
pub const TTL: &str = "x-llm-d-inference-ttl";
/// The time to first token that a request hopes for, in milliseconds; `x-slo-ttft-ms` is another name, and is passed on.
pub const SLO_TTFT: &str = "x-llm-d-slo-ttft-ms";
/// The time for each further token, in milliseconds; `x-slo-tpot-ms` is another name, and is passed on.
pub const SLO_TPOT: &str = "x-llm-d-slo-tpot-ms";
/// When to try again, in seconds, on a refusal.
pub const RETRY_AFTER: &str = "retry-after";

/// What a client must not send on to Envoy or to a model server: each steers, or speaks to the picker.
///
/// The names of the Endpoint Picker Protocol with their `x-llm-d-*` twins.
pub const CONTROL: [&str; 17] = [
    DESTINATION,
    SUBSET,
    SERVED,
    MODEL,
    BASE_MODEL,
    "x-gateway-model-name-rewrite",
    OBJECTIVE,
    FAIRNESS_ID,
    "x-llm-d-destination-endpoint",
    SUBSET_TWIN,
    "x-llm-d-destination-endpoint-served",
    "x-llm-d-model-name-rewrite",
    OBJECTIVE_TWIN,
    FAIRNESS_ID_TWIN,
    TTL,
    SLO_TTFT,
    SLO_TPOT,
];

/// Those of them that a client may send: what it hopes for, read by the plugin and then removed.
pub const WISHES: [&str; 7] = [OBJECTIVE, OBJECTIVE_TWIN, FAIRNESS_ID, FAIRNESS_ID_TWIN, TTL, SLO_TTFT, SLO_TPOT];

/// The control header with this name, if it is one.
pub fn control(name: &str) -> Option<&'static str> {
    // Every one starts alike, and most headers don't: two comparisons instead of seventeen.
    if !name.starts_with("x-gateway-") && !name.starts_with("x-llm-d-") {
        return None;
    }
    CONTROL.into_iter().find(|control| *control == name)
}
