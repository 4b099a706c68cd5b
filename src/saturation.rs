//! How much of what it can take a pool has to do already.
//!
//! The endpoint picker's formula: the mean over the endpoints of the larger of waiting requests / 5 and used KV cache / 0.8.
//! Two things differ. It counts an endpoint with old metrics as saturated, so that a poller that stands still would
//! stop the traffic; here such an endpoint doesn't count. And it takes waiting requests from the last scrape, so that
//! what is sent between two scrapes overshoots; here they are estimated for this moment.

/// When an endpoint has enough to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Waiting requests.
    pub queue_depth: f32,
    /// The used share of the KV cache.
    pub kv_cache_usage: f32,
    /// This gateway's requests in flight.
    pub max_concurrency: Option<f32>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { queue_depth: 5.0, kv_cache_usage: 0.8, max_concurrency: None }
    }
}

/// What counts of an endpoint at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Burden {
    /// Waiting requests, if its metrics are fresh.
    pub waiting: Option<f32>,
    /// The used share of its KV cache.
    pub kv_cache_usage: Option<f32>,
    /// This gateway's requests in flight.
    pub in_flight: u32,
}

impl Limits {
    /// An endpoint's saturation; `None` when nothing that is limited is known.
    pub fn of(&self, burden: &Burden) -> Option<f32> {
        let parts = [
            burden.waiting.map(|waiting| waiting / self.queue_depth),
            burden.kv_cache_usage.map(|usage| usage / self.kv_cache_usage),
            self.max_concurrency.map(|limit| burden.in_flight as f32 / limit),
        ];
        parts.into_iter().flatten().reduce(f32::max)
    }
}

/// A pool's saturation: the mean over its endpoints' of which it is known, 0 when none is.
pub fn mean(saturations: impl Iterator<Item = f32>) -> f32 {
    let (sum, count) = saturations.fold((0.0, 0.0), |(sum, count), one| (sum + one, count + 1.0));
    if count > 0.0 { sum / count } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn the_endpoint_pickers_formula() {
        let burden =
            |waiting: f32, usage: f32| Burden { waiting: Some(waiting), kv_cache_usage: Some(usage), in_flight: 9 };
        let limits = Limits::default();
        assert_eq!(limits.of(&burden(5.0, 0.0)), Some(1.0));
        assert_eq!(limits.of(&burden(1.0, 0.8)), Some(1.0));
        assert_eq!(limits.of(&burden(2.0, 0.6)), Some(0.75));
        let both = [burden(0.0, 0.0), burden(10.0, 0.1)];
        assert_eq!(mean(both.iter().filter_map(|burden| limits.of(burden))), 1.0);
    }

    #[test]
    fn what_is_not_known_does_not_count() {
        let limits = Limits::default();
        assert_eq!(limits.of(&Burden { in_flight: 99, ..Burden::default() }), None);
        let waiting = Burden { waiting: Some(2.5), ..Burden::default() };
        let known = |burdens: &[Burden]| mean(burdens.iter().filter_map(|burden| limits.of(burden)));
        assert_eq!(known(&[Burden::default(), waiting]), 0.5);
        assert_eq!(known(&[Burden::default()]), 0.0, "a poller that stands still stops nothing");
        let limits = Limits { max_concurrency: Some(8.0), ..limits };
        assert_eq!(limits.of(&Burden { in_flight: 12, ..waiting }), Some(1.5));
    }
}
