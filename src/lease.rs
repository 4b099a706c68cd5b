//! Who polls: one VM at a time, by a lease in shared data.
//!
//! The poller singleton is the one that should. But Envoy never reloads a singleton that trapped, and some
//! control planes cannot load one, so every inference VM watches the lease and one of them takes it when it
//! lapses. A singleton takes it from a worker at once, and from an older singleton: Envoy tries a singleton's
//! configuration out in a VM that it throws away, and that one has the lease already.
//!
//! There is one lease for each plugin configuration. After an update, and with listeners of different
//! configurations, the VMs of each see to their own endpoints; where two name the same pool, both publish
//! true snapshots. What they discover may differ, so discovered pools are shared by those that look for the same alone.

use std::time::Duration;

use crate::time::Timestamp;
use crate::wire::{self, Reader, Writer};

const MAGIC: &[u8; 4] = b"IPls";
const VERSION: u8 = 1;
/// A lease outlives its holder by this much at least, so that a pause of a busy main thread moves nothing.
const SHORTEST_TERM: Duration = Duration::from_secs(1);

/// The shared-data key of the lease for a configuration, by its [`crate::config::Config::fingerprint`].
pub fn key(fingerprint: u64) -> String {
    format!("ip1/lease/{fingerprint:016x}")
}

/// Who has precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// An inference VM, which has requests to serve as well.
    Backup,
    /// The poller singleton.
    Singleton,
}

/// One VM's side of the lease.
#[derive(Debug)]
pub struct Lease {
    owner: u64,
    rank: Rank,
    started_at: Timestamp,
    term: Duration,
    held: bool,
    renewals: u64,
}

/// What to do about the lease.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Somebody else polls.
    Follow,
    /// Store this to get or keep the lease, if the version is still the same.
    Claim {
        /// The bytes.
        blob: Vec<u8>,
        /// The version to compare with.
        cas: u32,
    },
}

struct Record {
    owner: u64,
    rank: Rank,
    started_at: Timestamp,
    expires_at: Timestamp,
}

impl Lease {
    /// The side of the VM `owner`, an id that no other living VM has, started at this time, which would poll
    /// every `interval`.
    pub fn new(owner: u64, rank: Rank, started_at: Timestamp, interval: Duration) -> Lease {
        Lease { owner, rank, started_at, term: SHORTEST_TERM.max(interval * 3), held: false, renewals: 0 }
    }

    /// Looks at what is stored and says whether to claim.
    pub fn handle_tick(&mut self, now: Timestamp, stored: Option<(&[u8], u32)>) -> Turn {
        let cas = match stored {
            None => wire::CREATE,
            Some((blob, version)) => {
                let free = match decode(blob) {
                    None => true,
                    Some(record) => {
                        record.owner == self.owner
                            || record.rank < self.rank
                            || self.succeeds(&record)
                            || now >= record.expires_at
                            // A clock that went back far must not leave the pool unpolled.
                            || record.expires_at > now.after(self.term * 10)
                    }
                };
                if !free {
                    self.held = false;
                    return Turn::Follow;
                }
                version
            }
        };
        self.renewals += 1;
        Turn::Claim { blob: self.encode(now), cas }
    }

    /// Notes whether the claim was stored.
    pub fn handle_claimed(&mut self, stored: bool) {
        self.held = stored;
    }

    /// Whether this VM is the one that polls.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Whether this is the singleton that comes after the record's. Of two that started in the same
    /// millisecond the one with the larger id does, so that they agree.
    fn succeeds(&self, record: &Record) -> bool {
        let both = self.rank == Rank::Singleton && record.rank == Rank::Singleton;
        both && (record.started_at, record.owner) < (self.started_at, self.owner)
    }

    fn encode(&self, now: Timestamp) -> Vec<u8> {
        let mut writer = Writer::new(MAGIC, VERSION, self.renewals);
        writer.u64(self.owner);
        writer.u8(match self.rank {
            Rank::Backup => 0,
            Rank::Singleton => 1,
        });
        writer.u64(self.started_at.0);
        writer.u64(now.after(self.term).0);
        writer.finish()
    }
}

