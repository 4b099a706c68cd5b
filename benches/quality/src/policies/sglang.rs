//! The SGLang model gateway's cache-aware policy.
//!
//! Source: rivals notes, section 2.1, with the defaults named there: cache threshold 0.5, imbalanced when max - min > 32
//! and max > 1.1 * min. When imbalanced, the shortest queue wins. Otherwise the endpoint with the longest match does, if
//! more than half of the text matches; else the least loaded one. Every choice enters the text into the tree. Loads are
//! this gateway's requests in flight. Ten failures in a row open an endpoint's circuit for 60 s; then three successes
//! close it and a failure opens it again. What clients give up on is no failure to it. The published issue that a miss at low load always picks the first endpoint is not
//! copied: ties are random.
//!
//! The text tree is a map of chained 64-byte blocks to the endpoint that entered each last, which is what a walk down
//! the tree arrives at. It holds 2^20 blocks, the original's 67 million characters.

use std::collections::HashMap;
use std::time::Duration;

use simulator::engine::Time;

use super::Gateway;
use super::scores::{InFlight, best};
use crate::lru::Lru;
use crate::policy::{Arrival, Outcome, Policy};
use crate::prompt::block_hashes;
use crate::random::Random;

const CACHE_THRESHOLD: f64 = 0.5;
const BALANCE_ABSOLUTE: usize = 32;
const BALANCE_RELATIVE: f64 = 1.1;
const FAILURES_TO_OPEN: u32 = 10;
const SUCCESSES_TO_CLOSE: u32 = 3;
const OPEN_FOR: Duration = Duration::from_secs(60);
/// 2^26 characters in blocks of 64.
const TREE_BLOCKS: usize = 1 << 20;

/// One gateway.
#[derive(Debug)]
pub struct CacheAware {
    load: InFlight,
    circuits: Vec<Circuit>,
    tree: Tree,
    random: Random,
}

/// An endpoint's circuit breaker.
#[derive(Clone, Copy, Debug)]
struct Circuit {
    failures_left: u32,
    successes_left: u32,
    open_until: Time,
}

impl Circuit {
    const CLOSED: Circuit = Circuit { failures_left: FAILURES_TO_OPEN, successes_left: 0, open_until: Time::ZERO };

    fn handle(&mut self, now: Time, outcome: Outcome) {
        match outcome {
            Outcome::Finished if self.successes_left > 1 => self.successes_left -= 1,
            Outcome::Finished => *self = Circuit::CLOSED,
            Outcome::Timeout => {}
            Outcome::Status(_) | Outcome::Refused | Outcome::Reset if self.failures_left > 1 => self.failures_left -= 1,
            Outcome::Status(_) | Outcome::Refused | Outcome::Reset => {
                // Half open after that, one failure is enough.
                *self = Circuit { failures_left: 1, successes_left: SUCCESSES_TO_CLOSE, open_until: now + OPEN_FOR };
            }
        }
    }
}

/// Who entered which text.
#[derive(Debug)]
struct Tree {
    owners: HashMap<u64, usize>,
    recent: Lru,
}

impl Tree {
    fn new(blocks: usize) -> Tree {
        Tree { owners: HashMap::new(), recent: Lru::new(blocks) }
    }

    /// The longest match: its owner and its length.
    fn longest(&self, blocks: &[u64]) -> Option<(usize, usize)> {
        let path = blocks.iter().map_while(|block| self.owners.get(block));
        path.enumerate().last().map(|(index, owner)| (*owner, index + 1))
    }

    fn enter(&mut self, blocks: &[u64], owner: usize) {
        for block in blocks.iter().rev() {
            self.owners.insert(*block, owner);
            let owners = &mut self.owners;
            self.recent.insert(*block, 1, |evicted| {
                owners.remove(&evicted);
            });
        }
    }
}

impl CacheAware {
    /// A gateway's instance.
    pub fn new(gateway: &Gateway) -> CacheAware {
        CacheAware {
            load: InFlight::new(gateway.endpoints),
            circuits: vec![Circuit::CLOSED; gateway.endpoints],
            tree: Tree::new(TREE_BLOCKS),
            random: Random::new(gateway.seed),
        }
    }

    /// Whether the load is imbalanced among endpoints whose circuit is not open.
    fn is_imbalanced(&self, available: &[usize]) -> bool {
        let loads = || available.iter().map(|endpoint| self.load.of(*endpoint));
        let (min, max) = (loads().min().unwrap_or_default(), loads().max().unwrap_or_default());
        max - min > BALANCE_ABSOLUTE && max as f64 > BALANCE_RELATIVE * min as f64
    }

