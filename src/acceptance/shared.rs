//! What workers tell each other of endpoints that refuse: their bytes under `ip1/acceptance/<slot>`.
//!
//! A worker writes only its own slot, and only while it knows something against an endpoint. Beside each suspect's
//! tallies stand the sums of its pool, so that all workers compare the same.

use std::collections::BTreeMap;
use std::time::Duration;

use super::tally::Tally;
use super::{Acceptance, Known, Limit};
use crate::time::Timestamp;
use crate::wire::{Reader, Writer};

const MAGIC: &[u8; 4] = b"IPac";
const VERSION: u8 = 1;
/// Tallies that one worker tells of: 65 bytes each.
const MAX_ENTRIES: usize = 1024;
/// A worker that is refused thousands of times a second tells of it a hundred times.
const PERIOD: Duration = Duration::from_millis(10);
/// What is forgotten with time is taken back, too: it must not speak against an endpoint for ever.
const RENEWAL: Duration = Duration::from_secs(1);

/// The shared-data key of a worker's tallies.
pub fn key(slot: u32) -> String {
    format!("ip1/acceptance/{slot}")
}

/// One tally of a suspect, or of its pool.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    id: u64,
    key: u64,
    tally: Tally,
    limit: Limit,
}

/// What the other workers' slots hold, and when this worker's was written.
#[derive(Debug, Default)]
pub(super) struct Slots {
    others: BTreeMap<u32, (u32, Vec<Entry>)>,
    /// The sums over all of them, by suspect or pool and what the tally is about.
    merged: BTreeMap<(u64, u64), Tally>,
    limits: BTreeMap<(u64, u64), Limit>,
    published_at: Timestamp,
    generation: u64,
    /// Whether what was published last names a suspect.
    names_suspects: bool,
}

impl Slots {
    /// Whether no other worker knows anything against an endpoint.
    pub(super) fn are_clean(&self) -> bool {
        self.merged.is_empty()
    }

    pub(super) fn suspects(&self, endpoint: u64) -> bool {
        self.merged.range((endpoint, 0)..=(endpoint, u64::MAX)).next().is_some()
    }

    pub(super) fn tally(&self, id: u64, key: u64) -> Option<Tally> {
        self.merged.get(&(id, key)).copied()
    }

    /// The limit that another worker has learnt of last.
    pub(super) fn limit(&self, endpoint: u64, key: u64) -> Limit {
        self.limits.get(&(endpoint, key)).copied().unwrap_or_default()
    }

    fn merge(&mut self) {
        self.merged.clear();
        self.limits.clear();
        for Entry { id, key, tally, limit } in self.others.values().flat_map(|(_, entries)| entries) {
            let sum = self.merged.entry((*id, *key)).or_insert(Tally { at: tally.at, ..Tally::default() });
            let at = sum.at.max(tally.at);
            *sum = sum.at(at).merge(tally.at(at));
            let newest = self.limits.entry((*id, *key)).or_default();
            if limit.at > newest.at {
                *newest = *limit;
            }
        }
    }
}

impl Acceptance {
    /// Takes over what another worker's slot holds; `None` when it was never written.
    pub fn handle_slot(&mut self, slot: u32, stored: Option<(&[u8], u32)>) {
        let known = self.slots.others.get(&slot).map(|(version, _)| *version);
        match stored {
            Some((_, version)) if known == Some(version) => return,
            Some((blob, version)) => {
                self.slots.others.insert(slot, (version, decode(blob).unwrap_or_default()));
            }
            None if known.is_none() => return,
            None => {
                self.slots.others.remove(&slot);
            }
        }
        self.slots.merge();
    }

    /// The bytes to store, when there is something new and it is time.
    pub fn poll_publication(&mut self, now: Timestamp) -> Option<Vec<u8>> {
        let may_change = self.changed || self.slots.names_suspects;
        let period = if self.changed { PERIOD } else { RENEWAL };
        if !may_change || !now.is_due(self.slots.published_at, period) {
            return None;
        }
        self.changed = false;
        self.slots.published_at = now;
        self.slots.generation += 1;
        let known = || self.pools.iter().chain(&self.endpoints);
        let entries = known().flat_map(|(id, known)| known.entries(*id, now)).take(MAX_ENTRIES);
        let entries: Vec<Entry> = entries.collect();
        self.slots.names_suspects = !entries.is_empty();
        Some(encode(self.slots.generation, &entries))
    }
}

impl Known {
    fn entries(&self, id: u64, now: Timestamp) -> impl Iterator<Item = Entry> {
        let tallies = self.tallies.iter().map(move |(key, tally)| (*key, tally.at(now)));
        let news = tallies.filter(move |(_, tally)| tally.is_news(now));
        news.map(move |(key, tally)| {
            let limit = self.limits.get(&key).copied().unwrap_or_default();
            Entry { id, key, tally, limit }
        })
    }
}

fn encode(generation: u64, entries: &[Entry]) -> Vec<u8> {
    let mut writer = Writer::new(MAGIC, VERSION, generation);
    writer.u16(u16::try_from(entries.len()).unwrap_or(u16::MAX));
    for Entry { id, key, tally, limit } in entries {
        writer.u64(*id);
        writer.u64(*key);
        for value in [tally.accepted, tally.refused, tally.seconds] {
            writer.f32(value);
        }
        for time in [tally.at, tally.changed_at, tally.due_at, limit.at] {
            writer.u64(time.0);
        }
        writer.u8(tally.trials);
        writer.u32(limit.below.unwrap_or(u32::MAX));
    }
    writer.finish()
}

fn decode(blob: &[u8]) -> Option<Vec<Entry>> {
    let (mut reader, _generation) = Reader::new(blob, MAGIC, VERSION)?;
    let count = reader.u16()?;
    let mut entries = Vec::with_capacity(usize::from(count).min(MAX_ENTRIES));
    for _ in 0..count {
        let (id, key) = (reader.u64()?, reader.u64()?);
        let (accepted, refused, seconds) = (reader.f32()?, reader.f32()?, reader.f32()?);
        let mut time = || reader.u64().map(Timestamp);
        let (at, changed_at, due_at, limit_at) = (time()?, time()?, time()?, time()?);
        let trials = reader.u8()?;
        let below = Some(reader.u32()?).filter(|below| *below != u32::MAX);
        if ![accepted, refused, seconds].iter().all(|count| count.is_finite() && *count >= 0.0) {
            return None;
        }
        let tally = Tally { accepted, refused, seconds, at, changed_at, due_at, trials };
        entries.push(Entry { id, key, tally, limit: Limit { below, at: limit_at } });
    }
    reader.is_at_end().then_some(entries)
}
