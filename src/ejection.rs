//! Endpoints that live traffic has shown to be broken: taken out for a while, then tried with one request.
//!
//! Envoy's `override_host` policy sends a request to a host whatever its outlier detection thinks of it, so this
//! is the picker's own. A few errors in a row eject an endpoint, or requests that it takes and never answers. The
//! time out doubles with each ejection, and differs a little from gateway to gateway, or all would come back at
//! once. When it is over, one request at a time tries the endpoint, until one succeeds. Never more than a share
//! of the pool is out: when everything fails, the fault is elsewhere.
//!
//! What one worker finds all know: the table of a pool lies under `ip1/health/<pool>`, written by
//! compare-and-swap. Of two changes of one endpoint the later one holds.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::rng::Rng;
use crate::time::Timestamp;
use crate::wire::{self, Reader, Writer};

const MAGIC: &[u8; 4] = b"IPhl";
const VERSION: u8 = 1;
/// A trial that has not ended after this time is over, and the next may begin.
const TRIAL: Duration = Duration::from_secs(10);
/// After this time an error says nothing any more: a server that is broken fails again, and one that was restarted
/// is back by then.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);
/// Errors that are further apart are not in a row.
const ROW: Duration = Duration::from_secs(60);
/// An endpoint that was sound for this long starts again at the shortest time out.
const FORGIVEN_AFTER: Duration = Duration::from_secs(300);

/// The shared-data key of a pool's table.
pub fn key(pool: &str) -> String {
    format!("ip1/health/{pool}")
}

/// When and for how long endpoints are ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Errors in a row that eject an endpoint; zero to eject none.
    pub consecutive_errors: u32,
    /// The first time out.
    pub base_ejection_time: Duration,
    /// The longest one.
    pub max_ejection_time: Duration,
    /// The most of a pool that may be out, in percent, at most 50.
    pub max_ejection_percent: u32,
}

impl Default for OutlierDetection {
    fn default() -> OutlierDetection {
        OutlierDetection {
            consecutive_errors: 3,
            base_ejection_time: Duration::from_secs(5),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: 50,
        }
    }
}

/// The ejections of one pool, as one worker knows them.
#[derive(Debug)]
pub struct Ejections {
    policy: OutlierDetection,
    /// The pool's endpoints, sorted: of others nothing is remembered.
    endpoints: Vec<u64>,
    table: BTreeMap<u64, Ejection>,
    errors: BTreeMap<u64, Errors>,
    version: Option<u32>,
    changed: bool,
    generation: u64,
}

/// What is known of an endpoint that was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ejection {
    /// When this was last changed.
    changed_at: Timestamp,
    /// Out until then.
    until: Timestamp,
    /// How many times in a row it was ejected.
    times: u8,
    /// When the last trial began.
    tried_at: Timestamp,
    /// Whether a trial has succeeded.
    proven: bool,
}

/// Errors in a row at one endpoint, as this worker saw them.
#[derive(Clone, Copy, Debug)]
struct Errors {
    count: u32,
    last_at: Timestamp,
}

/// A request that ended at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The endpoint's key.
    pub endpoint: u64,
    /// When it was sent.
    pub sent_at: Timestamp,
    /// When it ended, or began to be answered.
    pub now: Timestamp,
}

impl Ejections {
    /// No ejection yet, in a pool of these endpoints.
    pub fn new(policy: OutlierDetection, mut endpoints: Vec<u64>) -> Ejections {
        endpoints.sort_unstable();
        Ejections {
            policy,
            endpoints,
            table: BTreeMap::new(),
            errors: BTreeMap::new(),
            version: None,
            changed: false,
            generation: 0,
        }
    }

    /// Takes over which endpoints the pool has now.
    pub fn set_endpoints(&mut self, mut endpoints: Vec<u64>) {
        endpoints.sort_unstable();
        self.table.retain(|endpoint, _| endpoints.binary_search(endpoint).is_ok());
        self.errors.retain(|endpoint, _| endpoints.binary_search(endpoint).is_ok());
        self.endpoints = endpoints;
    }

    /// Whether nothing is known against any endpoint.
    pub fn is_clean(&self) -> bool {
        self.table.is_empty() && self.errors.is_empty()
    }

    /// Whether an endpoint is out at the moment, or on trial by another request.
    pub fn is_ejected(&self, endpoint: u64, now: Timestamp) -> bool {
        let Some(ejection) = self.table.get(&endpoint).filter(|ejection| !ejection.proven) else { return false };
        let is_on_trial = ejection.tried_at <= now && now.since(ejection.tried_at) < TRIAL;
        self.is_out(ejection, now) || is_on_trial
    }

