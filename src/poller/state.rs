//! What the poller knows of its pools and their endpoints.

use std::collections::BTreeMap;

use crate::config::raw::EngineName;
use crate::config::{self, EndpointAddress, PoolId};
use crate::discovery::Found;
use crate::engine::{Dialect, USUAL_PATH};
use crate::load::EndpointLoad;
use crate::rates::RateMeter;
use crate::time::Timestamp;

use super::places::{self, Hint, Place, Places};
use super::trouble::Trouble;
use super::{News, ScrapeId, Seen};

/// A pool.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) name: String,
    /// Where its snapshot is stored.
    pub(super) key: String,
    pub(super) cluster: String,
    /// By which pages on a port of their own are read.
    metrics_cluster: String,
    /// What the configuration says of where pages are.
    configured: Hint,
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
    /// Whether a scrape has ended in any way since the start.
    pub(super) is_heard: bool,
    /// Where its page may be, and is.
    pub(super) places: Places,
    /// What was last seen at each place, by its number, since its metrics were last read.
    pub(super) failures: BTreeMap<usize, (Place, Seen)>,
    pub(super) trouble: Trouble,
    pub(super) meter: RateMeter,
    /// What runs there, if it is not the pool's engine.
    pub(super) engine: Option<EngineName>,
    /// A port of its own for its page, as the configuration has it.
    pub(super) metrics_port: Option<u16>,
    /// What its annotations say of its page.
    pub(super) annotated: Hint,
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
            metrics_cluster: pool.metrics_cluster.clone(),
            configured: Hint { port: pool.metrics_port, path: pool.metrics_path.clone() },
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

    /// By which cluster a page at this place is read.
    pub(super) fn cluster(&self, place: &Place) -> &str {
        if place.port.is_some() { &self.metrics_cluster } else { &self.cluster }
    }

    /// Where the page of an endpoint may be. Its engine is the pool's, or the one that its label names.
    pub(super) fn places(&self, endpoint: &Endpoint) -> Places {
        let path = match endpoint.engine {
            Some(engine) => Dialect::path_of(engine),
            None => self.dialect.path(),
        };
        let configured =
            Hint { port: endpoint.metrics_port.or(self.configured.port), path: self.configured.path.clone() };
        Places::new(places::port(&endpoint.load.address), path, &configured, &endpoint.annotated)
    }

    /// The engine that a label names, where that counts.
    pub(super) fn own_engine(&self, named: Option<EngineName>) -> Option<EngineName> {
        named.filter(|_| self.follows_engine_label)
    }
}

impl Endpoint {
    /// One that nothing is known of.
    pub(super) fn new(pool: PoolId, address: String) -> Endpoint {
        Endpoint {
            pool,
            places: Places::new(None, USUAL_PATH, &Hint::default(), &Hint::default()),
            load: EndpointLoad { address, ..EndpointLoad::default() },
            next_at: Timestamp::default(),
            outstanding: None,
            refused: 0,
            is_heard: false,
            failures: BTreeMap::new(),
            trouble: Trouble::default(),
            meter: RateMeter::default(),
            engine: None,
            metrics_port: None,
            annotated: Hint::default(),
            is_gone: false,
        }
    }

    /// One that the configuration lists.
    pub(super) fn listed(
        pool: PoolId,
        address: &EndpointAddress,
        view: &Pool,
        listed: (Option<EngineName>, Option<u16>),
    ) -> Endpoint {
        let mut endpoint = Endpoint::new(pool, address.to_string());
        (endpoint.engine, endpoint.metrics_port) = (view.own_engine(listed.0), listed.1);
        endpoint.places = view.places(&endpoint);
        endpoint
    }

    /// One that was discovered.
    pub(super) fn found(pool: PoolId, found: &Found, view: &Pool) -> Endpoint {
        let mut endpoint = Endpoint::new(pool, found.address.to_string());
        endpoint.update(found, view);
        endpoint
    }

    /// Takes over what discovery says of it, and whether its labels have changed.
    pub(super) fn update(&mut self, found: &Found, view: &Pool) -> bool {
        self.engine = view.own_engine(found.engine);
        self.annotated.clone_from(&found.page);
        let places = view.places(self);
        if !self.places.are(&places) {
            self.places = places;
            self.failures.clear();
            self.outstanding = None;
        }
        let has_changed = self.load.labels != found.labels;
        self.load.labels.clone_from(&found.labels);
        has_changed
    }

    /// The same one, of which nothing is known any more.
    pub(super) fn forget(&mut self, view: &Pool) {
        let fresh = Endpoint::new(self.pool, std::mem::take(&mut self.load.address));
        let known = std::mem::replace(self, fresh);
        (self.engine, self.metrics_port, self.annotated) = (known.engine, known.metrics_port, known.annotated);
        self.places = view.places(self);
    }

    pub(super) fn is_in(&self, pool: PoolId) -> bool {
        self.pool == pool && !self.is_gone
    }

    /// What to say after a page at this place, if anything.
    pub(super) fn note_page(&mut self, place: Place, now: Timestamp) -> Option<News> {
        self.failures.clear();
        self.trouble.handle_page(now).then_some(News::Read(place))
    }

    /// What to say after failures at every place, if anything. The first place says what kind of trouble it is; the others are tries.
    pub(super) fn note_failure(&mut self, now: Timestamp) -> Option<News> {
        let (_, first) = self.failures.values().next()?;
        let is_news = self.trouble.handle_failure(first, now);
        is_news.then(|| News::Failed(self.failures.values().cloned().collect()))
    }
}
