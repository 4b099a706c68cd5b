//! One VM's view of everything: configuration, the pools' load, requests in flight, cached prompts. Exchanges ask it
//! for picks.
//!
//! What other VMs have to say lies in shared data. The host asks [`Gateway::poll_read`] what to read before a pick
//! and [`Gateway::poll_write`] what to store after it; a blob is decoded only when its version has moved.

mod cost;
mod endpoint;
mod flow;
mod pool;
mod room;
mod sample;
mod shared;
mod traffic;

use std::collections::BTreeSet;

use crate::acceptance::{Acceptance, Demand, Expected};
use crate::config::{Config, MAX_ENDPOINTS, Pool, PoolId, SessionKey};
use crate::discovery::resources;
use crate::hash;
use crate::inflight::{Inflight, Work};
use crate::load::Health;
use crate::models::{ModelTable, Resolved};
use crate::prefix::PrefixTable;
use crate::prefix::log::PrefixLog;
use crate::prompt::Prompt;
use crate::rng::{Rng, SplitMix64};
use crate::room::Room;
use crate::rules::{Choice, Facts};
use crate::scan::Wanted;
use crate::scheduling::filter::Subset;
use crate::scheduling::{Candidate, Decision, NoOpinion, Request, Slo, Tier};
use crate::stats::Stats;
use crate::time::Timestamp;

use endpoint::EndpointView;
pub(crate) use flow::{Admission, Applicant};
use pool::PoolView;
use sample::Sampler;
use shared::Reading;
pub use shared::{Read, Write};
pub(crate) use traffic::InFlight;

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
    /// The VM's id, which no other has.
    owner: u64,
    last_waiting: u64,
    members: Vec<String>,
    /// Empty where no resources are looked for.
    resources_key: String,
    resources_version: Option<u32>,
    resources_read_at: Timestamp,
    /// Rules whose failure was logged.
    failed_rules: BTreeSet<usize>,
    notices: Vec<String>,
    /// What endpoints refuse that others accept.
    acceptance: Acceptance,
    /// The places that this worker's requests have where they are limited.
    room: Room,
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
    /// A hash of the model and the API that are asked for, if a model is.
    pub asked: Option<u64>,
    /// A hash of the client's credentials; 0 without any.
    pub credentials: u64,
    /// The prompt.
    pub prompt: &'r Prompt,
    /// A hash of the session that the client names.
    pub session: Option<u64>,
    /// The addresses that the request may go to, if an earlier filter has said so.
    pub subset: Option<&'r [u8]>,
    /// What the client hopes for.
    pub slo: Slo,
    /// The most requests of this gateway that its endpoint may have, itself included, where that is limited.
    pub limit: Option<u32>,
}