    /// When an endpoint was last let in again; the epoch when it was never out.
    pub fn last_out_until(&self, endpoint: u64) -> Timestamp {
        self.table.get(&endpoint).map_or(Timestamp::default(), |ejection| ejection.until)
    }

    /// Whether its time has not passed. One that is longer than any can be is from before the clock went back.
    fn is_out(&self, ejection: &Ejection, now: Timestamp) -> bool {
        ejection.until > now && ejection.until.since(now) <= self.policy.max_ejection_time
    }

    /// Errors in a row that an endpoint has had of late, and that have not ejected it. They count less and less and
    /// then no more, or an endpoint that nobody picks for them could never show that it works again.
    pub fn recent_errors(&self, endpoint: u64, now: Timestamp) -> f32 {
        let Some(errors) = self.errors.get(&endpoint) else { return 0.0 };
        let age = now.since(errors.last_at).as_secs_f32() / FORGOTTEN_AFTER.as_secs_f32();
        errors.count as f32 * (1.0 - age).max(0.0)
    }

    /// Notes that an endpoint was picked: it may be its trial.
    pub fn handle_picked(&mut self, endpoint: u64, now: Timestamp) {
        if let Some(ejection) = self.table.get_mut(&endpoint).filter(|ejection| !ejection.proven) {
            (ejection.tried_at, ejection.changed_at) = (now, now);
            self.changed = true;
        }
    }

    /// Notes that an endpoint has answered as it should, or that the client was at fault.
    pub fn handle_success(&mut self, ended: Ended) {
        // What was sent before the last error says nothing about the time since: a server that drains finishes
        // old requests while it fails new ones.
        if self.errors.get(&ended.endpoint).is_some_and(|errors| ended.sent_at > errors.last_at) {
            self.errors.remove(&ended.endpoint);
        }
        let until = |ejection: &&mut Ejection| !ejection.proven && ended.sent_at >= ejection.until;
        if let Some(ejection) = self.table.get_mut(&ended.endpoint).filter(until) {
            (ejection.proven, ejection.changed_at) = (true, ended.now);
            self.changed = true;
        }
    }

    /// Notes that an endpoint has failed a request; true when this ejects it.
    pub fn handle_error(&mut self, ended: Ended, rng: &mut impl Rng) -> bool {
        if self.policy.consecutive_errors == 0 {
            return false;
        }
        let errors = self.errors.entry(ended.endpoint).or_insert(Errors { count: 0, last_at: ended.now });
        let is_in_a_row = ended.now.since(errors.last_at) < ROW;
        errors.count = if is_in_a_row { errors.count.saturating_add(1) } else { 1 };
        errors.last_at = ended.now;
        let on_trial = self
            .table
            .get(&ended.endpoint)
            .is_some_and(|ejection| !ejection.proven && ejection.until <= ended.now && ended.sent_at >= ejection.until);
        let is_enough = on_trial || errors.count >= self.policy.consecutive_errors;
        is_enough && self.eject(ended.endpoint, ended.now, rng)
    }

    /// Takes an endpoint out; false when it is out already, or too much of the pool is.
    pub fn eject(&mut self, endpoint: u64, now: Timestamp, rng: &mut impl Rng) -> bool {
        let is_out = |ejection: &Ejection| !ejection.proven && self.is_out(ejection, now);
        let out = self.table.iter().filter(|(other, ejection)| **other != endpoint && is_out(ejection)).count();
        let most = self.endpoints.len() * self.policy.max_ejection_percent as usize / 100;
        if self.policy.consecutive_errors == 0 || self.table.get(&endpoint).is_some_and(is_out) || out >= most {
            return false;
        }
        let before = self.table.get(&endpoint).filter(|ejection| now.since(ejection.until) < FORGIVEN_AFTER);
        let times = before.map_or(1, |ejection| ejection.times.saturating_add(1));
        let doubled = self.policy.base_ejection_time.saturating_mul(1 << u32::from(times - 1).min(20));
        // From 80 to 120 percent.
        let jitter = 80 + rng.below(41) as u32;
        let longest = self.policy.max_ejection_time;
        let time = (doubled.min(longest) * jitter / 100).min(longest);
        let until = now.after(time.max(Duration::from_millis(1)));
        self.table.insert(
            endpoint,
            Ejection { changed_at: now, until, times, tried_at: Timestamp::default(), proven: false },
        );
        self.errors.remove(&endpoint);
        self.changed = true;
        true
    }

