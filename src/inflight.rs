//! What this gateway has in flight at each endpoint, counted over all its workers.
//!
//! Each worker owns a slot in shared data and writes nothing else: no lock, no compare-and-swap on a
//! request's path. The sum over the slots is the gateway's view. A worker that dies takes its heartbeat
//! with it, and its slot stops counting a few seconds later; the slot is then free for another.
//!
//! A request is counted by [`Inflight::acquire`], stops counting as prefill with its first byte, and is given
//! back once by [`Inflight::release`], which takes the ticket by value; counts cannot go below zero.

mod slot;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::time::Timestamp;
use crate::wire;

use slot::SlotBlob;
pub use slot::{Report, Work};

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
/// What an endpoint reported in an answer is replaced by the next scrape, and is old after this time.
pub const REPORT_LIFE: Duration = Duration::from_secs(2);

/// The shared-data key of a slot.
pub fn key(slot: u32) -> String {
    format!("ip1/inflight/{slot}")
}

/// A request that is sent to an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// The prompt tokens that the endpoint will have to compute.
    pub tokens: u64,
    /// The hash of the adapter's name, if the request is for one.
    pub adapter: Option<u64>,
    /// Whether its endpoint must show that it works on it: an upload may be slow for another's fault.
    pub is_inference: bool,
    /// When its prompt will be done, for a request whose first byte comes with its last: without streaming
    /// nothing else tells.
    pub assumed_prefill: Option<Duration>,
}

/// A counted request. It must be given back to [`Inflight::release`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a request that is not released counts for ever"]
pub struct Ticket {
    id: u64,
}

/// A request in flight.
#[derive(Clone, Copy, Debug)]
struct Open {
    endpoint: u64,
    sent: Sent,
}

/// The in-flight counts of one worker, and what it knows of the others'.
#[derive(Debug, Default)]
pub struct Inflight {
    open: BTreeMap<u64, Open>,
    /// By endpoint and number, and so in the order of sending: requests that count as prefill.
    prefilling: BTreeMap<(u64, u64), Timestamp>,
    /// The same for inference requests that have had no byte of an answer.
    unanswered: BTreeMap<(u64, u64), Timestamp>,
    /// When requests without streaming stop to count as prefill.
    assumed: BTreeSet<(Timestamp, u64)>,
    own: BTreeMap<u64, Work>,
    /// Own and others' work together, as of the last refresh; own changes are applied at once.
    total: BTreeMap<u64, Work>,
    slot: Option<OwnSlot>,
    changed: bool,
    generation: u64,
    others: BTreeMap<u32, OtherSlot>,
    refreshed_at: Timestamp,
    claim_tried_at: Timestamp,
    last_id: u64,
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
    slot: SlotBlob,
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
    /// Counts a request that is sent to `endpoint`, a [`crate::hash::endpoint`].
    pub fn acquire(&mut self, endpoint: u64, sent: Sent, now: Timestamp) -> Ticket {
        self.last_id += 1;
        let id = self.last_id;
        self.open.insert(id, Open { endpoint, sent });
        self.prefilling.insert((endpoint, id), now);
        if sent.is_inference {
            self.unanswered.insert((endpoint, id), now);
        }
        if let Some(time) = sent.assumed_prefill {
            self.assumed.insert((now.after(time), id));
        }
        self.change(endpoint, |work| {
            work.add(&sent);
            if work.prefilling_since == Timestamp::default() {
                work.prefilling_since = now;
            }
        });
        Ticket { id }
    }

    /// Notes that a byte of the answer has come.
    pub fn answered(&mut self, ticket: &Ticket, now: Timestamp) {
        let Some(endpoint) = self.open.get(&ticket.id).map(|open| open.endpoint) else { return };
        self.unanswered.remove(&(endpoint, ticket.id));
        self.end_prefill(ticket.id);
        self.change(endpoint, |work| work.answered_at = work.answered_at.max(now));
    }

    /// Counts a request no more; gives the endpoint where it was counted.
    pub fn release(&mut self, ticket: Ticket) -> Option<u64> {
        self.end_prefill(ticket.id);
        let open = self.open.remove(&ticket.id)?;
        self.unanswered.remove(&(open.endpoint, ticket.id));
        self.change(open.endpoint, |work| work.remove(&open.sent));
        Some(open.endpoint)
    }

    fn end_prefill(&mut self, id: u64) {
        let Some(Open { endpoint, sent }) = self.open.get(&id).copied() else { return };
        if self.prefilling.remove(&(endpoint, id)).is_none() {
            return;
        }
        let oldest = of_endpoint(&self.prefilling, endpoint).next().unwrap_or_default();
        self.change(endpoint, |work| {
            work.prefilled(&sent);
            work.prefilling_since = oldest;
        });
    }

