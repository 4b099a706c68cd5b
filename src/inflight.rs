//! What this gateway has in flight at each endpoint, counted over all its workers.
//!
//! Each worker owns a slot in shared data and writes nothing else: no lock, no compare-and-swap on a
//! request's path. The sum over the slots is the gateway's view. A worker that dies takes its heartbeat
//! with it, and its slot stops counting a few seconds later; the slot is then free for another.
//!
//! A request is counted by [`Inflight::acquire`] and given back once by [`Inflight::release`], which takes
//! the ticket by value; counts cannot go below zero.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::time::Timestamp;
use crate::wire::{self, Reader, Writer};

const MAGIC: &[u8; 4] = b"IPif";
const VERSION: u8 = 1;
/// More workers than cores of the largest machines; a root context without a slot counts only its own.
pub const MAX_SLOTS: u32 = 256;
/// How often an idle worker renews its slot.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// A slot that was not renewed for this long counts no more: five heartbeats, since a loaded worker may
/// pause for one or two seconds.
const EXPIRY: Duration = Duration::from_secs(5);
/// Others' slots are read again after this time. Reading one enters the VM once more, which takes some
/// microseconds: for each request and worker that would cost more than the pick. Scrapes are older by far.
const REFRESH: Duration = Duration::from_millis(5);

/// The shared-data key of a slot.
pub fn key(slot: u32) -> String {
    format!("ip1/inflight/{slot}")
}

/// Work at one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Requests that were sent there and have not ended.
    pub requests: u32,
    /// The tokens of their prompts.
    pub tokens: u64,
}

/// A counted request. It must be given back to [`Inflight::release`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a request that is not released counts for ever"]
pub struct Ticket {
    endpoint: u64,
    tokens: u64,
}

/// The in-flight counts of one worker, and what it knows of the others'.
#[derive(Debug, Default)]
pub struct Inflight {
    own: BTreeMap<u64, Work>,
    slot: Option<OwnSlot>,
    changed: bool,
    generation: u64,
    others: BTreeMap<u32, OtherSlot>,
    refreshed_at: Timestamp,
    claim_tried_at: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct OwnSlot {
    number: u32,
    owner: u64,
    written_at: Timestamp,
}

#[derive(Debug)]
struct OtherSlot {
    version: u32,
    heartbeat: Timestamp,
    work: Vec<(u64, Work)>,
}

/// What to store to become a slot's owner.
#[derive(Debug, PartialEq, Eq)]
pub struct Claim {
    /// The bytes.
    pub blob: Vec<u8>,
    /// The version to compare with.
    pub cas: u32,
}

impl Inflight {
    /// Counts a request of `tokens` prompt tokens at `endpoint`, a [`crate::hash::endpoint`].
    pub fn acquire(&mut self, endpoint: u64, tokens: u64) -> Ticket {
        let work = self.own.entry(endpoint).or_default();
        work.requests = work.requests.saturating_add(1);
        work.tokens = work.tokens.saturating_add(tokens);
        self.changed = true;
        Ticket { endpoint, tokens }
    }

    /// Counts a request no more.
    pub fn release(&mut self, ticket: Ticket) {
        if let Some(work) = self.own.get_mut(&ticket.endpoint) {
            work.requests = work.requests.saturating_sub(1);
            work.tokens = work.tokens.saturating_sub(ticket.tokens);
            if work.requests == 0 {
                self.own.remove(&ticket.endpoint);
            }
        }
        self.changed = true;
    }

    /// The gateway's work at `endpoint`.
    pub fn work(&self, endpoint: u64, now: Timestamp) -> Work {
        let mut total = self.own.get(&endpoint).copied().unwrap_or_default();
        let busy = |slot: &&OtherSlot| !slot.work.is_empty() && is_alive(slot.heartbeat, now);
        for slot in self.others.values().filter(busy) {
            if let Ok(found) = slot.work.binary_search_by_key(&endpoint, |(key, _)| *key)
                && let Some((_, work)) = slot.work.get(found)
            {
                total.requests = total.requests.saturating_add(work.requests);
                total.tokens = total.tokens.saturating_add(work.tokens);
            }
        }
        total
    }

