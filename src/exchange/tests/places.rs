//! `maxConcurrency` over many workers in virtual time: each with its gateway, all with the same shared data, as the host drives them.

use std::collections::BTreeMap;

use super::*;
use crate::inflight::{self, Inflight};
use crate::rng::{Rng, SplitMix64};
use crate::room::{self, Place};
use crate::testing::test;

const LIMIT: u32 = 4;
const ENDPOINTS: [&str; 2] = ["10.0.0.1:1", "10.0.0.2:1"];
/// How long an engine takes for a request, in milliseconds, more or less.
const SERVICE: u64 = 100;

/// One worker: its gateway, its requests that wait, and those that an engine has, with the time of their ends.
struct Worker {
    gateway: Gateway,
    owner: u64,
    waiting: BTreeMap<u64, Exchange>,
    served: Vec<(u64, &'static str, Exchange)>,
}

/// All workers of an Envoy, and what they share.
struct Site {
    workers: Vec<Worker>,
    shared: BTreeMap<String, (Vec<u8>, u32)>,
    now: Timestamp,
    refused: usize,
    done: usize,
    peak: usize,
    rng: SplitMix64,
}

impl Site {
    fn new(workers: usize, flow_control: &str) -> Site {
        let json = format!(
            r#"{{"pools": [{{"name": "p", "baseModel": "m", "endpoints": {{"static": {ENDPOINTS:?}}},
                "saturation": {{"maxConcurrency": {LIMIT}}} {flow_control}}}],
                "models": [{{"modelName": "batch", "pool": "p", "criticality": "Sheddable"}}]}}"#
        );
        let worker = |owner| Worker {
            gateway: Gateway::new(crate::config::parse(json.as_bytes()).unwrap(), owner),
            owner,
            waiting: BTreeMap::new(),
            served: Vec::new(),
        };
        let workers = (1..=workers as u64).map(worker).collect();
        Site { workers, shared: BTreeMap::new(), now: NOW, refused: 0, done: 0, peak: 0, rng: SplitMix64::new(7) }
    }

    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.shared.get(key).cloned()
    }

    fn set(&mut self, key: &str, blob: Vec<u8>, cas: Option<u32>) -> bool {
        let version = self.shared.get(key).map(|(_, version)| *version);
        if cas.is_some_and(|cas| version.is_some_and(|version| version != cas)) {
            return false;
        }
        self.shared.insert(key.to_owned(), (blob, version.unwrap_or(0) + 1));
        true
    }

    fn read_shared(&mut self, at: usize) {
        while let Some(mut read) = self.workers[at].gateway.poll_read(PoolId(0), self.now) {
            loop {
                let stored = self.get(&self.workers[at].gateway.read_key(read));
                let stored = stored.as_ref().map(|(blob, version)| (blob.as_slice(), *version));
                match self.workers[at].gateway.handle_read(read, stored, self.now) {
                    Some(along) => read = along,
                    None => break,
                }
            }
        }
    }

    fn settle(&mut self, at: usize) {
        let (now, owner) = (self.now, self.workers[at].owner);
        if self.workers[at].gateway.inflight.wants_slot(now) {
            let claim = (0..).find_map(|slot| {
                let stored = self.get(&inflight::key(slot));
                let claim = Inflight::claim(owner, stored.as_ref().map(|(blob, cas)| (blob.as_slice(), *cas)), now)?;
                Some((slot, claim))
            });
            let (slot, claim) = claim.unwrap();
            assert!(self.set(&inflight::key(slot), claim.blob, Some(claim.cas)));
            self.workers[at].gateway.inflight.handle_claimed(slot, owner, now);
        }
        while let Some(write) = self.workers[at].gateway.poll_write(now) {
            let stored = self.set(&write.key, write.blob, write.cas);
            if write.cas.is_some() {
                let present = self.get(&write.key);
                let present = present.as_ref().map(|(blob, version)| (blob.as_slice(), *version));
                self.workers[at].gateway.handle_read(write.what, present, now);
            }
            if !stored {
                self.workers[at].gateway.handle_conflict(write.what);
            }
        }
        while let Some(shard) = self.workers[at].gateway.poll_unwritten() {
            assert!(self.write_room(at, shard, None));
        }
    }

    fn write_room(&mut self, at: usize, shard: u32, wanted: Option<Place>) -> bool {
        let stored = self.get(&room::key(shard));
        let lent = stored.as_ref().map(|(blob, version)| (blob.as_slice(), *version));
        let Some(claim) = self.workers[at].gateway.look_for_place(shard, wanted, lent, self.now) else { return false };
        assert!(self.set(&room::key(shard), claim.blob, Some(claim.cas)));
        self.workers[at].gateway.handle_stored_room(shard, wanted);
        true
    }

    /// Follows what an exchange wants to its end, and says whether it waits on.
    fn follow(&mut self, at: usize, mut exchange: Exchange, mut next: Next, mut edits: Vec<Edit>) -> bool {
        let now = self.now;
        loop {
            next = match next {
                Next::Load(_) => {
                    self.read_shared(at);
                    exchange.handle_load(&mut self.workers[at].gateway, now, &mut edits)
                }
                Next::Claim(place) => {
                    let got = self.write_room(at, room::shard(place.endpoint), Some(place));
                    exchange.handle_claimed(&mut self.workers[at].gateway, got, now, &mut edits)
                }
                Next::Wait(id) => {
                    self.workers[at].waiting.insert(id, exchange);
                    return true;
                }
                Next::Refuse(_) => {
                    self.refused += 1;
                    return false;
                }
                Next::Continue => {
                    let list = header(&edits, "x-gateway-destination-endpoint").unwrap();
                    let served = ENDPOINTS.into_iter().find(|endpoint| list.starts_with(endpoint)).unwrap();
                    exchange.handle_response_headers(
                        &mut self.workers[at].gateway,
                        &served_by(served),
                        now,
                        &mut Vec::new(),
                    );
                    exchange.handle_response_body(&mut self.workers[at].gateway, 1, false, now);
                    let time = SERVICE - 5 + self.rng.below(11) as u64;
                    self.workers[at].served.push((now.0 + time, served, exchange));
                    self.look();
                    return false;
                }
                other => panic!("{other:?}"),
            };
        }
    }

    fn ask(&mut self, at: usize, model: &str) {
        let mut exchange = Exchange::default();
        let gateway = &mut self.workers[at].gateway;
        let head = head("POST", "/v1/completions", &[]);
        assert_eq!(exchange.handle_request_headers(gateway, head, false, NOW, &mut Vec::new()), Next::Buffer);
        let body = format!(r#"{{"model":"{model}","prompt":"hi"}}"#).into_bytes();
        let mut edits = Vec::new();
        let next = exchange.handle_request_end(gateway, body, self.now, &mut edits);
        self.follow(at, exchange, next, edits);
        self.advance(at, false);
    }

    fn advance(&mut self, at: usize, is_tick: bool) {
        self.settle(at);
        if self.workers[at].waiting.is_empty() {
            return;
        }
        self.read_shared(at);
        if self.workers[at].gateway.leaves_place_to_others(PoolId(0), is_tick, self.now) {
            return;
        }
        while let Some(id) = self.workers[at].gateway.poll_release(PoolId(0), self.now) {
            let mut exchange = self.workers[at].waiting.remove(&id).unwrap();
            let mut edits = Vec::new();
            let next = exchange.handle_release(&mut self.workers[at].gateway, self.now, &mut edits);
            if self.follow(at, exchange, next, edits) {
                break;
            }
        }
        self.settle(at);
    }

    /// Lets a millisecond pass: ends of requests, and every fifth one the ticks of the workers.
    fn pass(&mut self) {
        self.now = Timestamp(self.now.0 + 1);
        for at in 0..self.workers.len() {
            let now = self.now.0;
            let (ended, served) =
                std::mem::take(&mut self.workers[at].served).into_iter().partition(|(end, _, _)| *end <= now);
            self.workers[at].served = served;
            let ended: Vec<(u64, &str, Exchange)> = ended;
            for (_, _, mut exchange) in ended {
                self.done += 1;
                exchange.handle_response_body(&mut self.workers[at].gateway, 1, true, self.now);
                exchange.handle_end(&mut self.workers[at].gateway, None, self.now);
                self.advance(at, false);
            }
            if (now + at as u64).is_multiple_of(5) {
                self.advance(at, true);
            }
        }
    }

    fn look(&mut self) {
        let all = |endpoint| {
            let served = self.workers.iter().flat_map(|worker| &worker.served);
            served.filter(|(_, other, _)| *other == endpoint).count()
        };
        let counts = ENDPOINTS.map(all);
        assert!(counts.iter().all(|count| *count <= LIMIT as usize), "{counts:?}");
        self.peak = self.peak.max(counts.iter().sum());
    }
}