impl<'r> PickRequest<'r> {
    /// A request of which nothing but the prompt is known.
    pub fn of(prompt: &'r Prompt) -> PickRequest<'r> {
        PickRequest {
            adapter: None,
            asked: None,
            credentials: 0,
            prompt,
            session: None,
            subset: None,
            slo: Slo::default(),
            limit: None,
        }
    }

    fn demand(&self) -> Demand {
        Demand { asked: self.asked, tokens: self.prompt.tokens, credentials: self.credentials }
    }
}

/// A pick.
#[derive(Clone, Debug, PartialEq)]
pub struct Pick {
    /// The endpoints.
    pub decision: Decision,
    /// The time to first token that is expected of the first one, in seconds, where fresh metrics tell.
    pub ttft: Option<f32>,
}

impl Gateway {
    /// The gateway of the VM `owner`, an id that no other VM has: by it they know each other's entries in shared
    /// data, and break ties differently.
    pub fn new(config: Config, owner: u64) -> Gateway {
        let pools: Vec<PoolView> = config.pools.iter().map(PoolView::new).collect();
        let most = |pool: &Pool| if pool.discovery.is_some() { MAX_ENDPOINTS } else { pool.endpoints.len() };
        let largest = config.pools.iter().map(most).max().unwrap_or(0);
        let resources_key = config.resources.as_ref().map(|resources| resources::key(&resources.namespace));
        Gateway {
            models: ModelTable::new(&config),
            places: places(&pools),
            pools,
            rng: SplitMix64::new(owner),
            prefixes: PrefixTable::new(config.max_prefix_entries),
            prefix_log: PrefixLog::default(),
            sampler: Sampler::new(largest, config.max_prefix_entries),
            reading: Reading::default(),
            owner,
            last_waiting: 0,
            members: wanted_members(&config),
            resources_key: resources_key.unwrap_or_default(),
            resources_version: None,
            resources_read_at: Timestamp::default(),
            failed_rules: BTreeSet::new(),
            notices: Vec::new(),
            acceptance: Acceptance::default(),
            room: Room::default(),
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

    /// What a name leads to.
    pub(crate) fn resolve(&mut self, model: &str, session: Option<u64>) -> Option<Resolved<'_>> {
        self.models.resolve(model, session, &mut self.rng)
    }

    /// What a pool's generic rewrite makes of any name, and whether answers shall name the model as the client did.
    pub(crate) fn resolve_generic(&mut self, pool: PoolId, session: Option<u64>) -> Option<(&str, bool)> {
        self.models.resolve_generic(pool, session, &mut self.rng)
    }

    /// The priority of a pool's objective.
    pub(crate) fn objective(&self, pool: PoolId, name: &str) -> Option<i32> {
        self.models.objective(pool, name)
    }

    /// The members of a body that rules and session keys look at.
    pub(crate) fn wanted(&self) -> Wanted<'_> {
        match self.config.rules.wanted() {
            Wanted::All => Wanted::All,
            Wanted::Named(_) => Wanted::Named(&self.members),
        }
    }

    /// What the first rule says that is for a request.
    pub(crate) fn decide(&mut self, facts: Facts<'_>) -> Option<Choice> {
        let mut failures = Vec::new();
        let pool_named = |name: &str| self.config.pools().find(|(_, pool)| pool.name == name).map(|(id, _)| id);
        let choice = self.config.rules.decide(facts, pool_named, |name| self.models.has(name), &mut failures);
        for failure in failures {
            self.stats.rule_failed(failure.rule);
            // Once: what a client sends must not fill a log.
            if self.failed_rules.insert(failure.rule) {
                self.notices.push(format!(
                    "rules[{}] could not be evaluated, and was passed over: {}",
                    failure.rule, failure.message
                ));
            }
        }
        if let Some(choice) = &choice {
            self.stats.rule_matched(choice.rule);
        }
        choice
    }

    /// Takes out what is to be logged.
    pub fn poll_notice(&mut self) -> Option<String> {
        self.notices.pop()
    }

    /// Chooses endpoints of a pool.
    pub fn pick(&mut self, pool: PoolId, request: PickRequest<'_>, now: Timestamp) -> Pick {
        let subset = request.subset.map(|subset| Subset(self.positions(pool, subset)));
        let opening = match request.session {
            Some(session) => session,
            // Without a prompt there is nothing by which gateways could agree.
            None if request.prompt.tokens == 0 => self.rng.next_u64(),
            None => request.prompt.opening,
        };
        let candidates = self.candidates(pool, request, opening, subset.as_ref(), now);
        let Some(config) = self.config.pool(pool) else {
            return Pick { decision: Decision::NoOpinion(NoOpinion::NoEndpoints), ttft: None };
        };
        let PickRequest { session, slo, limit, .. } = request;
        let request = Request { prompt_tokens: request.prompt.tokens, opening, session, slo, limit };
        let decision = config.profile.pick(&request, &candidates, subset.as_ref(), &mut self.rng);
        let ttft = match &decision {
            Decision::Picked { endpoints, tier: Tier::Fresh } => {
                let first = endpoints.first().and_then(|at| candidates.iter().find(|other| other.endpoint == *at));
                first.map(|candidate| candidate.ttft)
            }
            _ => None,
        };
        Pick { decision, ttft }
    }

