//! One VM's view of everything: configuration, the pools' load, requests in flight, cached prompts. Exchanges ask it
//! for picks.
//!
//! What other VMs have to say lies in shared data. The host asks [`Gateway::poll_read`] what to read before a pick
//! and [`Gateway::poll_write`] what to store after it; a blob is decoded only when its version has moved.

mod cost;
mod endpoint;
mod pool;
mod sample;
mod shared;

use std::time::Duration;

use crate::config::{Config, PoolId};
use crate::ejection::Ended;
use crate::hash;
use crate::inflight::{Inflight, Report, Sent, Ticket};
use crate::load::Health;
use crate::models::ModelTable;
use crate::prefix::log::{Addition, PrefixLog};
use crate::prefix::{Cache, PrefixTable};
use crate::prompt::Prompt;
use crate::rng::{Rng, SplitMix64};
use crate::scheduling::filter::Subset;
use crate::scheduling::{Candidate, Decision, NoOpinion, Request};
use crate::stats::{EjectionReason, Stats};
use crate::time::Timestamp;

use endpoint::EndpointView;
use pool::PoolView;
use sample::Sampler;
use shared::Reading;
pub use shared::{Read, Write};

/// The state behind every exchange of a VM.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    models: ModelTable,
    pools: Vec<PoolView>,
    /// Where an endpoint's key leads, sorted.
    places: Vec<(u64, PoolId, usize)>,
    rng: SplitMix64,
    prefixes: PrefixTable,
    prefix_log: PrefixLog,
    sampler: Sampler,
    reading: Reading,
    /// Requests in flight, this worker's and the others'.
    pub inflight: Inflight,
    /// What happened, for the metrics.
    pub stats: Stats,
}

/// What a pick needs to know about a request.
#[derive(Clone, Copy, Debug)]
pub struct PickRequest<'r> {
    /// The adapter that is asked for, if it is one.
    pub adapter: Option<&'r str>,
    /// The prompt.
    pub prompt: &'r Prompt,
    /// A hash of the session that the client names.
    pub session: Option<u64>,
    /// The addresses that the request may go to, if an earlier filter has said so.
    pub subset: Option<&'r [u8]>,
}

/// A request that was sent, until its end.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) endpoint: usize,
    ticket: Ticket,
    sent_at: Timestamp,
    /// The tokens that were to be computed before the first one of the answer.
    work: f32,
    /// Those of the prompt that were not cached.
    uncached: u32,
    /// Whether its endpoint must show that it works on it.
    is_inference: bool,
    /// Blocks that the other workers are to hear of at its first byte.
    news: Vec<u64>,
    /// How many of these the endpoint had before, unused for long; it gets the rest by this request.
    refreshed: usize,
}