#[test]
fn a_burst_fills_the_room_and_no_more_however_many_workers_it_comes_to() {
    for workers in [1, 2, 4, 8, 16] {
        let mut site = Site::new(workers, r#", "flowControl": {}"#);
        for number in 0..200 {
            site.ask(number * 7 % workers, "m");
        }
        assert_eq!(site.peak, 8, "{workers}");
        let began = site.now.0;
        while site.done < 200 {
            site.pass();
            assert!(site.now.0 < began + 60_000, "{workers} workers: {} of 200 are done", site.done);
        }
        // Eight at a time take 25 turns.
        let took = site.now.0 - began;
        assert!(took <= 25 * SERVICE * 11 / 10, "{workers} workers: {took} ms");
        assert!(site.workers.iter().all(|worker| worker.waiting.is_empty()));
    }
}

#[test]
fn without_flow_control_what_may_be_dropped_fills_the_room_and_the_rest_is_refused() {
    let mut site = Site::new(16, "");
    for number in 0..100 {
        site.ask(number % 16, "batch");
    }
    assert_eq!((site.peak, site.refused), (8, 92));
    while site.done < 8 {
        site.pass();
    }
    site.ask(3, "batch");
    assert_eq!(site.refused, 92);
}

#[test]
fn a_worker_that_dies_leaves_its_places_to_the_others() {
    let mut site = Site::new(4, r#", "flowControl": {}"#);
    for _ in 0..10 {
        site.ask(0, "m");
    }
    for number in 0..12 {
        site.ask(1 + number % 3, "m");
    }
    assert_eq!(site.peak, 8);
    site.workers.remove(0);
    // Its requests are gone, and what it had counts until its slot has run out.
    for _ in 0..4_000 {
        site.pass();
    }
    assert_eq!(site.done, 0);
    while site.done < 12 {
        site.pass();
        assert!(site.now.0 < NOW.0 + 7_000, "{} are done", site.done);
    }
}

#[test]
fn a_ceiling_keeps_room_for_those_that_matter_more() {
    let bands = r#", "flowControl": {"bands": [{"priority": -1, "saturationCeiling": 0.5}]}"#;
    let mut site = Site::new(8, bands);
    for number in 0..40 {
        site.ask(number % 8, "batch");
    }
    assert_eq!(site.peak, 4, "half of eight");
    for number in 0..40 {
        site.ask(number % 8, "m");
    }
    assert_eq!(site.peak, 8);
    while site.done < 80 {
        site.pass();
        assert!(site.now.0 < NOW.0 + 10_000, "{} are done", site.done);
    }
}

/// More requests than there are places for, all the time and to every worker alike.
#[test]
fn no_worker_keeps_the_places_to_itself() {
    let mut site = Site::new(16, r#", "flowControl": {}"#);
    let mut done = [0u32; 16];
    for at in 0..64 {
        site.ask(at % 16, "m");
    }
    for _ in 0..8_000 {
        let before: Vec<usize> = site.workers.iter().map(|worker| worker.served.len() + worker.waiting.len()).collect();
        site.pass();
        for (at, before) in before.into_iter().enumerate() {
            let worker = &site.workers[at];
            let ended = before - (worker.served.len() + worker.waiting.len());
            done[at] += ended as u32;
            for _ in 0..ended {
                site.ask(at, "m");
            }
        }
    }
    // Eight at a time for eight seconds are 640, forty for each.
    assert!(done.iter().all(|done| (20..=80).contains(done)), "{done:?}");
    assert!(done.iter().sum::<u32>() >= 640 * 9 / 10, "{done:?}");
}
