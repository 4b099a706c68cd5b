//! How a pool chooses: filters, weighted scorers and a picker.

use std::collections::BTreeSet;

use super::filter::{self, Filter, Subset};
use super::labels::{self, Labels, Traits};
use super::picker::{self, Picker};
use super::scorer::{self, Scorer};
use super::{Candidate, Decision, Freshness, MAX_PICKS, NoOpinion, Request, Slo, Tier};
use crate::rng::Rng;

/// How a pool chooses.
#[derive(Debug)]
pub struct Profile {
    /// Besides those that every profile has.
    pub filters: Vec<Box<dyn Filter>>,
    /// The labels that [`filter::LabelSelector`]s want; at most [`labels::MAX_SELECTORS`].
    pub selectors: Vec<Labels>,
    /// The weighted terms of an endpoint's score.
    pub scorers: Vec<WeightedScorer>,
    /// Makes the list.
    pub picker: Box<dyn Picker>,
    /// The list's longest length, from 1 to [`MAX_PICKS`].
    pub max_picks: usize,
    /// Whether a sample of a large pool is enough: a filter or a scorer may be about endpoints that no sample holds.
    pub may_sample: bool,
    /// Whether it looks at what a client hopes for.
    pub heeds_slo: bool,
}

/// A scorer and what its score is multiplied by.
#[derive(Debug)]
pub struct WeightedScorer {
    /// The scorer.
    pub scorer: Box<dyn Scorer>,
    /// From 0 to 1000.
    pub weight: f32,
}

impl WeightedScorer {
    fn new(scorer: impl Scorer + 'static, weight: f32) -> WeightedScorer {
        WeightedScorer { scorer: Box::new(scorer), weight }
    }
}

impl Profile {
    /// This project's own: the least expected time to first token, and among those that are as good as the best
    /// the endpoint that other gateways would take as well. `docs/decisions/0001-default-profile.md` says why.
    pub fn own() -> Profile {
        Profile {
            filters: Vec::new(),
            selectors: Vec::new(),
            scorers: vec![WeightedScorer::new(scorer::ExpectedTtft, 1.0)],
            picker: Box::new(picker::Rendezvous),
            max_picks: MAX_PICKS,
            may_sample: true,
            heeds_slo: true,
        }
    }

    /// The endpoint picker's default: queue 2, KV cache 2, prefix cache 3, the highest sum.
    pub fn epp() -> Profile {
        Profile {
            filters: Vec::new(),
            selectors: Vec::new(),
            scorers: vec![
                WeightedScorer::new(scorer::Queue, 2.0),
                WeightedScorer::new(scorer::KvCacheUtilization, 2.0),
                WeightedScorer::new(scorer::PrefixCache::default(), 3.0),
            ],
            picker: Box::new(picker::MaxScore),
            max_picks: MAX_PICKS,
            may_sample: false,
            heeds_slo: false,
        }
    }

    /// What an endpoint's labels say to the filters and scorers.
    pub fn traits(&self, labels: &Labels) -> Traits {
        Traits::new(labels, &self.selectors)
    }

    /// The labels that filters or scorers look at.
    pub fn wanted_labels(&self) -> BTreeSet<String> {
        let mut wanted: BTreeSet<String> =
            self.selectors.iter().flat_map(|selector| selector.keys().cloned()).collect();
        if self.scorers.iter().any(|weighted| weighted.scorer.name() == scorer::CONTEXT_LENGTH_AWARE) {
            wanted.insert(labels::CONTEXT_LENGTH.to_owned());
        }
        wanted
    }

