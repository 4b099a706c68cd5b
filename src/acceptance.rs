//! What endpoints refuse that others accept, and what a pick of such an endpoint is expected to cost.
//!
//! An endpoint that refuses at once has nothing in flight and an empty queue: by its load it is the best one. So
//! refusals are counted for each endpoint beside what it accepts, as rates that decay, and compared with what the other
//! endpoints of its pool refuse in the same time. Only what goes beyond that, and is more than chance, counts: when all
//! refuse alike, it is the client's or the pool's fault, and picks are as they would be without.
//!
//! A refusal is about the client's credentials (401, 403), the endpoint (an error event), its room (429, 503), what was
//! asked for (404), or the request (400, 413, 422), and so perhaps its length. Credentials that another endpoint has
//! accepted are good: to refuse them is the endpoint's fault, too, and a client with a bad key moves no traffic but its own.
//!
//! Each has a tally of its own: an endpoint that lacks one adapter goes on getting requests for the others. Room and
//! length have a limit: a busy endpoint has room for as many requests as it had when it refused one, and one with a
//! short context takes what is shorter than what it has refused. Below the limit it is picked as usual. Now and then one
//! request tries what was refused: a trial. Each trial that succeeds opens the door wider.
//!
//! Workers tell each other what they know of suspects, under `ip1/acceptance/<slot>`. Ejection is something else:
//! it is for endpoints that are broken.

mod about;
mod credentials;
mod shared;
mod tally;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::hash;
use crate::time::Timestamp;

pub use about::{About, Demand};
use about::{ROOM, SIZE, measure};
use credentials::Good;
use shared::Slots;
pub use shared::key;
use tally::Tally;

/// Trials that fail are at most this share of a pool's requests: a twenty-fifth.
const REQUESTS_PER_TRIAL: f32 = 25.0;
/// A trial comes no sooner, however many requests there are.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// And no later: an endpoint that has recovered has its share back within ten seconds, with three trials that succeed.
const LONGEST_WAIT: Duration = Duration::from_secs(6);
/// An endpoint that is expected to refuse more than this share is left out while others are there.
pub const LIKELY: f32 = 0.5;
/// What is expected of an endpoint beyond its limit.
const BEYOND_LIMIT: f32 = 0.9;
/// How long a limit is remembered.
const LIMIT_LIFE: Duration = Duration::from_secs(60);
/// A request that its client sees fail is worth this much waiting, in seconds.
pub const SECONDS_IF_FAILED: f32 = 10.0;
/// One that the host sends on to the next endpoint has lost a round trip, and goes to the second best.
pub const SECONDS_IF_RETRIED: f32 = 0.05;
/// Tallies of one endpoint: beyond them one that speaks against nothing, or was used longest ago, is forgotten.
const MAX_TALLIES: usize = 512;
/// Endpoints of which nothing was heard for so long are forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// What is expected of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Expected {
    /// The probability that it refuses what others accept, from 0 to 1.
    pub probability: f32,
    /// That, times what a refusal costs, in seconds.
    pub seconds: f32,
}

/// An endpoint, its pool, and how much it has to do at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// The pool's [`pool_key`].
    pub pool: u64,
    /// The endpoint's [`crate::hash::endpoint`].
    pub endpoint: u64,
    /// Other requests that this gateway has in flight there.
    pub in_flight: u32,
}

/// A request that an endpoint has refused.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// What was refused.
    pub demand: Demand,
    /// Why.
    pub about: About,
    /// What it costs, in seconds.
    pub seconds: f32,
}

/// What one worker knows of refusals, by its own traffic and from the other workers.
#[derive(Debug, Default)]
pub struct Acceptance {
    endpoints: BTreeMap<u64, Known>,
    /// The sums over their endpoints.
    pools: BTreeMap<u64, Known>,
    slots: Slots,
    changed: bool,
    refused_at: Timestamp,
    good: Good,
}

/// Tallies by what they are about.
type Tallies = BTreeMap<u64, Tally>;

/// What this worker's own traffic has shown.
#[derive(Debug, Default)]
struct Known {
    tallies: Tallies,
    /// By what they are about, like tallies.
    limits: BTreeMap<u64, Limit>,
    /// Of an endpoint: when the next of its models and clients may be tried. There may be hundreds that are refused.
    next_trial_at: Timestamp,
    /// Of a pool: all of its requests.
    requests: Tally,
    heard_at: Timestamp,
}

/// What an endpoint takes: less than this, of requests in flight or of a prompt's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Limit {
    below: Option<u32>,
    /// When this was learnt.
    at: Timestamp,
}

impl Limit {
    fn known(self, now: Timestamp) -> Option<u32> {
        // One of a time to come is from before the clock went back.
        self.below.filter(|_| now.since(self.at) < LIMIT_LIFE && self.at.since(now) < LIMIT_LIFE)
    }
}

/// A limit that is above what was just accepted; by a half, so that one that is much too low is soon forgotten.
fn beyond(measured: u32) -> u32 {
    measured.saturating_add(measured / 2).saturating_add(1)
}

/// A tally that speaks against an endpoint.
struct Verdict {
    expected: Expected,
    is_due: bool,
}

