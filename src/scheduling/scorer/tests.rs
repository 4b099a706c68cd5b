//! One contract for all scorers, and vectors worked out by hand from the endpoint picker's formulas.

use super::*;
use crate::scheduling::AdapterState;
use crate::scheduling::Slo;
use crate::testing::test;

const REQUEST: Request =
    Request { prompt_tokens: 1000, opening: 1, session: Some(9), slo: Slo { ttft: None, tpot: None }, limit: None };

fn score(scorer: &dyn Scorer, candidates: &[Candidate]) -> Vec<f32> {
    score_for(scorer, &REQUEST, candidates)
}

fn score_for(scorer: &dyn Scorer, request: &Request, candidates: &[Candidate]) -> Vec<f32> {
    let candidates: Vec<&Candidate> = candidates.iter().collect();
    let mut scores = vec![f32::NAN; candidates.len()];
    scorer.score(request, &candidates, &mut scores);
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
        (c.prefill_tokens, c.expected_ttft, c.last_cold_pick) = (u64::MAX, 1e9, 5);
        c.adapter = Some(AdapterState::Full);
    });
    let idle = with(|c| {
        (c.waiting, c.running, c.kv_cache_usage, c.in_flight) = (Some(0), Some(0), Some(0.0), 0);
        (c.cached_tokens, c.expected_ttft) = (900, 0.0);
        (c.adapter, c.endpoint, c.key) = (Some(AdapterState::Running), 1, 77);
    });
    let cold = Candidate { cached_tokens: 0, ..idle.clone() };
    let unknown = with(|c| c.expected_ttft = 0.5);
    let session = (0..).find(|session| crate::hash::combine(*session, 77) > crate::hash::combine(*session, 0)).unwrap();
    let request = Request { session: Some(session), ..REQUEST };
    for scorer in all() {
        let name = scorer.name();
        for candidates in
            [vec![], vec![unknown.clone()], vec![busy.clone()], vec![busy.clone(), idle.clone(), unknown.clone()]]
        {
            let scores = score_for(scorer.as_ref(), &request, &candidates);
            assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)), "{name}: {scores:?}");
        }
        if name == "context-length-aware" {
            // It looks at the request alone.
            continue;
        }
        let better = if name == "no-hit-lru-scorer" { &cold } else { &idle };
        let scores = score_for(scorer.as_ref(), &request, &[busy.clone(), better.clone()]);
        assert!(scores[1] > scores[0], "{name} prefers the busy one: {scores:?}");
        let scores = score_for(scorer.as_ref(), &request, &[busy.clone(), better.clone(), unknown.clone()]);
        assert!(scores[2] <= scores[1], "{name} takes silence for idleness: {scores:?}");
    }
    let mut names: Vec<&str> = all().iter().map(|scorer| scorer.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all().len(), "names are unique");
}

#[test]
fn counts() {
    let queue = |waiting| with(|c| c.waiting = waiting);
    assert_eq!(score(&Queue, &[queue(Some(2)), queue(Some(10)), queue(Some(4)), queue(None)]), [1.0, 0.0, 0.75, 0.5]);
    assert_eq!(score(&Queue, &[queue(Some(5)), queue(Some(5))]), [1.0, 1.0]);
    let running = |running| with(|c| c.running = running);
    assert_eq!(score(&RunningRequestsSize, &[running(Some(0)), running(Some(4)), running(Some(1))]), [1.0, 0.0, 0.75]);
    let kv = |usage| with(|c| c.kv_cache_usage = usage);
    assert_eq!(score(&KvCacheUtilization, &[kv(Some(0.25)), kv(Some(1.0)), kv(None)]), [0.75, 0.0, 0.5]);
    let load = LoadAware::default();
    assert_eq!(
        score(&load, &[queue(Some(0)), queue(Some(32)), queue(Some(500)), queue(None)]),
        [0.5, 0.375, 0.0, 0.25]
    );
    let active = |in_flight| with(|c| c.in_flight = in_flight);
    assert_eq!(score(&ActiveRequest::default(), &[active(0), active(4), active(1)]), [1.0, 0.0, 0.75]);
    assert_eq!(score(&ActiveRequest::default(), &[active(4), active(4)]), [0.0, 0.0]);
    let eager = ActiveRequest { idle_threshold: 1, max_busy_score: 0.5 };
    assert_eq!(score(&eager, &[active(1), active(2), active(4)]), [1.0, 0.25, 0.0]);
}

