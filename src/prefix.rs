//! Which endpoint has which prompts' beginnings in its KV cache, as far as this gateway knows.
//!
//! Engines do not tell what they hold, but they evict the least recently used blocks, and their counters tell
//! how many tokens have gone into the cache. So an entry carries the endpoint's [cache clock] at its last use,
//! and holds while the clock has not moved on by more than the cache's capacity. An engine that starts anew gets
//! a new epoch, which is part of an entry's key: all that was known of it is out of reach at once.
//!
//! The table is one array of buckets of four, never larger than it is made; a bucket that is full loses one entry
//! at random. Every worker has its own, so that a look-up costs no call to the host; what a worker adds it logs,
//! and the others read the log ([`log`]).
//!
//! [cache clock]: crate::engine::Counters::cache_clock

pub mod log;

use crate::hash;
use crate::prompt::Block;

/// Entries of a bucket: enough that three quarters of a table can be in use before anything is lost.
const WAYS: usize = 4;
/// The clock is kept in units of this many tokens, so that 32 bits hold 2^38 tokens before they wrap.
const CLOCK_UNIT: u64 = 64;
/// The size of a cache that doesn't say it: the endpoint picker's default of 31,250 blocks of 16 tokens.
pub const DEFAULT_CAPACITY: u64 = 31_250 * 16;

/// The cache of one endpoint at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// The endpoint's key in the tables that workers share.
    pub endpoint: u64,
    /// How often its engine is known to have started anew.
    pub epoch: u32,
    /// Tokens that have gone into it.
    pub clock: u64,
    /// Tokens that it holds; zero when it keeps nothing.
    pub capacity: u64,
}

/// One block at one endpoint.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// The upper half of the key; zero where nothing is.
    tag: u32,
    /// The endpoint's clock at the last use.
    used: u32,
}

/// The table of one worker.
#[derive(Debug)]
pub struct PrefixTable {
    buckets: Vec<[Entry; WAYS]>,
}

impl PrefixTable {
    /// A table for `max_entries` entries, rounded up to a power of two; each takes eight bytes, and all are
    /// allocated here.
    pub fn new(max_entries: usize) -> PrefixTable {
        let buckets = max_entries.div_ceil(WAYS).next_power_of_two();
        PrefixTable { buckets: vec![[Entry::default(); WAYS]; buckets] }
    }

    /// How many of `blocks` the endpoint holds, from the first one on.
    ///
    /// A block is never without those before it, since using one uses them all. So the end of the match is
    /// found by halving; a long prompt takes eight or nine looks.
    pub fn matched_blocks(&self, blocks: &[Block], cache: Cache) -> usize {
        if cache.capacity == 0 || !blocks.first().is_some_and(|first| self.holds(first.hash, cache)) {
            return 0;
        }
        1 + blocks.get(1..).unwrap_or_default().partition_point(|block| self.holds(block.hash, cache))
    }

    /// Notes that a prompt with these blocks goes to the endpoint.
    pub fn insert(&mut self, blocks: &[Block], cache: Cache) {
        for block in blocks {
            self.touch(block.hash, cache);
        }
    }

    /// Notes one block, by its hash; true when that is worth telling other workers, because it wasn't there or was
    /// a quarter of the way to its eviction.
    pub fn touch(&mut self, block: u64, cache: Cache) -> bool {
        if cache.capacity == 0 {
            return false;
        }
        let (index, tag) = self.place(block, cache);
        let used = clock_units(cache.clock);
        let Some(bucket) = self.buckets.get_mut(index) else { return false };
        let known = bucket.iter().find(|entry| entry.tag == tag);
        let is_news = known.is_none_or(|entry| age(*entry, cache.clock) >= cache.capacity / 4);
        let free =
            bucket.iter().position(|entry| entry.tag == tag).or_else(|| bucket.iter().position(|entry| entry.tag == 0));
        // The clocks of different endpoints do not compare, so of four living entries any may go.
        let way = free.unwrap_or((block >> 33) as usize % WAYS);
        if let Some(entry) = bucket.get_mut(way) {
            *entry = Entry { tag, used };
        }
        is_news
    }

    /// Notes that the endpoint has not got a block after all.
    pub fn forget(&mut self, block: u64, cache: Cache) {
        let (index, tag) = self.place(block, cache);
        let bucket = self.buckets.get_mut(index);
        if let Some(entry) = bucket.and_then(|bucket| bucket.iter_mut().find(|entry| entry.tag == tag)) {
            *entry = Entry::default();
        }
    }

