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
use crate::prefix::PrefixTable;
use crate::prefix::log::{Addition, PrefixLog};
use crate::prompt::Prompt;
use crate::rng::SplitMix64;
use crate::scheduling::filter::Subset;
use crate::scheduling::{Candidate, Decision, NoOpinion, Request};
use crate::stats::{EjectionReason, Stats};
use crate::time::Timestamp;

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
        let candidates = self.candidates(pool, request, now);
        let Some(config) = self.config.pool(pool) else { return Decision::NoOpinion(NoOpinion::NoEndpoints) };
        let subset = request.subset.map(|subset| Subset(self.positions(pool, subset)));
        let request =
            Request { prompt_tokens: request.prompt.tokens, opening: request.prompt.opening, session: request.session };
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
        let cache = endpoint.cache();
        let matched = self.prefixes.matched_blocks(&request.prompt.blocks, cache);
        let uncached = request.prompt.tokens - cached_tokens(request.prompt, matched);
        let work = endpoint.tokens_ahead(self.inflight.work(endpoint.key), usual_tokens, now) + uncached as f32;
        let expected = endpoint.line.seconds(work);
        let adapter = request.adapter.map(|name| hash::bytes(name.as_bytes()));
        let sent = Sent {
            tokens: u64::from(uncached),
            adapter,
            assumed_prefill: (!streams).then(|| Duration::from_secs_f32(expected.clamp(0.0, 60.0))),
        };
        endpoint.handle_sent(uncached, adapter);
        let key = endpoint.key;
        view.handle_sent(at, uncached, matched == 0);
        view.ejections.handle_picked(key, now);
        for block in &request.prompt.blocks {
            if self.prefixes.touch(block.hash, cache) {
                self.prefix_log.push(Addition { block: block.hash, endpoint: key });
            }
        }
        self.sampler.note(&request.prompt.blocks, at);
        let ticket = self.inflight.acquire(key, sent, now);
        Some(InFlight { endpoint: at, ticket, sent_at: now, work })
    }

    /// Notes the first byte of an answer's body, which with `is_timed` is its first token, sent as soon as it was there.
    pub(crate) fn handle_first_byte(&mut self, pool: PoolId, request: &InFlight, is_timed: bool, now: Timestamp) {
        self.inflight.answered(&request.ticket, now);
        if !is_timed {
            return;
        }
        let seconds = now.since(request.sent_at).as_secs_f32();
        if let Some(view) = self.pools.get_mut(pool.0) {
            view.handle_first_token(request.endpoint, request.work, seconds);
        }
        self.stats.first_token(pool, now.since(request.sent_at));
    }

    /// Notes that an endpoint has answered as it should, or that the client was at fault.
    pub(crate) fn handle_success(&mut self, pool: PoolId, request: &InFlight, now: Timestamp) {
        if let Some(view) = self.pools.get_mut(pool.0)
            && !view.ejections.is_clean()
            && let Some(endpoint) = view.endpoints.get(request.endpoint)
        {
            view.ejections.handle_success(Ended { endpoint: endpoint.key, sent_at: request.sent_at, now });
        }
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

    /// Whether an endpoint that a client turns away from has given no sign of life, to anybody, for much longer than
    /// the request should have taken: a client's patience is all that would tell of a hung endpoint otherwise.
    pub(crate) fn was_kept_waiting(&self, pool: PoolId, request: &InFlight, now: Timestamp) -> bool {
        let Some(endpoint) = self.pools.get(pool.0).and_then(|view| view.endpoints.get(request.endpoint)) else {
            return false;
        };
        let last_sign = self.inflight.work(endpoint.key).map_or(Timestamp::default(), |work| work.answered_at);
        let usual = endpoint.line.seconds(request.work).clamp(0.0, 600.0);
        let patience = endpoint::UNNOTICED + Duration::from_secs_f32(usual * 4.0);
        last_sign < request.sent_at && now.since(request.sent_at) >= patience
    }

    /// Counts a request no more.
    pub(crate) fn handle_end(&mut self, request: InFlight) {
        self.inflight.release(request.ticket);
    }

    /// Notes what an endpoint has reported about itself in an answer.
    pub(crate) fn handle_report(&mut self, pool: PoolId, at: usize, report: Report) {
        if let Some(endpoint) = self.pools.get(pool.0).and_then(|view| view.endpoints.get(at)) {
            self.inflight.handle_report(endpoint.key, report);
        }
    }

    /// Whether an endpoint has requests waiting: then it may well refuse one with 503, and is not broken.
    pub(crate) fn has_queue(&self, pool: PoolId, at: usize) -> bool {
        let endpoint = self.pools.get(pool.0).and_then(|view| view.endpoints.get(at));
        endpoint.is_some_and(|endpoint| endpoint.load.waiting.is_some_and(|waiting| waiting > 0))
    }

    /// The position of the endpoint with this address.
    pub(crate) fn endpoint_at(&self, pool: PoolId, address: &[u8]) -> Option<usize> {
        let pool = self.config.pool(pool)?;
        pool.endpoints.iter().position(|endpoint| endpoint.as_str().as_bytes() == address)
    }

    /// The positions of a list of addresses.
    fn positions(&self, pool: PoolId, addresses: &[u8]) -> Vec<usize> {
        let addresses = addresses.split(|byte| *byte == b',').map(|address| address.trim_ascii());
        addresses.filter_map(|address| self.endpoint_at(pool, address)).collect()
    }

    fn candidates(&mut self, pool: PoolId, request: PickRequest<'_>, now: Timestamp) -> Vec<Candidate> {
        let stale_after = self.config.poller.stale_after;
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
        let chosen: Vec<usize> = match request.subset {
            // An earlier filter has chosen: a sample could miss all of its endpoints.
            Some(subset) => self.positions(pool, subset),
            None => self.sampler.sample(&view.endpoints, request.prompt, &mut self.rng),
        };
        let affinity =
            |index: &usize| view.endpoints.get(*index).map(|at| hash::combine(request.prompt.opening, at.key));
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

/// The tokens of a prompt's first `matched` blocks.
fn cached_tokens(prompt: &Prompt, matched: usize) -> u32 {
    let last = matched.checked_sub(1).and_then(|last| prompt.blocks.get(last));
    last.map_or(0, |block| block.tokens.min(prompt.tokens))
}

#[cfg(test)]
mod tests;