    /// Takes over what is stored under the pool's key.
    pub fn handle_stored(&mut self, stored: Option<(&[u8], u32)>, now: Timestamp) {
        let Some((blob, version)) = stored else { return };
        if self.version == Some(version) {
            return;
        }
        self.version = Some(version);
        for (endpoint, ejection) in decode(blob).unwrap_or_default() {
            let own = self.table.get(&endpoint);
            let is_ours = self.endpoints.binary_search(&endpoint).is_ok();
            if is_ours && own.is_none_or(|own| own.changed_at <= ejection.changed_at || own.changed_at > now) {
                self.table.insert(endpoint, ejection);
            }
        }
        let forgiven = |ejection: &Ejection| now.since(ejection.until) >= FORGIVEN_AFTER;
        self.table.retain(|_, ejection| !forgiven(ejection));
    }

    /// The bytes to store and the version to compare with, when there is something new.
    pub fn poll_publication(&mut self) -> Option<(Vec<u8>, u32)> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.generation += 1;
        let mut writer = Writer::new(MAGIC, VERSION, self.generation);
        writer.u16(u16::try_from(self.table.len()).unwrap_or(u16::MAX));
        for (endpoint, ejection) in self.table.iter().take(usize::from(u16::MAX)) {
            writer.u64(*endpoint);
            writer.u64(ejection.changed_at.0);
            writer.u64(ejection.until.0);
            writer.u8(ejection.times);
            writer.u64(ejection.tried_at.0);
            writer.u8(u8::from(ejection.proven));
        }
        Some((writer.finish(), self.version.unwrap_or(wire::CREATE)))
    }

    /// Notes that somebody else was quicker: what is stored must be read, and ours be published again.
    pub fn handle_conflict(&mut self) {
        self.changed = true;
    }
}

