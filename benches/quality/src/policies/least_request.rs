//! Envoy's least request: of two random endpoints, the one with fewer active requests.
//!
//! The two are drawn independently, so they may be the same one, and the first wins a tie. Envoy counts active requests
//! in a statistic of the host, which all workers of a process share; so the count here is the gateway's, not the
//! worker's. Source: Envoy's `least_request_lb.cc`, `unweightedHostPickNChoices`.

use simulator::engine::Time;

use super::Gateway;
use super::scores::InFlight;
use crate::policy::{Arrival, Outcome, Policy};
use crate::random::Random;

/// The gateway's active requests.
#[derive(Debug)]
pub struct LeastRequest {
    active: InFlight,
    random: Random,
}

impl LeastRequest {
    /// A gateway's instance.
    pub fn new(gateway: &Gateway) -> LeastRequest {
        LeastRequest { active: InFlight::new(gateway.endpoints), random: Random::new(gateway.seed) }
    }
}

impl Policy for LeastRequest {
    fn pick(&mut self, _now: Time, _request: &Arrival<'_>) -> Vec<usize> {
        let endpoints = self.active.endpoints();
        let (first, second) = (self.random.below(endpoints), self.random.below(endpoints));
        vec![if self.active.of(second) < self.active.of(first) { second } else { first }]
    }

    fn handle_sent(&mut self, _now: Time, _request: u64, endpoint: usize) {
        self.active.add(endpoint);
    }

    fn handle_end(&mut self, _now: Time, _request: u64, endpoint: usize, _outcome: Outcome) {
        self.active.remove(endpoint);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{arrival, chat, gateway};
    use super::*;

    #[test]
    fn the_busier_of_two_loses_unless_it_is_drawn_twice() {
        let mut policy = LeastRequest::new(&gateway(2));
        policy.handle_sent(Time::ZERO, 1, 0);
        let prompt = chat(&["abcd"]);
        let busy = (0..4000).filter(|_| policy.pick(Time::ZERO, &arrival(&prompt)) == [0]).count();
        // Both draws must fall on it: a quarter.
        assert!((850..1150).contains(&busy), "{busy}");
        policy.handle_end(Time::ZERO, 1, 0, Outcome::Finished);
        let even = (0..4000).filter(|_| policy.pick(Time::ZERO, &arrival(&prompt)) == [0]).count();
        assert!((1850..2150).contains(&even), "{even}");
    }
}
