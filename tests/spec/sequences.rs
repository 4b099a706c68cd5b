//! Sequences of operations against a model that keeps everything, and against their bounds.

use std::collections::BTreeMap;

use inference_plugin::inflight::{Inflight, Ticket, Work, key};
use inference_plugin::time::Timestamp;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Operation {
    /// A worker sends a request.
    Acquire { worker: usize, endpoint: u64, tokens: u64 },
    /// The oldest request of a worker ends.
    Release { worker: usize },
    /// A worker stores its slot, and all others read it.
    Publish { worker: usize },
    /// Time passes.
    Wait { milliseconds: u64 },
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (0usize..3, 0u64..4, 0u64..1000).prop_map(|(worker, endpoint, tokens)| Operation::Acquire { worker, endpoint, tokens }),
        4 => (0usize..3).prop_map(|worker| Operation::Release { worker }),
        2 => (0usize..3).prop_map(|worker| Operation::Publish { worker }),
        1 => (0u64..900).prop_map(|milliseconds| Operation::Wait { milliseconds }),
    ]
}

proptest! {
    #[test]
    fn counts_in_flight_agree_with_a_list_of_requests(operations in prop::collection::vec(operation(), 0..120)) {
        let mut now = Timestamp(1_000_000);
        let mut workers: Vec<Inflight> = (0..3).map(|_| Inflight::default()).collect();
        for (slot, worker) in workers.iter_mut().enumerate() {
            worker.handle_claimed(slot as u32, slot as u64 + 1, now);
        }
        let mut tickets: Vec<Vec<(Ticket, u64, u64)>> = vec![Vec::new(), Vec::new(), Vec::new()];
        let mut version = 0;
        for operation in operations {
            match operation {
                Operation::Acquire { worker, endpoint, tokens } => {
                    tickets[worker].push((workers[worker].acquire(endpoint, tokens), endpoint, tokens));
                }
                Operation::Release { worker } => {
                    if !tickets[worker].is_empty() {
                        workers[worker].release(tickets[worker].remove(0).0);
                    }
                }
                Operation::Publish { worker } => {
                    version += 1;
                    if let Some((slot, blob)) = workers[worker].poll_publication(now) {
                        // The bound: a header, the owner, the heartbeat, a count, and 20 bytes an endpoint in use.
                        prop_assert!(blob.len() <= 33 + 4 * 20, "{} bytes", blob.len());
                        prop_assert_eq!(key(slot), format!("ip1/inflight/{worker}"));
                        for (other, reader) in workers.iter_mut().enumerate() {
                            if other != worker {
                                reader.handle_slot(slot, Some((&blob, version)));
                            }
                        }
                    }
                }
                Operation::Wait { milliseconds } => now = Timestamp(now.0 + milliseconds),
            }
            for (worker, inflight) in workers.iter().enumerate() {
                let mut own: BTreeMap<u64, Work> = BTreeMap::new();
                for (_, endpoint, tokens) in &tickets[worker] {
                    let work = own.entry(*endpoint).or_default();
                    work.requests += 1;
                    work.tokens += tokens;
                }
                for endpoint in 0..4 {
                    let least = own.get(&endpoint).copied().unwrap_or_default();
                    let seen = inflight.work(endpoint, now);
                    prop_assert!(seen.requests >= least.requests && seen.tokens >= least.tokens);
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
                }
            }
        }
        for endpoint in 0..4 {
            let requests = tickets.iter().flatten().filter(|(_, at, _)| *at == endpoint).count() as u32;
            for inflight in &workers {
                prop_assert_eq!(inflight.work(endpoint, now).requests, requests);
            }
        }
    }
}