fn decode(blob: &[u8]) -> Option<Vec<(u64, Ejection)>> {
    let (mut reader, _generation) = Reader::new(blob, MAGIC, VERSION)?;
    let count = reader.u16()?;
    let mut table = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let endpoint = reader.u64()?;
        let (changed_at, until) = (Timestamp(reader.u64()?), Timestamp(reader.u64()?));
        let times = reader.u8()?;
        let tried_at = Timestamp(reader.u64()?);
        let proven = reader.u8()? != 0;
        table.push((endpoint, Ejection { changed_at, until, times, tried_at, proven }));
    }
    reader.is_at_end().then_some(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::SplitMix64;
    use crate::testing::test;

    const START: u64 = 1_000_000;

    struct Bench {
        ejections: Ejections,
        rng: SplitMix64,
    }

    impl Bench {
        fn new(endpoints: usize) -> Bench {
            let endpoints = (1..=endpoints as u64).collect();
            Bench { ejections: Ejections::new(OutlierDetection::default(), endpoints), rng: SplitMix64::new(1) }
        }

        fn error(&mut self, endpoint: u64, at: u64) -> bool {
            let ended = Ended { endpoint, sent_at: Timestamp(at), now: Timestamp(at) };
            self.ejections.handle_error(ended, &mut self.rng)
        }

        fn success(&mut self, endpoint: u64, sent_at: u64, now: u64) {
            self.ejections.handle_success(Ended { endpoint, sent_at: Timestamp(sent_at), now: Timestamp(now) });
        }

        fn is_out(&self, endpoint: u64, at: u64) -> bool {
            self.ejections.is_ejected(endpoint, Timestamp(at))
        }

        /// Fails an endpoint until it is out; gives the time at which it may be tried.
        fn eject(&mut self, endpoint: u64, at: u64) -> u64 {
            assert!((0..3).any(|_| self.error(endpoint, at)));
            (at..).step_by(10).find(|time| !self.is_out(endpoint, *time)).unwrap()
        }
    }

    #[test]
    fn errors_in_a_row_eject_and_others_do_not() {
        let mut bench = Bench::new(4);
        assert!(!bench.error(1, START) && !bench.error(1, START + 1));
        bench.success(1, START + 2, START + 3);
        assert!(!bench.error(1, START + 4) && !bench.error(1, START + 5) && bench.error(1, START + 6));
        assert!(bench.is_out(1, START + 7) && !bench.is_out(2, START + 7));
    }

    #[test]
    fn errors_are_forgotten_with_time() {
        let mut bench = Bench::new(4);
        bench.error(1, START);
        bench.error(1, START);
        let recent = |bench: &Bench, at| bench.ejections.recent_errors(1, Timestamp(at));
        assert_eq!([0, 5_000, 10_000].map(|age| recent(&bench, START + age)), [2.0, 1.0, 0.0]);
        assert!(!bench.error(1, START + 60_000), "a minute later is not in a row");
        assert_eq!(recent(&bench, START + 60_000), 1.0);
    }

    #[test]
    fn a_server_that_drains_is_ejected_although_it_finishes_old_requests() {
        let mut bench = Bench::new(4);
        for at in 0..3 {
            bench.success(1, START - 5_000, START + at);
            bench.error(1, START + at);
        }
        assert!(bench.is_out(1, START + 3));
    }

    #[test]
    fn after_its_time_one_request_tries_it() {
        let mut bench = Bench::new(4);
        let again = bench.eject(1, START);
        assert!((4_000..=6_010).contains(&(again - START)));
        bench.ejections.handle_picked(1, Timestamp(again));
        assert!(bench.is_out(1, again + 1), "one trial at a time");
        bench.success(1, START, again + 1);
        assert!(bench.is_out(1, again + 2), "an old request proves nothing");
        bench.success(1, again, again + 5);
        assert!(!bench.is_out(1, again + 6));
    }

    #[test]
    fn a_trial_that_fails_doubles_the_time_and_one_that_never_ends_lets_another_try() {
        let mut bench = Bench::new(4);
        let first = bench.eject(1, START);
        bench.ejections.handle_picked(1, Timestamp(first));
        assert!(bench.error(1, first), "one error is enough");
        let second = (first..).step_by(10).find(|time| !bench.is_out(1, *time)).unwrap();
        assert!((8_000..=12_010).contains(&(second - first)), "{}", second - first);
        bench.ejections.handle_picked(1, Timestamp(second));
        assert!(bench.is_out(1, second + 9_999) && !bench.is_out(1, second + 10_000));
    }

    #[test]
    fn never_more_than_half_of_the_pool_is_out() {
        let mut bench = Bench::new(5);
        for endpoint in 1..=5 {
            for _ in 0..5 {
                bench.error(endpoint, START);
            }
        }
        assert_eq!((1..=5).filter(|endpoint| bench.is_out(*endpoint, START)).count(), 2);
        let mut alone = Bench::new(1);
        assert!((0..9).all(|_| !alone.error(1, START)), "the only endpoint stays");
    }

    #[test]
    fn workers_tell_each_other_and_the_later_change_holds() {
        let (mut one, mut other) = (Bench::new(4), Bench::new(4));
        let again = one.eject(1, START);
        let (blob, cas) = one.ejections.poll_publication().unwrap();
        assert_eq!((cas, one.ejections.poll_publication()), (wire::CREATE, None));
        other.ejections.handle_stored(Some((&blob, 1)), Timestamp(START));
        assert!(other.is_out(1, START + 1));
        other.ejections.handle_picked(1, Timestamp(again));
        other.success(1, again, again + 1);
        let (blob, cas) = other.ejections.poll_publication().unwrap();
        assert_eq!(cas, 1);
        one.ejections.handle_stored(Some((&blob, 2)), Timestamp(again + 2));
        assert!(!one.is_out(1, again + 2));
    }

    #[test]
    fn the_longest_time_is_the_longest() {
        let mut bench = Bench::new(4);
        let mut at = START;
        for _ in 0..12 {
            bench.ejections.eject(1, Timestamp(at), &mut bench.rng);
            let again = bench.ejections.last_out_until(1).0;
            assert!(again - at <= 300_000, "{}", again - at);
            at = again;
        }
    }

    #[test]
    fn a_clock_that_goes_back_lets_everybody_in() {
        let mut bench = Bench::new(4);
        bench.eject(1, START + 3_600_000);
        assert!(!bench.is_out(1, START));
    }

    #[test]
    fn endpoints_that_are_gone_are_forgotten_and_block_nobody() {
        let mut old = Bench::new(8);
        old.eject(7, START);
        old.eject(8, START);
        let (blob, _) = old.ejections.poll_publication().unwrap();
        let mut new = Bench::new(4);
        new.ejections.handle_stored(Some((&blob, 1)), Timestamp(START));
        assert!(new.ejections.is_clean());
        new.eject(1, START);
        new.eject(2, START);
    }

    #[test]
    fn zero_errors_eject_nobody_and_damage_is_no_table() {
        let policy = OutlierDetection { consecutive_errors: 0, ..OutlierDetection::default() };
        let mut off = Ejections::new(policy, vec![1, 2, 3, 4]);
        let ended = Ended { endpoint: 1, sent_at: Timestamp(START), now: Timestamp(START) };
        assert!((0..9).all(|_| !off.handle_error(ended, &mut SplitMix64::new(1))));
        assert!(!off.eject(1, Timestamp(START), &mut SplitMix64::new(1)));
        let mut bench = Bench::new(4);
        bench.eject(1, START);
        let (blob, _) = bench.ejections.poll_publication().unwrap();
        for end in 0..blob.len() {
            assert!(decode(&blob[..end]).is_none(), "cut at {end}");
        }
    }
}