    /// Notes what an endpoint has reported about itself in an answer.
    pub fn handle_report(&mut self, endpoint: u64, report: Report) {
        self.change(endpoint, |work| work.report = Some(report));
    }

    /// The gateway's work at `endpoint`, as of the last refresh.
    pub fn work(&self, endpoint: u64) -> Option<&Work> {
        self.total.get(&endpoint)
    }

    /// Takes over how many requests the gateway really has at `endpoint`, from who counts them exactly; until the next refresh.
    pub fn handle_counted(&mut self, endpoint: u64, requests: u32) {
        self.total.entry(endpoint).or_default().requests = requests;
    }

    /// Whether another worker is gone, as far as its slot tells. When the slots were not read lately, nobody is.
    pub fn is_gone(&self, owner: u64, now: Timestamp) -> bool {
        let is_owners = |other: &OtherSlot| other.slot.owner == owner && is_alive(other.slot.heartbeat, now);
        now.since(self.refreshed_at) < HEARTBEAT && !self.others.values().any(is_owners)
    }

    /// When this worker sent the newest inference request to `endpoint` that was sent until `before` and has had no
    /// byte of an answer.
    pub fn unanswered_since(&self, endpoint: u64, before: Timestamp) -> Option<Timestamp> {
        of_endpoint(&self.unanswered, endpoint).rev().find(|sent_at| *sent_at <= before)
    }

    fn change(&mut self, endpoint: u64, change: impl Fn(&mut Work)) {
        for map in [&mut self.own, &mut self.total] {
            let work = map.entry(endpoint).or_default();
            change(work);
        }
        self.changed = true;
    }

    /// Whether the others' slots should be read again now: all up to the first that was never written.
    pub fn is_refresh_due(&self, now: Timestamp) -> bool {
        now.is_due(self.refreshed_at, REFRESH)
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
        match SlotBlob::decode(blob) {
            Some(decoded) => {
                self.others.insert(slot, OtherSlot { version, slot: decoded });
            }
            None => {
                self.others.remove(&slot);
            }
        }
    }

    /// Notes that every slot was read, and sums them up.
    pub fn handle_refreshed(&mut self, now: Timestamp) {
        self.refreshed_at = now;
        self.assume_prefilled(now);
        self.own.retain(|_, work| {
            work.report = work.report.filter(|report| now.since(report.at) < REPORT_LIFE);
            !work.is_idle(now)
        });
        self.total.clone_from(&self.own);
        for other in self.others.values().filter(|other| is_alive(other.slot.heartbeat, now)) {
            for (endpoint, work) in &other.slot.work {
                self.total.entry(*endpoint).or_default().merge(work);
            }
        }
    }

    /// Takes requests without streaming off the prefill counts when their time has come.
    fn assume_prefilled(&mut self, now: Timestamp) {
        while let Some((time, id)) = self.assumed.first().copied().filter(|(time, _)| *time <= now) {
            self.assumed.remove(&(time, id));
            self.end_prefill(id);
        }
    }

    /// What to store to own a slot that holds `stored`; `None` while somebody else lives in it.
    pub fn claim(owner: u64, stored: Option<(&[u8], u32)>, now: Timestamp) -> Option<Claim> {
        let cas = match stored {
            None => wire::CREATE,
            Some((blob, version)) => {
                if SlotBlob::decode(blob).is_some_and(|slot| is_alive(slot.heartbeat, now)) {
                    return None;
                }
                version
            }
        };
        Some(Claim { blob: slot::encode(0, owner, now, &BTreeMap::new()), cas })
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
        let owner = stored.and_then(SlotBlob::decode).map(|slot| slot.owner);
        if self.slot.is_some_and(|own| owner != Some(own.owner)) {
            self.slot = None;
            self.changed = true;
        }
    }

    /// The key and bytes to store, when counts have changed or a heartbeat is due.
    pub fn poll_publication(&mut self, now: Timestamp) -> Option<(u32, Vec<u8>)> {
        self.assume_prefilled(now);
        let slot = self.slot.as_mut()?;
        if !self.changed && now.since(slot.written_at) < HEARTBEAT {
            return None;
        }
        self.changed = false;
        self.generation += 1;
        self.own.retain(|_, work| !work.is_idle(now));
        slot.written_at = now;
        Some((slot.number, slot::encode(self.generation, slot.owner, now, &self.own)))
    }
}