fn decode(blob: &[u8]) -> Option<Record> {
    let (mut reader, _renewals) = Reader::new(blob, MAGIC, VERSION)?;
    let owner = reader.u64()?;
    let rank = match reader.u8()? {
        0 => Rank::Backup,
        1 => Rank::Singleton,
        _ => return None,
    };
    let started_at = Timestamp(reader.u64()?);
    let expires_at = Timestamp(reader.u64()?);
    Some(Record { owner, rank, started_at, expires_at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    /// Shared data with one key and Envoy's rules for compare-and-swap.
    #[derive(Default)]
    struct Store(Option<(Vec<u8>, u32)>);

    impl Store {
        fn tick(&mut self, lease: &mut Lease, now: u64) -> bool {
            let stored = self.0.as_ref().map(|(blob, version)| (blob.as_slice(), *version));
            if let Turn::Claim { blob, cas } = lease.handle_tick(Timestamp(now), stored) {
                let version = self.0.as_ref().map_or(0, |(_, version)| *version);
                let ok = self.0.is_none() || cas == version;
                if ok {
                    self.0 = Some((blob, version + 1));
                }
                lease.handle_claimed(ok);
            }
            lease.is_held()
        }
    }

    const INTERVAL: Duration = Duration::from_millis(200);

    #[test]
    fn one_of_many_polls_and_another_takes_over() {
        let mut store = Store::default();
        let mut first = Lease::new(1, Rank::Backup, Timestamp(1), INTERVAL);
        let mut second = Lease::new(2, Rank::Backup, Timestamp(2), INTERVAL);
        assert!(store.tick(&mut first, 1_000));
        assert!(!store.tick(&mut second, 1_000));
        assert!(store.tick(&mut first, 1_900), "renewed by its owner");
        assert!(!store.tick(&mut second, 2_800), "not lapsed yet");
        assert!(store.tick(&mut second, 2_900), "lapsed: the first is gone");
        assert!(!store.tick(&mut first, 2_950), "it comes back and follows");
    }

    #[test]
    fn a_singleton_takes_the_lease_from_a_worker_and_not_the_other_way_round() {
        let mut store = Store::default();
        let mut worker = Lease::new(1, Rank::Backup, Timestamp(1), INTERVAL);
        let mut singleton = Lease::new(2, Rank::Singleton, Timestamp(2), INTERVAL);
        assert!(store.tick(&mut worker, 1_000));
        assert!(store.tick(&mut singleton, 1_001));
        assert!(!store.tick(&mut worker, 1_002));
        assert!(!store.tick(&mut worker, 1_003));
        assert!(store.tick(&mut worker, 2_001), "the singleton is dead");
        assert!(store.tick(&mut singleton, 2_002), "the singleton is back");
    }

    #[test]
    fn a_singleton_takes_the_lease_from_the_one_before_it_and_not_the_other_way_round() {
        let mut store = Store::default();
        let mut tried_out = Lease::new(9, Rank::Singleton, Timestamp(1_000), INTERVAL);
        let mut real = Lease::new(2, Rank::Singleton, Timestamp(1_003), INTERVAL);
        assert!(store.tick(&mut tried_out, 1_000));
        assert!(store.tick(&mut real, 1_003));
        assert!(!store.tick(&mut tried_out, 1_050));
        assert!(store.tick(&mut real, 1_100));
    }

    #[test]
    fn a_race_has_one_winner() {
        let mut singleton = Lease::new(1, Rank::Singleton, Timestamp(1), INTERVAL);
        let Turn::Claim { cas, .. } = singleton.handle_tick(Timestamp(1), None) else { panic!("must claim") };
        assert_eq!(cas, wire::CREATE);
        singleton.handle_claimed(false);
        assert!(!singleton.is_held());
    }

    #[test]
    fn a_lease_from_the_far_future_does_not_stop_polling() {
        let mut store = Store::default();
        assert!(store.tick(&mut Lease::new(1, Rank::Singleton, Timestamp(1), INTERVAL), 1_000_000));
        assert!(store.tick(&mut Lease::new(2, Rank::Singleton, Timestamp(2), INTERVAL), 5_000), "the clock went back");
    }
}
