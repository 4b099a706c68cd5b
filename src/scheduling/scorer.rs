//! Scorers: how good an endpoint is in one respect. One file each, under the endpoint picker's names.
//!
//! Scores are from 0 to 1, and higher is better. A signal that an endpoint doesn't have scores
//! [`NEUTRAL`]: worse than an endpoint that is known to be idle, better than one that is known to be busy.

mod active_request;
mod kv_cache_utilization;
mod lora_affinity;
mod queue;
mod running_requests_size;

use std::fmt::Debug;

use super::Candidate;

pub(super) use active_request::ActiveRequest;
pub(super) use kv_cache_utilization::KvCacheUtilization;
pub(super) use lora_affinity::LoraAffinity;
pub(super) use queue::Queue;
pub(super) use running_requests_size::RunningRequestsSize;

/// The score of an endpoint about which nothing is known.
pub(super) const NEUTRAL: f32 = 0.5;

/// Scores the candidates of one request in one respect.
pub trait Scorer: Debug {
    /// The name in the configuration.
    fn name(&self) -> &'static str;

    /// Writes one score for each candidate; both slices have the same length.
    fn score(&self, candidates: &[&Candidate], scores: &mut [f32]);
}

/// One of each.
pub(super) fn all() -> Vec<Box<dyn Scorer>> {
    vec![
        Box::new(Queue),
        Box::new(RunningRequestsSize),
        Box::new(KvCacheUtilization),
        Box::new(ActiveRequest),
        Box::new(LoraAffinity),
    ]
}

/// The endpoint picker's formula for counts: (max - n) / (max - min), and 1 for all when they are equal.
fn fewer_is_better(candidates: &[&Candidate], scores: &mut [f32], count: impl Fn(&Candidate) -> Option<u32>) {
    let known = || candidates.iter().filter_map(|candidate| count(candidate));
    let most = known().max().unwrap_or(0);
    let least = known().min().unwrap_or(0);
    for (candidate, score) in candidates.iter().zip(scores) {
        *score = match count(candidate) {
            None => NEUTRAL,
            Some(_) if most == least => 1.0,
            Some(count) => (most - count) as f32 / (most - least) as f32,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduling::AdapterState;
    use crate::testing::test;

    fn score(scorer: &dyn Scorer, candidates: &[Candidate]) -> Vec<f32> {
        let candidates: Vec<&Candidate> = candidates.iter().collect();
        let mut scores = vec![f32::NAN; candidates.len()];
        scorer.score(&candidates, &mut scores);
        scores
    }

    fn with(change: impl Fn(&mut Candidate)) -> Candidate {
        let mut candidate = Candidate::default();
        change(&mut candidate);
        candidate
    }

    /// What holds for every scorer, whatever it looks at.
    #[test]
    fn the_contract() {
        let busy = with(|c| {
            (c.waiting, c.running, c.kv_cache_usage, c.in_flight) = (Some(u32::MAX), Some(7), Some(1.0), u32::MAX);
            c.adapter = Some(AdapterState::Full);
        });
        let idle = with(|c| {
            (c.waiting, c.running, c.kv_cache_usage, c.in_flight) = (Some(0), Some(0), Some(0.0), 0);
            c.adapter = Some(AdapterState::Running);
        });
        let unknown = Candidate::default();
        for scorer in all() {
            let name = scorer.name();
            for candidates in
                [vec![], vec![unknown.clone()], vec![busy.clone()], vec![busy.clone(), idle.clone(), unknown.clone()]]
            {
                let scores = score(scorer.as_ref(), &candidates);
                assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)), "{name}: {scores:?}");
            }
            let scores = score(scorer.as_ref(), &[busy.clone(), idle.clone()]);
            assert!(scores[1] > scores[0], "{name} prefers the busy one: {scores:?}");
            let scores = score(scorer.as_ref(), &[busy.clone(), idle.clone(), unknown.clone()]);
            assert!(scores[2] <= scores[1], "{name} takes silence for idleness: {scores:?}");
        }
        let mut names: Vec<&str> = all().iter().map(|scorer| scorer.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().len(), "names are unique");
    }

    // Vectors worked out by hand from the endpoint picker's formulas.
    #[test]
    fn the_formulas() {
        let queue = |waiting| with(|c| c.waiting = waiting);
        assert_eq!(
            score(&Queue, &[queue(Some(2)), queue(Some(10)), queue(Some(4)), queue(None)]),
            [1.0, 0.0, 0.75, 0.5]
        );
        assert_eq!(score(&Queue, &[queue(Some(5)), queue(Some(5))]), [1.0, 1.0]);
        let running = |running| with(|c| c.running = running);
        assert_eq!(
            score(&RunningRequestsSize, &[running(Some(0)), running(Some(4)), running(Some(1))]),
            [1.0, 0.0, 0.75]
        );
        let kv = |usage| with(|c| c.kv_cache_usage = usage);
        assert_eq!(score(&KvCacheUtilization, &[kv(Some(0.25)), kv(Some(1.0)), kv(None)]), [0.75, 0.0, 0.5]);
        let active = |in_flight| with(|c| c.in_flight = in_flight);
        assert_eq!(score(&ActiveRequest, &[active(0), active(4), active(1)]), [1.0, 0.0, 0.75]);
        assert_eq!(score(&ActiveRequest, &[active(4), active(4)]), [0.0, 0.0]);
        let adapter = |state| with(|c| c.adapter = state);
        use AdapterState::{Full, Room, Running, Waiting};
        assert_eq!(
            score(
                &LoraAffinity,
                &[
                    adapter(Some(Running)),
                    adapter(Some(Room)),
                    adapter(Some(Waiting)),
                    adapter(Some(Full)),
                    adapter(None)
                ]
            ),
            [1.0, 0.8, 0.6, 0.0, 0.5]
        );
    }
}