impl Gateway {
    /// The gateway of one VM; `seed` differs from VM to VM, or they would break ties alike.
    pub fn new(config: Config, seed: u64) -> Gateway {
        let pools: Vec<PoolView> = config.pools.iter().map(PoolView::new).collect();
        let mut places: Vec<(u64, PoolId, usize)> = Vec::new();
        for (pool, view) in pools.iter().enumerate() {
            places.extend(view.endpoints.iter().enumerate().map(|(at, endpoint)| (endpoint.key, PoolId(pool), at)));
        }
        places.sort_unstable();
        let largest = pools.iter().map(|pool| pool.endpoints.len()).max().unwrap_or(0);
        Gateway {
            models: ModelTable::new(&config),
            pools,
            places,
            rng: SplitMix64::new(seed),
            prefixes: PrefixTable::new(config.max_prefix_entries),
            prefix_log: PrefixLog::default(),
            sampler: Sampler::new(largest, config.max_prefix_entries),
            reading: Reading::default(),
            inflight: Inflight::default(),
            stats: Stats::new(&config),
            config,
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The pool whose endpoints are in an Envoy cluster.
    pub fn pool_of_cluster(&self, cluster: &[u8]) -> Option<PoolId> {
        self.config.pools().find(|(_, pool)| pool.cluster.as_bytes() == cluster).map(|(id, _)| id)
    }

    /// The pool that serves a model, and the model that it is asked for.
    pub(crate) fn resolve(&mut self, model: &str) -> Option<(PoolId, String)> {
        let resolved = self.models.resolve(model, &mut self.rng)?;
        Some((resolved.pool, resolved.target.to_owned()))
    }

    /// Chooses endpoints of a pool.
    pub fn pick(&mut self, pool: PoolId, request: PickRequest<'_>, now: Timestamp) -> Decision {
        let subset = request.subset.map(|subset| Subset(self.positions(pool, subset)));
        // Without a prompt there is nothing by which gateways could agree.
        let opening = if request.prompt.tokens == 0 { self.rng.next_u64() } else { request.prompt.opening };
        let candidates = self.candidates(pool, request, opening, subset.as_ref(), now);
        let Some(config) = self.config.pool(pool) else { return Decision::NoOpinion(NoOpinion::NoEndpoints) };
        let request = Request { prompt_tokens: request.prompt.tokens, opening, session: request.session };
        config.profile.pick(&request, &candidates, subset.as_ref(), &mut self.rng)
    }

    /// Counts a request as sent to an endpoint. `streams` says whether its first byte will tell when its prompt is done.
    pub(crate) fn handle_sent(
        &mut self,
        pool: PoolId,
        at: usize,
        request: PickRequest<'_>,
        streams: bool,
        now: Timestamp,
    ) -> Option<InFlight> {
        let view = self.pools.get_mut(pool.0)?;
        let usual_tokens = view.usual_tokens;
        let endpoint = view.endpoints.get_mut(at)?;
        let (key, cache) = (endpoint.key, endpoint.cache());
        let matched = self.prefixes.matched_blocks(&request.prompt.blocks, cache);
        let uncached = request.prompt.tokens - cached_tokens(request.prompt, matched);
        let in_flight = self.inflight.work(key);
        let others = endpoint.others_now(in_flight, self.config.poller.stale_after, now);
        let ahead = endpoint.tokens_ahead(in_flight, others.waiting, usual_tokens, now);
        let work = ahead + uncached as f32;
        let expected = endpoint.line.seconds(work);
        let adapter = request.adapter.map(|name| hash::bytes(name.as_bytes()));
        let sent = Sent {
            tokens: u64::from(uncached),
            adapter,
            is_inference: request.prompt.tokens > 0,
            assumed_prefill: (!streams).then(|| Duration::from_secs_f32(expected.clamp(0.0, 60.0))),
        };
        endpoint.handle_sent(uncached, adapter);
        if matched == 0 && request.prompt.tokens > 0 {
            view.handle_cold_pick(at);
        }
        view.ejections.handle_picked(key, now);
        // A block is used when it is computed, and by then the whole prompt has gone into the cache.
        let cache = Cache { clock: cache.clock.saturating_add(u64::from(uncached)), ..cache };
        let (mut news, mut refreshed) = (Vec::new(), 0);
        for (index, block) in request.prompt.blocks.iter().enumerate() {
            if self.prefixes.touch(block.hash, cache) {
                news.push(block.hash);
                refreshed += usize::from(index < matched);
            }
        }
        self.sampler.note(&request.prompt.blocks, at);
        let ticket = self.inflight.acquire(key, sent, now);
        Some(InFlight {
            endpoint: at,
            ticket,
            sent_at: now,
            work,
            uncached,
            is_inference: sent.is_inference,
            news,
            refreshed,
        })
    }

    /// Notes the first byte of an endpoint's good answer, which with `is_timed` is its first token, sent as soon as it
    /// was there.
    pub(crate) fn handle_first_byte(&mut self, pool: PoolId, request: &mut InFlight, is_timed: bool, now: Timestamp) {
        self.inflight.answered(&request.ticket, now);
        let Some(view) = self.pools.get_mut(pool.0) else { return };
        let Some(endpoint) = view.endpoints.get(request.endpoint) else { return };
        let key = endpoint.key;
        view.ejections.handle_success(Ended { endpoint: key, sent_at: request.sent_at, now });
        // Only what was really computed is worth telling the other workers.
        for block in request.news.drain(..) {
            self.prefix_log.push(Addition { block, endpoint: key });
        }
        if request.uncached > 0 {
            view.handle_computed(request.uncached);
        }
        if is_timed {
            let time = now.since(request.sent_at);
            view.handle_first_token(request.endpoint, request.work, time.as_secs_f32());
            self.stats.first_token(pool, time);
        }
    }

    /// Notes that an endpoint has refused a request, and counts it no more. Its refusal is a sign of life, and says
    /// nothing about its speed; `is_fault_of_client` says that it was right to.
    pub(crate) fn handle_refused(&mut self, pool: PoolId, request: InFlight, is_fault_of_client: bool, now: Timestamp) {
        self.inflight.answered(&request.ticket, now);
        if is_fault_of_client
            && let Some(view) = self.pools.get_mut(pool.0)
            && let Some(endpoint) = view.endpoints.get(request.endpoint)
        {
            view.ejections.handle_success(Ended { endpoint: endpoint.key, sent_at: request.sent_at, now });
        }
        self.handle_end(pool, request);
    }

    /// Notes that an endpoint has failed a request that was sent at `sent_at`.
    pub(crate) fn handle_error(&mut self, pool: PoolId, at: usize, sent_at: Timestamp, now: Timestamp) {
        let Some(view) = self.pools.get_mut(pool.0) else { return };
        let Some(endpoint) = view.endpoints.get(at) else { return };
        let ended = Ended { endpoint: endpoint.key, sent_at, now };
        if view.ejections.handle_error(ended, &mut self.rng) {
            self.stats.ejected(pool, EjectionReason::Errors);
        }
    }

    /// Notes that an endpoint takes requests and never answers.
    pub(crate) fn handle_stalled(&mut self, pool: PoolId, at: usize, now: Timestamp) {
        let Some(view) = self.pools.get_mut(pool.0) else { return };
        let Some(endpoint) = view.endpoints.get(at) else { return };
        if view.ejections.eject(endpoint.key, now, &mut self.rng) {
            self.stats.ejected(pool, EjectionReason::Stalled);
        }
    }

    /// Whether an endpoint that a client turns away from has given no sign of life, to anybody, for much longer than
    /// the request should have taken: a client's patience is all that would tell of a hung endpoint otherwise.
    pub(crate) fn was_kept_waiting(&self, pool: PoolId, request: &InFlight, now: Timestamp) -> bool {
        let Some(endpoint) = self.endpoint(pool, request.endpoint) else { return false };
        let last_sign = self.inflight.work(endpoint.key).map_or(Timestamp::default(), |work| work.answered_at);
        let usual = endpoint.line.seconds(request.work).clamp(0.0, 600.0);
        let patience = endpoint::UNNOTICED + Duration::from_secs_f32(usual * 4.0);
        let is_long = now.since(request.sent_at) >= patience;
        request.is_inference && is_long && last_sign < request.sent_at && endpoint.shows_no_work_since(request.sent_at)
    }

    /// Counts a request no more. Without a first byte its endpoint has not got the prompt, as far as anybody can tell.
    pub(crate) fn handle_end(&mut self, pool: PoolId, request: InFlight) {
        if let Some(endpoint) = self.endpoint(pool, request.endpoint) {
            let cache = endpoint.cache();
            for block in request.news.into_iter().skip(request.refreshed) {
                self.prefixes.forget(block, cache);
            }
        }
        self.inflight.release(request.ticket);
    }

    fn endpoint(&self, pool: PoolId, at: usize) -> Option<&EndpointView> {
        self.pools.get(pool.0)?.endpoints.get(at)
    }

    /// Notes what an endpoint has reported about itself in an answer.
    pub(crate) fn handle_report(&mut self, pool: PoolId, at: usize, report: Report) {
        if let Some(key) = self.endpoint(pool, at).map(|endpoint| endpoint.key) {
            self.inflight.handle_report(key, report);
        }
    }

    /// Whether an endpoint has work: then it may well refuse a request with 503, and is not broken.
    pub(crate) fn has_work(&self, pool: PoolId, at: usize) -> bool {
        let Some(endpoint) = self.endpoint(pool, at) else { return false };
        let counted = endpoint.load.waiting.unwrap_or(0).saturating_add(endpoint.load.running.unwrap_or(0));
        counted > 0 || self.inflight.work(endpoint.key).is_some_and(|work| work.requests > 0)
    }

    /// The position of the endpoint with this address.
    pub(crate) fn endpoint_at(&self, pool: PoolId, address: &[u8]) -> Option<usize> {
        self.pools.get(pool.0)?.positions.get(address).copied()
    }

    /// The positions of a list of addresses, each once.
    fn positions(&self, pool: PoolId, addresses: &[u8]) -> Vec<usize> {
        let Some(view) = self.pools.get(pool.0) else { return Vec::new() };
        let addresses = addresses.split(|byte| *byte == b',').take(MAX_SUBSET);
        let mut positions: Vec<usize> =
            addresses.filter_map(|address| view.positions.get(address.trim_ascii()).copied()).collect();
        positions.sort_unstable();
        positions.dedup();
        positions
    }

    fn candidates(
        &mut self,
        pool: PoolId,
        request: PickRequest<'_>,
        opening: u64,
        subset: Option<&Subset>,
        now: Timestamp,
    ) -> Vec<Candidate> {
        let stale_after = self.config.poller.stale_after;
        let may_sample = self.config.pool(pool).is_some_and(|pool| pool.profile.may_sample);
        let Some(view) = self.pools.get_mut(pool.0) else { return Vec::new() };
        view.handle_look(&self.inflight, stale_after, now);
        let Some(view) = self.pools.get(pool.0) else { return Vec::new() };
        let scene = cost::Scene {
            usual_tokens: view.usual_tokens,
            others_mean: view.others_mean,
            others_share: view.others_share,
            stale_after,
            // When nobody polls any more, what was dead may be alive.
            health_counts: now.since(view.published_at) < stale_after,
            now,
        };
        let chosen: Vec<usize> = match subset {
            // An earlier filter has chosen: a sample could miss all of its endpoints.
            Some(subset) => subset.0.clone(),
            None if may_sample => self.sampler.sample(&view.endpoints, request.prompt, &mut self.rng),
            None => (0..view.endpoints.len()).collect(),
        };
        let affinity = |index: &usize| view.endpoints.get(*index).map(|at| hash::combine(opening, at.key));
        let is_there = |index: &usize| {
            let health = view.endpoints.get(*index).map(|endpoint| endpoint.load.health);
            matches!(health, Some(Health::Up | Health::Unknown))
        };
        let home = chosen.iter().copied().filter(is_there).max_by_key(affinity);
        let adapter = request.adapter.map(|name| (name, hash::bytes(name.as_bytes())));
        let candidate = |index: usize| {
            let endpoint = view.endpoints.get(index)?;
            let work = self.inflight.work(endpoint.key);
            let matched = self.prefixes.matched_blocks(&request.prompt.blocks, endpoint.cache());
            let need = cost::Need {
                prompt_tokens: request.prompt.tokens,
                cached_tokens: cached_tokens(request.prompt, matched),
                adapter,
                is_home: Some(index) == home,
                errors: view.ejections.recent_errors(endpoint.key, now),
            };
            let mut candidate = cost::candidate(endpoint, work, &need, &scene);
            candidate.endpoint = index;
            candidate.ejected = !view.ejections.is_clean() && view.ejections.is_ejected(endpoint.key, now);
            Some(candidate)
        };
        chosen.into_iter().filter_map(candidate).collect()
    }
}

/// More addresses than any pool has endpoints.
const MAX_SUBSET: usize = 2048;

/// The tokens of a prompt's first `matched` blocks.
fn cached_tokens(prompt: &Prompt, matched: usize) -> u32 {
    let last = matched.checked_sub(1).and_then(|last| prompt.blocks.get(last));
    last.map_or(0, |block| block.tokens.min(prompt.tokens))
}

#[cfg(test)]
mod tests;
