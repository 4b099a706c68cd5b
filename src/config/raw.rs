//! The plugin JSON as it may be written: the types that the reference manual is generated from.
//!
//! Nothing is required here, so that reading can go on after a mistake; what must be there, and which
//! values make sense together, is checked in [`super::Config`]. A list's elements are optional for the
//! same reason. The texts on the fields are the manual.

mod endpoints;
mod flow;
mod models;
mod rules;
mod scheduling;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

pub use endpoints::{Endpoints, EnvoyAdmin, Kubernetes, KubernetesResources, LabelledEndpoint, StaticEndpoint};
pub use flow::{Band, Fairness, FlowControl, Ordering, Saturation};
pub use models::{
    Criticality, MatchType, Model, ModelMatch, ModelRewrite, Objective, RewriteMatch, RewriteRule, RewriteTarget,
    SessionKey, TargetModel,
};
pub use rules::{CelExpression, Outcome, Rule};
pub use scheduling::{Filter, FilterParameters, Picker, ProfileName, Scheduling, Scorer, ScorerParameters};

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
    /// Rules by which a pool's requests ask for another model than the client did.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<ModelRewrite>>"))]
    pub model_rewrites: Option<Vec<Option<ModelRewrite>>>,
    /// Names by which requests say how much they matter.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<Objective>>"))]
    pub objectives: Option<Vec<Option<Objective>>>,
    /// Where the Inference Extension's resources say more about models.
    pub kubernetes_resources: Option<KubernetesResources>,
    /// Rules that look at the request and choose its model, pool, priority or headers; at most 256.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<Rule>>"))]
    pub rules: Option<Vec<Option<Rule>>>,
    /// Where requests say to which session they belong, the first that is there counts; at most 8. The default is the header `x-session-id`.
    /// A session's requests go to one endpoint while it has room, and get the same target model where a split is `sticky`.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<SessionKey>>"))]
    pub session_keys: Option<Vec<Option<SessionKey>>>,
    /// The headers that are believed when they say how a request is to be treated, whoever has set them; the default is none. What is not
    /// listed says nothing and is removed. They are `x-gateway-inference-fairness-id`, `x-gateway-inference-objective`,
    /// `x-gateway-destination-endpoint-subset`, the same three as `x-llm-d-inference-fairness-id`, `x-llm-d-inference-objective` and
    /// `x-llm-d-destination-endpoint-subset`, `x-llm-d-inference-ttl`, `x-slo-ttft-ms` or `x-llm-d-slo-ttft-ms`, and `x-slo-tpot-ms` or
    /// `x-llm-d-slo-tpot-ms`. One name of two is not the other. Trust what a filter in front of the plugin sets: `docs/filter-order.md` shows how
    /// to set them from a token's claims. Sessions are believed as `sessionKeys` says.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<String>>"))]
    pub trusted_headers: Option<Vec<Option<String>>>,
    /// Whether answers tell clients which endpoint has served, in `x-gateway-destination-endpoint-served`. The default is true. With false
    /// clients learn no address of a model server; Envoy's access log still has it.
    pub expose_endpoint: Option<bool>,
    /// How the model servers' metrics are read.
    pub poller: Option<Poller>,
    /// The longest request body, in bytes, that is buffered to find its model; a longer one is refused with 413.
    /// At most 268435456 (256 MiB); the default is 16777216 (16 MiB). Envoy's own buffer limit must be at least as large, or Envoy
    /// refuses first. Raising it raises the memory that each worker may hold: up to three times this for a body that is rewritten.
    pub max_body_bytes: Option<u64>,
    /// How many blocks of prompts each worker remembers, with the endpoints that have them cached; from 1024 to 8388608, rounded up to
    /// a power of two. The default is 262144: 2 MiB a worker, and 4 MiB where a pool has more than 256 endpoints. A block stands for 64
    /// tokens of a short prompt at one endpoint. Raising it finds prompts again in larger pools, and costs 8 or 16 bytes a block and worker.
    pub max_prefix_entries: Option<u64>,
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
    /// What the servers run: the name of an engine, or a mapping of metric names. The default is `vllm`; a pod's label may name another one.
    pub engine: Option<Engine>,
    /// The path of the servers' metrics page. The default is the engine's, `/prometheus/metrics` for `trtllm-serve` and `/metrics` for the others;
    /// where there is no metrics page, a pod's annotation and the other of the two are tried. With this only this one is.
    pub metrics_path: Option<String>,
    /// The port of the servers' metrics page, where it is not the one that serves: 8002 with Triton. It is read by `metricsCluster`. The
    /// default is the endpoint's own port, and where that has no page the one in the pod's annotation `prometheus.io/port`.
    pub metrics_port: Option<u64>,
    /// The Envoy cluster by which pages on a port of their own are read, for every pool and endpoint: it must lead to the address in the header
    /// `x-gateway-destination-endpoint`, and no route may lead to it. The default is `inference-metrics`; `inferencectl render` and the chart write it.
    pub metrics_cluster: Option<String>,
    /// Where the endpoints come from. Required.
    #[cfg_attr(feature = "schema", schemars(with = "Endpoints"))]
    pub endpoints: Option<Endpoints>,
    /// What happens to a request when no endpoint can be picked. The default is `FailOpen`.
    pub failure_mode: Option<FailureMode>,
    /// How an endpoint is chosen; the defaults need no entry.
    pub scheduling: Option<Scheduling>,
    /// When the pool has enough to do; the defaults need no entry. Requests of a priority below 0 are then refused with 429.
    pub saturation: Option<Saturation>,
    /// Lets requests wait while the pool is saturated. Without it none waits.
    pub flow_control: Option<FlowControl>,
    /// When endpoints that fail requests are left out; the defaults need no entry.
    pub outlier_detection: Option<OutlierDetection>,
    /// Whether Envoy may send a request that its endpoint has refused on to the next endpoint: one that was answered with
    /// 429 when that one has room, and one that tried what the endpoint has refused before. The default is true. The
    /// route's retry policy must have `retriable-status-codes` for that.
    pub retry_refused: Option<bool>,
}

/// When endpoints that fail requests are left out. Envoy's own outlier detection does not see picked endpoints.
///
/// An error is a connection that cannot be made or breaks, an answer with 5xx, or none in time. 4xx is the client's, and 429 and 503
/// say that an endpoint is busy: none of them counts. An endpoint that takes requests and never answers is left out as well.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct OutlierDetection {
    /// Errors in a row that eject an endpoint, from 1 to 100; 0 to eject none. The default is 3.
    pub consecutive_errors: Option<u64>,
    /// How long the first ejection lasts, from `100ms` to `10m`; it doubles with each further one, and is up to 20 % shorter or longer. The default is `5s`.
    pub base_ejection_time: Option<String>,
    /// How long an ejection lasts at most, from `100ms` to `1h`. The default is `5m`, or `baseEjectionTime` where that is longer.
    pub max_ejection_time: Option<String>,
    /// The most of the pool that may be ejected at a time, in percent, rounded down; from 0 to 50. The default is 50.
    pub max_ejection_percent: Option<u64>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
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
/// series that differ in other labels are added up (for `kvCacheUsage`: averaged), but of those that differ in `pid` alone the largest counts.
/// At least one is needed.
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
    /// Whether vLLM is asked to report its queue and KV-cache use with each answer that is not streamed (`endpoint-load-metrics`), between
    /// scrapes; the header is taken out again. The default is false: vLLM walks all of its metrics for each such answer. It pays
    /// where answers are short and come less often than some hundred a second for each server.
    pub in_band: Option<bool>,
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
