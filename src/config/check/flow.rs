//! Checks when a pool has enough to do, and who waits then.

use std::time::Duration;

use super::Checker;
use crate::config::raw;
use crate::flow::{Band, Fairness, FlowControl, Ordering};
use crate::saturation::Limits;

/// More priorities than anybody tells apart.
const MAX_BANDS: usize = 64;

impl Checker<'_> {
    pub(super) fn saturation(&mut self, path: &str, raw: raw::Saturation) -> Limits {
        let defaults = Limits::default();
        let queue_depth = self.integer(&format!("{path}.queueDepth"), raw.queue_depth, 5, 1..=100_000);
        let kv_cache_usage =
            self.above_zero(&format!("{path}.kvCacheUsage"), raw.kv_cache_usage, defaults.kv_cache_usage, 1.0);
        let max_concurrency = raw.max_concurrency.map(|limit| {
            let path = format!("{path}.maxConcurrency");
            self.integer(&path, Some(limit), 1, 1..=100_000) as f32
        });
        Limits { queue_depth: queue_depth as f32, kv_cache_usage, max_concurrency }
    }

    pub(super) fn flow_control(&mut self, path: &str, raw: raw::FlowControl) -> FlowControl {
        let mut control = FlowControl::default();
        control.fairness = match raw.fairness {
            None => control.fairness,
            Some(raw::Fairness::RoundRobin) => Fairness::RoundRobin,
            Some(raw::Fairness::GlobalStrict) => Fairness::GlobalStrict,
        };
        let usual = raw::Band {
            priority: None,
            max_requests: raw.max_requests,
            max_bytes: raw.max_bytes,
            ttl: raw.ttl,
            ordering: raw.ordering,
            saturation_ceiling: None,
        };
        control.usual = self.band(path, usual, control.usual);
        let bands = self.elements(&format!("{path}.bands"), raw.bands);
        if bands.len() > MAX_BANDS {
            self.error(&format!("{path}.bands"), format!("{} bands, but at most {MAX_BANDS} are allowed", bands.len()));
        }
        for (path, raw) in bands {
            if raw.priority.is_none() {
                self.error(&format!("{path}.priority"), "is required");
            }
            let Some(priority) = self.priority(&format!("{path}.priority"), raw.priority) else { continue };
            if control.bands.iter().any(|(other, _)| *other == priority) {
                self.error(&format!("{path}.priority"), format!("{priority} has a band already"));
            }
            let band = self.band(&path, raw, control.usual);
            control.bands.push((priority, band));
        }
        control
    }

    fn band(&mut self, path: &str, raw: raw::Band, usual: Band) -> Band {
        let requests = u64::from(usual.max_requests);
        let requests = self.integer(&format!("{path}.maxRequests"), raw.max_requests, requests, 1..=1_000_000);
        let (shortest, longest) = (Duration::from_millis(10), Duration::from_secs(3600));
        Band {
            max_requests: u32::try_from(requests).unwrap_or(u32::MAX),
            max_bytes: self.integer(&format!("{path}.maxBytes"), raw.max_bytes, usual.max_bytes, 1..=1 << 40),
            ttl: self.duration(&format!("{path}.ttl"), raw.ttl, usual.ttl, shortest..=longest),
            ordering: match raw.ordering {
                None => usual.ordering,
                Some(raw::Ordering::Fcfs) => Ordering::Fcfs,
                Some(raw::Ordering::Edf) => Ordering::Edf,
            },
            ceiling: self.above_zero(&format!("{path}.saturationCeiling"), raw.saturation_ceiling, usual.ceiling, 10.0),
        }
    }

    fn above_zero(&mut self, path: &str, value: Option<f64>, default: f32, at_most: f64) -> f32 {
        match value {
            None => default,
            Some(value) if value > 0.0 && value <= at_most => value as f32,
            Some(value) => {
                self.error(path, format!("{value} is not above 0 and at most {at_most}"));
                default
            }
        }
    }
}