    /// The slots of others that should be read again now: none, or all up to the first that was never written.
    pub fn slots_to_read(&self, now: Timestamp) -> impl Iterator<Item = u32> + use<> {
        let own = self.slot();
        let count = if now.since(self.refreshed_at) >= REFRESH || now < self.refreshed_at { MAX_SLOTS } else { 0 };
        (0..count).filter(move |slot| Some(*slot) != own)
    }

    /// Takes over what another slot holds; `None` when it was never written.
    pub fn handle_slot(&mut self, slot: u32, stored: Option<(&[u8], u32)>) {
        let Some((blob, version)) = stored else {
            self.others.remove(&slot);
            return;
        };
        if self.others.get(&slot).is_some_and(|known| known.version == version) {
            return;
        }
        match decode(blob) {
            Some(slot_blob) => {
                let other = OtherSlot { version, heartbeat: slot_blob.heartbeat, work: slot_blob.work };
                self.others.insert(slot, other);
            }
            None => {
                self.others.remove(&slot);
            }
        }
    }

    /// Notes that every slot was read.
    pub fn handle_refreshed(&mut self, now: Timestamp) {
        self.refreshed_at = now;
    }

    /// What to store to own a slot that holds `stored`; `None` while somebody else lives in it.
    pub fn claim(owner: u64, stored: Option<(&[u8], u32)>, now: Timestamp) -> Option<Claim> {
        let cas = match stored {
            None => wire::CREATE,
            Some((blob, version)) => {
                if decode(blob).is_some_and(|slot| is_alive(slot.heartbeat, now)) {
                    return None;
                }
                version
            }
        };
        Some(Claim { blob: encode(0, owner, now, &BTreeMap::new()), cas })
    }

    /// Notes that the claim of `slot` was stored.
    pub fn handle_claimed(&mut self, slot: u32, owner: u64, now: Timestamp) {
        self.others.remove(&slot);
        self.slot = Some(OwnSlot { number: slot, owner, written_at: now });
        self.changed = true;
    }

    /// Whether there is something to publish and no slot to publish it in. Says so once a heartbeat: where
    /// every slot is taken, looking for one is not for each request.
    pub fn wants_slot(&mut self, now: Timestamp) -> bool {
        let wants = self.changed && self.slot.is_none() && now.since(self.claim_tried_at) >= HEARTBEAT;
        if wants {
            self.claim_tried_at = now;
        }
        wants
    }

    /// The slot that is owned.
    pub fn slot(&self) -> Option<u32> {
        self.slot.map(|slot| slot.number)
    }

    /// Checks that the owned slot is still owned: a worker that was stopped for longer than the expiry may
    /// find another one in its place, and must claim a new slot.
    pub fn handle_own_slot(&mut self, stored: Option<&[u8]>) {
        let owner = stored.and_then(decode).map(|slot| slot.owner);
        if self.slot.is_some_and(|own| owner != Some(own.owner)) {
            self.slot = None;
            self.changed = true;
        }
    }

