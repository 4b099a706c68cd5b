//! Picking returns a decision for every input.

use inference_plugin::load::Health;
use inference_plugin::rng::SplitMix64;
use inference_plugin::scheduling::{AdapterState, Candidate, Decision, Freshness, NoOpinion, Profile, Tier};
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
    (health, freshness, counts, prop::option::of(0.0f32..=1.0), adapter, any::<u64>()).prop_map(
        |(health, freshness, (waiting, running, in_flight), kv_cache_usage, adapter, key)| Candidate {
            endpoint: 0,
            health,
            freshness,
            waiting,
            running,
            kv_cache_usage,
            adapter,
            in_flight,
            key,
        },
    )
}

proptest! {
    #[test]
    fn every_input_gets_a_decision(mut candidates in prop::collection::vec(candidate(), 0..40), seed in any::<u64>(), at_most in 0usize..5) {
        for (index, candidate) in candidates.iter_mut().enumerate() {
            candidate.endpoint = index;
        }
        let mut profile = Profile::default_with(at_most);
        profile.add_scorer("lora-affinity-scorer", 1.0).expect("it exists");
        let count = |wanted: &dyn Fn(Health) -> bool| candidates.iter().filter(|candidate| wanted(candidate.health)).count();
        let answering = count(&|health| matches!(health, Health::Unknown | Health::Up));
        let silent = count(&|health| health == Health::Silent);
        let reachable = if answering > 0 { answering } else { silent };
        match profile.pick(&candidates, seed, &mut SplitMix64::new(seed)) {
            Decision::Picked { endpoints, tier } => {
                prop_assert_eq!(endpoints.len(), reachable.min(at_most.clamp(1, 3)));
                let mut distinct = endpoints.clone();
                distinct.sort_unstable();
                distinct.dedup();
                prop_assert_eq!(distinct.len(), endpoints.len(), "an endpoint is listed twice");
                prop_assert!(endpoints.iter().all(|&endpoint| candidates[endpoint].health != Health::Unreachable));
                prop_assert_ne!(tier, Tier::None);
            }
            Decision::NoOpinion(NoOpinion::NoEndpoints) => prop_assert!(candidates.is_empty()),
            Decision::NoOpinion(NoOpinion::AllUnreachable) => prop_assert!(reachable == 0 && !candidates.is_empty()),
        }
    }
}
