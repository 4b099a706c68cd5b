//! Chooses endpoints: filter, score, pick, in the words of the Gateway API Inference Extension.
//!
//! A new scorer, filter or picker is one file in `scorer/`, `filter/` or `picker/` and one line in that
//! folder's list. Picking cannot fail: it ends in a [`Decision`], one of whose variants says "no opinion,
//! and why".

mod filter;
mod picker;
mod scorer;

use std::fmt;

use crate::hash;
use crate::load::Health;
use crate::rng::Rng;

pub use filter::Filter;
pub use picker::Picker;
pub use scorer::Scorer;

/// Envoy's retries rarely go past two; a longer list would only make the header longer.
pub const MAX_PICKS: usize = 3;

/// What is known about an endpoint at the moment of a pick. A missing or stale signal is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidate {
    /// The endpoint's position in its pool.
    pub endpoint: usize,
    /// Whether it answers the poller.
    pub health: Health,
    /// Whether its metrics are fresh, old, or were never seen.
    pub freshness: Freshness,
    /// Requests that wait there.
    pub waiting: Option<u32>,
    /// Requests that run there.
    pub running: Option<u32>,
    /// The used share of its KV cache.
    pub kv_cache_usage: Option<f32>,
    /// How the requested adapter stands there; `None` when the request needs none or nothing is known.
    pub adapter: Option<AdapterState>,
    /// Requests that this gateway has in flight there.
    pub in_flight: u32,
    /// The endpoint's [`crate::hash::endpoint`], equal on every gateway replica.
    pub key: u64,
}

/// How old an endpoint's metrics are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freshness {
    /// Never seen.
    #[default]
    Never,
    /// Older than `poller.staleAfter`.
    Stale,
    /// Recent enough to count.
    Fresh,
}

/// How an endpoint stands to the adapter that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterState {
    /// A request with it is running.
    Running,
    /// A request with it is waiting.
    Waiting,
    /// It is not active, and there is room for another one.
    Room,
    /// It is not active, and every place is taken.
    Full,
}

/// The outcome of a pick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// These endpoints, best first; at least one.
    Picked {
        /// Positions in the pool.
        endpoints: Vec<usize>,
        /// What the choice rests on.
        tier: Tier,
    },
    /// Nothing can be said.
    NoOpinion(NoOpinion),
}

/// What a choice rests on, from much to little.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Fresh metrics of at least one endpoint.
    Fresh,
    /// Only this gateway's requests in flight: all metrics are stale.
    InFlight,
    /// Only the request itself: nothing was ever scraped.
    Hash,
    /// Nothing: the pool's failure mode decides.
    None,
}

/// Why there is no opinion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoOpinion {
    /// The pool has no endpoints.
    NoEndpoints,
    /// None of its endpoints can be connected to.
    AllUnreachable,
}

impl Tier {
    /// Every tier.
    pub const ALL: [Tier; 4] = [Tier::Fresh, Tier::InFlight, Tier::Hash, Tier::None];

    /// The tier's name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Fresh => "fresh",
            Tier::InFlight => "in-flight",
            Tier::Hash => "hash",
            Tier::None => "none",
        }
    }
}

impl Decision {
    /// The tier that the decision was made on.
    pub fn tier(&self) -> Tier {
        match self {
            Decision::Picked { tier, .. } => *tier,
            Decision::NoOpinion(_) => Tier::None,
        }
    }
}

/// How a pool chooses: filters, weighted scorers and a picker.
#[derive(Debug)]
pub struct Profile {
    filters: Vec<Box<dyn Filter>>,
    /// The weighted terms of an endpoint's score.
    pub scorers: Vec<WeightedScorer>,
    picker: Box<dyn Picker>,
    max_picks: usize,
}

/// A scorer and what its score is multiplied by.
#[derive(Debug)]
pub struct WeightedScorer {
    scorer: Box<dyn Scorer>,
    weight: f32,
}

/// A name that no plugin has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPlugin {
    kind: &'static str,
    name: String,
    known: Vec<&'static str>,
}

impl fmt::Display for UnknownPlugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no {} {:?}; known are {}", self.kind, self.name, self.known.join(", "))
    }
}

impl std::error::Error for UnknownPlugin {}

