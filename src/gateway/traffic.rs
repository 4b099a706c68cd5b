//! This gateway's own traffic: what is sent where, how it is answered, and what that says about the endpoints.

use std::time::Duration;

use super::{Gateway, PickRequest, cached_tokens, endpoint};
use crate::acceptance::LIKELY;
use crate::acceptance::{About, Demand, Refused, Standing};
use crate::config::PoolId;
use crate::ejection::Ended;
use crate::hash;
use crate::inflight::{Report, Sent, Ticket};
use crate::load::Health;
use crate::prefix::Cache;
use crate::prefix::log::Addition;
use crate::stats::EjectionReason;
use crate::time::Timestamp;

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
    /// What decides on whether it is refused.
    demand: Demand,
    /// What is tried by it, if its endpoint has refused such requests.
    pub(crate) trial: Option<About>,
    /// Its adapter, if it was not known to be there.
    new_adapter: Option<u64>,
    /// When the first byte of its answer came.
    first_byte_at: Option<Timestamp>,
    /// Whether its endpoint must show that it works on it.
    is_inference: bool,
    /// Blocks that the other workers are to hear of at its first byte.
    news: Vec<u64>,
    /// How many of these the endpoint had before, unused for long; it gets the rest by this request.
    refreshed: usize,
}

impl Gateway {
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
        let new_adapter = adapter.filter(|adapter| !endpoint.recent_adapters.contains(adapter));
        endpoint.handle_sent(uncached, adapter);
        if matched == 0 && request.prompt.tokens > 0 {
            view.handle_cold_pick(at);
        }
        view.ejections.handle_picked(key, now);
        let demand = request.demand();
        let in_flight = in_flight.map_or(0, |work| work.requests);
        let standing = Standing { pool: view.acceptance_key, endpoint: key, in_flight };
        let trial = self.acceptance.handle_sent(standing, demand, now);
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
        self.take_place(pool, key);
        Some(InFlight {
            endpoint: at,
            ticket,
            sent_at: now,
            work,
            uncached,
            demand,
            trial,
            new_adapter,
            first_byte_at: None,
            is_inference: sent.is_inference,
            news,
            refreshed,
        })
    }

    /// Notes the first byte of an endpoint's answer.
    pub(crate) fn handle_first_byte(&mut self, request: &mut InFlight, now: Timestamp) {
        self.inflight.answered(&request.ticket, now);
        request.first_byte_at = Some(now);
    }

    /// Notes that an endpoint answers as asked. With `is_timed` the first byte was its first token, sent as soon as it
    /// was there.
    pub(crate) fn handle_accepted(&mut self, pool: PoolId, request: &mut InFlight, is_timed: bool, now: Timestamp) {
        let Some(view) = self.pools.get_mut(pool.0) else { return };
        let Some(endpoint) = view.endpoints.get(request.endpoint) else { return };
        let key = endpoint.key;
        let in_flight = self.inflight.work(key).map_or(0, |work| work.requests.saturating_sub(1));
        let standing = Standing { pool: view.acceptance_key, endpoint: key, in_flight };
        self.acceptance.handle_accepted(standing, request.demand, request.sent_at, now);
        view.ejections.handle_success(Ended { endpoint: key, sent_at: request.sent_at, now });
        // Only what was really computed is worth telling the other workers.
        for block in request.news.drain(..) {
            self.prefix_log.push(Addition { block, endpoint: key });
        }
        if request.uncached > 0 {
            view.handle_computed(request.uncached);
        }
        if let Some(first_byte_at) = request.first_byte_at.filter(|_| is_timed) {
            let time = first_byte_at.since(request.sent_at);
            view.handle_first_token(request.endpoint, request.work, time.as_secs_f32(), now);
            self.stats.first_token(pool, time);
        }
    }

    /// Notes that an endpoint has refused a request, and counts it no more. Its refusal is a sign of life, and says
    /// nothing about its speed; `is_fault_of_client` says that it was right to.
    pub(crate) fn handle_refused(&mut self, pool: PoolId, request: InFlight, is_fault_of_client: bool, now: Timestamp) {
        self.inflight.answered(&request.ticket, now);
        if let Some(view) = self.pools.get_mut(pool.0)
            && let Some(endpoint) = view.endpoints.get_mut(request.endpoint)
        {
            if let Some(adapter) = request.new_adapter {
                endpoint.forget_adapter(adapter);
            }
            if is_fault_of_client {
                view.ejections.handle_success(Ended { endpoint: endpoint.key, sent_at: request.sent_at, now });
            }
        }
        self.handle_end(pool, request);
    }

    /// Counts what an endpoint has refused, once the request is in flight there no more.
    pub(crate) fn note_refusal(&mut self, pool: PoolId, at: usize, refused: &Refused, now: Timestamp) {
        let Some(view) = self.pools.get(pool.0) else { return };
        let Some(endpoint) = view.endpoints.get(at) else { return };
        let standing = view.standing(endpoint, self.inflight.work(endpoint.key));
        self.acceptance.handle_refused(standing, refused, now);
        self.stats.endpoint_refused(pool, refused.about);
    }

    /// Whether an endpoint has room for a request, as far as is known.
    pub(crate) fn has_room(&self, pool: PoolId, at: usize, demand: Demand, now: Timestamp) -> bool {
        let (Some(config), Some(view)) = (self.config.pool(pool), self.pools.get(pool.0)) else { return false };
        let Some(endpoint) = view.endpoints.get(at) else { return false };
        let work = self.inflight.work(endpoint.key);
        let burden = endpoint.burden(work, self.config.poller.stale_after, now);
        let is_full = config.saturation.of(&burden).is_some_and(|saturation| saturation >= 1.0);
        !is_full && self.acceptance.expect(view.standing(endpoint, work), demand, now).probability <= LIKELY
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
        if let Some(endpoint) = self.inflight.release(request.ticket) {
            self.give_place_back(pool, endpoint);
        }
    }

    /// Notes what an endpoint has reported about itself in an answer.
    pub(crate) fn handle_report(&mut self, pool: PoolId, at: usize, report: Report) {
        if let Some(key) = self.endpoint(pool, at).map(|endpoint| endpoint.key) {
            self.inflight.handle_report(key, report);
        }
    }

    /// Whether an endpoint has just answered a scrape, and so is not what cannot be connected to.
    pub(crate) fn is_up(&self, pool: PoolId, at: usize, now: Timestamp) -> bool {
        let load = self.endpoint(pool, at).map(|endpoint| &endpoint.load);
        load.is_some_and(|load| {
            load.health == Health::Up && now.since(load.scraped_at) < self.config.poller.stale_after
        })
    }
}
