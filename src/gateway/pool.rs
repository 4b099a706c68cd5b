//! A pool as one VM sees it: its endpoints, its ejections, and what they have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::cost::Scene;
use super::endpoint::{EndpointView, MARK_PERIOD};
use crate::acceptance::{self, Standing};
use crate::config::{MAX_ENDPOINTS, Pool};
use crate::ejection::{self, Ejections};
use crate::flow::table::{self, Table};
use crate::flow::{Queue, Waiting};
use crate::inflight::{Inflight, Work};
use crate::load::{Health, Snapshot};
use crate::scheduling::Profile;
use crate::scheduling::labels::Traits;
use crate::speed::{Fit, Line, PRIOR};
use crate::time::Timestamp;

/// A usual prompt's uncached part, before any was seen.
const USUAL_TOKENS: f32 = 512.0;
/// A prompt counts for 1/e after this many further ones.
const TOKENS_MEMORY: f32 = 100.0;

/// How many gateways there are changes seldom; how many requests each has at a moment is chance. Of some hundred
/// looks, a few seconds of traffic, a new one counts so much.
const SHARE_NEWER: f32 = 0.01;

/// An endpoint that is gone keeps its place for so long: longer than most answers.
const KEPT: Duration = Duration::from_secs(300);

/// A pool as last read from shared data, and learnt from its answers.
#[derive(Debug)]
pub(super) struct PoolView {
    pub(super) name: String,
    pub(super) load_key: String,
    pub(super) load_version: Option<u32>,
    pub(super) load_read_at: Timestamp,
    pub(super) health_key: String,
    /// The key of the pool's sums in what workers know of refusals.
    pub(super) acceptance_key: u64,
    pub(super) health_read_at: Timestamp,
    pub(super) published_at: Timestamp,
    /// In the configuration's order, or where they are discovered in that of discovery. A place is an endpoint's for as
    /// long as a request may be about it: who is gone keeps it for a while.
    pub(super) endpoints: Vec<EndpointView>,
    /// The places of endpoints that the pool has now, sorted.
    pub(super) here: Vec<usize>,
    is_discovered: bool,
    /// Where the endpoint with an address stands.
    pub(super) positions: BTreeMap<Vec<u8>, usize>,
    pub(super) ejections: Ejections,
    /// The mean of the prompts' uncached tokens.
    pub(super) usual_tokens: f32,
    /// Requests that other gateways have at an endpoint, as a mean over those whose metrics are fresh: what is
    /// assumed of one whose metrics are not.
    pub(super) others_mean: f32,
    /// The share of the pool's requests that are other gateways'.
    pub(super) others_share: f32,
    /// All requests of others and of this gateway, as means.
    others_requests: f32,
    own_requests: f32,
    looked_at: Timestamp,
    line: Line,
    fit: Fit,
    cold_picks: u64,
    /// This worker's requests that wait for the pool.
    pub(super) queue: Queue,
    /// The one that was let go last, until it is known whether it has got a place.
    pub(super) released: Option<Waiting>,
    /// Those that wait no more, since all workers together have too many, and have not been told.
    pub(super) surplus: Vec<Waiting>,
    pub(super) queue_key: String,
    /// What all workers have waiting.
    pub(super) queue_table: Table,
    pub(super) queue_read_at: Timestamp,
}