    /// Chooses among `candidates`, or those of them that are in the request's `subset`.
    pub fn pick(
        &self,
        request: &Request,
        candidates: &[Candidate],
        subset: Option<&Subset>,
        rng: &mut dyn Rng,
    ) -> Decision {
        if candidates.is_empty() {
            return Decision::NoOpinion(NoOpinion::NoEndpoints);
        }
        let mut kept: Vec<&Candidate> = candidates.iter().collect();
        if let Some(subset) = subset {
            filter::apply(&[subset], &mut kept);
            if kept.is_empty() {
                return Decision::NoOpinion(NoOpinion::AllFiltered);
            }
        }
        filter::apply(&[&filter::Reachable], &mut kept);
        if kept.is_empty() {
            return Decision::NoOpinion(NoOpinion::AllUnreachable);
        }
        // What must hold goes before what may be given up: an ejected endpoint that is the only one with a label is
        // better than a sound one without it.
        let (wishes, musts): (Vec<&dyn Filter>, Vec<&dyn Filter>) =
            self.filters.iter().map(|filter| filter.as_ref()).partition(|filter| filter.falls_back());
        filter::apply(&musts, &mut kept);
        if kept.is_empty() {
            return Decision::NoOpinion(NoOpinion::AllFiltered);
        }
        filter::apply(&[&filter::Responsive, &filter::Sound, &filter::Accepting], &mut kept);
        filter::apply(&wishes, &mut kept);
        if let Some(limit) = request.limit {
            // Where none has a place, the best is asked for one.
            let limits = filter::Limits { max_active: Some(limit.saturating_sub(1)), ..filter::Limits::default() };
            filter::apply(&[&filter::Utilization { limits, falls_back: true }], &mut kept);
        }
        if self.heeds_slo && request.slo != Slo::default() {
            filter::apply(&[&filter::MeetsSlo(request.slo)], &mut kept);
        }
        let tier = tier(&kept);
        let scores = self.scores(request, &kept);
        let chosen = self.picker.pick(request, &kept, &scores, self.max_picks.clamp(1, MAX_PICKS), rng);
        let endpoints = chosen.into_iter().filter_map(|index| kept.get(index)).map(|kept| kept.endpoint).collect();
        Decision::Picked { endpoints, tier }
    }

    /// The weighted sums, one for each candidate.
    fn scores(&self, request: &Request, candidates: &[&Candidate]) -> Vec<f32> {
        let mut totals = vec![0.0f32; candidates.len()];
        let mut scores = vec![0.0f32; candidates.len()];
        for WeightedScorer { scorer, weight } in &self.scorers {
            scorer.score(request, candidates, &mut scores);
            for (total, score) in totals.iter_mut().zip(&scores) {
                *total += weight * score.clamp(0.0, 1.0);
            }
        }
        totals
    }
}

