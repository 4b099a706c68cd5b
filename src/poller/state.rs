//! What the poller knows of its pools and their endpoints.

use crate::config::raw::EngineName;
use crate::config::{self, PoolId};
use crate::engine::Dialect;
use crate::load::EndpointLoad;
use crate::rates::RateMeter;
use crate::time::Timestamp;

use super::{ScrapeId, Seen};

/// A pool.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) name: String,
    /// Where its snapshot is stored.
    pub(super) key: String,
    pub(super) cluster: String,
    pub(super) path: String,
    pub(super) dialect: Dialect,
    pub(super) follows_engine_label: bool,
    pub(super) is_discovered: bool,
    pub(super) generation: u64,
    pub(super) changed: bool,
    /// Whether what changed is to be published now.
    pub(super) due: bool,
    /// Scrapes that were not answered yet.
    pub(super) outstanding: usize,
    /// Endpoints that were not heard of since the start.
    pub(super) unheard: usize,
    /// Whether it is known which endpoints the pool has.
    pub(super) is_known: bool,
}

/// An endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) pool: PoolId,
    pub(super) load: EndpointLoad,
    pub(super) next_at: Timestamp,
    pub(super) outstanding: Option<(ScrapeId, Timestamp)>,
    pub(super) refused: u32,
    pub(super) seen: Option<Seen>,
    pub(super) meter: RateMeter,
    /// What runs there, if it is not the pool's engine.
    pub(super) engine: Option<EngineName>,
    /// Whether discovery has lost it; its place is free then.
    pub(super) is_gone: bool,
}

impl Pool {
    /// One that nothing is known of, as the configuration has it.
    pub(super) fn new(pool: &config::Pool) -> Pool {
        Pool {
            name: pool.name.clone(),
            key: pool.load_key(),
            cluster: pool.cluster.clone(),
            path: pool.metrics_path.clone(),
            dialect: pool.dialect.clone(),
            follows_engine_label: pool.follows_engine_label,
            is_discovered: pool.discovery.is_some(),
            generation: 0,
            changed: false,
            due: false,
            outstanding: 0,
            unheard: pool.endpoints.len(),
            is_known: pool.discovery.is_none(),
        }
    }
}

impl Endpoint {
    /// One that nothing is known of.
    pub(super) fn new(pool: PoolId, address: String) -> Endpoint {
        Endpoint {
            pool,
            load: EndpointLoad { address, ..EndpointLoad::default() },
            next_at: Timestamp::default(),
            outstanding: None,
            refused: 0,
            seen: None,
            meter: RateMeter::default(),
            engine: None,
            is_gone: false,
        }
    }

    pub(super) fn is_in(&self, pool: PoolId) -> bool {
        self.pool == pool && !self.is_gone
    }
}
