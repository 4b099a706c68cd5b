//! Places at endpoints: how many requests all workers together have at each, exactly, and the bytes under `ip1/room/<shard>`.
//!
//! What workers have [in flight](crate::inflight) they hear of each other some milliseconds later, and in a burst each of them would
//! fill the same room. A limit holds only if nobody takes a place without knowing all that are taken, so a place is taken by
//! compare-and-swap. A worker writes how many it has, never a difference: what a lost race or a trap leaves behind is put right by
//! the next write, and who is gone counts no more once its slot has run out.
//!
//! Endpoints are spread over a fixed number of keys: shared data forgets no key, and endpoints come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::time::Timestamp;
use crate::wire::{self, Reader, Writer};

const MAGIC: &[u8; 4] = b"IPrm";
const VERSION: u8 = 1;
/// The number of keys. More of them make lost races rarer; a pool of some ten endpoints has nearly one for each.
const SHARDS: u64 = 64;
/// What a worker has written stands for so long whatever its slot says: a new worker's slot is known a little later.
const GRACE: Duration = Duration::from_secs(5);

/// A place that a request needs before it may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The endpoint, a [`crate::hash::endpoint`].
    pub endpoint: u64,
    /// The most requests that this gateway may have there, this one included.
    pub limit: u32,
}

/// What to store, and the version to compare with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The bytes.
    pub blob: Vec<u8>,
    /// The version.
    pub cas: u32,
}

/// What became of a look at a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// This is to be stored; what was wanted is there, beside so many other requests.
    Claim(Claim, u32),
    /// There is no room: so many requests are there.
    Full(u32),
}

/// The shared-data key of a shard.
pub fn key(shard: u32) -> String {
    format!("ip1/room/{shard}")
}

/// The shard in which an endpoint's places are.
pub fn shard(endpoint: u64) -> u32 {
    u32::try_from(endpoint % SHARDS).unwrap_or(0)
}

/// The places of one worker: those that it has, and what shared data says of them.
///
/// [`Room::take`] and [`Room::give_back`] count. Then [`Room::poll_unwritten`] gives a shard to look at; [`Room::look`] says what to
/// store there, and [`Room::handle_stored`] or [`Room::handle_conflict`] is told what became of it.
#[derive(Debug, Default)]
pub struct Room {
    held: BTreeMap<(u32, u64), u32>,
    written: BTreeMap<(u32, u64), u32>,
    unwritten: BTreeSet<u32>,
    generation: u64,
}

/// What one worker has at one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    endpoint: u64,
    owner: u64,
    requests: u32,
    written_at: Timestamp,
}

impl Room {
    /// Counts a request that was sent to an endpoint, whether or not it had asked for a place.
    pub fn take(&mut self, endpoint: u64) {
        let shard = shard(endpoint);
        let held = self.held.entry((shard, endpoint)).or_default();
        *held = held.saturating_add(1);
        self.unwritten.insert(shard);
    }

    /// Counts it no more.
    pub fn give_back(&mut self, endpoint: u64) {
        let shard = shard(endpoint);
        if let Some(held) = self.held.get_mut(&(shard, endpoint)) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.held.remove(&(shard, endpoint));
            }
            self.unwritten.insert(shard);
        }
    }

    /// Whether this worker has a request at an endpoint.
    pub fn holds(&self, endpoint: u64) -> bool {
        self.held.contains_key(&(shard(endpoint), endpoint))
    }

    /// A shard of which shared data doesn't say what this worker has. It is given once; a conflict gives it again.
    pub fn poll_unwritten(&mut self) -> Option<u32> {
        while let Some(shard) = self.unwritten.pop_first() {
            if !of_shard(&self.held, shard).eq(of_shard(&self.written, shard)) {
                return Some(shard);
            }
        }
        None
    }

    /// Whether [`Room::poll_unwritten`] has to be called again.
    pub fn is_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// What to store in a shard that holds `stored`, with one more request where a place is wanted. `is_gone` tells which
    /// workers are gone.
    pub fn look(
        &mut self,
        shard: u32,
        wanted: Option<Place>,
        owner: u64,
        stored: Option<(&[u8], u32)>,
        is_gone: impl Fn(u64) -> bool,
        now: Timestamp,
    ) -> Look {
        let mut entries = stored.and_then(|(blob, _)| decode(blob)).unwrap_or_default();
        entries.retain(|entry| entry.owner != owner && (is_recent(entry.written_at, now) || !is_gone(entry.owner)));
        let mut own: BTreeMap<u64, u32> = of_shard(&self.held, shard).collect();
        let mut beside = 0;
        if let Some(place) = wanted {
            let others = entries.iter().filter(|entry| entry.endpoint == place.endpoint);
            let own = own.entry(place.endpoint).or_default();
            beside = others.fold(*own, |sum, entry| sum.saturating_add(entry.requests));
            if beside >= place.limit {
                return Look::Full(beside);
            }
            *own = own.saturating_add(1);
        }
        entries.extend(own.into_iter().map(|(endpoint, requests)| Entry {
            endpoint,
            owner,
            requests,
            written_at: now,
        }));
        self.generation += 1;
        let cas = stored.map_or(wire::CREATE, |(_, version)| version);
        Look::Claim(Claim { blob: encode(self.generation, &entries), cas }, beside)
    }

    /// Notes that what [`Room::look`] gave was stored. Who has got the place [takes](Room::take) it now.
    pub fn handle_stored(&mut self, shard: u32, wanted: Option<Place>) {
        self.written.retain(|(of, _), _| *of != shard);
        self.written.extend(self.held.range((shard, 0)..=(shard, u64::MAX)).map(|(key, requests)| (*key, *requests)));
        if let Some(place) = wanted {
            let written = self.written.entry((shard, place.endpoint)).or_default();
            *written = written.saturating_add(1);
            // A place that nobody takes after all is given back.
            self.unwritten.insert(shard);
        }
    }

    /// Notes that somebody else was quicker, as often as is bearable: the shard is to be looked at again, later.
    pub fn handle_conflict(&mut self, shard: u32) {
        self.unwritten.insert(shard);
    }
}

/// One worker's requests at the endpoints of a shard.
fn of_shard(requests: &BTreeMap<(u32, u64), u32>, shard: u32) -> impl Iterator<Item = (u64, u32)> + '_ {
    requests.range((shard, 0)..=(shard, u64::MAX)).map(|((_, endpoint), requests)| (*endpoint, *requests))
}

fn is_recent(written_at: Timestamp, now: Timestamp) -> bool {
    // A time far ahead is from before the clock went back.
    now.since(written_at).max(written_at.since(now)) < GRACE
}

fn encode(generation: u64, entries: &[Entry]) -> Vec<u8> {
    let mut writer = Writer::new(MAGIC, VERSION, generation);
    writer.u32(u32::try_from(entries.len()).unwrap_or(u32::MAX));
    for entry in entries {
        writer.u64(entry.endpoint);
        writer.u64(entry.owner);
        writer.u32(entry.requests);
        writer.u64(entry.written_at.0);
    }
    writer.finish()
}

fn decode(blob: &[u8]) -> Option<Vec<Entry>> {
    let (mut reader, _generation) = Reader::new(blob, MAGIC, VERSION)?;
    let mut entries = Vec::new();
    for _ in 0..reader.u32()? {
        let (endpoint, owner) = (reader.u64()?, reader.u64()?);
        entries.push(Entry { endpoint, owner, requests: reader.u32()?, written_at: Timestamp(reader.u64()?) });
    }
    reader.is_at_end().then_some(entries)
}

#[cfg(test)]
mod tests;
