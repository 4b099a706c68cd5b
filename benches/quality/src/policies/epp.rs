//! The endpoint picker of the Gateway API Inference Extension, with its default profile.
//!
//! Source: endpoint-picker notes, sections 3.1, 3.2, 3.4 and 3.6. The total is queue-scorer * 2 +
//! kv-cache-utilization-scorer * 2 + prefix-cache-scorer * 3; the best wins, any of them on a tie. Metrics are scraped
//! every 50 ms. The last page of an endpoint stays valid when a scrape fails, and before the first one every gauge is
//! zero. The second profile adds running-requests-size-scorer * 1.

use std::time::Duration;

use simulator::engine::Time;

use super::Gateway;
use super::approximate_prefix::{ApproximatePrefix, hashes};
use super::scores::{best, less_is_better};
use crate::policy::{Arrival, Policy, Scraped};
use crate::random::Random;

/// `--refresh-metrics-interval`
const SCRAPE_INTERVAL: Duration = Duration::from_millis(50);

/// Which scorers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Queue 2, KV 2, prefix 3.
    Default,
    /// Those, and running requests 1.
    WithRunning,
}

/// One endpoint picker.
#[derive(Debug)]
pub struct Epp {
    profile: Profile,
    pages: Vec<Scraped>,
    prefix: ApproximatePrefix,
    random: Random,
}

impl Epp {
    /// A gateway's instance.
    pub fn new(gateway: &Gateway, profile: Profile) -> Epp {
        Epp {
            profile,
            pages: vec![Scraped::default(); gateway.endpoints],
            prefix: ApproximatePrefix::new(gateway.endpoints),
            random: Random::new(gateway.seed),
        }
    }

    fn scores(&self, blocks: &[u64]) -> Vec<f64> {
        let gauge = |gauge: fn(&Scraped) -> usize| self.pages.iter().map(gauge).collect::<Vec<usize>>();
        let queue = less_is_better(&gauge(|page| page.waiting));
        let running = less_is_better(&gauge(|page| page.running));
        let matches = self.prefix.matches(blocks);
        let total = blocks.len().max(1) as f64;
        let running_weight = if self.profile == Profile::WithRunning { 1.0 } else { 0.0 };
        let rows = self.pages.iter().zip(queue).zip(running).zip(matches);
        rows.map(|(((page, queue), running), matched)| {
            let kv = (1.0 - page.kv_cache_usage).clamp(0.0, 1.0);
            2.0 * queue + 2.0 * kv + 3.0 * (matched as f64 / total) + running_weight * running
        })
        .collect()
    }
}

impl Policy for Epp {
    fn pick(&mut self, _now: Time, request: &Arrival<'_>) -> Vec<usize> {
        let blocks = hashes(request);
        let picked = best(&self.scores(&blocks), &mut self.random);
        self.prefix.handle_dispatch(picked, &blocks);
        vec![picked]
    }

    fn scrape_interval(&self) -> Option<Duration> {
        Some(SCRAPE_INTERVAL)
    }

    fn handle_scrape(&mut self, _now: Time, endpoint: usize, page: Option<&Scraped>) {
        if let (Some(known), Some(page)) = (self.pages.get_mut(endpoint), page) {
            known.clone_from(page);
            self.prefix.handle_scrape(endpoint, page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{arrival, chat, gateway, page};
    use super::*;

    fn scraped(profile: Profile) -> Epp {
        let mut epp = Epp::new(&gateway(3), profile);
        for (endpoint, page) in [page(4, 30, 0.9), page(0, 10, 0.5), page(1, 20, 0.25)].iter().enumerate() {
            epp.handle_scrape(Time::ZERO, endpoint, Some(page));
        }
        epp
    }

    #[test]
    fn the_default_profile_is_two_two_three() {
        let epp = scraped(Profile::Default);
        let scores = epp.scores(&[1]);
        // Queue 0, 1, 3/4; KV 0.1, 0.5, 0.75; no prefix.
        for (score, wanted) in scores.iter().zip([0.2, 3.0, 3.0]) {
            assert!((score - wanted).abs() < 1e-9, "{scores:?}");
        }
    }

    #[test]
    fn running_adds_one() {
        let scores = scraped(Profile::WithRunning).scores(&[1]);
        // Running 0, 1, 1/2.
        for (score, wanted) in scores.iter().zip([0.2, 4.0, 3.5]) {
            assert!((score - wanted).abs() < 1e-9, "{scores:?}");
        }
    }

    #[test]
    fn a_known_prefix_outweighs_a_queue() {
        let mut epp = scraped(Profile::Default);
        let prompt = chat(&[&"x".repeat(1000)]);
        epp.prefix.handle_dispatch(0, &hashes(&arrival(&prompt)));
        // 0.2 + 3 against 3.
        assert_eq!(epp.pick(Time::ZERO, &arrival(&prompt)), [0]);
    }

    #[test]
    fn a_failed_scrape_changes_nothing() {
        let mut epp = scraped(Profile::Default);
        epp.handle_scrape(Time::ZERO, 1, None);
        assert_eq!(epp.pages[1], page(0, 10, 0.5));
    }
}