impl Profile {
    /// The default profile, for lists of at most `max_picks` endpoints.
    ///
    /// Queue and KV use have the endpoint picker's weights of 2. What this gateway has in flight counts as
    /// much as the queue, since it alone moves between two scrapes; running requests count half.
    pub fn default_with(max_picks: usize) -> Profile {
        let weighted = |scorer: Box<dyn Scorer>, weight| WeightedScorer { scorer, weight };
        Profile {
            filters: filter::defaults(),
            scorers: vec![
                weighted(Box::new(scorer::Queue), 2.0),
                weighted(Box::new(scorer::KvCacheUtilization), 2.0),
                weighted(Box::new(scorer::RunningRequestsSize), 1.0),
                weighted(Box::new(scorer::ActiveRequest), 2.0),
            ],
            picker: Box::new(picker::MaxScore),
            max_picks: max_picks.clamp(1, MAX_PICKS),
        }
    }

    /// Adds a scorer by its name.
    pub fn add_scorer(&mut self, name: &str, weight: f32) -> Result<(), UnknownPlugin> {
        let scorer = by_name("scorer", name, scorer::all(), |scorer| scorer.name())?;
        self.scorers.push(WeightedScorer { scorer, weight });
        Ok(())
    }

    /// Takes another picker, by its name.
    pub fn set_picker(&mut self, name: &str) -> Result<(), UnknownPlugin> {
        self.picker = by_name("picker", name, picker::all(), |picker| picker.name())?;
        Ok(())
    }

    /// Chooses among `candidates` for a request whose beginning has the hash `prefix`.
    pub fn pick(&self, candidates: &[Candidate], prefix: u64, rng: &mut dyn Rng) -> Decision {
        if candidates.is_empty() {
            return Decision::NoOpinion(NoOpinion::NoEndpoints);
        }
        let mut kept: Vec<&Candidate> = candidates.iter().collect();
        for filter in &self.filters {
            let passed: Vec<&Candidate> = kept.iter().copied().filter(|candidate| filter.keeps(candidate)).collect();
            if !passed.is_empty() || !filter.falls_back() {
                kept = passed;
            }
        }
        if kept.is_empty() {
            return Decision::NoOpinion(NoOpinion::AllUnreachable);
        }
        let tier = tier(&kept);
        let chosen = match tier {
            Tier::Fresh => self.best(&self.scores(&kept), rng),
            Tier::InFlight => {
                let mut scores = vec![0.0; kept.len()];
                scorer::ActiveRequest.score(&kept, &mut scores);
                self.best(&scores, rng)
            }
            Tier::Hash | Tier::None => rendezvous_order(&kept, prefix, self.max_picks),
        };
        let endpoints = chosen.into_iter().filter_map(|index| kept.get(index)).map(|kept| kept.endpoint).collect();
        Decision::Picked { endpoints, tier }
    }

    fn best(&self, scores: &[f32], rng: &mut dyn Rng) -> Vec<usize> {
        self.picker.pick(scores, self.max_picks, rng)
    }

    /// The weighted sums, one for each candidate.
    fn scores(&self, candidates: &[&Candidate]) -> Vec<f32> {
        let mut totals = vec![0.0f32; candidates.len()];
        let mut scores = vec![0.0f32; candidates.len()];
        for WeightedScorer { scorer, weight } in &self.scorers {
            scorer.score(candidates, &mut scores);
            for (total, score) in totals.iter_mut().zip(&scores) {
                *total += weight * score.clamp(0.0, 1.0);
            }
        }
        totals
    }
}

fn by_name<P: ?Sized>(
    kind: &'static str,
    name: &str,
    all: Vec<Box<P>>,
    name_of: impl Fn(&P) -> &'static str,
) -> Result<Box<P>, UnknownPlugin> {
    let known = all.iter().map(|plugin| name_of(plugin)).collect();
    all.into_iter().find(|plugin| name_of(plugin) == name).ok_or_else(|| UnknownPlugin {
        kind,
        name: name.to_owned(),
        known,
    })
}

fn tier(candidates: &[&Candidate]) -> Tier {
    let any = |freshness| candidates.iter().any(|candidate| candidate.freshness == freshness);
    if any(Freshness::Fresh) {
        Tier::Fresh
    } else if any(Freshness::Stale) {
        Tier::InFlight
    } else {
        Tier::Hash
    }
}

