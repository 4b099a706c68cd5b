//! What a pick of an endpoint costs, in seconds until the first token.
//!
//! Everything is put in one unit: what is to be computed there before and for the prompt, by the endpoint's own
//! speed; how full its batch and its cache are; an adapter that must be loaded; errors that it has just made; and being refused
//! what others accept.
//! So prefix affinity yields to load by itself: a cached prompt is worth the seconds that it saves, and no more.
//! `docs/decisions/0001-default-profile.md` has the reasons and the figures.

use std::time::Duration;

use super::endpoint::EndpointView;
use crate::acceptance::Expected;
use crate::hash;
use crate::inflight::Work;
use crate::load::{Adapters, Health};
use crate::scheduling::{AdapterState, Candidate, Freshness};
use crate::time::Timestamp;

/// The prompt's own tokens count twice: computing them keeps later requests waiting as well, and a prompt that is
/// computed at a second endpoint takes room in its cache. Less sends conversations away from their caches, more
/// keeps them where the queue is.
const OWN_TOKENS: f32 = 2.0;
/// Each request in the batch makes every step a little longer, and leaves less of it for prompts.
const SECONDS_PER_REQUEST: f32 = 0.006;
/// A cache that is full by the share k costs k / (1 - k) times this: the form of the term in SGLang's least-load
/// policy. Near one a request waits for others to end, or drives them out.
const CACHE_PRESSURE: f32 = 0.03;
/// The share at which the pressure grows no more: 0.03 * 49 are a second and a half.
const FULL: f32 = 0.98;
/// What other gateways have cached this one does not know. They send what is new to them to its home, so the home
/// has it with about the chance that they have seen it: their share of the requests, and a little more, since of
/// two endpoints with the same expectation the one on which all agree is better.
const HOME_CREDIT: f32 = 1.2;
/// A guess is never as good as what this gateway knows: an endpoint to which it has sent the prompt itself wins.
const LEAST_UNKNOWN: f32 = 0.1;
/// At its session's home a prompt counts for half at most, known or not: what else a session is for the client knows.
const SESSION_UNKNOWN: f32 = 0.5;
/// Loading an adapter from memory or disk takes some tenths of a second.
const ADAPTER_LOAD: f32 = 0.3;
/// Where every adapter's place is taken, a request waits for one to be free: about an answer's time.
const ADAPTER_WAIT: f32 = 2.0;
/// An endpoint that has just failed is worth a second's wait for another one, and more with each error.
const SECONDS_PER_ERROR: f32 = 1.0;

/// What a request needs of an endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need<'r> {
    pub(super) prompt_tokens: u32,
    /// Of these, what the endpoint has in its cache.
    pub(super) cached_tokens: u32,
    /// The adapter's name and its hash.
    pub(super) adapter: Option<(&'r str, u64)>,
    /// Whether gateways that don't know each other's prompts would send it there.
    pub(super) is_home: bool,
    /// Whether the client names a session, whose prompts share a beginning as a rule.
    pub(super) has_session: bool,
    /// Errors that the endpoint has just had.
    pub(super) errors: f32,
    /// What is expected of its refusing the request.
    pub(super) refusal: Expected,
}

/// What holds for all endpoints at the moment of a pick.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene {
    /// The mean of the prompts' uncached tokens.
    pub(super) usual_tokens: f32,
    /// Other gateways' requests at an endpoint, as a mean.
    pub(super) others_mean: f32,
    /// Other gateways' share of the pool's requests.
    pub(super) others_share: f32,
    pub(super) stale_after: Duration,
    pub(super) health_counts: bool,
    pub(super) now: Timestamp,
}

/// An endpoint as a candidate for a request.
pub(super) fn candidate(endpoint: &EndpointView, work: Option<&Work>, need: &Need<'_>, scene: &Scene) -> Candidate {
    let load = &endpoint.load;
    let freshness = if load.scraped_at == Timestamp::default() {
        Freshness::Never
    } else if scene.now.since(load.scraped_at) < scene.stale_after {
        Freshness::Fresh
    } else {
        Freshness::Stale
    };
    let fresh = freshness == Freshness::Fresh;
    let report = endpoint.newer_report(work, scene.now);
    let waiting = report.and_then(|report| report.waiting).or(load.waiting.filter(|_| fresh));
    let kv_cache_usage = report.and_then(|report| report.kv_cache_usage).or(load.kv_cache_usage.filter(|_| fresh));
    let adapter = need.adapter.filter(|_| fresh).and_then(|(name, hash)| adapter_state(endpoint, work, name, hash));
    let mut candidate = Candidate {
        traits: endpoint.traits,
        health: if scene.health_counts { load.health } else { Health::Unknown },
        freshness,
        waiting,
        running: load.running.filter(|_| fresh),
        kv_cache_usage,
        adapter,
        in_flight: work.map_or(0, |work| work.requests),
        prefill_tokens: work.map_or(0, |work| work.prefill_tokens),
        cached_tokens: need.cached_tokens,
        refusal: need.refusal.probability,
        key: endpoint.key,
        last_cold_pick: endpoint.last_cold_pick,
        ..Candidate::default()
    };
    expect_times(endpoint, work, need, scene, &mut candidate);
    candidate
}