/// The key of a pool's sums, which no endpoint has.
pub fn pool_key(pool: &str) -> u64 {
    hash::endpoint(pool, "")
}

impl Acceptance {
    /// Whether nothing is known against any endpoint, as is so most of the time.
    pub fn is_clean(&self, now: Timestamp) -> bool {
        self.slots.are_clean() && now.since(self.refused_at) >= tally::FORGOTTEN_AFTER
    }

    /// Notes that a request was sent: to a suspect it may be a trial, and the next one comes later. Says what is tried.
    pub fn handle_sent(&mut self, standing: Standing, demand: Demand, now: Timestamp) -> Option<About> {
        if !self.is_suspect(standing.endpoint, now) {
            return None;
        }
        let wait = self.wait(standing.pool, now);
        let mut tried = None;
        for (about, _) in About::ALL {
            let Some(key) = about.key(demand) else { continue };
            if self.judge(standing, key, demand, now).is_some_and(|verdict| verdict.is_due) {
                let own = self.endpoints.entry(standing.endpoint).or_default();
                tally_of(&mut own.tallies, key).begin_trial(wait, now);
                own.next_trial_at = if key > SIZE { now.after(wait) } else { own.next_trial_at };
                self.changed = true;
                tried = tried.or(Some(about));
            }
        }
        tried
    }

    /// Notes that an endpoint has begun to answer as asked.
    pub fn handle_accepted(&mut self, standing: Standing, demand: Demand, sent_at: Timestamp, now: Timestamp) {
        self.good.note(demand.credentials);
        self.count_request(standing.pool, now);
        for key in About::ALL.into_iter().filter_map(|(about, _)| about.key(demand)) {
            if key > SIZE && !self.is_counted(standing, key) {
                continue;
            }
            let measured = measure(key, standing, demand);
            let limit = self.limit(standing.endpoint, key, now);
            // What is within a limit says nothing of what is beyond.
            if limit.zip(measured).is_some_and(|(limit, measured)| measured < limit) {
                continue;
            }
            let others = self.slots.tally(standing.endpoint, key);
            let own = self.endpoints.entry(standing.endpoint).or_default();
            own.heard_at = now;
            if let (Some(_), Some(measured)) = (limit, measured) {
                own.limits.insert(key, Limit { below: Some(beyond(measured)), at: now });
            }
            let tally = tally_of(&mut own.tallies, key);
            let before = *tally;
            // Another worker may have begun the trial, or have been refused since.
            if let Some(others) = others {
                tally.take_later_trial(&others);
            }
            let is_proof = tally.accept(sent_at, now);
            let after = *tally;
            if is_proof && key > SIZE {
                // What it has got for one it probably has for the others.
                own.next_trial_at = now;
                let others = own.tallies.iter_mut().filter(|(key, _)| **key > SIZE);
                others.for_each(|(_, tally)| tally.due_at = tally.due_at.min(now));
            }
            self.changed |= is_proof;
            self.follow(standing.pool, key, &before, &after);
        }
    }

    /// Whether a tally of a model or of credentials is wanted: only once somebody has refused them.
    fn is_counted(&self, standing: Standing, key: u64) -> bool {
        let has = |known: Option<&Known>| known.is_some_and(|known| known.tallies.contains_key(&key));
        has(self.endpoints.get(&standing.endpoint)) || has(self.pools.get(&standing.pool))
    }

    /// Notes that an endpoint has refused a request.
    pub fn handle_refused(&mut self, standing: Standing, refused: &Refused, now: Timestamp) {
        self.count_request(standing.pool, now);
        self.count_refused(standing, refused, now);
        if refused.about == About::Credentials && self.good.has(refused.demand.credentials, standing.endpoint) {
            self.count_refused(standing, &Refused { about: About::Endpoint, ..*refused }, now);
        }
    }

    fn count_request(&mut self, pool: u64, now: Timestamp) {
        let pool = self.pools.entry(pool).or_default();
        pool.requests = pool.requests.at(now);
        pool.requests.accepted += 1.0;
    }

    fn count_refused(&mut self, standing: Standing, refused: &Refused, now: Timestamp) {
        let Some(key) = refused.about.key(refused.demand) else { return };
        let wait = self.wait(standing.pool, now);
        let limit = self.limit(standing.endpoint, key, now);
        let own = self.endpoints.entry(standing.endpoint).or_default();
        own.heard_at = now;
        if let Some(measured) = measure(key, standing, refused.demand) {
            let below = limit.map_or(measured, |limit| limit.min(measured));
            own.limits.insert(key, Limit { below: Some(below), at: now });
        }
        let tally = tally_of(&mut own.tallies, key);
        let before = *tally;
        tally.refuse(refused.seconds, wait, now);
        let after = *tally;
        self.follow(standing.pool, key, &before, &after);
        (self.changed, self.refused_at) = (true, now);
        let is_remembered = |known: &Known| now.since(known.heard_at) < FORGOTTEN_AFTER;
        self.endpoints.retain(|_, endpoint| is_remembered(endpoint));
        self.pools.retain(|_, pool| is_remembered(pool));
    }