    /// Notes this moment's requests in flight, now and then.
    fn look(&mut self, pool: PoolId, now: Timestamp) {
        let stale_after = self.config.poller.stale_after;
        let Some(view) = self.pools.get_mut(pool.0) else { return };
        if view.handle_look(&self.inflight, stale_after, now) {
            let saturation = self.saturation(pool, now);
            self.stats.saturation(pool, saturation);
        }
    }

    fn endpoint(&self, pool: PoolId, at: usize) -> Option<&EndpointView> {
        self.pools.get(pool.0)?.endpoints.get(at)
    }

    /// An endpoint's address.
    pub(crate) fn address(&self, pool: PoolId, at: usize) -> Option<&str> {
        Some(&self.endpoint(pool, at)?.load.address)
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
        self.look(pool, now);
        let Some(view) = self.pools.get(pool.0) else { return Vec::new() };
        let scene = view.scene(stale_after, now);
        let chosen: Vec<usize> = match subset {
            // An earlier filter has chosen: a sample could miss all of its endpoints.
            Some(subset) => subset.0.iter().copied().filter(|at| view.here.binary_search(at).is_ok()).collect(),
            None if may_sample => self.sampler.sample(&view.endpoints, &view.here, request.prompt, &mut self.rng),
            None => view.here.clone(),
        };
        let home = home(view, &chosen, opening);
        let adapter = request.adapter.map(|name| (name, hash::bytes(name.as_bytes())));
        let is_clean = self.acceptance.is_clean(now);
        let expect = |endpoint: &EndpointView, work: Option<&Work>| {
            if is_clean {
                return Expected::default();
            }
            self.acceptance.expect(view.standing(endpoint, work), request.demand(), now)
        };
        let candidate = |index: usize| {
            let endpoint = view.endpoints.get(index)?;
            let work = self.inflight.work(endpoint.key);
            let matched = self.prefixes.matched_blocks(&request.prompt.blocks, endpoint.cache());
            let need = cost::Need {
                prompt_tokens: request.prompt.tokens,
                cached_tokens: cached_tokens(request.prompt, matched),
                adapter,
                is_home: Some(index) == home,
                has_session: request.session.is_some(),
                errors: view.ejections.recent_errors(endpoint.key, now),
                refusal: expect(endpoint, work),
            };
            let mut candidate = cost::candidate(endpoint, work, &need, &scene);
            candidate.endpoint = index;
            candidate.ejected = !view.ejections.is_clean() && view.ejections.is_ejected(endpoint.key, now);
            Some(candidate)
        };
        chosen.into_iter().filter_map(candidate).collect()
    }
}

/// Where gateways that don't know each other's prompts would send a request.
fn home(view: &PoolView, chosen: &[usize], opening: u64) -> Option<usize> {
    let affinity = |index: &usize| view.endpoints.get(*index).map(|at| hash::combine(opening, at.key));
    let is_there = |index: &usize| {
        let health = view.endpoints.get(*index).map(|endpoint| endpoint.load.health);
        matches!(health, Some(Health::Up | Health::Unknown))
    };
    chosen.iter().copied().filter(is_there).max_by_key(affinity)
}

/// Where an endpoint's key leads, sorted.
fn places(pools: &[PoolView]) -> Vec<(u64, PoolId, usize)> {
    let of_pool = |(pool, view): (usize, &PoolView)| {
        let keys: Vec<u64> = view.endpoints.iter().map(|endpoint| endpoint.key).collect();
        keys.into_iter().enumerate().map(move |(at, key)| (key, PoolId(pool), at))
    };
    let mut places: Vec<(u64, PoolId, usize)> = pools.iter().enumerate().flat_map(of_pool).collect();
    places.sort_unstable();
    places
}

/// The members of a body that somebody looks at.
fn wanted_members(config: &Config) -> Vec<String> {
    let of_sessions = config.session_keys.iter().filter_map(|key| match key {
        SessionKey::BodyField(field) => Some(field.clone()),
        SessionKey::Header(_) | SessionKey::Cookie(_) => None,
    });
    let mut members: Vec<String> = of_sessions.collect();
    if let Wanted::Named(named) = config.rules.wanted() {
        members.extend(named.iter().cloned());
    }
    members.sort();
    members.dedup();
    members
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
