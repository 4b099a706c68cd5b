//! EPP's approximate prefix index: which endpoint was sent which blocks.
//!
//! Source: endpoint-picker notes, section 3.6, `approx-prefix-cache-producer` with the estimating token producer. Four
//! bytes are a token; a block has 64 tokens, which is the floor, since engines say 16; the last partial block counts.
//! Its defects are kept: the index learns at dispatch, never hears of evictions or restarts, and its capacity for each
//! endpoint is `num_gpu_blocks` entries, though an entry stands for four of the engine's blocks.

use std::collections::HashMap;

use xxhash_rust::xxh64::xxh64;

use crate::lru::Lru;
use crate::policy::{Arrival, Scraped};

/// 64 tokens of four bytes.
const BLOCK_BYTES: usize = 256;
/// `maxPrefixTokensToMatch` over the block size.
const MAX_BLOCKS: usize = 131_072 / 64;
/// Until an endpoint has said how many blocks it has.
const DEFAULT_CAPACITY: usize = 31_250;

/// Who was sent what.
#[derive(Debug)]
pub(super) struct ApproximatePrefix {
    sent: Vec<Lru>,
    holders: HashMap<u64, Vec<usize>>,
}

impl ApproximatePrefix {
    pub(super) fn new(endpoints: usize) -> ApproximatePrefix {
        ApproximatePrefix { sent: vec![Lru::new(DEFAULT_CAPACITY); endpoints], holders: HashMap::new() }
    }

    pub(super) fn handle_scrape(&mut self, endpoint: usize, page: &Scraped) {
        if let Some(sent) = self.sent.get_mut(endpoint)
            && page.blocks > 0
        {
            sent.limit(page.blocks);
        }
    }

    /// How many of the blocks each endpoint was sent; the walk ends at a block that nobody was.
    pub(super) fn matches(&self, blocks: &[u64]) -> Vec<usize> {
        let mut matches = vec![0; self.sent.len()];
        for holders in blocks.iter().map_while(|block| self.holders.get(block)) {
            for holder in holders {
                if let Some(count) = matches.get_mut(*holder) {
                    *count += 1;
                }
            }
        }
        matches
    }

    pub(super) fn handle_dispatch(&mut self, endpoint: usize, blocks: &[u64]) {
        let Some(sent) = self.sent.get_mut(endpoint) else { return };
        for block in blocks {
            if !sent.contains(*block) {
                self.holders.entry(*block).or_default().push(endpoint);
            }
            let holders = &mut self.holders;
            sent.insert(*block, 1, |evicted| forget(holders, evicted, endpoint));
        }
    }
}

fn forget(holders: &mut HashMap<u64, Vec<usize>>, block: u64, endpoint: usize) {
    if let Some(list) = holders.get_mut(&block) {
        list.retain(|holder| *holder != endpoint);
        if list.is_empty() {
            holders.remove(&block);
        }
    }
}

/// The chained hashes of a request: role and text of each message without separators, in blocks.
pub(super) fn hashes(request: &Arrival<'_>) -> Vec<u64> {
    let mut bytes = Vec::new();
    for message in &request.prompt.messages {
        bytes.extend_from_slice(message.role.name().as_bytes());
        bytes.extend_from_slice(message.text.as_bytes());
    }
    let mut previous = xxh64(request.model.as_bytes(), 0);
    let chain = |block: &[u8]| {
        let mut link = [0; 16];
        let (own, before) = link.split_at_mut(8);
        own.copy_from_slice(&xxh64(block, 0).to_le_bytes());
        before.copy_from_slice(&previous.to_le_bytes());
        previous = xxh64(&link, 0);
        previous
    };
    bytes.chunks(BLOCK_BYTES).take(MAX_BLOCKS).map(chain).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{arrival, chat};
    use super::*;

    #[test]
    fn the_chain_is_as_published() {
        let text = "x".repeat(300);
        let prompt = chat(&[&text]);
        let bytes = format!("user{text}");
        let link =
            |block: &[u8], previous: u64| xxh64(&[xxh64(block, 0).to_le_bytes(), previous.to_le_bytes()].concat(), 0);
        let (whole, rest) = bytes.as_bytes().split_at(256);
        let first = link(whole, xxh64(b"m", 0));
        assert_eq!(hashes(&arrival(&prompt)), [first, link(rest, first)]);
    }

    #[test]
    fn matching_stops_where_nobody_has_the_block_and_counts_gaps() {
        let mut index = ApproximatePrefix::new(3);
        index.handle_dispatch(0, &[1, 2]);
        index.handle_dispatch(1, &[1, 2, 3, 9]);
        index.handle_dispatch(2, &[3]);
        // Endpoint 2 has block 3 only, which counts all the same; 9 lies behind 4, which nobody has.
        assert_eq!(index.matches(&[1, 2, 3, 4, 9]), [2, 3, 1]);
    }

    #[test]
    fn an_endpoint_keeps_as_many_entries_as_it_has_blocks() {
        let mut index = ApproximatePrefix::new(2);
        index.handle_scrape(0, &Scraped { blocks: 2, ..Scraped::default() });
        index.handle_dispatch(0, &[1, 2, 3]);
        assert_eq!(index.matches(&[1, 2, 3]), [0, 0], "block 1 is gone and the walk ends there");
        assert_eq!(index.matches(&[2, 3]), [2, 0]);
    }
}