    /// Keeps the sums of a pool.
    fn follow(&mut self, pool: u64, key: u64, before: &Tally, after: &Tally) {
        let sums = self.pools.entry(pool).or_default();
        sums.heard_at = after.at;
        tally_of(&mut sums.tallies, key).follow(before, after);
    }

    /// What is expected of an endpoint for a request.
    pub fn expect(&self, standing: Standing, demand: Demand, now: Timestamp) -> Expected {
        self.worst(standing, demand, &About::ALL.map(|(about, _)| about), now)
    }

    /// The same of an endpoint as a whole, whatever the request is.
    pub fn expect_any(&self, standing: Standing, now: Timestamp) -> Expected {
        self.worst(standing, Demand::default(), &[About::Endpoint, About::Room], now)
    }

    fn worst(&self, standing: Standing, demand: Demand, abouts: &[About], now: Timestamp) -> Expected {
        if !self.is_suspect(standing.endpoint, now) {
            return Expected::default();
        }
        let keys = abouts.iter().filter_map(|about| about.key(demand));
        let verdicts = keys.filter_map(|key| self.judge(standing, key, demand, now));
        let expected = verdicts.filter(|verdict| !verdict.is_due).map(|verdict| verdict.expected);
        expected.max_by(|one, other| one.seconds.total_cmp(&other.seconds)).unwrap_or_default()
    }

    /// How many requests an endpoint has room for, as far as it has shown that by refusing more.
    pub fn room(&self, endpoint: u64, now: Timestamp) -> Option<u32> {
        self.limit(endpoint, ROOM, now)
    }

    /// The limit that this worker or another has learnt last.
    fn limit(&self, endpoint: u64, key: u64, now: Timestamp) -> Option<u32> {
        let own = self.endpoints.get(&endpoint).and_then(|own| own.limits.get(&key)).copied().unwrap_or_default();
        let others = self.slots.limit(endpoint, key);
        let newest = if others.at > own.at { others } else { own };
        newest.known(now)
    }

    fn judge(&self, standing: Standing, key: u64, demand: Demand, now: Timestamp) -> Option<Verdict> {
        let tally = self.merged(&self.endpoints, standing.endpoint, key, now).filter(Tally::is_suspect)?;
        let all = self.merged(&self.pools, standing.pool, key, now).unwrap_or(tally);
        let excess = tally.excess(&all);
        let limit = measure(key, standing, demand).zip(self.limit(standing.endpoint, key, now));
        if excess <= 0.0 || limit.is_some_and(|(measured, limit)| measured < limit) {
            return None;
        }
        let probability = if limit.is_some() { excess.max(BEYOND_LIMIT) } else { excess };
        let expected = Expected { probability, seconds: probability * tally.mean_seconds() };
        // A time that no wait leads to is from before the clock went back.
        let next = self.endpoints.get(&standing.endpoint).filter(|_| key > SIZE).map_or(now, |own| own.next_trial_at);
        let is_due = |at: Timestamp| at <= now || at.since(now) > LONGEST_WAIT;
        let is_due = is_due(tally.due_at) && is_due(next);
        Some(Verdict { expected, is_due })
    }

    /// What all workers know, as of `now`.
    fn merged(&self, own: &BTreeMap<u64, Known>, id: u64, key: u64, now: Timestamp) -> Option<Tally> {
        let own = own.get(&id).and_then(|known| known.tallies.get(&key)).map(|own| own.at(now));
        let others = self.slots.tally(id, key).map(|others| others.at(now));
        match (own, others) {
            (Some(own), Some(others)) => Some(own.merge(others)),
            (own, others) => own.or(others),
        }
    }

    fn is_suspect(&self, endpoint: u64, now: Timestamp) -> bool {
        !self.is_clean(now) && self.has_refused(endpoint)
    }

    fn has_refused(&self, endpoint: u64) -> bool {
        self.slots.suspects(endpoint) || self.endpoints.get(&endpoint).is_some_and(Known::is_suspect)
    }

    /// How long after a refusal the next trial comes.
    fn wait(&self, pool: u64, now: Timestamp) -> Duration {
        let rate = self.pools.get(&pool).map_or(0.0, |known| known.requests.at(now).rate());
        let most = LONGEST_WAIT.as_secs_f32();
        let wait = if rate * most > REQUESTS_PER_TRIAL { REQUESTS_PER_TRIAL / rate } else { most };
        Duration::from_secs_f32(wait).max(SHORTEST_WAIT)
    }
}

impl Known {
    fn is_suspect(&self) -> bool {
        self.tallies.values().any(Tally::is_suspect)
    }
}

fn tally_of(tallies: &mut Tallies, key: u64) -> &mut Tally {
    if tallies.len() >= MAX_TALLIES && !tallies.contains_key(&key) {
        let asked = tallies.iter().filter(|(key, _)| **key > SIZE);
        if let Some(oldest) = asked.min_by_key(|(_, tally)| (tally.is_suspect(), tally.at)).map(|(key, _)| *key) {
            tallies.remove(&oldest);
        }
    }
    tallies.entry(key).or_default()
}

#[cfg(test)]
mod tests;