fn expect_times(
    endpoint: &EndpointView,
    work: Option<&Work>,
    need: &Need<'_>,
    scene: &Scene,
    candidate: &mut Candidate,
) {
    let uncached = need.prompt_tokens.saturating_sub(need.cached_tokens) as f32;
    let unknown = match (need.is_home, need.has_session) {
        (false, _) => 1.0,
        (true, false) => (1.0 - scene.others_share * HOME_CREDIT).max(LEAST_UNKNOWN),
        (true, true) => (1.0 - scene.others_share * HOME_CREDIT).clamp(LEAST_UNKNOWN, SESSION_UNKNOWN),
    };
    let others = endpoint.others_now(work, scene.stale_after, scene.now);
    // Old metrics are no news of others: the endpoint counts as an average one.
    let is_fresh = candidate.freshness == Freshness::Fresh;
    let requests = candidate.in_flight as f32 + if is_fresh { others.requests } else { scene.others_mean };
    let ahead = endpoint.tokens_ahead(work, others.waiting, scene.usual_tokens, scene.now);
    let tokens = ahead + uncached * unknown * OWN_TOKENS;
    candidate.ttft = endpoint.line.seconds(ahead + uncached);
    candidate.tpot = match (candidate.running, endpoint.load.rates) {
        (Some(running), Some(rates)) if rates.generated_tokens > 0.0 => Some(running as f32 / rates.generated_tokens),
        _ => None,
    };
    candidate.expected_ttft = endpoint.line.seconds(tokens)
        + requests * SECONDS_PER_REQUEST
        + candidate.kv_cache_usage.map_or(0.0, cache_pressure)
        + need.adapter.map_or(0.0, |(_, hash)| adapter_seconds(endpoint, candidate.adapter, hash))
        + need.errors * SECONDS_PER_ERROR
        + need.refusal.seconds;
}

fn cache_pressure(usage: f32) -> f32 {
    let usage = usage.clamp(0.0, FULL);
    CACHE_PRESSURE * usage / (1.0 - usage)
}

fn adapter_seconds(endpoint: &EndpointView, state: Option<AdapterState>, adapter: u64) -> f32 {
    let places = endpoint.load.adapters.as_ref().map_or(1, |adapters| adapters.max as usize);
    let is_recent = endpoint.recent_adapters.iter().rev().take(places).any(|recent| *recent == adapter);
    match state {
        Some(AdapterState::Running | AdapterState::Waiting) => 0.0,
        Some(AdapterState::Full) => ADAPTER_WAIT,
        Some(AdapterState::Room) | None if is_recent => 0.0,
        Some(AdapterState::Room) | None => ADAPTER_LOAD,
    }
}

/// How an endpoint stands to an adapter: by what the engine says, and by what this gateway has in flight there.
///
/// vLLM names an adapter only once a request with it runs (seen on 0.32), so what was sent and has not ended
/// counts as active too.
fn adapter_state(endpoint: &EndpointView, work: Option<&Work>, name: &str, hash: u64) -> Option<AdapterState> {
    let sent: &[(u64, u32)] = work.map_or(&[], |work| &work.adapters);
    let is_sent = sent.iter().any(|(adapter, _)| *adapter == hash);
    let Some(Adapters { max, running, waiting }) = endpoint.load.adapters.as_ref() else {
        // Before its first request with an adapter, an engine says nothing about any.
        return is_sent.then_some(AdapterState::Running);
    };
    let has = |names: &[String]| names.iter().any(|active| active == name);
    let named = |adapter: u64| running.iter().chain(waiting).any(|name| hash::bytes(name.as_bytes()) == adapter);
    let unnamed = sent.iter().filter(|(adapter, _)| !named(*adapter)).count();
    let active = running.len() + waiting.len() + unnamed;
    Some(if has(running) || is_sent {
        AdapterState::Running
    } else if active < usize::try_from(*max).unwrap_or(usize::MAX) {
        AdapterState::Room
    } else if has(waiting) {
        AdapterState::Waiting
    } else {
        AdapterState::Full
    })
}