/// The times of one endpoint's requests, in the order of sending.
fn of_endpoint(
    requests: &BTreeMap<(u64, u64), Timestamp>,
    endpoint: u64,
) -> impl DoubleEndedIterator<Item = Timestamp> + '_ {
    requests.range((endpoint, 0)..=(endpoint, u64::MAX)).map(|(_, sent_at)| *sent_at)
}

fn is_alive(heartbeat: Timestamp, now: Timestamp) -> bool {
    // A heartbeat far ahead is from before the clock went back.
    now.since(heartbeat).max(heartbeat.since(now)) < EXPIRY
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
            to.handle_refreshed(now);
        }
    }

    fn tokens(tokens: u64) -> Sent {
        Sent { tokens, ..Sent::default() }
    }

    /// Requests, those whose prompt is not done, and its tokens.
    fn counts(inflight: &Inflight, endpoint: u64) -> (u32, u32, u64) {
        inflight.work(endpoint).map_or((0, 0, 0), |work| (work.requests, work.prefilling, work.prefill_tokens))
    }

    #[test]
    fn workers_see_each_others_requests() {
        let (mut a, mut b) = (owner_of(0), owner_of(1));
        let ticket = a.acquire(7, tokens(40), NOW);
        let _kept = b.acquire(7, tokens(2), NOW);
        exchange(&mut a, &mut b, 1, NOW);
        assert_eq!(counts(&b, 7), (2, 2, 42));
        a.answered(&ticket, NOW);
        exchange(&mut a, &mut b, 2, NOW);
        assert_eq!(counts(&b, 7), (2, 1, 2));
        a.release(ticket);
        exchange(&mut a, &mut b, 3, NOW);
        assert_eq!(counts(&b, 7), (1, 1, 2));
        assert_eq!(counts(&a, 7), (0, 0, 0));
    }

    #[test]
    fn adapters_and_reports_are_shared_too() {
        let (mut a, mut b) = (owner_of(0), owner_of(1));
        let with = |adapter| Sent { adapter: Some(adapter), ..Sent::default() };
        let first = a.acquire(7, with(11), NOW);
        let _second = a.acquire(7, with(11), NOW);
        let _third = b.acquire(7, with(5), NOW);
        let report = Report { at: NOW, waiting: Some(3), kv_cache_usage: None };
        a.handle_report(7, report);
        exchange(&mut a, &mut b, 1, NOW);
        assert_eq!(
            b.work(7).map(|work| (work.adapters.clone(), work.report)),
            Some((vec![(5, 1), (11, 2)], Some(report)))
        );
        a.release(first);
        exchange(&mut a, &mut b, 2, NOW);
        assert_eq!(b.work(7).map(|work| work.adapters.clone()), Some(vec![(5, 1), (11, 1)]));
    }

    #[test]
    fn a_request_without_streaming_is_assumed_to_be_prefilled_after_its_time() {
        let mut inflight = owner_of(0);
        let assumed_prefill = Some(Duration::from_millis(50));
        let sent = Sent { tokens: 40, is_inference: true, assumed_prefill, ..Sent::default() };
        let ticket = inflight.acquire(7, sent, NOW);
        inflight.handle_refreshed(NOW.after(Duration::from_millis(49)));
        assert_eq!(counts(&inflight, 7), (1, 1, 40));
        inflight.handle_refreshed(NOW.after(Duration::from_millis(50)));
        assert_eq!(counts(&inflight, 7), (1, 0, 0));
        assert_eq!(inflight.unanswered_since(7, NOW), Some(NOW), "no byte has come");
        inflight.answered(&ticket, NOW.after(Duration::from_millis(60)));
        assert_eq!(inflight.unanswered_since(7, NOW), None);
        inflight.release(ticket);
        assert_eq!(counts(&inflight, 7), (0, 0, 0));
    }

    #[test]
    fn a_dead_workers_slot_expires_and_is_claimed_again() {
        let (mut dead, mut alive) = (owner_of(0), owner_of(1));
        let _lost = dead.acquire(7, tokens(1), NOW);
        let (_, blob) = dead.poll_publication(NOW).unwrap();
        alive.handle_slot(0, Some((&blob, 1)));
        alive.handle_refreshed(NOW);
        assert_eq!(counts(&alive, 7).0, 1);
        let later = NOW.after(EXPIRY);
        alive.handle_refreshed(later);
        assert_eq!(counts(&alive, 7).0, 0);
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
        let _ticket = paused.acquire(7, tokens(1), NOW);
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
