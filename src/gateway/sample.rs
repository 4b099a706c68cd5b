//! Which endpoints of a large pool are looked at for a request.
//!
//! The best of a few dozen drawn at random is nearly as good as the best of all (the power of many choices), costs
//! the same in a pool of any size, and keeps gateways that do not know of each other from all choosing the same
//! endpoint. What must not be left to chance is where the prompt's beginning may be cached: the endpoints that got
//! it last, and those that its rendezvous hash prefers.

use super::endpoint::EndpointView;
use crate::hash;
use crate::prompt::{Block, Prompt};
use crate::rng::Rng;

/// Pools up to this size are looked at as a whole: there, a pick stays below the time of an entry into the VM.
const WHOLE: usize = 256;
/// The size of a sample: with 64 the best one is, in nine picks of ten, among the best 3.5 % of all.
const SAMPLE: usize = 64;
/// How many of the first endpoints in rendezvous order are looked at.
const HOMES: usize = 3;

/// Draws samples, and remembers which endpoint got a block last.
#[derive(Debug)]
pub(super) struct Sampler {
    /// By hash: the upper half of a block's hash and the endpoint's position; empty where every pool is small.
    last: Vec<(u32, u32)>,
}

impl Sampler {
    /// For pools of at most `largest` endpoints.
    pub(super) fn new(largest: usize, max_entries: usize) -> Sampler {
        let length = if largest > WHOLE { max_entries.next_power_of_two() } else { 0 };
        Sampler { last: vec![(0, 0); length] }
    }

    /// Notes that a prompt with these blocks went to an endpoint.
    pub(super) fn note(&mut self, blocks: &[Block], endpoint: usize) {
        if !self.last.is_empty() {
            blocks.iter().for_each(|block| self.note_block(block.hash, endpoint));
        }
    }

    pub(super) fn note_block(&mut self, block: u64, endpoint: usize) {
        let index = self.index(block);
        if let Some(entry) = self.last.get_mut(index) {
            *entry = ((block >> 32) as u32, u32::try_from(endpoint).unwrap_or(u32::MAX));
        }
    }

    /// The positions to look at, of those in `here`, which are sorted.
    pub(super) fn sample(
        &self,
        endpoints: &[EndpointView],
        here: &[usize],
        prompt: &Prompt,
        rng: &mut impl Rng,
    ) -> Vec<usize> {
        if here.len() <= WHOLE {
            return here.to_vec();
        }
        let mut chosen: Vec<usize> = (0..SAMPLE).filter_map(|_| here.get(rng.below(here.len())).copied()).collect();
        chosen.extend(self.holders(&prompt.blocks).filter(|holder| here.binary_search(holder).is_ok()));
        chosen.extend(homes(endpoints, here, prompt.opening));
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }

    /// Who got the longest known beginning last, and who got half of it.
    fn holders(&self, blocks: &[Block]) -> impl Iterator<Item = usize> + use<> {
        let known = blocks.partition_point(|block| self.last_of(block.hash).is_some());
        let ends = [known.checked_sub(1), (known / 2).checked_sub(1)];
        ends.map(|end| self.last_of(blocks.get(end?)?.hash)).into_iter().flatten()
    }

    fn last_of(&self, block: u64) -> Option<usize> {
        let (tag, endpoint) = self.last.get(self.index(block)).copied()?;
        (tag == (block >> 32) as u32).then_some(endpoint as usize)
    }

    fn index(&self, block: u64) -> usize {
        block as usize & self.last.len().saturating_sub(1)
    }
}

/// The first endpoints in rendezvous order.
fn homes(endpoints: &[EndpointView], here: &[usize], opening: u64) -> Vec<usize> {
    let mut best: [(u64, usize); HOMES] = [(0, 0); HOMES];
    for index in here.iter().copied() {
        let Some(endpoint) = endpoints.get(index) else { continue };
        let weight = hash::combine(opening, endpoint.key);
        if best.last().is_some_and(|(least, _)| weight > *least) {
            if let Some(last) = best.last_mut() {
                *last = (weight, index);
            }
            best.sort_unstable_by(|a, b| b.cmp(a));
        }
    }
    best.iter().map(|(_, index)| *index).collect()
}
