//! The plugin JSON as it may be written: the types that the reference manual is generated from.
//!
//! Nothing is required here, so that reading can go on after a mistake; what must be there, and which
//! values make sense together, is checked in [`super::Config`]. A list's elements are optional for the
//! same reason. The texts on the fields are the manual.

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

/// The plugin configuration: one JSON document, given unchanged to the inference filter and to the metrics poller.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// Where an editor finds this document's schema; not looked at.
    #[serde(rename = "$schema", skip_serializing)]
    pub schema: Option<String>,
    /// The pools of model servers, at least one. A request goes to the pool that serves its model.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<Pool>"))]
    pub pools: Option<Vec<Option<Pool>>>,
    /// Names that clients may ask for besides the pools' own base models and adapters, and what they stand for.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<Model>>"))]
    pub models: Option<Vec<Option<Model>>>,
    /// How the model servers' metrics are read.
    pub poller: Option<Poller>,
    /// The longest request body, in bytes, that is buffered to find its model; a longer one is refused with 413.
    /// At most 268435456 (256 MiB); the default is 16777216 (16 MiB). Envoy's own buffer limit must be at least as large, or Envoy
    /// refuses first. Raising it raises the memory that each worker may hold: up to three times this for a body that is rewritten.
    pub max_body_bytes: Option<u64>,
}

/// A set of model servers that serve one base model and its adapters.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Pool {
    /// The pool's name, unique, at most 63 characters of letters, digits, `-`, `_`, `.` and `/`. Required.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub name: Option<String>,
    /// The Envoy cluster that holds the pool's endpoints, with the `override_host` load balancing policy. The default is the pool's name.
    pub cluster: Option<String>,
    /// The model that the servers were started with, as clients name it. Required. Routes match on it in `X-Gateway-Base-Model-Name`.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub base_model: Option<String>,
    /// LoRA adapters that the servers offer, as clients name them. The default is none.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<String>>"))]
    pub adapters: Option<Vec<Option<String>>>,
    /// What the servers run: the name of an engine, or a mapping of metric names. The default is `vllm`.
    pub engine: Option<Engine>,
    /// The path of the servers' metrics page. The default is `/metrics`.
    pub metrics_path: Option<String>,
    /// Where the endpoints come from. Required.
    #[cfg_attr(feature = "schema", schemars(with = "Endpoints"))]
    pub endpoints: Option<Endpoints>,
    /// What happens to a request when no endpoint can be picked. The default is `FailOpen`.
    pub failure_mode: Option<FailureMode>,
    /// How an endpoint is chosen; the defaults need no entry.
    pub scheduling: Option<Scheduling>,
}

/// Where a pool's endpoints come from.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Endpoints {
    /// Addresses as `ip:port` or `[ipv6]:port`, of hosts that are in the Envoy cluster; 1 to 1024, each once.
    #[serde(rename = "static")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub static_: Option<Vec<Option<String>>>,
}

/// What happens to a request when no endpoint can be picked.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum FailureMode {
    /// The request goes on without a pick, and the cluster's fallback policy balances it.
    FailOpen,
    /// The request is refused with 503.
    FailClose,
}

/// What the servers run: the name of an engine, or a mapping of metric names.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Engine {
    /// An engine whose metrics are known.
    Named(EngineName),
    /// Any other engine, by the names of its metrics.
    Custom(EngineMapping),
}

/// An engine whose metrics are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EngineName {
    /// vLLM, by its older metric names as well as its newer ones.
    Vllm,
    /// SGLang, started with `--enable-metrics`.
    Sglang,
    /// TensorRT-LLM's own OpenAI server, `trtllm-serve`.
    TrtllmServe,
    /// Triton with the TensorRT-LLM backend.
    #[serde(rename = "triton-tensorrt-llm")]
    TritonTensorrtLlm,
    /// Triton with any other backend: only the number of waiting requests is known.
    Triton,
    /// llama.cpp's `llama-server`, started with `--metrics`.
    Llamacpp,
}

