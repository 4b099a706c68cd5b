//! What all workers have waiting in a pool, and its bytes under `ip1/queue/<pool>`.
//!
//! One table a pool, changed by compare-and-swap: a limit over all workers holds exactly only if nobody adds to the
//! table without knowing it. It is written while requests wait, and not before.

use std::time::Duration;

use super::queue::Queue;
use super::{FlowControl, Waiting};
use crate::time::Timestamp;
use crate::wire::{self, Reader, Writer};

const MAGIC: &[u8; 4] = b"IPqu";
const VERSION: u8 = 1;
/// How often a worker with waiting requests says that it is still there.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// What a worker has waiting counts no more after this time without a word of it: the requests died with it.
const EXPIRY: Duration = Duration::from_secs(3);

/// The shared-data key of a pool's table.
pub fn key(pool: &str) -> String {
    format!("ip1/queue/{pool}")
}

/// The table as one worker knows it, and what is to be written of it.
#[derive(Debug, Default)]
pub struct Table {
    others: Vec<Entry>,
    /// The version that the others were read with.
    version: Option<u32>,
    /// What was last written of the worker's own.
    written: Vec<(i32, u32, u64)>,
    written_at: Timestamp,
    generation: u64,
}

/// What one worker has waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    owner: u64,
    heartbeat: Timestamp,
    bands: Vec<(i32, u32, u64)>,
}

impl Table {
    /// Takes in what is stored; `None` when nothing is.
    pub fn handle_stored(&mut self, owner: u64, stored: Option<(&[u8], u32)>) {
        let Some((blob, version)) = stored else {
            (self.others, self.version) = (Vec::new(), None);
            return;
        };
        if self.version == Some(version) {
            return;
        }
        self.version = Some(version);
        self.others = decode(blob).unwrap_or_default();
        self.others.retain(|entry| entry.owner != owner);
    }

    /// The highest priority that other workers have waiting.
    pub fn others_first(&self, now: Timestamp) -> Option<i32> {
        self.alive(now).flat_map(|entry| &entry.bands).map(|(priority, _, _)| *priority).max()
    }

    /// How many requests other workers have waiting with at least this priority.
    pub fn others_ahead(&self, priority: i32, now: Timestamp) -> u32 {
        let bands = self.alive(now).flat_map(|entry| &entry.bands).filter(|(of, _, _)| *of >= priority);
        bands.fold(0, |sum, (_, requests, _)| sum.saturating_add(*requests))
    }

    /// How many other workers have requests waiting with at least this priority.
    pub fn others_waiting(&self, priority: i32, now: Timestamp) -> usize {
        self.alive(now).filter(|entry| entry.bands.iter().any(|(of, _, _)| *of >= priority)).count()
    }

    fn alive(&self, now: Timestamp) -> impl Iterator<Item = &Entry> {
        // A heartbeat far ahead is from before the clock went back.
        self.others.iter().filter(move |entry| now.since(entry.heartbeat).max(entry.heartbeat.since(now)) < EXPIRY)
    }

