//! KV blocks and the prefix cache: blocks of finished prompts stay until the space is needed.
//!
//! A block is either anonymous (being filled, or output) or known by the chained hash of the prompt up to
//! its end. Known blocks are shared; those that no sequence holds are evicted, least recently used first.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// The blocks of one sequence.
#[derive(Debug, Default)]
pub(super) struct BlockTable {
    /// Hashes of shared blocks, in the prompt's order.
    shared: Vec<u64>,
    /// Blocks of its own.
    anonymous: usize,
    /// How many of the shared ones were there before it came.
    cached: usize,
}

impl BlockTable {
    /// How many blocks need not be computed.
    pub(super) fn cached(&self) -> usize {
        self.cached
    }
}

#[derive(Debug)]
pub(super) struct KvCache {
    total: usize,
    block_size: usize,
    free: usize,
    known: HashMap<u64, Known, BuildHasherDefault<Spread>>,
    /// How many known blocks nobody holds.
    idle: usize,
    /// Blocks in the order in which they became idle, with the time; those used since are still in it, too.
    became_idle: VecDeque<(u64, u64)>,
    clock: u64,
}

/// The keys are hashes already, and nothing depends on the map's order: one multiplication spreads them.
#[derive(Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = (self.0 ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[derive(Debug)]
struct Known {
    holders: usize,
    last_used: u64,
}

impl Known {
    fn is_idle_since(&self, at: u64) -> bool {
        self.holders == 0 && self.last_used == at
    }
}

impl KvCache {
    pub(super) fn new(total: usize, block_size: usize) -> KvCache {
        KvCache {
            total,
            block_size,
            free: total,
            known: HashMap::default(),
            idle: 0,
            became_idle: VecDeque::new(),
            clock: 0,
        }
    }

    /// The share of blocks that sequences hold.
    pub(super) fn usage(&self) -> f64 {
        let held = self.total.saturating_sub(self.free + self.idle);
        held as f64 / self.total.max(1) as f64
    }

    /// Blocks for a sequence of `tokens` whose prompt has these full blocks; `None` when there are too few.
    pub(super) fn admit(&mut self, prompt: &[u64], tokens: usize) -> Option<BlockTable> {
        let cached = prompt.iter().take_while(|hash| self.known.contains_key(hash)).count();
        let needed = tokens.div_ceil(self.block_size).saturating_sub(cached);
        let idle_hits = prompt
            .iter()
            .take(cached)
            .filter(|hash| self.known.get(hash).is_some_and(|known| known.holders == 0))
            .count();
        // A sequence that alone is larger than the cache is let in when the cache is otherwise empty.
        let available = self.free + self.idle - idle_hits;
        let is_alone = self.free + self.idle == self.total;
        if needed > available && !is_alone {
            return None;
        }
        let shared: Vec<u64> = prompt.iter().take(cached).copied().collect();
        for hash in &shared {
            self.hold(*hash);
        }
        let anonymous = self.take(needed.min(available));
        Some(BlockTable { shared, anonymous, cached })
    }

    /// Makes room for `tokens` in all; false when there is none.
    pub(super) fn grow(&mut self, blocks: &mut BlockTable, tokens: usize) -> bool {
        let needed = tokens.div_ceil(self.block_size).saturating_sub(blocks.shared.len() + blocks.anonymous);
        if needed > self.free + self.idle {
            return false;
        }
        blocks.anonymous += self.take(needed);
        true
    }

    /// Makes the computed blocks of a prompt known.
    pub(super) fn remember(&mut self, blocks: &mut BlockTable, prompt: &[u64]) {
        for hash in prompt.iter().skip(blocks.shared.len()) {
            // Where another sequence was quicker, its block is the known one and this one stays anonymous.
            if blocks.anonymous == 0 || self.known.contains_key(hash) {
                return;
            }
            blocks.anonymous -= 1;
            blocks.shared.push(*hash);
            self.known.insert(*hash, Known { holders: 1, last_used: 0 });
        }
    }