    fn available(&self, now: Time) -> Vec<usize> {
        let is_closed =
            |endpoint: &usize| self.circuits.get(*endpoint).is_some_and(|circuit| circuit.open_until <= now);
        let available: Vec<usize> = (0..self.circuits.len()).filter(is_closed).collect();
        if available.is_empty() { (0..self.circuits.len()).collect() } else { available }
    }

    fn least_loaded(&mut self, available: &[usize]) -> usize {
        let load: Vec<f64> = available.iter().map(|endpoint| -(self.load.of(*endpoint) as f64)).collect();
        available.get(best(&load, &mut self.random)).copied().unwrap_or_default()
    }
}

impl Policy for CacheAware {
    fn pick(&mut self, now: Time, request: &Arrival<'_>) -> Vec<usize> {
        let blocks = block_hashes(request.model, &request.prompt.text());
        let available = self.available(now);
        let matched = if self.is_imbalanced(&available) { None } else { self.tree.longest(&blocks) };
        let is_long = |length: usize| length as f64 > CACHE_THRESHOLD * blocks.len() as f64;
        let picked = match matched {
            Some((owner, length)) if is_long(length) && available.contains(&owner) => owner,
            _ => self.least_loaded(&available),
        };
        self.tree.enter(&blocks, picked);
        vec![picked]
    }

    fn handle_sent(&mut self, _now: Time, _request: u64, endpoint: usize) {
        self.load.add(endpoint);
    }

    fn handle_end(&mut self, now: Time, _request: u64, endpoint: usize, outcome: Outcome) {
        self.load.remove(endpoint);
        if let Some(circuit) = self.circuits.get_mut(endpoint) {
            circuit.handle(now, outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{arrival, chat, gateway};
    use super::*;

    #[test]
    fn more_than_half_must_match() {
        let mut policy = CacheAware::new(&gateway(2));
        let (known, tail) = ("x".repeat(640), "y".repeat(640));
        policy.tree.enter(&block_hashes("m", &known), 0);
        policy.handle_sent(Time::ZERO, 9, 0);
        // 10 of 20 blocks are not more than half; 10 of 19 are.
        assert_eq!(policy.pick(Time::ZERO, &arrival(&chat(&[&known, &tail]))), [1]);
        assert_eq!(policy.pick(Time::ZERO, &arrival(&chat(&[&known, &"z".repeat(576)]))), [1], "it is 1's now");
        let mut policy = CacheAware::new(&gateway(2));
        policy.tree.enter(&block_hashes("m", &known), 0);
        policy.handle_sent(Time::ZERO, 9, 0);
        assert_eq!(policy.pick(Time::ZERO, &arrival(&chat(&[&known, &"z".repeat(576)]))), [0]);
    }

    #[test]
    fn imbalance_takes_both_thresholds() {
        let mut policy = CacheAware::new(&gateway(2));
        let prompt = chat(&[&"x".repeat(640)]);
        policy.tree.enter(&block_hashes("m", &prompt.text()), 0);
        for _ in 0..32 {
            policy.handle_sent(Time::ZERO, 9, 0);
        }
        assert_eq!(policy.pick(Time::ZERO, &arrival(&prompt)), [0], "32 more are allowed");
        policy.handle_sent(Time::ZERO, 9, 0);
        assert_eq!(policy.pick(Time::ZERO, &arrival(&prompt)), [1]);
    }

    #[test]
    fn ten_failures_open_a_circuit_and_three_successes_close_it() {
        let mut policy = CacheAware::new(&gateway(2));
        let mut end = |seconds, outcome| {
            let now = Time::from_secs(seconds);
            policy.handle_end(now, 1, 0, outcome);
            policy.available(now).len()
        };
        for _ in 0..9 {
            assert_eq!(end(1, Outcome::Status(500)), 2);
        }
        assert_eq!(end(1, Outcome::Timeout), 2);
        assert_eq!(end(1, Outcome::Refused), 1);
        assert_eq!(end(60, Outcome::Finished), 1);
        assert_eq!(end(61, Outcome::Finished), 2, "half open");
        assert_eq!(end(61, Outcome::Refused), 1, "one failure opens it again");
        for _ in 0..3 {
            end(122, Outcome::Finished);
        }
        assert_eq!(end(122, Outcome::Refused), 2, "it was closed");
    }

    #[test]
    fn the_tree_is_bounded() {
        let mut tree = Tree::new(2);
        tree.enter(&[1, 2, 3], 0);
        assert_eq!((tree.owners.len(), tree.longest(&[1, 2, 3])), (2, Some((0, 2))));
    }
}