    /// What to store, and the version to compare with, if the table doesn't say what `queue` holds. What goes beyond a
    /// limit is taken out of the queue before, the newest first, and put into `surplus`: others may have come
    /// between.
    pub fn poll_publication(
        &mut self,
        owner: u64,
        control: &FlowControl,
        queue: &mut Queue,
        surplus: &mut Vec<Waiting>,
        now: Timestamp,
    ) -> Option<(Vec<u8>, u32)> {
        let is_due = !queue.is_empty() && now.is_due(self.written_at, HEARTBEAT);
        if !is_due && queue.counts().eq(self.written.iter().copied()) {
            return None;
        }
        let priorities: Vec<i32> = queue.counts().map(|(priority, _, _)| priority).collect();
        for priority in priorities {
            let band = control.band(priority);
            let (others, other_bytes) = self.alive(now).flat_map(|entry| &entry.bands).fold(
                (0u32, 0u64),
                |(requests, bytes), (of, more, more_bytes)| match *of == priority {
                    true => (requests.saturating_add(*more), bytes.saturating_add(*more_bytes)),
                    false => (requests, bytes),
                },
            );
            let exceeds = |queue: &Queue| {
                let own = queue.counts().find(|(of, _, _)| *of == priority);
                own.is_some_and(|(_, requests, bytes)| {
                    others.saturating_add(requests) > band.max_requests
                        || other_bytes.saturating_add(bytes) > band.max_bytes
                })
            };
            while exceeds(queue) {
                surplus.extend(queue.pop_newest(control, priority));
            }
        }
        let bands: Vec<(i32, u32, u64)> = queue.counts().collect();
        if !is_due && bands == self.written {
            return None;
        }
        self.generation += 1;
        self.written_at = now;
        let mut entries: Vec<Entry> = self.alive(now).cloned().collect();
        if !bands.is_empty() {
            entries.push(Entry { owner, heartbeat: now, bands: bands.clone() });
        }
        self.written = bands;
        Some((encode(self.generation, &entries), self.version.unwrap_or(wire::CREATE)))
    }

    /// Notes that somebody else was quicker, after what is stored was read: it is to be written again.
    pub fn handle_conflict(&mut self) {
        // No queue has this, so that the next look finds a difference.
        self.written = vec![(0, 0, 0)];
    }
}

fn encode(generation: u64, entries: &[Entry]) -> Vec<u8> {
    let mut writer = Writer::new(MAGIC, VERSION, generation);
    writer.u16(u16::try_from(entries.len()).unwrap_or(u16::MAX));
    for entry in entries.iter().take(usize::from(u16::MAX)) {
        writer.u64(entry.owner);
        writer.u64(entry.heartbeat.0);
        writer.u16(u16::try_from(entry.bands.len()).unwrap_or(u16::MAX));
        for (priority, requests, bytes) in entry.bands.iter().take(usize::from(u16::MAX)) {
            writer.u32(u32::from_le_bytes(priority.to_le_bytes()));
            writer.u32(*requests);
            writer.u64(*bytes);
        }
    }
    writer.finish()
}

