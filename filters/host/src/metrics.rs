//! Metrics: the core's table defined at the host, and its events passed on.

use inference_plugin::stats::{Event, Kind, Metric};
use proxy_wasm::types::MetricType;

use crate::calls;

/// The host's ids of the core's metrics.
#[derive(Debug)]
pub struct Metrics {
    ids: Vec<(Kind, Option<u32>)>,
}

impl Metrics {
    /// Defines every metric. Defining one again, in another VM, gives the same id.
    pub fn define(metrics: &[Metric]) -> Metrics {
        let define = |metric: &Metric| {
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            (metric.kind, calls::define_metric(kind, &metric.name))
        };
        Metrics { ids: metrics.iter().map(define).collect() }
    }

    /// Passes on what happened.
    pub fn emit(&self, events: impl Iterator<Item = Event>) {
        for event in events {
            let Some((kind, Some(id))) = self.ids.get(event.metric.0) else { continue };
            // A metric that the host does not take is not worth a request.
            let _ = match kind {
                Kind::Counter => calls::increment_metric(*id, i64::try_from(event.value).unwrap_or(i64::MAX)),
                Kind::Gauge | Kind::Histogram => calls::record_metric(*id, event.value),
            };
        }
    }
}