/// Thaler and Ravishankar's highest random weight: gateways that know nothing else still agree.
fn rendezvous_order(candidates: &[&Candidate], prefix: u64, at_most: usize) -> Vec<usize> {
    let weighed = candidates.iter().enumerate();
    let mut order: Vec<(u64, usize)> =
        weighed.map(|(index, candidate)| (hash::combine(prefix, candidate.key), index)).collect();
    order.sort_unstable_by(|a, b| b.cmp(a));
    order.into_iter().take(at_most).map(|(_, index)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::SplitMix64;
    use crate::testing::test;

    fn fresh(endpoint: usize, waiting: u32, running: u32, kv: f32, in_flight: u32) -> Candidate {
        Candidate {
            endpoint,
            freshness: Freshness::Fresh,
            waiting: Some(waiting),
            running: Some(running),
            kv_cache_usage: Some(kv),
            in_flight,
            ..Candidate::default()
        }
    }

    fn pick(candidates: &[Candidate]) -> Decision {
        Profile::default_with(3).pick(candidates, 7, &mut SplitMix64::new(1))
    }

    fn endpoints(decision: &Decision) -> &[usize] {
        match decision {
            Decision::Picked { endpoints, .. } => endpoints,
            Decision::NoOpinion(why) => panic!("no opinion: {why:?}"),
        }
    }

    #[test]
    fn the_least_loaded_comes_first_and_the_list_is_ordered() {
        let decision =
            pick(&[fresh(0, 9, 9, 0.9, 9), fresh(1, 0, 1, 0.1, 1), fresh(2, 4, 4, 0.4, 4), fresh(3, 7, 7, 0.7, 7)]);
        assert_eq!(endpoints(&decision), [1, 2, 3]);
        assert_eq!(decision.tier(), Tier::Fresh);
    }

    #[test]
    fn an_endpoint_without_signals_does_not_look_idle() {
        let mut silent = fresh(0, 0, 0, 0.0, 0);
        (silent.waiting, silent.running, silent.kv_cache_usage) = (None, None, None);
        let decision = pick(&[silent, fresh(1, 0, 0, 0.0, 0), fresh(2, 5, 5, 0.5, 0)]);
        assert_eq!(endpoints(&decision).first(), Some(&1));
    }

    #[test]
    fn an_unreachable_endpoint_is_left_out_while_another_is_there() {
        let dead = Candidate { health: Health::Unreachable, ..fresh(0, 0, 0, 0.0, 0) };
        assert_eq!(endpoints(&pick(&[dead.clone(), fresh(1, 9, 9, 0.9, 9)])), [1]);
        assert_eq!(pick(&[dead]), Decision::NoOpinion(NoOpinion::AllUnreachable));
        assert_eq!(pick(&[]), Decision::NoOpinion(NoOpinion::NoEndpoints));
    }

    #[test]
    fn a_silent_endpoint_is_left_out_while_another_answers_and_kept_when_none_does() {
        let silent = |endpoint| Candidate { health: Health::Silent, ..fresh(endpoint, 0, 0, 0.0, 0) };
        assert_eq!(endpoints(&pick(&[silent(0), fresh(1, 9, 9, 0.9, 9)])), [1]);
        assert_eq!(endpoints(&pick(&[silent(0), silent(1)])).len(), 2);
    }

    #[test]
    fn stale_metrics_leave_the_requests_in_flight() {
        let stale = |endpoint, in_flight| Candidate {
            endpoint,
            in_flight,
            freshness: Freshness::Stale,
            ..Candidate::default()
        };
        let decision = pick(&[stale(0, 3), stale(1, 1), stale(2, 2)]);
        assert_eq!(endpoints(&decision), [1, 2, 0]);
        assert_eq!(decision.tier(), Tier::InFlight);
    }

    #[test]
    fn without_any_metrics_the_request_decides() {
        let unknown = |endpoint| Candidate { endpoint, key: 100 + endpoint as u64, ..Candidate::default() };
        let candidates = [unknown(0), unknown(1), unknown(2)];
        let mut by_weight = [0, 1, 2];
        by_weight.sort_by_key(|&endpoint| std::cmp::Reverse(hash::combine(7, 100 + endpoint as u64)));
        let decision = pick(&candidates);
        assert_eq!(endpoints(&decision), by_weight);
        assert_eq!(decision.tier(), Tier::Hash);
    }

    #[test]
    fn ties_are_shared() {
        let profile = Profile::default_with(1);
        let mut rng = SplitMix64::new(3);
        let candidates = [fresh(0, 0, 0, 0.0, 0), fresh(1, 0, 0, 0.0, 0), fresh(2, 9, 0, 0.0, 0)];
        let mut counts = [0i32; 3];
        for _ in 0..10_000 {
            for &endpoint in endpoints(&profile.pick(&candidates, 0, &mut rng)) {
                counts[endpoint] += 1;
            }
        }
        // 4.5 sigma of a binomial with n = 10,000 and p = 1/2 is 225.
        assert!((counts[0] - 5_000).abs() < 225 && counts[2] == 0, "{counts:?}");
    }
}
