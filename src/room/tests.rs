//! Many workers, and shared data between them whose reads and writes interleave in any way.

use super::*;
use crate::rng::{Rng, SplitMix64};
use crate::testing::test;

const START: Timestamp = Timestamp(100_000);
const LIMIT: u32 = 4;
/// Two endpoints of one shard, and one of another.
const ENDPOINTS: [u64; 3] = [7, 7 + SHARDS, 8];

/// What lies under one key: bytes and their version.
type Stored = Option<(Vec<u8>, u32)>;

/// A worker, and how far it is in a change of shared data.
#[derive(Default)]
struct Worker {
    room: Room,
    has: Vec<u64>,
    under_way: Option<(u32, Option<Place>, Claim)>,
    is_dead: bool,
}

/// All workers of a process.
struct World {
    workers: Vec<Worker>,
    shared: BTreeMap<u32, Stored>,
    now: Timestamp,
    granted: u64,
    refused: u64,
}

impl World {
    fn new(workers: usize) -> World {
        let workers = std::iter::repeat_with(Worker::default).take(workers).collect();
        World { workers, shared: BTreeMap::new(), now: START, granted: 0, refused: 0 }
    }

    /// Reads a shard and decides; what is to be stored is stored by [`World::store`], whatever happens between.
    fn read(&mut self, at: usize, shard: u32, wanted: Option<Place>) {
        let dead: Vec<u64> = (0..).zip(&self.workers).filter(|(_, worker)| worker.is_dead).map(|(id, _)| id).collect();
        let stored = self.shared.get(&shard).cloned().flatten();
        let stored = stored.as_ref().map(|(blob, version)| (blob.as_slice(), *version));
        let worker = &mut self.workers[at];
        match worker.room.look(shard, wanted, at as u64, stored, |owner| dead.contains(&owner), self.now) {
            Look::Claim(claim, _) => worker.under_way = Some((shard, wanted, claim)),
            Look::Full(_) => self.refused += 1,
        }
    }

    /// Stores what is under way by the rules of Envoy's shared data.
    fn store(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        let Some((shard, wanted, claim)) = worker.under_way.take() else { return };
        let stored = self.shared.entry(shard).or_default();
        let version = stored.as_ref().map(|(_, version)| *version);
        if version.is_some_and(|version| version != claim.cas) {
            return worker.room.handle_conflict(shard);
        }
        *stored = Some((claim.blob, version.unwrap_or(0) + 1));
        worker.room.handle_stored(shard, wanted);
        if let Some(place) = wanted {
            worker.room.take(place.endpoint);
            worker.has.push(place.endpoint);
            self.granted += 1;
        }
    }

    /// One step of a worker: it goes on with what is under way, gives a place back, tells what is unwritten, or wants a place.
    fn step(&mut self, at: usize, rng: &mut SplitMix64) {
        if self.workers[at].is_dead {
            return;
        }
        if self.workers[at].under_way.is_some() {
            return self.store(at);
        }
        match rng.next_u64() % 4 {
            0 if !self.workers[at].has.is_empty() => {
                let worker = &mut self.workers[at];
                let gone = worker.has.swap_remove(rng.next_u64() as usize % worker.has.len());
                worker.room.give_back(gone);
            }
            1 => {
                if let Some(shard) = self.workers[at].room.poll_unwritten() {
                    self.read(at, shard, None);
                }
            }
            _ => {
                let endpoint = ENDPOINTS[rng.next_u64() as usize % ENDPOINTS.len()];
                self.read(at, shard(endpoint), Some(Place { endpoint, limit: LIMIT }));
            }
        }
    }

    fn at(&self, endpoint: u64) -> usize {
        let alive = self.workers.iter().filter(|worker| !worker.is_dead);
        alive.flat_map(|worker| &worker.has).filter(|other| **other == endpoint).count()
    }

    /// Lets everybody write what is unwritten.
    fn settle(&mut self) {
        for at in 0..self.workers.len() {
            self.store(at);
            while let Some(shard) = self.workers[at].room.poll_unwritten() {
                self.read(at, shard, None);
                self.store(at);
            }
        }
    }

    /// How many places are free at an endpoint, as a newcomer finds them.
    fn free(&mut self, endpoint: u64) -> u32 {
        self.workers.push(Worker::default());
        let newcomer = self.workers.len() - 1;
        let before = self.granted;
        for _ in 0..LIMIT {
            self.read(newcomer, shard(endpoint), Some(Place { endpoint, limit: LIMIT }));
            self.store(newcomer);
        }
        u32::try_from(self.granted - before).unwrap()
    }
}

#[test]
fn no_interleaving_takes_more_places_than_there_are() {
    for seed in 0..40 {
        let mut rng = SplitMix64::new(seed);
        let mut world = World::new([2, 3, 8, 16][seed as usize % 4]);
        for _ in 0..4_000 {
            let at = rng.next_u64() as usize % world.workers.len();
            world.step(at, &mut rng);
            for endpoint in ENDPOINTS {
                assert!(world.at(endpoint) <= LIMIT as usize, "seed {seed}: {endpoint}");
            }
        }
        assert!(world.granted > 100 && world.refused > 0, "seed {seed}: {} {}", world.granted, world.refused);
        // Nothing is lost: what nobody has is free.
        world.settle();
        for endpoint in ENDPOINTS {
            let has = u32::try_from(world.at(endpoint)).unwrap();
            assert_eq!(world.free(endpoint), LIMIT - has, "seed {seed}: {endpoint}");
        }
    }
}

#[test]
fn a_dead_workers_places_are_free_after_the_grace_and_a_new_ones_count_at_once() {
    let mut world = World::new(1);
    let place = Place { endpoint: 7, limit: LIMIT };
    for _ in 0..3 {
        world.read(0, shard(7), Some(place));
        world.store(0);
    }
    // Nobody has heard of its slot yet.
    world.workers[0].is_dead = true;
    assert_eq!(world.free(7), 1);
    world.workers[1].has.clear();
    world.workers[1].is_dead = true;
    world.now = START.after(GRACE);
    assert_eq!(world.free(7), LIMIT);
}

#[test]
fn what_was_sent_without_asking_counts_and_what_was_never_sent_is_given_back() {
    let mut world = World::new(2);
    for _ in 0..6 {
        world.workers[0].room.take(7);
    }
    world.settle();
    assert_eq!(world.free(7), 0, "six of four are there");
    let place = Place { endpoint: 8, limit: LIMIT };
    world.read(1, shard(8), Some(place));
    world.store(1);
    world.workers[1].room.give_back(8);
    world.settle();
    assert_eq!(world.free(8), LIMIT);
}

#[test]
fn who_has_nothing_new_writes_nothing() {
    let mut room = Room::default();
    assert_eq!(room.poll_unwritten(), None);
    room.take(7);
    room.give_back(7);
    assert!(room.is_unwritten());
    assert_eq!(room.poll_unwritten(), None);
    assert!(!room.is_unwritten());
}

#[test]
fn damage_and_other_versions_are_no_places() {
    let mut room = Room::default();
    for blob in [&b""[..], b"IPrm", b"IPrm\x02aaaaaaaa\0\0\0\0", b"IPrm\x01aaaaaaaa\x01\0\0\0"] {
        let look = room.look(7, Some(Place { endpoint: 7, limit: 1 }), 1, Some((blob, 3)), |_| false, START);
        assert!(matches!(look, Look::Claim(Claim { cas: 3, .. }, 0)), "{look:?}");
    }
}
