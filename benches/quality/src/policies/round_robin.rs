//! Round robin and random: Envoy's policies that know nothing of load.
//!
//! Envoy's round robin keeps a counter in each worker, each with a random start, so that workers do not all begin with
//! the same endpoint. Source: Envoy's load balancing documentation.

use simulator::engine::Time;

use super::Gateway;
use crate::policy::{Arrival, Policy};
use crate::random;

/// One counter for each worker.
#[derive(Debug)]
pub struct RoundRobin {
    endpoints: usize,
    next: Vec<usize>,
}

impl RoundRobin {
    /// A gateway's instance.
    pub fn new(gateway: &Gateway) -> RoundRobin {
        let mut random = random::Random::new(gateway.seed);
        let next = (0..gateway.workers).map(|_| random.below(gateway.endpoints)).collect();
        RoundRobin { endpoints: gateway.endpoints, next }
    }
}

impl Policy for RoundRobin {
    fn pick(&mut self, _now: Time, request: &Arrival<'_>) -> Vec<usize> {
        let Some(next) = self.next.get_mut(request.worker) else { return vec![0] };
        let picked = *next;
        *next = (picked + 1) % self.endpoints.max(1);
        vec![picked]
    }
}

/// Any endpoint.
#[derive(Debug)]
pub struct Random {
    endpoints: usize,
    random: random::Random,
}

impl Random {
    /// A gateway's instance.
    pub fn new(gateway: &Gateway) -> Random {
        Random { endpoints: gateway.endpoints, random: random::Random::new(gateway.seed) }
    }
}

impl Policy for Random {
    fn pick(&mut self, _now: Time, _request: &Arrival<'_>) -> Vec<usize> {
        vec![self.random.below(self.endpoints)]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{arrival, chat, gateway};
    use super::*;

    #[test]
    fn each_worker_takes_its_turns() {
        let mut policy = RoundRobin::new(&gateway(3));
        let prompt = chat(&["abcd"]);
        for worker in 0..4 {
            let picked: Vec<usize> =
                (0..6).map(|_| policy.pick(Time::ZERO, &Arrival { worker, ..arrival(&prompt) })[0]).collect();
            assert_eq!(picked[..3], picked[3..]);
            assert_eq!((picked[0] + 1) % 3, picked[1]);
            assert_eq!((picked[1] + 1) % 3, picked[2]);
        }
    }

    #[test]
    fn random_is_even() {
        let mut policy = Random::new(&gateway(4));
        let prompt = chat(&["abcd"]);
        let mut counts = [0; 4];
        for _ in 0..4000 {
            counts[policy.pick(Time::ZERO, &arrival(&prompt))[0]] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
