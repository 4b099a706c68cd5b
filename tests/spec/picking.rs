//! Picking returns a decision for every input.

use inference_plugin::load::Health;
use inference_plugin::rng::SplitMix64;
use inference_plugin::scheduling::{AdapterState, Candidate, Decision, Freshness, NoOpinion, Profile, Request, Tier};
use inference_plugin::scheduling::{WeightedScorer, picker, scorer};
use proptest::prelude::*;

fn candidate() -> impl Strategy<Value = Candidate> {
    let freshness = prop::sample::select(vec![Freshness::Never, Freshness::Stale, Freshness::Fresh]);
    let adapter = prop::option::of(prop::sample::select(vec![
        AdapterState::Running,
        AdapterState::Waiting,
        AdapterState::Room,
        AdapterState::Full,
    ]));
    let health = prop::sample::select(vec![Health::Unknown, Health::Up, Health::Unreachable, Health::Silent]);
    let counts = (prop::option::of(any::<u32>()), prop::option::of(any::<u32>()), any::<u32>());
    let tokens = (any::<u64>(), any::<u32>(), any::<u64>());
    let usage = prop::option::of(0.0f32..=1.0);
    // An expectation is a sum of finite terms; scorers must cope with any other all the same.
    let ttft = prop_oneof![8 => 0.0f32..1e6, 1 => any::<f32>()];
    let refusal = prop_oneof![8 => Just(0.0f32), 2 => 0.0f32..=1.0];
    let against = (any::<bool>(), refusal);
    (health, freshness, counts, usage, adapter, tokens, ttft, against, any::<u64>()).prop_map(
        |(
            health,
            freshness,
            (waiting, running, in_flight),
            kv_cache_usage,
            adapter,
            tokens,
            expected_ttft,
            (ejected, refusal),
            key,
        )| {
            let (prefill_tokens, cached_tokens, last_cold_pick) = tokens;
            Candidate {
                traits: Default::default(),
                endpoint: 0,
                key,
                health,
                ejected,
                freshness,
                waiting,
                running,
                kv_cache_usage,
                adapter,
                in_flight,
                prefill_tokens,
                cached_tokens,
                expected_ttft,
                ttft: expected_ttft,
                tpot: None,
                refusal,
                last_cold_pick,
            }
        },
    )
}

/// The two profiles, and one of every scorer with each picker.
fn profile() -> impl Strategy<Value = Profile> {
    (0usize..2 + picker::all().len()).prop_map(|index| match index {
        0 => Profile::own(),
        1 => Profile::epp(),
        index => Profile {
            scorers: scorer::all().into_iter().map(|scorer| WeightedScorer { scorer, weight: 1.0 }).collect(),
            picker: picker::all().swap_remove(index - 2),
            ..Profile::own()
        },
    })
}

proptest! {
    #[test]
    fn every_input_gets_a_decision(
        mut candidates in prop::collection::vec(candidate(), 0..40),
        mut profile in profile(),
        seed in any::<u64>(),
        tokens in any::<u32>(),
        session in prop::option::of(any::<u64>()),
        at_most in 0usize..5,
    ) {
        for (index, candidate) in candidates.iter_mut().enumerate() {
            candidate.endpoint = index;
        }
        profile.max_picks = at_most;
        let request = Request { prompt_tokens: tokens, opening: seed, session, ..Request::default() };
        let count = |wanted: &dyn Fn(&Candidate) -> bool| candidates.iter().filter(|candidate| wanted(candidate)).count();
        let reachable = count(&|candidate| candidate.health != Health::Unreachable);
        let answering = count(&|candidate| matches!(candidate.health, Health::Unknown | Health::Up));
        let considered = |candidate: &Candidate| if answering > 0 {
            matches!(candidate.health, Health::Unknown | Health::Up)
        } else {
            candidate.health == Health::Silent
        };
        let sound = count(&|candidate| considered(candidate) && !candidate.ejected);
        let sound_if_any = |candidate: &Candidate| considered(candidate) && (sound == 0 || !candidate.ejected);
        let accepting = count(&|candidate| sound_if_any(candidate) && candidate.refusal <= 0.5);
        let left = if accepting > 0 { accepting } else { count(&sound_if_any) };
        match profile.pick(&request, &candidates, None, &mut SplitMix64::new(seed)) {
            Decision::Picked { endpoints, tier } => {
                prop_assert_eq!(endpoints.len(), left.min(at_most.clamp(1, 3)));
                let mut distinct = endpoints.clone();
                distinct.sort_unstable();
                distinct.dedup();
                prop_assert_eq!(distinct.len(), endpoints.len(), "an endpoint is listed twice");
                prop_assert!(endpoints.iter().all(|&endpoint| considered(&candidates[endpoint])));
                prop_assert_ne!(tier, Tier::None);
            }
            Decision::NoOpinion(NoOpinion::NoEndpoints) => prop_assert!(candidates.is_empty()),
            Decision::NoOpinion(NoOpinion::AllUnreachable) => prop_assert!(reachable == 0 && !candidates.is_empty()),
            Decision::NoOpinion(NoOpinion::AllFiltered) => prop_assert!(false, "there is no filter"),
        }
    }
}