    /// The most entries that there can be.
    pub fn capacity(&self) -> usize {
        self.buckets.len() * WAYS
    }

    fn holds(&self, block: u64, cache: Cache) -> bool {
        let (index, tag) = self.place(block, cache);
        let found = self.buckets.get(index).and_then(|bucket| bucket.iter().find(|entry| entry.tag == tag));
        found.is_some_and(|entry| age(*entry, cache.clock) < cache.capacity)
    }

    fn place(&self, block: u64, cache: Cache) -> (usize, u32) {
        // Both are hashes: one round of mixing tells their pairs apart.
        let key = hash::mix(block ^ cache.endpoint.wrapping_add(u64::from(cache.epoch)));
        let index = key as usize & (self.buckets.len() - 1);
        (index, ((key >> 32) as u32).max(1))
    }
}

/// How many tokens have gone into the cache since an entry's last use. A clock that stands a little before that has
/// not wrapped: counters of hits run ahead of those of prompts in some engines.
fn age(entry: Entry, clock: u64) -> u64 {
    const LAG: u32 = u32::MAX - 1024;
    match clock_units(clock).wrapping_sub(entry.used) {
        units if units > LAG => 0,
        units => u64::from(units) * CLOCK_UNIT,
    }
}

fn clock_units(clock: u64) -> u32 {
    (clock / CLOCK_UNIT) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    const CACHE: Cache = Cache { endpoint: 7, epoch: 0, clock: 0, capacity: 10_000 };

    fn blocks(seed: u64, count: usize) -> Vec<Block> {
        (0..count).map(|index| Block { hash: hash::combine(seed, index as u64), tokens: index as u32 * 64 }).collect()
    }

    #[test]
    fn the_match_is_contiguous_and_of_one_endpoint() {
        let mut table = PrefixTable::new(1024);
        let prompt = blocks(1, 20);
        table.insert(&prompt[..12], CACHE);
        assert_eq!(table.matched_blocks(&prompt, CACHE), 12);
        assert_eq!(table.matched_blocks(&prompt[..5], CACHE), 5);
        assert_eq!(table.matched_blocks(&prompt[1..], CACHE), 11);
        assert_eq!(table.matched_blocks(&blocks(2, 20), CACHE), 0);
        assert_eq!(table.matched_blocks(&[], CACHE), 0);
        let other = Cache { endpoint: 8, ..CACHE };
        assert_eq!(table.matched_blocks(&prompt, other), 0);
    }

    #[test]
    fn what_was_not_used_for_a_capacity_of_tokens_is_evicted() {
        let mut table = PrefixTable::new(1024);
        let prompt = blocks(1, 4);
        table.insert(&prompt, CACHE);
        let at = |clock| Cache { clock, ..CACHE };
        assert_eq!(table.matched_blocks(&prompt, at(9_900)), 4);
        assert_eq!(table.matched_blocks(&prompt, at(10_100)), 0);
        table.insert(&prompt[..2], at(9_900));
        assert_eq!(table.matched_blocks(&prompt, at(10_100)), 2);
        assert_eq!(table.matched_blocks(&prompt, Cache { capacity: 0, ..CACHE }), 0, "nothing is cached at all");
    }

    #[test]
    fn an_engine_that_starts_anew_is_empty() {
        let mut table = PrefixTable::new(1024);
        let prompt = blocks(1, 4);
        table.insert(&prompt, Cache { clock: 5_000, ..CACHE });
        assert_eq!(
            table.matched_blocks(&prompt, Cache { clock: 4_990, ..CACHE }),
            4,
            "a counter that lags is no restart"
        );
        assert_eq!(table.matched_blocks(&prompt, Cache { epoch: 1, ..CACHE }), 0);
    }

    #[test]
    fn a_full_table_stays_as_large_as_it_is() {
        let mut table = PrefixTable::new(1000);
        assert_eq!(table.capacity(), 1024);
        for seed in 0..1000 {
            table.insert(&blocks(seed, 8), CACHE);
        }
        assert_eq!(table.capacity(), 1024);
        assert_eq!(table.matched_blocks(&blocks(999, 8), CACHE), 8, "the newest prompt is there");
    }
}