/// The names of an engine's metrics. Each is a metric's name, or a name and one label as `name{label=value}`;
/// series that differ in other labels are added up (for `kvCacheUsage`: averaged). At least one is needed.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct EngineMapping {
    /// Requests that wait for a place in the batch.
    pub waiting: Option<String>,
    /// Requests in the batch.
    pub running: Option<String>,
    /// The used share of the KV cache, from 0 to 1.
    pub kv_cache_usage: Option<String>,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Scheduling {
    /// What counts for an endpoint, and how much: the endpoint with the highest sum of weight times score is the best.
    /// The default is `queue-scorer` 2, `kv-cache-utilization-scorer` 2, `running-requests-size-scorer` 1, `active-request-scorer` 2.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<Scorer>>"))]
    pub scorers: Option<Vec<Option<Scorer>>>,
    /// How the list of endpoints is made from the scores.
    pub picker: Option<Picker>,
}

/// One term of an endpoint's score.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Scorer {
    /// The scorer's name, one of `queue-scorer` (fewer waiting requests), `running-requests-size-scorer` (fewer running ones),
    /// `kv-cache-utilization-scorer` (a less used KV cache), `active-request-scorer` (fewer of this gateway's requests in flight) and
    /// `lora-affinity-scorer` (the adapter is active there, or there is room for it; not in the default). Required.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub type_: Option<String>,
    /// What its score, from 0 to 1, is multiplied by; from 0 to 1000. The default is 1.
    pub weight: Option<f64>,
}

/// How the list of endpoints is made from the scores.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Picker {
    /// The picker's name: `max-score-picker`, the default, takes the highest scores and breaks ties at random.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// How many endpoints are named, best first, from 1 to 3; Envoy's retries walk down the list. The default is 3.
    pub max_num_of_endpoints: Option<u64>,
}

/// A name that clients may ask for, and what it stands for.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Model {
    /// The name in the request's body. Required, and no pool's own model or adapter.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub model_name: Option<String>,
    /// The pool that serves it. Required.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub pool: Option<String>,
    /// The pool's base model or adapters that it stands for; one is drawn for each request, by weight. The default is the base model.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<TargetModel>>"))]
    pub target_models: Option<Vec<Option<TargetModel>>>,
}

/// One of the models that a name stands for.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct TargetModel {
    /// The pool's base model, or one of its adapters. Required.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub name: Option<String>,
    /// Its share of the requests, relative to the others', from 0 to 1000000. All have one, or none has; without, all are equal.
    pub weight: Option<u64>,
}

/// How the model servers' metrics are read.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Poller {
    /// The time between two scrapes of an endpoint, from `50ms` to `1m`. The default is `200ms`.
    /// A shorter one makes picks follow the load faster, and costs the engines and Envoy's main thread more.
    pub interval: Option<String>,
    /// After this time without an answer a scrape has failed, from `50ms` to `1m` and not above `staleAfter`. The default is `1s`.
    pub timeout: Option<String>,
    /// Metrics older than this no longer count, from `100ms` to `10m` and at least twice `interval`. The default is `2s`, or twice `interval` or `timeout` where that is longer.
    /// A longer one bridges slow metrics pages, and trusts what an endpoint no longer is.
    pub stale_after: Option<String>,
}

/// A string is an engine's name, an object a mapping: told apart here, so that a mistake inside
/// either is reported at its own path and not as "no variant matched".
impl<'de> Deserialize<'de> for Engine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Engine, D::Error> {
        struct NameOrMapping;

        impl<'de> Visitor<'de> for NameOrMapping {
            type Value = Engine;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an engine's name or a mapping of metric names")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Engine, E> {
                EngineName::deserialize(StrDeserializer::new(name)).map(Engine::Named)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Engine, A::Error> {
                EngineMapping::deserialize(MapAccessDeserializer::new(map)).map(Engine::Custom)
            }
        }

        deserializer.deserialize_any(NameOrMapping)
    }
}
