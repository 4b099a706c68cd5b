//! One VM's view of everything: configuration, the pools' load, requests in flight. Exchanges ask it for picks.
//!
//! It is fed with shared data by the host: [`Gateway::handle_load`] for the pool that a request goes to, and
//! the in-flight slots of the other workers. It decodes a blob only when its version has moved.

use std::time::Duration;

use crate::config::{Config, Pool, PoolId};
use crate::hash;
use crate::inflight::Inflight;
use crate::load::{self, EndpointLoad, Health, Snapshot};
use crate::models::ModelTable;
use crate::rng::SplitMix64;
use crate::scheduling::{AdapterState, Candidate, Decision, Freshness};
use crate::stats::Stats;
use crate::time::Timestamp;

/// A pool's load is read again after this time: reading it enters the VM once more, which takes some
/// microseconds, and the poller publishes ten times less often.
const LOAD_REFRESH: Duration = Duration::from_millis(5);

/// The state behind every exchange of a VM.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    models: ModelTable,
    pools: Vec<PoolView>,
    rng: SplitMix64,
    /// Requests in flight, this worker's and the others'.
    pub inflight: Inflight,
    /// What happened, for the metrics.
    pub stats: Stats,
}

/// A pool's load as last read from shared data.
#[derive(Debug)]
struct PoolView {
    load_key: String,
    version: Option<u32>,
    read_at: Timestamp,
    published_at: Timestamp,
    /// In the configuration's order.
    endpoints: Vec<EndpointView>,
}

#[derive(Debug)]
struct EndpointView {
    key: u64,
    load: EndpointLoad,
}

/// What a pick needs to know about a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PickRequest<'r> {
    /// The adapter that is asked for, if it is one.
    pub adapter: Option<&'r str>,
    /// A hash of what the request begins with, the same for requests that share a prefix.
    pub prefix: u64,
}

impl Gateway {
    /// The gateway of one VM; `seed` differs from VM to VM, or they would break ties alike.
    pub fn new(config: Config, seed: u64) -> Gateway {
        let pools = config.pools.iter().map(PoolView::new).collect();
        Gateway {
            models: ModelTable::new(&config),
            pools,
            rng: SplitMix64::new(seed),
            inflight: Inflight::default(),
            stats: Stats::new(&config),
            config,
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The shared-data key of a pool's load, when it should be read again.
    pub fn load_to_read(&self, pool: PoolId, now: Timestamp) -> Option<&str> {
        let view = self.pools.get(pool.0)?;
        let is_due = now.since(view.read_at) >= LOAD_REFRESH || now < view.read_at;
        is_due.then_some(view.load_key.as_str())
    }

    /// The pool whose endpoints are in an Envoy cluster.
    pub fn pool_of_cluster(&self, cluster: &[u8]) -> Option<PoolId> {
        self.config.pools().find(|(_, pool)| pool.cluster.as_bytes() == cluster).map(|(id, _)| id)
    }

    /// Takes in what is stored under a pool's load key. Without anything there, the last view is kept.
    pub fn handle_load(&mut self, pool: PoolId, stored: Option<(&[u8], u32)>, now: Timestamp) {
        let Some(view) = self.pools.get_mut(pool.0) else { return };
        view.read_at = now;
        let Some((blob, version)) = stored else { return };
        if view.version == Some(version) {
            return;
        }
        view.version = Some(version);
        if let Some(snapshot) = Snapshot::decode(blob) {
            view.update(snapshot);
        }
    }

    /// The pool that serves a model, and the model that it is asked for.
    pub(crate) fn resolve(&mut self, model: &str) -> Option<(PoolId, String)> {
        let resolved = self.models.resolve(model, &mut self.rng)?;
        Some((resolved.pool, resolved.target.to_owned()))
    }

    /// Chooses endpoints of a pool.
    pub(crate) fn pick(&mut self, pool: PoolId, request: PickRequest<'_>, now: Timestamp) -> Decision {
        let candidates = self.candidates(pool, request, now);
        match self.config.pool(pool) {
            Some(pool) => pool.profile.pick(&candidates, request.prefix, &mut self.rng),
            None => Decision::NoOpinion(crate::scheduling::NoOpinion::NoEndpoints),
        }
    }

    /// The key of an endpoint in the in-flight tables.
    pub(crate) fn endpoint_key(&self, pool: PoolId, endpoint: usize) -> Option<u64> {
        Some(self.pools.get(pool.0)?.endpoints.get(endpoint)?.key)
    }

    /// The position of the endpoint with this address.
    pub(crate) fn endpoint_at(&self, pool: PoolId, address: &[u8]) -> Option<usize> {
        let pool = self.config.pool(pool)?;
        pool.endpoints.iter().position(|endpoint| endpoint.as_str().as_bytes() == address)
    }

    fn candidates(&self, pool: PoolId, request: PickRequest<'_>, now: Timestamp) -> Vec<Candidate> {
        let Some(view) = self.pools.get(pool.0) else { return Vec::new() };
        let stale_after = self.config.poller.stale_after;
        // When nobody polls any more, what was dead may be alive.
        let health_counts = now.since(view.published_at) < stale_after;
        let candidate = |(index, endpoint): (usize, &EndpointView)| {
            let load = &endpoint.load;
            let freshness = if load.scraped_at == Timestamp::default() {
                Freshness::Never
            } else if now.since(load.scraped_at) < stale_after {
                Freshness::Fresh
            } else {
                Freshness::Stale
            };
            let fresh = freshness == Freshness::Fresh;
            Candidate {
                endpoint: index,
                health: if health_counts { load.health } else { Health::Unknown },
                freshness,
                waiting: load.waiting.filter(|_| fresh),
                running: load.running.filter(|_| fresh),
                kv_cache_usage: load.kv_cache_usage.filter(|_| fresh),
                adapter: request.adapter.filter(|_| fresh).and_then(|name| adapter_state(load, name)),
                in_flight: self.inflight.work(endpoint.key, now).requests,
                key: endpoint.key,
            }
        };
        view.endpoints.iter().enumerate().map(candidate).collect()
    }
}

impl PoolView {
    fn new(pool: &Pool) -> PoolView {
        let endpoint = |address: &crate::config::EndpointAddress| EndpointView {
            key: hash::endpoint(&pool.name, address.as_str()),
            load: EndpointLoad { address: address.to_string(), ..EndpointLoad::default() },
        };
        PoolView {
            load_key: load::key(&pool.name),
            version: None,
            read_at: Timestamp::default(),
            published_at: Timestamp::default(),
            endpoints: pool.endpoints.iter().map(endpoint).collect(),
        }
    }

    /// Takes over a snapshot. While a new configuration is rolled out the writer may know other endpoints
    /// than this VM does, so they are matched by address where the positions disagree.
    fn update(&mut self, mut snapshot: Snapshot) {
        self.published_at = snapshot.published_at;
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
                endpoint.load = std::mem::take(load);
            }
        }
    }
}

fn adapter_state(load: &EndpointLoad, name: &str) -> Option<AdapterState> {
    let adapters = load.adapters.as_ref()?;
    let has = |names: &[String]| names.iter().any(|active| active == name);
    let active = adapters.running.len() + adapters.waiting.len();
    Some(if has(&adapters.running) {
        AdapterState::Running
    } else if active < usize::try_from(adapters.max).unwrap_or(usize::MAX) {
        AdapterState::Room
    } else if has(&adapters.waiting) {
        AdapterState::Waiting
    } else {
        AdapterState::Full
    })
}