impl PoolView {
    pub(super) fn new(pool: &Pool) -> PoolView {
        let endpoints: Vec<EndpointView> = pool
            .endpoints
            .iter()
            .zip(&pool.labels)
            .map(|(address, labels)| EndpointView::new(&pool.name, address.as_str(), pool.profile.traits(labels)))
            .collect();
        PoolView {
            name: pool.name.clone(),
            load_key: pool.load_key(),
            load_version: None,
            load_read_at: Timestamp::default(),
            health_key: ejection::key(&pool.name),
            acceptance_key: acceptance::pool_key(&pool.name),
            health_read_at: Timestamp::default(),
            published_at: Timestamp::default(),
            ejections: Ejections::new(pool.outlier_detection, endpoints.iter().map(|endpoint| endpoint.key).collect()),
            positions: pool
                .endpoints
                .iter()
                .enumerate()
                .map(|(index, address)| (address.as_str().as_bytes().to_vec(), index))
                .collect(),
            here: (0..endpoints.len()).collect(),
            endpoints,
            is_discovered: pool.discovery.is_some(),
            usual_tokens: USUAL_TOKENS,
            others_mean: 0.0,
            others_share: 0.0,
            others_requests: 0.0,
            own_requests: 0.0,
            looked_at: Timestamp::default(),
            line: PRIOR,
            fit: Fit::default(),
            cold_picks: 0,
            queue: Queue::default(),
            released: None,
            surplus: Vec::new(),
            queue_key: table::key(&pool.name),
            queue_table: Table::default(),
            queue_read_at: Timestamp::default(),
        }
    }

    /// What holds for all of its endpoints at a moment.
    pub(super) fn scene(&self, stale_after: Duration, now: Timestamp) -> Scene {
        Scene {
            usual_tokens: self.usual_tokens,
            others_mean: self.others_mean,
            others_share: self.others_share,
            stale_after,
            // When nobody polls any more, what was dead may be alive.
            health_counts: now.since(self.published_at) < stale_after,
            now,
        }
    }

    /// An endpoint with how much it has to do.
    pub(super) fn standing(&self, endpoint: &EndpointView, work: Option<&Work>) -> Standing {
        let in_flight = work.map_or(0, |work| work.requests);
        Standing { pool: self.acceptance_key, endpoint: endpoint.key, in_flight }
    }

    /// Whether any request of this worker has yet to hear.
    pub(super) fn has_waiting(&self) -> bool {
        !self.queue.is_empty() || !self.surplus.is_empty()
    }

    /// Takes over a snapshot; says whether the pool has other endpoints than before. While a new configuration is rolled
    /// out the writer may know other endpoints than this VM does, so they are matched by address where the positions
    /// disagree.
    pub(super) fn handle_snapshot(
        &mut self,
        mut snapshot: Snapshot,
        profile: &Profile,
        inflight: &Inflight,
        now: Timestamp,
    ) -> bool {
        self.published_at = snapshot.published_at;
        let is_changed = self.is_discovered && self.follow(&snapshot, profile, now);
        for (index, endpoint) in self.endpoints.iter_mut().enumerate() {
            let address = &endpoint.load.address;
            let same_place = snapshot.endpoints.get(index).is_some_and(|load| load.address == *address);
            let place = if same_place {
                Some(index)
            } else {
                snapshot.endpoints.iter().position(|load| load.address == *address)
            };
            // A writer that doesn't know the endpoint, or hasn't heard of it yet, has no news: what is known ages.
            if let Some(load) = place.and_then(|place| snapshot.endpoints.get_mut(place))
                && (load.health != Health::Unknown || load.scraped_at != Timestamp::default())
            {
                endpoint.handle_load(std::mem::take(load), inflight.work(endpoint.key), now);
            }
        }
        is_changed
    }