    /// Gives a finished sequence's blocks back and makes them known by these hashes, prompt and answer alike.
    pub(super) fn finish(&mut self, mut blocks: BlockTable, hashes: impl Iterator<Item = u64>) {
        for hash in hashes.skip(blocks.shared.len()) {
            if blocks.anonymous == 0 {
                break;
            }
            blocks.anonymous -= 1;
            if self.hold(hash) {
                // Another sequence was quicker: one copy is enough, and it was used just now.
                self.free += 1;
            } else {
                self.known.insert(hash, Known { holders: 1, last_used: 0 });
            }
            blocks.shared.push(hash);
        }
        self.release(blocks);
    }

    /// Gives a sequence's blocks back; the tail of a prompt goes first when space is needed.
    pub(super) fn release(&mut self, blocks: BlockTable) {
        self.free += blocks.anonymous;
        for hash in blocks.shared.iter().rev() {
            self.clock += 1;
            if let Some(known) = self.known.get_mut(hash) {
                known.holders = known.holders.saturating_sub(1);
                if known.holders == 0 {
                    known.last_used = self.clock;
                    self.idle += 1;
                    self.became_idle.push_back((self.clock, *hash));
                }
            }
        }
        if self.became_idle.len() > 2 * self.total {
            let known = &self.known;
            self.became_idle.retain(|(at, hash)| known.get(hash).is_some_and(|known| known.is_idle_since(*at)));
        }
    }

    /// Adds a holder; false when the block is not known.
    fn hold(&mut self, hash: u64) -> bool {
        let Some(known) = self.known.get_mut(&hash) else { return false };
        if known.holders == 0 {
            self.idle -= 1;
        }
        known.holders += 1;
        true
    }

    /// Takes free blocks, evicting idle ones where needed.
    fn take(&mut self, count: usize) -> usize {
        while self.free < count {
            let Some((at, hash)) = self.became_idle.pop_front() else { break };
            if self.known.get(&hash).is_some_and(|known| known.is_idle_since(at)) {
                self.known.remove(&hash);
                self.idle -= 1;
                self.free += 1;
            }
        }
        let taken = count.min(self.free);
        self.free -= taken;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_prompt_is_evicted_from_its_tail() {
        let mut kv = KvCache::new(4, 16);
        for prompt in [[1, 2], [3, 4]] {
            let mut blocks = kv.admit(&prompt, 32).unwrap();
            kv.remember(&mut blocks, &prompt);
            kv.release(blocks);
        }
        let other = kv.admit(&[9], 16).unwrap();
        assert_eq!(kv.admit(&[1, 2], 32).unwrap().cached(), 1, "the tail of the older prompt is gone");
        kv.release(other);
    }

    #[test]
    fn a_block_that_was_used_again_is_not_the_oldest() {
        let mut kv = KvCache::new(3, 16);
        let mut use_block = |hash: u64| {
            let mut blocks = kv.admit(&[hash], 16).unwrap();
            kv.remember(&mut blocks, &[hash]);
            let cached = blocks.cached();
            kv.release(blocks);
            cached
        };
        // Long enough for the list of idle blocks to be tidied up several times.
        for round in 0..10 {
            assert_eq!([1, 2, 3].map(&mut use_block), [usize::from(round > 0); 3]);
        }
        assert_eq!([1, 4, 1, 3, 2].map(&mut use_block), [1, 0, 1, 1, 0], "2 made room for 4");
    }

    #[test]
    fn shared_blocks_count_once() {
        let mut kv = KvCache::new(10, 16);
        let mut first = kv.admit(&[1, 2], 32).unwrap();
        kv.remember(&mut first, &[1, 2]);
        let second = kv.admit(&[1, 2], 32).unwrap();
        assert_eq!((second.cached(), kv.usage()), (2, 0.2));
        kv.release(first);
        assert_eq!(kv.usage(), 0.2);
        kv.release(second);
        assert_eq!(kv.usage(), 0.0);
    }
}
