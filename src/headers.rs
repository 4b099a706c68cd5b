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

/// What a client must not send on to Envoy or to a model server: each steers, or speaks to the picker.
///
/// The names of the Endpoint Picker Protocol with their `x-llm-d-*` twins.
pub const CONTROL: [&str; 14] = [
    DESTINATION,
    SUBSET,
    SERVED,
    MODEL,
    BASE_MODEL,
    "x-gateway-model-name-rewrite",
    "x-gateway-inference-objective",
    "x-gateway-inference-fairness-id",
    "x-llm-d-destination-endpoint",
    SUBSET_TWIN,
    "x-llm-d-destination-endpoint-served",
    "x-llm-d-model-name-rewrite",
    "x-llm-d-inference-objective",
    "x-llm-d-inference-fairness-id",
];

/// The control header with this name, if it is one.
pub fn control(name: &str) -> Option<&'static str> {
    // Every one starts alike, and most headers don't: two comparisons instead of fourteen.
    if !name.starts_with("x-gateway-") && !name.starts_with("x-llm-d-") {
        return None;
    }
    CONTROL.into_iter().find(|control| *control == name)
}
