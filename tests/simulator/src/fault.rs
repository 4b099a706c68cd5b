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
    /// Every request gets this status at once.
    Status(u16),
    /// A request beyond so many that the engine has gets 429 at once.
    RoomFor(usize),
    /// Every request gets status 200, and an error event in place of its second token.
    ErrorEvent,
}

/// What is wrong with the metrics page at the moment.
#[derive(Clone, Debug, Default)]
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
    /// A server with another idea of where its page is, and in which form: it answers any GET that is none of the API's by the path that is
    /// asked, with its query, and the engine's page.
    Other(fn(&str, &str) -> MetricsAnswer),
}

/// An answer of [`MetricsFault::Other`].
#[derive(Clone, Debug)]
pub struct MetricsAnswer {
    /// The status.
    pub status: u16,
    /// The headers but for the length.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Bytes,
    /// Whether it comes in chunks, two of them, and without a length.
    pub in_chunks: bool,
}

impl MetricsAnswer {
    /// A page.
    pub fn page(body: impl Into<Bytes>) -> MetricsAnswer {
        MetricsAnswer { status: 200, headers: Vec::new(), body: body.into(), in_chunks: false }
    }

    /// What is not there.
    pub fn not_found() -> MetricsAnswer {
        MetricsAnswer { status: 404, ..MetricsAnswer::page("{\"detail\":\"Not Found\"}") }
    }

    /// The same with one more header.
    pub fn header(mut self, name: &'static str, value: &str) -> MetricsAnswer {
        self.headers.push((name, value.to_owned()));
        self
    }
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
