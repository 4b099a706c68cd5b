//! KubeAI's PrefixHash: consistent hashing with bounded loads.
//!
//! Source: rivals notes, section 2.6, with the API's defaults: the key is xxhash64 of the first 100 characters and the
//! adapter, 256 points on the ring for each endpoint, mean load percentage 125. From the key's place the walk takes the
//! first endpoint with `load + 1 <= 1.25 * (total + 1) / n`, loads being this gateway's requests in flight; an idle
//! gateway takes the first endpoint at all, and so does one where every endpoint is over.
//!
//! For chat, the characters are those of the first user message, as in KubeAI's request types. With the first
//! characters of the whole prompt, all requests under one system prompt would share a key.

use simulator::engine::Time;
use xxhash_rust::xxh64::xxh64;

use super::Gateway;
use super::scores::InFlight;
use crate::policy::{Arrival, Outcome, Policy};
use crate::prompt::Role;

const PREFIX_CHARACTERS: usize = 100;
const REPLICATION: usize = 256;
const MEAN_LOAD_FACTOR: f64 = 1.25;

/// One gateway.
#[derive(Debug)]
pub struct Chwbl {
    /// Points and their endpoints, in the order of the points.
    ring: Vec<(u64, usize)>,
    load: InFlight,
}

impl Chwbl {
    /// A gateway's instance; the ring is the same for all gateways.
    pub fn new(gateway: &Gateway) -> Chwbl {
        let points = |endpoint: usize| {
            (0..REPLICATION)
                .map(move |replica| (xxh64(format!("endpoint-{endpoint}{replica}").as_bytes(), 0), endpoint))
        };
        let mut ring: Vec<(u64, usize)> = (0..gateway.endpoints).flat_map(points).collect();
        ring.sort_unstable();
        Chwbl { ring, load: InFlight::new(gateway.endpoints) }
    }

    fn walk(&self, key: u64) -> usize {
        let start = self.ring.partition_point(|(point, _)| *point < key);
        let mut steps = self.ring.iter().cycle().skip(start).take(self.ring.len()).map(|(_, endpoint)| *endpoint);
        let default = steps.clone().next().unwrap_or_default();
        steps.find(|endpoint| self.has_room(*endpoint)).unwrap_or(default)
    }

    fn has_room(&self, endpoint: usize) -> bool {
        let mean = (self.load.total() + 1) as f64 / self.load.endpoints() as f64;
        self.load.total() == 0 || (self.load.of(endpoint) + 1) as f64 <= mean * MEAN_LOAD_FACTOR
    }
}

fn key(request: &Arrival<'_>) -> u64 {
    let first = request.prompt.messages.iter().find(|message| message.role == Role::User);
    let prefix = first.map_or("", |message| &*message.text).chars().take(PREFIX_CHARACTERS);
    let text: String = request.adapter.unwrap_or_default().chars().chain(prefix).collect();
    xxh64(text.as_bytes(), 0)
}

impl Policy for Chwbl {
    fn pick(&mut self, _now: Time, request: &Arrival<'_>) -> Vec<usize> {
        vec![self.walk(key(request))]
    }

    fn handle_sent(&mut self, _now: Time, _request: u64, endpoint: usize) {
        self.load.add(endpoint);
    }

    fn handle_end(&mut self, _now: Time, _request: u64, endpoint: usize, _outcome: Outcome) {
        self.load.remove(endpoint);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{arrival, chat, gateway};
    use super::*;

    #[test]
    fn the_first_hundred_characters_and_the_adapter_are_the_key() {
        let (one, two) = (chat(&[&format!("{}a", "x".repeat(100))]), chat(&[&format!("{}b", "x".repeat(100))]));
        assert_eq!(key(&arrival(&one)), key(&arrival(&two)));
        assert_ne!(key(&arrival(&one)), key(&Arrival { adapter: Some("lora"), ..arrival(&one) }));
        assert_ne!(key(&arrival(&one)), key(&arrival(&chat(&["y"]))));
        assert_eq!(key(&arrival(&one)), xxh64("x".repeat(100).as_bytes(), 0));
    }

    #[test]
    fn the_walk_passes_endpoints_over_the_bound() {
        let mut policy = Chwbl::new(&gateway(2));
        let prompt = chat(&["abc"]);
        let home = policy.pick(Time::ZERO, &arrival(&prompt))[0];
        policy.handle_sent(Time::ZERO, 1, home);
        // 2 <= 1.25 * 2 / 2 does not hold, 1 does.
        assert_eq!(policy.pick(Time::ZERO, &arrival(&prompt)), [1 - home]);
        for _ in 0..3 {
            policy.handle_sent(Time::ZERO, 1, home);
            policy.handle_sent(Time::ZERO, 1, 1 - home);
        }
        // 4 + 1 at home, 3 + 1 at the other: 1.25 * 8 / 2 is exactly 5.
        assert_eq!(policy.pick(Time::ZERO, &arrival(&prompt)), [home]);
        policy.handle_end(Time::ZERO, 1, home, Outcome::Finished);
        assert_eq!(policy.load.total(), 6);
    }

    #[test]
    fn the_ring_is_fair() {
        let policy = Chwbl::new(&gateway(4));
        let mut counts = [0; 4];
        for index in 0..4000u64 {
            counts[policy.walk(xxh64(&index.to_le_bytes(), 0))] += 1;
        }
        assert!(counts.iter().all(|count| (700..1300).contains(count)), "{counts:?}");
    }
}
