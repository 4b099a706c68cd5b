//! When to ask again after a failure: soon at first, and never later than two seconds.
//!
//! Each kind of question has a wait of its own. Were it shared, three questions that fail together would make it eight times
//! as long, and an outage of seconds would blind discovery for half a minute.

use std::time::Duration;

use crate::rng::Rng;
use crate::time::Timestamp;

/// The first wait. When Envoy has just started, its cluster for the API is ready some tenths of a second later.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait but for jitter. Together with the time for an answer it keeps news within five seconds of an API server's
/// return; a hundred gateways then ask a server that is away fifty times a second for each kind, which costs it little.
pub(super) const LONGEST: Duration = Duration::from_secs(2);
/// What `retry-after` may ask for at most. An API server says 1, or 5 while it shuts down; something else in between must not
/// turn discovery off.
const LONGEST_ASKED: Duration = Duration::from_secs(5);

/// The wait of one kind of question.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    until: Timestamp,
    /// The wait that the last failure led to, without jitter; zero after a success.
    wait: Duration,
}

impl Backoff {
    /// Whether it may be asked.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        is_due(self.until, now, LONGEST_ASKED * 2)
    }

    /// After an answer that could be used.
    pub(super) fn handle_success(&mut self) {
        *self = Backoff::default();
    }

    /// After a failure, with what the answer's `retry-after` said.
    pub(super) fn handle_failure(&mut self, retry_after: Option<Duration>, rng: &mut impl Rng, now: Timestamp) {
        // Half as much again each time: nine tries in the first five seconds.
        self.wait = (self.wait * 3 / 2).clamp(FIRST, LONGEST);
        let asked = retry_after.unwrap_or_default().min(LONGEST_ASKED);
        self.until = now.after(jitter(self.wait.max(asked), rng));
    }
}

/// A fifth more or less, so that gateways that lost the API at one moment do not all come back at one.
pub(super) fn jitter(wait: Duration, rng: &mut impl Rng) -> Duration {
    let percent = u32::try_from(80 + rng.below(41)).unwrap_or(100);
    wait * percent / 100
}

/// Whether a time has come. One that is further ahead than anything waits is from before the clock went back.
pub(super) fn is_due(at: Timestamp, now: Timestamp, longest: Duration) -> bool {
    at <= now || at.since(now) > longest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::SplitMix64;
    use crate::testing::test;

    #[test]
    fn it_is_short_at_first_and_never_long() {
        let (mut backoff, mut rng) = (Backoff::default(), SplitMix64::new(1));
        let mut now = Timestamp(1_000_000);
        let mut waits = Vec::new();
        for _ in 0..50 {
            backoff.handle_failure(None, &mut rng, now);
            let next = (1..).map(|millis| now.after(Duration::from_millis(millis))).find(|at| backoff.is_over(*at));
            waits.push(next.unwrap().since(now));
            now = next.unwrap();
        }
        assert!(waits[0] <= Duration::from_millis(120), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(2_400)), "{waits:?}");
        assert!(waits.iter().take(4).sum::<Duration>() < Duration::from_secs(1), "{waits:?}");
        backoff.handle_success();
        assert!(backoff.is_over(now));
    }

    #[test]
    fn what_a_server_asks_for_counts_within_reason() {
        let (mut backoff, mut rng) = (Backoff::default(), SplitMix64::new(1));
        let now = Timestamp(1_000_000);
        backoff.handle_failure(Some(Duration::from_secs(1)), &mut rng, now);
        assert!(!backoff.is_over(now.after(Duration::from_millis(700))));
        backoff.handle_failure(Some(Duration::from_secs(86_400)), &mut rng, now);
        assert!(backoff.is_over(now.after(Duration::from_secs(6))));
        assert!(backoff.is_over(Timestamp(0)), "the clock went back");
    }
}
