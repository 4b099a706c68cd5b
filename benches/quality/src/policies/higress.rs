//! Higress' `ai-endpoint-picker`.
//!
//! Source: rivals notes, section 1.1, and endpoint-picker notes, section 0.1. The score is (queue * 2 + KV * 2 + prefix *
//! 3 + in flight * 1) / 8; the denominator is fixed, so a missing signal earns nothing. Queue and in flight are min-max
//! over the healthy endpoints. Ties are random. Prefix index and in-flight counts live in each worker; metrics come from
//! Envoy's health check, which all workers share: a failed one makes the endpoint unhealthy until the next that
//! succeeds. The original's test scraped every 2 s and cached for 250 ms; here the scrapes themselves come every 250 ms,
//! which is kinder.

use std::collections::HashMap;
use std::time::Duration;

use simulator::engine::Time;
use xxhash_rust::xxh64::xxh64;

use super::Gateway;
use super::scores::{InFlight, best, less_is_better};
use crate::lru::Lru;
use crate::policy::{Arrival, Outcome, Policy, Scraped};
use crate::prompt::BYTES_PER_TOKEN;
use crate::random::Random;

const SCRAPE_INTERVAL: Duration = Duration::from_millis(250);
/// `prefix.blockSizeTokens`
const UNIT_TOKENS: usize = 1024;
/// `prefix.maxBlocks`
const MAX_UNITS: usize = 32;
/// `prefix.maxCacheBlocksPerEndpoint`, until `num_gpu_blocks` is known.
const DEFAULT_CAPACITY: usize = 31_250;
/// Where the length term of the prefix score is full.
const LENGTH_SCALE: f64 = 8192.0;

/// A whole message, or a piece of a long one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unit {
    chain: u64,
    tokens: usize,
}

/// One gateway with its workers.
#[derive(Debug)]
pub struct Higress {
    pages: Vec<Option<Scraped>>,
    unhealthy: Vec<bool>,
    workers: Vec<Worker>,
    /// Which worker has a request, and its units, by the request's id.
    requests: HashMap<u64, (usize, Vec<Unit>)>,
    random: Random,
}

#[derive(Clone, Debug)]
struct Worker {
    in_flight: InFlight,
    prefixes: Vec<Lru>,
}

impl Higress {
    /// A gateway's instance.
    pub fn new(gateway: &Gateway) -> Higress {
        let worker = Worker {
            in_flight: InFlight::new(gateway.endpoints),
            prefixes: vec![Lru::new(DEFAULT_CAPACITY); gateway.endpoints],
        };
        Higress {
            pages: vec![None; gateway.endpoints],
            unhealthy: vec![false; gateway.endpoints],
            workers: vec![worker; gateway.workers],
            requests: HashMap::new(),
            random: Random::new(gateway.seed),
        }
    }

    fn candidates(&self) -> Vec<usize> {
        let healthy = |endpoint: &usize| self.unhealthy.get(*endpoint) == Some(&false);
        let candidates: Vec<usize> = (0..self.pages.len()).filter(healthy).collect();
        if candidates.is_empty() { (0..self.pages.len()).collect() } else { candidates }
    }

    fn scores(&self, worker: &Worker, candidates: &[usize], units: &[Unit]) -> Vec<f64> {
        let pages: Vec<Option<&Scraped>> =
            candidates.iter().map(|endpoint| self.pages.get(*endpoint).and_then(Option::as_ref)).collect();
        let waiting: Vec<usize> = pages.iter().flatten().map(|page| page.waiting).collect();
        let mut queue = less_is_better(&waiting).into_iter();
        let in_flight: Vec<usize> = candidates.iter().map(|endpoint| worker.in_flight.of(*endpoint)).collect();
        let rows = candidates.iter().zip(pages).zip(less_is_better(&in_flight));
        rows.map(|((endpoint, page), in_flight)| {
            let known = page.map_or(0.0, |page| {
                2.0 * queue.next().unwrap_or_default() + 2.0 * (1.0 - page.kv_cache_usage).clamp(0.0, 1.0)
            });
            let prefix = worker.prefixes.get(*endpoint).map_or(0.0, |prefixes| prefix_score(prefixes, units));
            (known + 3.0 * prefix + in_flight) / 8.0
        })
        .collect()
    }
}

impl Policy for Higress {
    fn pick(&mut self, _now: Time, request: &Arrival<'_>) -> Vec<usize> {
        let units = units(request);
        let candidates = self.candidates();
        let Some(worker) = self.workers.get(request.worker) else { return vec![0] };
        let winner = best(&self.scores(worker, &candidates, &units), &mut self.random);
        self.requests.insert(request.id, (request.worker, units));
        vec![candidates.get(winner).copied().unwrap_or_default()]
    }

    fn scrape_interval(&self) -> Option<Duration> {
        Some(SCRAPE_INTERVAL)
    }

    fn handle_scrape(&mut self, _now: Time, endpoint: usize, page: Option<&Scraped>) {
        if let Some(known) = self.pages.get_mut(endpoint) {
            *known = page.cloned();
        }
        if let Some(unhealthy) = self.unhealthy.get_mut(endpoint) {
            *unhealthy = page.is_none();
        }
        if let Some(page) = page {
            for worker in &mut self.workers {
                worker.prefixes.get_mut(endpoint).into_iter().for_each(|prefixes| prefixes.limit(page.blocks));
            }
        }
    }

