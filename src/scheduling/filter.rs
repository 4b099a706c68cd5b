//! Filters: which endpoints may be picked at all. One file each.

mod accepting;
mod label_selector;
mod reachable;
mod responsive;
mod slo;
mod sound;
mod subset;
mod utilization;

use std::fmt::Debug;

use super::Candidate;
pub(super) use accepting::Accepting;
pub use label_selector::LabelSelector;
pub(super) use reachable::Reachable;
pub(super) use responsive::Responsive;
pub(super) use slo::MeetsSlo;
pub(super) use sound::Sound;
pub use subset::Subset;
pub use utilization::{Limits, Utilization};

/// Decides on one endpoint at a time.
pub trait Filter: Debug {
    /// Whether the endpoint may be picked.
    fn keeps(&self, candidate: &Candidate) -> bool;

    /// Whether all are kept where none would be.
    fn falls_back(&self) -> bool;
}

/// The names of those that a configuration can ask for.
pub const NAMES: [&str; 2] = [label_selector::NAME, utilization::NAME];

/// Keeps what every one of `filters` keeps.
pub(super) fn apply(filters: &[&dyn Filter], kept: &mut Vec<&Candidate>) {
    for filter in filters {
        // Most of the time a filter keeps all: nothing is copied then.
        if kept.iter().all(|candidate| filter.keeps(candidate)) {
            continue;
        }
        let any = kept.iter().any(|candidate| filter.keeps(candidate));
        if any || !filter.falls_back() {
            kept.retain(|candidate| filter.keeps(candidate));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn kept(filter: &dyn Filter, candidates: &[Candidate]) -> Vec<usize> {
        let mut kept: Vec<&Candidate> = candidates.iter().collect();
        apply(&[filter], &mut kept);
        kept.iter().map(|candidate| candidate.endpoint).collect()
    }

    fn candidates(change: impl Fn(usize, &mut Candidate)) -> Vec<Candidate> {
        (0..3)
            .map(|endpoint| {
                let mut candidate = Candidate { endpoint, ..Candidate::default() };
                change(endpoint, &mut candidate);
                candidate
            })
            .collect()
    }

    #[test]
    fn labels_leave_those_that_have_them() {
        let labelled = candidates(|endpoint, candidate| candidate.traits.selected = [0b10, 0b01, 0b11][endpoint]);
        assert_eq!(kept(&LabelSelector { selector: 1 }, &labelled), [0, 2]);
        assert_eq!(kept(&LabelSelector { selector: 31 }, &labelled), [0usize; 0]);
    }

    #[test]
    fn a_subset_leaves_its_members() {
        assert_eq!(kept(&Subset(vec![1]), &candidates(|_, _| ())), [1]);
        assert_eq!(kept(&Subset(Vec::new()), &candidates(|_, _| ())), [0usize; 0], "an empty subset has no members");
    }

    #[test]
    fn utilization_is_limited_in_each_respect_and_a_missing_signal_is_no_reason() {
        let loaded = candidates(|endpoint, candidate| {
            let count = endpoint as u32 * 10;
            (candidate.in_flight, candidate.running) = (count, Some(count));
            candidate.waiting = (endpoint < 2).then_some(count);
            candidate.kv_cache_usage = Some(endpoint as f32 / 2.0);
        });
        let none = Limits::default();
        let check = |limits: Limits, falls_back| kept(&Utilization { limits, falls_back }, &loaded);
        assert_eq!(check(Limits { max_active: Some(10), ..none }, false), [0, 1]);
        assert_eq!(check(Limits { max_running: Some(5), ..none }, false), [0]);
        assert_eq!(check(Limits { max_waiting: Some(9), ..none }, false), [0, 2]);
        assert_eq!(check(Limits { max_kv_cache_usage: Some(0.5), ..none }, false), [0, 1]);
        let busy = candidates(|_, candidate| candidate.in_flight = 9);
        let none_left = Utilization { limits: Limits { max_active: Some(1), ..none }, falls_back: false };
        assert_eq!(kept(&none_left, &busy), [0usize; 0]);
        assert_eq!(kept(&Utilization { falls_back: true, ..none_left }, &busy), [0, 1, 2]);
    }

    #[test]
    fn an_endpoint_that_refuses_is_left_out_while_another_is_there() {
        let refusing = |shares: [f32; 3]| candidates(move |endpoint, candidate| candidate.refusal = shares[endpoint]);
        assert_eq!(kept(&Accepting, &refusing([0.9, 0.0, 0.4])), [1, 2]);
        assert_eq!(kept(&Accepting, &refusing([0.9, 0.6, 1.0])), [0, 1, 2]);
    }

    #[test]
    fn an_ejected_endpoint_is_left_out_while_another_is_there() {
        assert_eq!(kept(&Sound, &candidates(|endpoint, candidate| candidate.ejected = endpoint != 1)), [1]);
        assert_eq!(kept(&Sound, &candidates(|_, candidate| candidate.ejected = true)), [0, 1, 2]);
    }
}
