//! What a worker has added to its prefix table, for the other workers: its bytes under `ip1/prefix/<slot>`.
//!
//! A worker's slot holds its last [`LENGTH`] additions, each with a running number: a reader applies those that
//! it hasn't seen. One that falls further behind, or starts late, misses older ones and learns them again from
//! the traffic. Only what was new to the writer is logged, and what it had not used for a long time: the turns of
//! a conversation cost a few entries each, and not the whole prompt every time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::time::Timestamp;
use crate::wire::{Reader, Writer};

const MAGIC: &[u8; 4] = b"IPpx";
const VERSION: u8 = 1;
/// 8 KB: what two hundred turns of conversations add. Reading it takes two microseconds; a worker that reads
/// every 50 ms misses nothing up to ten thousand new blocks (640,000 tokens) a second.
const LENGTH: usize = 512;
/// Additions are published when so much time has passed since the last time: a worker that picks ten thousand times a
/// second would otherwise copy the log as often.
const PERIOD: Duration = Duration::from_millis(10);

/// The shared-data key of a worker's log.
pub fn key(slot: u32) -> String {
    format!("ip1/prefix/{slot}")
}

/// A block that went to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addition {
    /// The block's hash.
    pub block: u64,
    /// The endpoint's key.
    pub endpoint: u64,
}

/// The log of one worker, and how far it has read the others'.
#[derive(Debug, Default)]
pub struct PrefixLog {
    recent: VecDeque<Addition>,
    /// The number of the next addition.
    next: u64,
    changed: bool,
    published_at: Timestamp,
    /// By slot: the owner, the version, and the number of the next addition to apply.
    read: BTreeMap<u32, (u64, u32, u64)>,
}

impl PrefixLog {
    /// Notes an addition.
    pub fn push(&mut self, addition: Addition) {
        if self.recent.len() == LENGTH {
            self.recent.pop_front();
        }
        self.recent.push_back(addition);
        self.next += 1;
        self.changed = true;
    }

    /// The bytes to store, when there is something new and it is time.
    pub fn poll_publication(&mut self, owner: u64, now: Timestamp) -> Option<Vec<u8>> {
        if !self.changed || !now.is_due(self.published_at, PERIOD) {
            return None;
        }
        self.changed = false;
        self.published_at = now;
        let mut writer = Writer::new(MAGIC, VERSION, self.next);
        writer.u64(owner);
        writer.u16(u16::try_from(self.recent.len()).unwrap_or(u16::MAX));
        for addition in &self.recent {
            writer.u64(addition.block);
            writer.u64(addition.endpoint);
        }
        Some(writer.finish())
    }

    /// What another worker has added since the last look at its slot.
    pub fn handle_slot(&mut self, slot: u32, blob: &[u8], version: u32) -> Vec<Addition> {
        if self.read.get(&slot).is_some_and(|(_, known, _)| *known == version) {
            return Vec::new();
        }
        let Some((owner, next, additions)) = decode(blob) else { return Vec::new() };
        let seen = self.read.insert(slot, (owner, version, next));
        let from = seen.filter(|(known, _, _)| *known == owner).map_or(0, |(_, _, from)| from);
        let first = next.saturating_sub(additions.len() as u64);
        let skipped = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        additions.into_iter().skip(skipped).collect()
    }
}

fn decode(blob: &[u8]) -> Option<(u64, u64, Vec<Addition>)> {
    let (mut reader, next) = Reader::new(blob, MAGIC, VERSION)?;
    let owner = reader.u64()?;
    let count = reader.u16()?;
    let mut additions = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        additions.push(Addition { block: reader.u64()?, endpoint: reader.u64()? });
    }
    reader.is_at_end().then_some((owner, next, additions))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn addition(block: u64) -> Addition {
        Addition { block, endpoint: 1 }
    }

    fn pushed(log: &mut PrefixLog, blocks: std::ops::Range<u64>, now: u64) -> Vec<u8> {
        blocks.for_each(|block| log.push(addition(block)));
        log.poll_publication(9, Timestamp(now)).unwrap()
    }

    #[test]
    fn a_reader_applies_each_addition_once() {
        let (mut writer, mut reader) = (PrefixLog::default(), PrefixLog::default());
        let blob = pushed(&mut writer, 0..3, 100);
        assert_eq!(reader.handle_slot(4, &blob, 1), [addition(0), addition(1), addition(2)]);
        assert_eq!(reader.handle_slot(4, &blob, 1), []);
        let blob = pushed(&mut writer, 3..5, 200);
        assert_eq!(reader.handle_slot(4, &blob, 2), [addition(3), addition(4)]);
    }

    #[test]
    fn one_that_falls_behind_gets_what_is_left() {
        let (mut writer, mut reader) = (PrefixLog::default(), PrefixLog::default());
        let blob = pushed(&mut writer, 0..2, 100);
        reader.handle_slot(4, &blob, 1);
        let blob = pushed(&mut writer, 2..5000, 200);
        let read = reader.handle_slot(4, &blob, 2);
        assert_eq!((read.len(), read[0], read[LENGTH - 1]), (LENGTH, addition(5000 - LENGTH as u64), addition(4999)));
    }

    #[test]
    fn a_slots_new_owner_is_read_from_its_beginning() {
        let (mut writer, mut reader) = (PrefixLog::default(), PrefixLog::default());
        reader.handle_slot(4, &pushed(&mut writer, 0..9, 100), 1);
        let mut heir = PrefixLog::default();
        heir.push(addition(70));
        let blob = heir.poll_publication(10, Timestamp(100)).unwrap();
        assert_eq!(reader.handle_slot(4, &blob, 2), [addition(70)]);
    }

    #[test]
    fn what_is_damaged_is_not_there() {
        let blob = pushed(&mut PrefixLog::default(), 0..3, 100);
        for end in 0..blob.len() {
            assert_eq!(PrefixLog::default().handle_slot(0, &blob[..end], 1), [], "cut at {end}");
        }
    }

    #[test]
    fn the_log_is_published_now_and_then_and_only_when_it_changed() {
        let mut log = PrefixLog::default();
        assert_eq!(log.poll_publication(1, Timestamp(500)), None);
        pushed(&mut log, 0..1, 500);
        log.push(addition(1));
        assert_eq!(log.poll_publication(1, Timestamp(505)), None);
        assert!(log.poll_publication(1, Timestamp(510)).is_some());
        assert_eq!(log.poll_publication(1, Timestamp(520)), None);
    }
}
