//! Sequences of operations against a model that keeps everything, and against their bounds.

use std::collections::BTreeMap;

use inference_plugin::hash;
use inference_plugin::inflight::{Inflight, Sent, Ticket, key};
use inference_plugin::prefix::{Cache, PrefixTable};
use inference_plugin::prompt::Block;
use inference_plugin::time::Timestamp;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Operation {
    /// A worker sends a request.
    Acquire { worker: usize, endpoint: u64, tokens: u64, adapter: Option<u64> },
    /// The oldest request of a worker gets its first byte.
    Answer { worker: usize },
    /// The oldest request of a worker ends.
    Release { worker: usize },
    /// A worker stores its slot, and all others read it.
    Publish { worker: usize },
    /// Time passes.
    Wait { milliseconds: u64 },
}

fn operation() -> impl Strategy<Value = Operation> {
    let acquire = (0usize..3, 0u64..4, 0u64..1000, prop::option::of(0u64..3));
    prop_oneof![
        4 => acquire.prop_map(|(worker, endpoint, tokens, adapter)| Operation::Acquire { worker, endpoint, tokens, adapter }),
        2 => (0usize..3).prop_map(|worker| Operation::Answer { worker }),
        4 => (0usize..3).prop_map(|worker| Operation::Release { worker }),
        2 => (0usize..3).prop_map(|worker| Operation::Publish { worker }),
        1 => (0u64..900).prop_map(|milliseconds| Operation::Wait { milliseconds }),
    ]
}

/// A request as a list keeps it.
struct Listed {
    ticket: Ticket,
    endpoint: u64,
    sent: Sent,
    answered: bool,
}

/// Requests, requests with a prompt to compute, its tokens, and the adapters: of the lists' requests at an endpoint.
fn expected(lists: &[&Vec<Listed>], endpoint: u64) -> (u32, u32, u64, Vec<(u64, u32)>) {
    let here = || lists.iter().flat_map(|list| list.iter()).filter(|listed| listed.endpoint == endpoint);
    let mut adapters: BTreeMap<u64, u32> = BTreeMap::new();
    for adapter in here().filter_map(|listed| listed.sent.adapter) {
        *adapters.entry(adapter).or_default() += 1;
    }
    let prefilling = || here().filter(|listed| !listed.answered);
    (
        here().count() as u32,
        prefilling().count() as u32,
        prefilling().map(|listed| listed.sent.tokens).sum(),
        adapters.into_iter().collect(),
    )
}

fn seen(inflight: &Inflight, endpoint: u64) -> (u32, u32, u64, Vec<(u64, u32)>) {
    let work = inflight.work(endpoint).cloned().unwrap_or_default();
    (work.requests, work.prefilling, work.prefill_tokens, work.adapters)
}

proptest! {
    #[test]
    fn counts_in_flight_agree_with_a_list_of_requests(operations in prop::collection::vec(operation(), 0..120)) {
        let mut now = Timestamp(1_000_000);
        let mut workers: Vec<Inflight> = (0..3).map(|_| Inflight::default()).collect();
        for (slot, worker) in workers.iter_mut().enumerate() {
            worker.handle_claimed(slot as u32, slot as u64 + 1, now);
        }
        let mut lists: Vec<Vec<Listed>> = vec![Vec::new(), Vec::new(), Vec::new()];
        let mut version = 0;
        for operation in operations {
            match operation {
                Operation::Acquire { worker, endpoint, tokens, adapter } => {
                    let sent = Sent { tokens, adapter, ..Sent::default() };
                    let ticket = workers[worker].acquire(endpoint, sent, now);
                    lists[worker].push(Listed { ticket, endpoint, sent, answered: false });
                }
                Operation::Answer { worker } => {
                    if let Some(listed) = lists[worker].first_mut() {
                        workers[worker].answered(&listed.ticket, now);
                        listed.answered = true;
                    }
                }
                Operation::Release { worker } => {
                    if !lists[worker].is_empty() {
                        workers[worker].release(lists[worker].remove(0).ticket);
                    }
                }
                Operation::Publish { worker } => {
                    version += 1;
                    if let Some((slot, blob)) = workers[worker].poll_publication(now) {
                        // The bound: a header, the owner, the heartbeat, a count, and for each endpoint 34 bytes and
                        // 12 for each of its adapters.
                        prop_assert!(blob.len() <= 33 + 4 * (34 + 3 * 12), "{} bytes", blob.len());
                        prop_assert_eq!(key(slot), format!("ip1/inflight/{worker}"));
                        for (other, reader) in workers.iter_mut().enumerate() {
                            if other != worker {
                                reader.handle_slot(slot, Some((&blob, version)));
                                reader.handle_refreshed(now);
                            }
                        }
                    }
                }
                Operation::Wait { milliseconds } => now = Timestamp(now.0 + milliseconds),
            }
            for (worker, inflight) in workers.iter().enumerate() {
                for endpoint in 0..4 {
                    let (own, all) = (expected(&[&lists[worker]], endpoint), seen(inflight, endpoint));
                    prop_assert!(all.0 >= own.0 && all.1 >= own.1 && all.2 >= own.2);
                }
            }
        }
        // When everybody has published, everybody sees the truth.
        for worker in 0..3 {
            now = Timestamp(now.0 + 1_000);
            version += 1;
            if let Some((slot, blob)) = workers[worker].poll_publication(now) {
                for (_, reader) in workers.iter_mut().enumerate().filter(|(other, _)| *other != worker) {
                    reader.handle_slot(slot, Some((&blob, version)));
                    reader.handle_refreshed(now);
                }
            }
        }
        for inflight in &mut workers {
            inflight.handle_refreshed(now);
            for endpoint in 0..4 {
                prop_assert_eq!(seen(inflight, endpoint), expected(&lists.iter().collect::<Vec<_>>(), endpoint));
            }
        }
    }
}