fn decode(blob: &[u8]) -> Option<Vec<Entry>> {
    let (mut reader, _generation) = Reader::new(blob, MAGIC, VERSION)?;
    let mut entries = Vec::new();
    for _ in 0..reader.u16()? {
        let (owner, heartbeat) = (reader.u64()?, Timestamp(reader.u64()?));
        let mut bands = Vec::new();
        for _ in 0..reader.u16()? {
            let priority = i32::from_le_bytes(reader.u32()?.to_le_bytes());
            bands.push((priority, reader.u32()?, reader.u64()?));
        }
        entries.push(Entry { owner, heartbeat, bands });
    }
    reader.is_at_end().then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    const NOW: Timestamp = Timestamp(100_000);

    /// Two workers, and what lies in shared data between them.
    #[derive(Default)]
    struct Bench {
        control: FlowControl,
        tables: [Table; 2],
        queues: [Queue; 2],
        stored: Option<(Vec<u8>, u32)>,
        refused: Vec<u64>,
        next: u64,
    }

    impl Bench {
        fn with_limit(max_requests: u32) -> Bench {
            let mut bench = Bench::default();
            bench.control.usual.max_requests = max_requests;
            bench
        }

        fn push(&mut self, worker: usize, priority: i32) -> u64 {
            self.next += 1;
            let waiting = Waiting {
                id: self.next,
                priority,
                flow: 0,
                bytes: 100,
                since: NOW,
                deadline: NOW,
                expires: NOW.after(Duration::from_secs(60)),
            };
            self.queues[worker].push(&self.control, waiting);
            self.next
        }

        fn read(&mut self, worker: usize) {
            let stored = self.stored.as_ref().map(|(blob, version)| (blob.as_slice(), *version));
            self.tables[worker].handle_stored(worker as u64, stored);
        }

        /// Writes until it holds, as the host does.
        fn settle(&mut self, worker: usize, now: Timestamp) {
            loop {
                let mut surplus = Vec::new();
                let queue = &mut self.queues[worker];
                let write =
                    self.tables[worker].poll_publication(worker as u64, &self.control, queue, &mut surplus, now);
                self.refused.extend(surplus.iter().map(|waiting| waiting.id));
                let Some((blob, cas)) = write else { return };
                let version = self.stored.as_ref().map(|(_, version)| *version);
                let succeeds = version.is_none_or(|version| version == cas);
                if succeeds {
                    self.stored = Some((blob, version.unwrap_or(0) + 1));
                }
                self.read(worker);
                if !succeeds {
                    self.tables[worker].handle_conflict();
                }
            }
        }
    }

    #[test]
    fn a_limit_holds_over_all_workers() {
        let mut bench = Bench::with_limit(3);
        let first = [bench.push(0, 0), bench.push(0, 0)];
        bench.settle(0, NOW);
        // The other worker hasn't read since: its write fails, and it learns what is there.
        let (third, fourth) = (bench.push(1, 0), bench.push(1, 0));
        bench.push(1, 5);
        bench.settle(1, NOW);
        assert_eq!(bench.refused, [fourth], "the newest goes, another priority has its own limit");
        assert!(bench.refused.iter().all(|id| !first.contains(id) && *id != third));
        bench.read(0);
        assert_eq!((bench.tables[0].others_first(NOW), bench.tables[0].others_ahead(0, NOW)), (Some(5), 2));
        // One leaves, and there is room again.
        bench.queues[0].pop(&bench.control);
        bench.settle(0, NOW);
        bench.read(1);
        bench.push(1, 0);
        bench.settle(1, NOW);
        assert_eq!(bench.refused.len(), 1);
    }

    #[test]
    fn bytes_are_limited_too() {
        let mut bench = Bench::with_limit(100);
        bench.control.usual.max_bytes = 250;
        for worker in [0, 1, 0] {
            bench.push(worker, 0);
            bench.settle(worker, NOW);
        }
        assert_eq!(bench.refused, [3]);
    }

    #[test]
    fn a_dead_workers_requests_count_no_more() {
        let mut bench = Bench::with_limit(1);
        bench.push(0, 7);
        bench.settle(0, NOW);
        bench.read(1);
        assert_eq!(bench.tables[1].others_first(NOW), Some(7));
        let later = NOW.after(EXPIRY);
        assert_eq!(bench.tables[1].others_first(later), None);
        bench.push(1, 7);
        bench.settle(1, later);
        assert_eq!(bench.refused, [0u64; 0]);
        // While it lives it says so.
        bench.settle(1, later.after(HEARTBEAT));
        bench.read(0);
        assert_eq!(bench.tables[0].others_first(later.after(EXPIRY)), Some(7));
    }

    #[test]
    fn who_has_nothing_waiting_writes_nothing() {
        let mut bench = Bench::default();
        bench.settle(0, NOW);
        assert_eq!(bench.stored, None);
        bench.push(0, 0);
        bench.settle(0, NOW);
        bench.queues[0].pop(&bench.control);
        bench.settle(0, NOW);
        let version = bench.stored.as_ref().map(|(_, version)| *version);
        bench.settle(0, NOW.after(HEARTBEAT * 9));
        assert_eq!(bench.stored.as_ref().map(|(_, version)| *version), version);
        assert_eq!(decode(&bench.stored.unwrap().0), Some(Vec::new()));
    }

    #[test]
    fn damage_is_no_table() {
        for blob in [&b""[..], b"IPqu", b"IPqu\x02aaaaaaaa\0\0"] {
            let mut table = Table::default();
            table.handle_stored(1, Some((blob, 3)));
            assert_eq!(table.others_first(NOW), None);
        }
    }
}