#[test]
fn tokens() {
    let cached = |tokens| with(|c| c.cached_tokens = tokens);
    assert_eq!(
        score(&PrefixCache::default(), &[cached(500), cached(0), cached(1000), cached(2000)]),
        [0.5, 0.0, 1.0, 1.0]
    );
    let by_length = PrefixCache { match_length_weight: 0.25, match_length_scale_tokens: 1000 };
    // 0.25 * (500 / 1000)^2 + 0.75 * 500 / 1000
    assert_eq!(score(&by_length, &[cached(500)]), [0.4375]);
    let load = TokenLoad { queue_threshold_tokens: 10_000 };
    let in_flight = |prefill, cached| with(|c| (c.prefill_tokens, c.cached_tokens) = (prefill, cached));
    assert_eq!(score(&load, &[in_flight(0, 1000), in_flight(4000, 0), in_flight(20_000, 0)]), [1.0, 0.5, 0.0]);
}

#[test]
fn adapters() {
    use AdapterState::{Full, Room, Running, Waiting};
    let states = [Some(Running), Some(Room), Some(Waiting), Some(Full), None];
    let candidates = states.map(|state| with(|c| c.adapter = state));
    assert_eq!(score(&LoraAffinity, &candidates), [1.0, 0.8, 0.6, 0.0, 0.5]);
}

#[test]
fn cold_prompts_go_where_the_last_one_went_longest_ago() {
    let last = |pick| with(|c| c.last_cold_pick = pick);
    assert_eq!(score(&NoHitLru, &[last(3), last(0), last(1)]), [0.0, 1.0, 0.5]);
    let mut warm = [last(3), last(0)];
    warm[0].cached_tokens = 64;
    assert_eq!(score(&NoHitLru, &warm), [0.5, 0.5]);
}

#[test]
fn a_session_has_one_home_and_keeps_it() {
    let endpoints: Vec<Candidate> = (1..=4u64).map(|key| with(|c| c.key = crate::hash::mix(key))).collect();
    for session in 0..50 {
        let request = Request { session: Some(session), ..REQUEST };
        let scores = score_for(&SessionAffinity, &request, &endpoints);
        assert_eq!(scores.iter().sum::<f32>(), 1.0);
        let home = scores.iter().position(|score| *score == 1.0).unwrap();
        let without_another = [&endpoints[..(home + 1) % 4], &endpoints[(home + 1) % 4 + 1..]].concat();
        let moved = score_for(&SessionAffinity, &request, &without_another);
        let still = moved.iter().position(|score| *score == 1.0).unwrap();
        assert_eq!(without_another[still].key, endpoints[home].key);
    }
    assert_eq!(score_for(&SessionAffinity, &Request { session: None, ..REQUEST }, &endpoints), [0.0; 4]);
}

#[test]
fn context_lengths() {
    let ranges = [Some((0, 2000)), Some((2000, 4000)), Some((1000, 1000)), None];
    let candidates = ranges.map(|range| with(|c| c.traits.context_length = range));
    let scores = score(&ContextLengthAware, &candidates);
    // 0.3 + 0.7 * (0.7 / 1.2 + 0.3 * 1000 / 2000), and 0.3 / (1 + 1000 / 1000)
    let expected = [0.3 + 0.7 * (0.7 / 1.2 + 0.15), 0.15, 1.0, 0.5];
    assert!(scores.iter().zip(expected).all(|(score, expected)| (score - expected).abs() < 1e-6), "{scores:?}");
}

#[test]
fn expected_times() {
    let ttft = |seconds| with(|c| c.expected_ttft = seconds);
    assert_eq!(score(&ExpectedTtft, &[ttft(0.099), ttft(0.199)]), [1.0, 0.5]);
}