    /// The key and bytes to store, when counts have changed or a heartbeat is due.
    pub fn poll_publication(&mut self, now: Timestamp) -> Option<(u32, Vec<u8>)> {
        let slot = self.slot.as_mut()?;
        if !self.changed && now.since(slot.written_at) < HEARTBEAT {
            return None;
        }
        self.changed = false;
        self.generation += 1;
        slot.written_at = now;
        Some((slot.number, encode(self.generation, slot.owner, now, &self.own)))
    }
}

fn is_alive(heartbeat: Timestamp, now: Timestamp) -> bool {
    now.since(heartbeat) < EXPIRY
}

struct SlotBlob {
    owner: u64,
    heartbeat: Timestamp,
    work: Vec<(u64, Work)>,
}

fn encode(generation: u64, owner: u64, now: Timestamp, work: &BTreeMap<u64, Work>) -> Vec<u8> {
    let mut writer = Writer::new(MAGIC, VERSION, generation);
    writer.u64(owner);
    writer.u64(now.0);
    writer.u32(u32::try_from(work.len()).unwrap_or(u32::MAX));
    for (endpoint, work) in work {
        writer.u64(*endpoint);
        writer.u32(work.requests);
        writer.u64(work.tokens);
    }
    writer.finish()
}

fn decode(blob: &[u8]) -> Option<SlotBlob> {
    let (mut reader, _generation) = Reader::new(blob, MAGIC, VERSION)?;
    let owner = reader.u64()?;
    let heartbeat = Timestamp(reader.u64()?);
    let count = reader.u32()?;
    let mut work = Vec::new();
    for _ in 0..count {
        let endpoint = reader.u64()?;
        work.push((endpoint, Work { requests: reader.u32()?, tokens: reader.u64()? }));
    }
    reader.is_at_end().then_some(SlotBlob { owner, heartbeat, work })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    const NOW: Timestamp = Timestamp(100_000);

    fn owner_of(slot: u32) -> Inflight {
        let mut inflight = Inflight::default();
        inflight.handle_claimed(slot, u64::from(slot) + 100, NOW);
        inflight
    }

    fn exchange(from: &mut Inflight, to: &mut Inflight, version: u32, now: Timestamp) {
        if let Some((slot, blob)) = from.poll_publication(now) {
            to.handle_slot(slot, Some((&blob, version)));
        }
    }

    #[test]
    fn workers_see_each_others_requests() {
        let (mut a, mut b) = (owner_of(0), owner_of(1));
        let ticket = a.acquire(7, 40);
        let _kept = b.acquire(7, 2);
        exchange(&mut a, &mut b, 1, NOW);
        assert_eq!(b.work(7, NOW), Work { requests: 2, tokens: 42 });
        a.release(ticket);
        exchange(&mut a, &mut b, 2, NOW);
        assert_eq!(b.work(7, NOW), Work { requests: 1, tokens: 2 });
        assert_eq!(a.work(7, NOW), Work::default());
    }

    #[test]
    fn a_dead_workers_slot_expires_and_is_claimed_again() {
        let (mut dead, mut alive) = (owner_of(0), owner_of(1));
        let _lost = dead.acquire(7, 1);
        let (_, blob) = dead.poll_publication(NOW).unwrap();
        alive.handle_slot(0, Some((&blob, 1)));
        assert_eq!(alive.work(7, NOW).requests, 1);
        let later = NOW.after(EXPIRY);
        assert_eq!(alive.work(7, later).requests, 0);
        assert_eq!(Inflight::claim(9, Some((&blob, 1)), NOW), None);
        assert_eq!(Inflight::claim(9, Some((&blob, 1)), later).map(|claim| claim.cas), Some(1));
        assert_eq!(Inflight::claim(9, None, NOW).map(|claim| claim.cas), Some(wire::CREATE));
    }

    #[test]
    fn a_worker_that_lost_its_slot_notices() {
        let mut paused = owner_of(0);
        let taken = Inflight::claim(9, None, NOW).unwrap().blob;
        paused.handle_own_slot(Some(&taken));
        assert_eq!(paused.slot(), None);
        let _ticket = paused.acquire(7, 1);
        assert_eq!(paused.poll_publication(NOW), None, "another's slot is not written to");
    }

    #[test]
    fn an_idle_worker_only_sends_heartbeats() {
        let mut idle = owner_of(0);
        assert!(idle.poll_publication(NOW).is_some());
        assert_eq!(idle.poll_publication(NOW), None);
        assert!(idle.poll_publication(NOW.after(HEARTBEAT)).is_some());
    }
}