#[derive(Clone, Debug)]
enum PrefixOperation {
    /// A prompt goes to an endpoint: a tree of prompts, of which children share their parents' blocks.
    Insert { prompt: u64, blocks: usize, endpoint: u64 },
    /// Tokens go into an endpoint's cache.
    Advance { endpoint: u64, tokens: u64 },
    /// An endpoint starts anew.
    Restart { endpoint: u64 },
}

fn prefix_operation() -> impl Strategy<Value = PrefixOperation> {
    prop_oneof![
        6 => (0u64..40, 1usize..24, 0u64..3)
            .prop_map(|(prompt, blocks, endpoint)| PrefixOperation::Insert { prompt, blocks, endpoint }),
        3 => (0u64..3, 0u64..2_000).prop_map(|(endpoint, tokens)| PrefixOperation::Advance { endpoint, tokens }),
        1 => (0u64..3).prop_map(|endpoint| PrefixOperation::Restart { endpoint }),
    ]
}

/// The blocks of a prompt: every fourth one shares its first eight with its neighbours.
fn blocks(prompt: u64, count: usize) -> Vec<Block> {
    let block = |index: usize| {
        let seed = if index < 8 { prompt / 4 } else { 1_000 + prompt };
        Block { hash: hash::combine(seed, index as u64), tokens: (index as u32 + 1) * 64 }
    };
    (0..count).map(block).collect()
}

proptest! {
    /// The twin remembers every block with the clock of its last use; the table may forget, and never makes up.
    #[test]
    fn the_prefix_table_knows_nothing_that_is_not_so_and_never_grows(
        operations in prop::collection::vec(prefix_operation(), 0..200),
        small in any::<bool>(),
    ) {
        const CAPACITY: u64 = 4_096;
        let entries = if small { 64 } else { 1 << 16 };
        let mut table = PrefixTable::new(entries);
        let mut caches: Vec<Cache> = (0..3)
            .map(|endpoint| Cache { endpoint: hash::mix(endpoint), epoch: 0, clock: 0, capacity: CAPACITY })
            .collect();
        let mut twin: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        for operation in operations {
            match operation {
                PrefixOperation::Insert { prompt, blocks: count, endpoint } => {
                    let cache = caches[endpoint as usize];
                    let blocks = blocks(prompt, count);
                    table.insert(&blocks, cache);
                    twin.extend(blocks.iter().map(|block| ((endpoint, block.hash), cache.clock)));
                    if !small {
                        prop_assert_eq!(table.matched_blocks(&blocks, cache), count, "what was just noted is there");
                    }
                }
                PrefixOperation::Advance { endpoint, tokens } => caches[endpoint as usize].clock += tokens,
                PrefixOperation::Restart { endpoint } => {
                    let cache = &mut caches[endpoint as usize];
                    (cache.epoch, cache.clock) = (cache.epoch + 1, 0);
                    twin.retain(|(at, _), _| *at != endpoint);
                }
            }
            prop_assert_eq!(table.capacity(), entries);
        }
        for prompt in 0..40 {
            let blocks = blocks(prompt, 24);
            for (endpoint, cache) in caches.iter().enumerate() {
                // The table's clock counts in units of 64 tokens.
                let held = |block: &&Block| {
                    let used = twin.get(&(endpoint as u64, block.hash));
                    used.is_some_and(|used| cache.clock / 64 - used / 64 < CAPACITY / 64)
                };
                let truth = blocks.iter().take_while(held).count();
                let matched = table.matched_blocks(&blocks, *cache);
                if small {
                    prop_assert!(matched <= truth, "{matched} of {truth}");
                } else {
                    prop_assert_eq!(matched, truth);
                }
            }
        }
    }
}
