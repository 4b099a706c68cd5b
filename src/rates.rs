//! How fast an engine works, learnt from its own counters.
//!
//! Each good scrape gives a difference of counters over a difference of times. What is learnt is throughput, a
//! mean over some seconds: it says what an engine does and not what it could do, so readers take it as a lower
//! bound of its speed. A counter that goes back, or another start time, is another process: all is forgotten.

use std::time::Duration;

use crate::engine::Counters;
use crate::time::Timestamp;

/// The mean reaches back about this far: over a few scrapes, since engines count a prompt at its end, and not
/// over minutes, since load changes.
const MEMORY: Duration = Duration::from_secs(4);

/// What an engine does in a second, as a mean over the last seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Prompt tokens computed, without those found in the cache.
    pub prefill_tokens: f32,
    /// Tokens generated.
    pub generated_tokens: f32,
    /// Requests finished.
    pub finished_requests: f32,
}

/// Learns one engine's rates.
#[derive(Debug, Default)]
pub struct RateMeter {
    last: Option<(Timestamp, Counters)>,
    rates: Option<Rates>,
}

impl RateMeter {
    /// Takes the counters of a scrape sent at `now`; gives the rates, once two scrapes could be compared.
    pub fn handle_counters(&mut self, now: Timestamp, counters: Counters) -> Option<Rates> {
        let last = self.last.replace((now, counters));
        let Some((then, before)) = last else { return self.rates };
        if counters.is_restart_of(&before) {
            self.rates = None;
            return None;
        }
        let elapsed = now.since(then).as_secs_f32();
        if elapsed <= 0.0 {
            return self.rates;
        }
        let per_second = |now: Option<u64>, before: Option<u64>| match (now, before) {
            (Some(now), Some(before)) => now.saturating_sub(before) as f32 / elapsed,
            _ => 0.0,
        };
        let fresh = Rates {
            prefill_tokens: per_second(counters.prefilled_tokens(), before.prefilled_tokens()),
            generated_tokens: per_second(counters.generated_tokens, before.generated_tokens),
            finished_requests: per_second(counters.finished_requests, before.finished_requests),
        };
        let share = 1.0 - (-elapsed / MEMORY.as_secs_f32()).exp();
        let old = self.rates.unwrap_or(fresh);
        let mean = |old: f32, fresh: f32| old + (fresh - old) * share;
        self.rates = Some(Rates {
            prefill_tokens: mean(old.prefill_tokens, fresh.prefill_tokens),
            generated_tokens: mean(old.generated_tokens, fresh.generated_tokens),
            finished_requests: mean(old.finished_requests, fresh.finished_requests),
        });
        self.rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn counters(prompt: u64, cached: u64) -> Counters {
        Counters {
            prompt_tokens: Some(prompt),
            cached_tokens: Some(cached),
            generated_tokens: Some(prompt / 10),
            finished_requests: Some(prompt / 100),
            started_at: None,
        }
    }

    #[test]
    fn a_steady_engine_has_its_throughput_as_rate() {
        let mut meter = RateMeter::default();
        let mut rates = None;
        for scrape in 0..50u64 {
            rates = meter.handle_counters(Timestamp(scrape * 200), counters(scrape * 1000, scrape * 250));
        }
        let rates = rates.unwrap();
        assert!((rates.prefill_tokens - 3750.0).abs() < 1.0, "{rates:?}");
        assert!((rates.generated_tokens - 500.0).abs() < 1.0 && (rates.finished_requests - 50.0).abs() < 1.0);
    }

    #[test]
    fn a_restart_forgets() {
        let mut meter = RateMeter::default();
        assert_eq!(meter.handle_counters(Timestamp(0), counters(1000, 0)), None);
        assert!(meter.handle_counters(Timestamp(1000), counters(2000, 0)).is_some());
        assert_eq!(meter.handle_counters(Timestamp(2000), counters(5, 0)), None);
        let after = meter.handle_counters(Timestamp(3000), counters(105, 0)).unwrap();
        assert_eq!(after.prefill_tokens, 100.0);
    }

    #[test]
    fn scrapes_at_one_instant_are_no_division_by_zero() {
        let mut meter = RateMeter::default();
        meter.handle_counters(Timestamp(5), counters(1, 0));
        assert_eq!(meter.handle_counters(Timestamp(5), counters(9, 0)), None);
    }
}