    /// Makes the endpoints those of the snapshot, which discovery has found.
    fn follow(&mut self, snapshot: &Snapshot, profile: &Profile, now: Timestamp) -> bool {
        let found: BTreeSet<&str> = snapshot.endpoints.iter().map(|load| load.address.as_str()).collect();
        let mut is_changed = false;
        for endpoint in &mut self.endpoints {
            if endpoint.gone_at.is_none() && !found.contains(endpoint.load.address.as_str()) {
                endpoint.gone_at = Some(now);
                is_changed = true;
            }
        }
        for load in &snapshot.endpoints {
            let traits = profile.traits(&load.labels);
            let known = self.positions.get(load.address.as_bytes()).and_then(|at| self.endpoints.get_mut(*at));
            match known {
                Some(endpoint) => {
                    endpoint.traits = traits;
                    is_changed |= endpoint.gone_at.take().is_some();
                }
                None => {
                    self.admit(&load.address, traits, now);
                    is_changed = true;
                }
            }
        }
        if is_changed {
            let present = || self.endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.gone_at.is_none());
            self.here = present().map(|(at, _)| at).collect();
            self.ejections.set_endpoints(present().map(|(_, endpoint)| endpoint.key).collect());
        }
        is_changed
    }

    /// Gives a new endpoint a place: one that was left long ago, or a new one.
    fn admit(&mut self, address: &str, traits: Traits, now: Timestamp) {
        let is_full = self.endpoints.len() >= MAX_ENDPOINTS;
        let left_long_ago = |endpoint: &EndpointView| endpoint.gone_at.filter(|at| is_full || now.since(*at) >= KEPT);
        let left = self.endpoints.iter().enumerate().filter_map(|(at, endpoint)| Some((left_long_ago(endpoint)?, at)));
        let place = match left.min() {
            Some((_, at)) => at,
            None if is_full => return,
            None => self.endpoints.len(),
        };
        let endpoint = EndpointView::new(&self.name, address, traits);
        match self.endpoints.get_mut(place) {
            Some(old) => {
                self.positions.remove(old.load.address.as_bytes());
                *old = endpoint;
            }
            None => self.endpoints.push(endpoint),
        }
        self.positions.insert(address.as_bytes().to_vec(), place);
    }

    /// The keys of endpoints that take requests and never answer.
    pub(super) fn stalled(&self, inflight: &Inflight, now: Timestamp) -> Vec<u64> {
        let is_stalled = |endpoint: &&EndpointView| {
            let let_in_at = self.ejections.last_out_until(endpoint.key);
            endpoint.gone_at.is_none() && endpoint.is_stalled(inflight, self.usual_tokens, let_in_at, now)
        };
        self.endpoints.iter().filter(is_stalled).map(|endpoint| endpoint.key).collect()
    }

    /// Notes this moment's requests in flight, to compare them with what engines say of it later, and sums up what
    /// all endpoints have in common; now and then, since it goes over all of them. Says whether it has.
    pub(super) fn handle_look(&mut self, inflight: &Inflight, stale_after: Duration, now: Timestamp) -> bool {
        if !now.is_due(self.looked_at, MARK_PERIOD) {
            return false;
        }
        self.looked_at = now;
        let (mut others, mut own, mut fresh_others, mut fresh) = (0.0, 0.0, 0.0, 0.0);
        for endpoint in &mut self.endpoints {
            let work = inflight.work(endpoint.key);
            endpoint.handle_look(work, self.line, now);
            // What was last heard of an endpoint that is gone says nothing of the gateways that are there.
            if endpoint.gone_at.is_some() {
                continue;
            }
            others += endpoint.others.requests;
            own += work.map_or(0, |work| work.requests) as f32;
            if now.since(endpoint.load.scraped_at) < stale_after {
                fresh_others += endpoint.others.requests;
                fresh += 1.0;
            }
        }
        self.others_requests += (others - self.others_requests) * SHARE_NEWER;
        self.own_requests += (own - self.own_requests) * SHARE_NEWER;
        let all = self.others_requests + self.own_requests;
        self.others_share = if all > 0.0 { self.others_requests / all } else { 0.0 };
        self.others_mean = if fresh > 0.0 { fresh_others / fresh } else { 0.0 };
        true
    }

    /// Notes that a cold prompt was sent.
    pub(super) fn handle_cold_pick(&mut self, at: usize) {
        if let Some(endpoint) = self.endpoints.get_mut(at) {
            self.cold_picks += 1;
            endpoint.last_cold_pick = self.cold_picks;
        }
    }

    /// Notes how much of a prompt was computed.
    pub(super) fn handle_computed(&mut self, uncached: u32) {
        self.usual_tokens += (uncached as f32 - self.usual_tokens) / TOKENS_MEMORY;
    }

    pub(super) fn handle_first_token(&mut self, at: usize, tokens: f32, seconds: f32, now: Timestamp) {
        self.fit.observe(tokens, seconds);
        self.line = self.fit.line(PRIOR);
        if let Some(endpoint) = self.endpoints.get_mut(at) {
            endpoint.handle_first_token(tokens, seconds, self.line, now);
        }
    }
}