    fn handle_sent(&mut self, _now: Time, request: u64, endpoint: usize) {
        let Some((worker, units)) = self.requests.get(&request) else { return };
        let block_size = match self.pages.get(endpoint) {
            Some(Some(page)) => page.block_size.max(1),
            _ => 16,
        };
        let Some(worker) = self.workers.get_mut(*worker) else { return };
        worker.in_flight.add(endpoint);
        if let Some(prefixes) = worker.prefixes.get_mut(endpoint) {
            // The suffix goes first when space is needed, so it is the older use.
            for unit in units.iter().rev() {
                prefixes.insert(unit.chain, unit.tokens.div_ceil(block_size), |_| {});
            }
        }
    }

    fn handle_end(&mut self, _now: Time, request: u64, endpoint: usize, _outcome: Outcome) {
        // A retry is a new pick, since a pick names one endpoint only.
        let Some((worker, _)) = self.requests.remove(&request) else { return };
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.in_flight.remove(endpoint);
        }
    }
}

/// Messages, the long ones in pieces, each with the hash of everything up to its end.
fn units(request: &Arrival<'_>) -> Vec<Unit> {
    let mut chain = xxh64(request.model.as_bytes(), 0);
    let mut units = Vec::new();
    for message in &request.prompt.messages {
        for piece in message.text.as_bytes().chunks(UNIT_TOKENS * BYTES_PER_TOKEN) {
            let kind = xxh64(message.role.name().as_bytes(), piece.len() as u64);
            chain = xxh64(piece, chain ^ kind);
            units.push(Unit { chain, tokens: piece.len().div_ceil(BYTES_PER_TOKEN) });
            if units.len() == MAX_UNITS {
                return units;
            }
        }
    }
    units
}

/// `0.75 * matched / total + 0.25 * min(matched / 8192, 1)^2`, in tokens.
fn prefix_score(known: &Lru, units: &[Unit]) -> f64 {
    let total: usize = units.iter().map(|unit| unit.tokens).sum();
    let matched: usize = units.iter().take_while(|unit| known.contains(unit.chain)).map(|unit| unit.tokens).sum();
    let length = (matched as f64 / LENGTH_SCALE).min(1.0);
    0.75 * matched as f64 / total.max(1) as f64 + 0.25 * length * length
}

#[cfg(test)]
mod tests {
    use super::super::testing::{arrival, chat, gateway, page};
    use super::*;

    #[test]
    fn long_messages_are_split_and_short_ones_are_whole() {
        let prompt = chat(&[&"x".repeat(4 * 1500), &"y".repeat(40)]);
        let tokens: Vec<usize> = units(&arrival(&prompt)).iter().map(|unit| unit.tokens).collect();
        assert_eq!(tokens, [1024, 476, 10]);
    }

    #[test]
    fn the_prefix_score_mixes_share_and_length() {
        let unit = |chain, tokens| Unit { chain, tokens };
        let mut known = Lru::new(1000);
        known.insert(1, 64, |_| {});
        // 1024 of 2048 tokens: 0.75 / 2 + 0.25 / 64.
        assert_eq!(prefix_score(&known, &[unit(1, 1024), unit(2, 1024)]), 0.375 + 0.00390625);
        assert_eq!(prefix_score(&known, &[unit(2, 1024), unit(1, 1024)]), 0.0);
    }

    #[test]
    fn a_missing_signal_earns_nothing_under_a_fixed_denominator() {
        let mut policy = Higress::new(&gateway(3));
        policy.handle_scrape(Time::ZERO, 0, Some(&page(3, 9, 0.5)));
        policy.handle_scrape(Time::ZERO, 1, Some(&page(1, 9, 0.0)));
        policy.workers[0].in_flight.add(0);
        let scores = policy.scores(&policy.workers[0], &[0, 1, 2], &[]);
        // (0 + 1 + 0 + 0) / 8, (2 + 2 + 0 + 1) / 8, (0 + 0 + 0 + 1) / 8.
        assert_eq!(scores, [0.125, 0.625, 0.125]);
    }

    #[test]
    fn workers_do_not_know_of_each_other() {
        let mut policy = Higress::new(&gateway(2));
        let prompt = chat(&[&"x".repeat(4000)]);
        policy.pick(Time::ZERO, &arrival(&prompt));
        policy.handle_sent(Time::ZERO, 1, 1);
        let units = units(&arrival(&prompt));
        let scores = |worker: usize| policy.scores(&policy.workers[worker], &[0, 1], &units);
        assert!(scores(0)[1] > scores(0)[0], "its own worker knows the prompt");
        assert_eq!(scores(1)[0], scores(1)[1], "another one doesn't");
    }

    #[test]
    fn an_endpoint_whose_page_cannot_be_had_is_no_candidate() {
        let mut policy = Higress::new(&gateway(2));
        policy.handle_scrape(Time::ZERO, 0, None);
        assert_eq!(policy.candidates(), [1]);
        policy.handle_scrape(Time::ZERO, 1, None);
        assert_eq!(policy.candidates(), [0, 1]);
    }
}
