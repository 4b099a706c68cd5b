//! The ways in which real model servers fail, as switches.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

/// What is wrong with the server at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// No process: the listener is closed and connections are reset.
    Refuse,
    /// A hung engine: /health says 200, the gauges are frozen, and no request gets a byte.
    Hang,
    /// A server that drains: new requests get 500 at once, the gauges read zero, /health says 200.
    Drain,
    /// Every request gets 500.
    Error,
    /// Every request gets 503, as with a full queue.
    Busy,
}

/// What is wrong with the metrics page at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MetricsFault {
    /// Nothing.
    #[default]
    None,
    /// The page comes late.
    Slow(Duration),
    /// Something else comes instead, with this status.
    Instead(u16, Bytes),
    /// The connection is closed after half of the page.
    Half,
}

/// Gauges that are reported instead of the engine's own.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FakeMetrics {
    /// `vllm:num_requests_waiting`.
    pub waiting_requests: u32,
    /// `vllm:num_requests_running`.
    pub running_requests: u32,
    /// `vllm:kv_cache_usage_perc`.
    pub kv_cache_usage: f64,
}