/// What the choice will rest on.
fn tier(candidates: &[&Candidate]) -> Tier {
    let any = |freshness| candidates.iter().any(|candidate| candidate.freshness == freshness);
    let has_own = |candidate: &&Candidate| candidate.in_flight > 0 || candidate.cached_tokens > 0;
    if any(Freshness::Fresh) {
        Tier::Fresh
    } else if any(Freshness::Stale) || candidates.iter().any(has_own) {
        Tier::InFlight
    } else {
        Tier::Hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash;
    use crate::load::Health;
    use crate::rng::SplitMix64;
    use crate::testing::test;

    fn fresh(endpoint: usize, waiting: u32, kv: f32, expected_ttft: f32) -> Candidate {
        Candidate {
            endpoint,
            key: hash::mix(endpoint as u64),
            freshness: Freshness::Fresh,
            waiting: Some(waiting),
            running: Some(1),
            kv_cache_usage: Some(kv),
            expected_ttft,
            ..Candidate::default()
        }
    }

    fn pick(profile: &Profile, candidates: &[Candidate]) -> Decision {
        profile.pick(&Request::default(), candidates, None, &mut SplitMix64::new(1))
    }

    fn endpoints(decision: &Decision) -> &[usize] {
        match decision {
            Decision::Picked { endpoints, .. } => endpoints,
            Decision::NoOpinion(why) => panic!("no opinion: {why:?}"),
        }
    }

    #[test]
    fn the_soonest_comes_first_and_the_list_is_ordered() {
        let candidates = [fresh(0, 0, 0.0, 0.9), fresh(1, 0, 0.0, 0.1), fresh(2, 0, 0.0, 0.4), fresh(3, 0, 0.0, 0.7)];
        let decision = pick(&Profile::own(), &candidates);
        assert_eq!((endpoints(&decision), decision.tier()), (&[1, 2, 3][..], Tier::Fresh));
    }

    /// Worked out from the endpoint picker's formulas: 2 * (max - q) / (max - min) + 2 * (1 - kv) + 3 * m / n.
    #[test]
    fn the_endpoint_pickers_default() {
        let request = Request { prompt_tokens: 1000, ..Request::default() };
        let mut candidates =
            [fresh(0, 0, 0.5, 0.0), fresh(1, 4, 0.25, 0.0), fresh(2, 8, 0.0, 0.0), fresh(3, 2, 0.9, 0.0)];
        candidates[2].cached_tokens = 400;
        candidates[3].cached_tokens = 1000;
        let kept: Vec<&Candidate> = candidates.iter().collect();
        let scores = Profile::epp().scores(&request, &kept);
        let expected = [2.0 + 1.0, 1.0 + 1.5, 0.0 + 2.0 + 1.2, 1.5 + 0.2 + 3.0];
        assert!(scores.iter().zip(expected).all(|(score, expected)| (score - expected).abs() < 1e-5), "{scores:?}");
        let decision = Profile::epp().pick(&request, &candidates, None, &mut SplitMix64::new(1));
        assert_eq!(endpoints(&decision), [3, 2, 0]);
    }

    #[test]
    fn an_unreachable_endpoint_is_left_out_while_another_is_there() {
        let dead = Candidate { health: Health::Unreachable, ..fresh(0, 0, 0.0, 0.0) };
        assert_eq!(endpoints(&pick(&Profile::own(), &[dead.clone(), fresh(1, 9, 0.9, 9.0)])), [1]);
        assert_eq!(pick(&Profile::own(), &[dead]), Decision::NoOpinion(NoOpinion::AllUnreachable));
        assert_eq!(pick(&Profile::own(), &[]), Decision::NoOpinion(NoOpinion::NoEndpoints));
    }

    #[test]
    fn a_silent_endpoint_is_left_out_while_another_answers_and_kept_when_none_does() {
        let silent = |endpoint| Candidate { health: Health::Silent, ..fresh(endpoint, 0, 0.0, 0.0) };
        assert_eq!(endpoints(&pick(&Profile::own(), &[silent(0), fresh(1, 9, 0.9, 9.0)])), [1]);
        assert_eq!(endpoints(&pick(&Profile::own(), &[silent(0), silent(1)])).len(), 2);
    }

    #[test]
    fn a_label_binds_although_its_endpoint_is_ejected() {
        let labelled = |candidate: &mut Candidate| (candidate.ejected, candidate.traits.selected) = (true, 1);
        let mut candidates = [fresh(0, 0, 0.0, 0.0), fresh(1, 0, 0.0, 0.0), fresh(2, 0, 0.0, 0.0)];
        labelled(&mut candidates[1]);
        let profile = Profile { filters: vec![Box::new(filter::LabelSelector { selector: 0 })], ..Profile::own() };
        assert_eq!(endpoints(&pick(&profile, &candidates)), [1]);
    }

    #[test]
    fn a_subset_that_leaves_nobody_is_said_to() {
        let pick = |subset: &[usize]| {
            let subset = Subset(subset.to_vec());
            Profile::own().pick(&Request::default(), &[fresh(0, 0, 0.0, 0.0)], Some(&subset), &mut SplitMix64::new(1))
        };
        assert_eq!(endpoints(&pick(&[0])), [0]);
        assert_eq!(pick(&[]), Decision::NoOpinion(NoOpinion::AllFiltered));
        assert_eq!(pick(&[7]), Decision::NoOpinion(NoOpinion::AllFiltered));
    }

    #[test]
    fn each_tier_says_what_it_rests_on() {
        let with = |freshness, in_flight| Candidate { freshness, in_flight, ..fresh(0, 0, 0.0, 0.0) };
        let tier = |candidate| pick(&Profile::own(), &[candidate]).tier();
        assert_eq!(tier(with(Freshness::Fresh, 0)), Tier::Fresh);
        assert_eq!(tier(with(Freshness::Stale, 0)), Tier::InFlight);
        assert_eq!(tier(with(Freshness::Never, 1)), Tier::InFlight);
        assert_eq!(tier(with(Freshness::Never, 0)), Tier::Hash);
    }
}
