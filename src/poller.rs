//! The metrics poller as a machine: told of ticks and answers, it says what to scrape and what to publish.
//!
//! Every endpoint has its own rhythm, so that one that answers slowly holds up no other. A failed scrape
//! never changes what is known about an endpoint's load, it only lets it age. Connections that are refused
//! twice in a row mark the endpoint as unreachable, a timeout marks it as silent. Whatever an endpoint
//! answers, the machine goes on.

mod places;
mod redirect;
mod seen;
mod state;
mod trouble;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::config::raw::EngineName;
use crate::config::{Config, PollerConfig, PoolId};
use crate::discovery::Found;
use crate::engine::{self, Dialect, Reading};
use crate::load::{EndpointLoad, Health, Snapshot};
use crate::page::{Page, Unreadable};
use crate::stats::{PollerStats, ScrapeResult};
use crate::time::Timestamp;

use places::Next;
use state::{Endpoint, Pool};

pub use places::{Hint, Place, is_path};
pub use redirect::Refused;
pub use seen::{News, Notice, Seen};

/// One lost connection may be a restart of the connection; two in a row are an endpoint that is gone.
const UNREACHABLE_AFTER: u32 = 2;
/// The host ends a scrape after `poller.timeout`; one that it never answers for is given up after this many times that.
const GIVE_UP_AFTER: u32 = 2;

/// Names one scrape. An answer to an older scrape of the same endpoint is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScrapeId {
    endpoint: usize,
    sequence: u64,
}

/// A scrape to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrape {
    /// Names it in the answer.
    pub id: ScrapeId,
    /// The Envoy cluster.
    pub cluster: String,
    /// The endpoint in it.
    pub address: String,
    /// The page.
    pub path: String,
    /// When to give up.
    pub timeout: Duration,
}

/// An answer to a scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The status.
    pub status: u16,
    /// Who has given it, if Envoy's cluster says so: Envoy balances what it cannot send where it should.
    pub served: Option<&'a [u8]>,
    /// The value of `location`.
    pub location: Option<&'a [u8]>,
    /// The value of `content-encoding`.
    pub encoding: Option<&'a [u8]>,
    /// Whether the length of the body was said, by `content-length` or by chunks: Envoy breaks off what does not keep it.
    pub is_whole: bool,
    /// The body; `None` when it is longer than [`MAX_PAGE_BYTES`](crate::page::MAX_PAGE_BYTES) and was not read.
    pub body: Option<&'a [u8]>,
}

/// A blob to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The shared-data key.
    pub key: String,
    /// The bytes.
    pub blob: Vec<u8>,
}

/// Scrapes every endpoint of every pool.
#[derive(Debug)]
pub struct Poller {
    timing: PollerConfig,
    pools: Vec<Pool>,
    /// Of engines that labels have named.
    dialects: BTreeMap<EngineName, Dialect>,
    endpoints: Vec<Endpoint>,
    due: VecDeque<usize>,
    notices: VecDeque<Notice>,
    stats: PollerStats,
    sequence: u64,
    /// When the first tick came.
    started_at: Option<Timestamp>,
}

impl Poller {
    /// A poller for every endpoint of the configuration.
    pub fn new(config: &Config) -> Poller {
        let mut endpoints = Vec::new();
        let mut pools = Vec::new();
        let mut dialects = BTreeMap::new();
        for (id, pool) in config.pools() {
            let view = Pool::new(pool);
            for (index, address) in pool.endpoints.iter().enumerate() {
                let engine = view.own_engine(pool.labels.get(index).and_then(engine::named_by));
                let metrics_port = pool.metrics_ports.get(index).copied().flatten();
                add_dialect(&mut dialects, engine);
                endpoints.push(Endpoint::listed(id, address, &view, (engine, metrics_port)));
            }
            pools.push(view);
        }
        Poller {
            timing: config.poller,
            pools,
            dialects,
            endpoints,
            due: VecDeque::new(),
            notices: VecDeque::new(),
            stats: PollerStats::new(config),
            sequence: 0,
            started_at: None,
        }
    }

    /// Forgets everything but the configuration: after a time in which another VM polled, what was known is old, and so is
    /// what was discovered.
    pub fn restart(&mut self) {
        self.started_at = None;
        self.due.clear();
        let pools = &self.pools;
        self.endpoints.retain_mut(|endpoint| {
            let Some(pool) = pools.get(endpoint.pool.0).filter(|pool| !pool.is_discovered) else { return false };
            endpoint.forget(pool);
            true
        });
        for (id, pool) in self.pools.iter_mut().enumerate() {
            pool.changed = false;
            pool.due = false;
            pool.is_known = !pool.is_discovered;
            pool.outstanding = 0;
            pool.unheard = self.endpoints.iter().filter(|endpoint| endpoint.is_in(PoolId(id))).count();
        }
        self.notices.clear();
    }

    /// Takes over which endpoints discovery has found for a pool.
    pub fn set_endpoints(&mut self, pool: PoolId, found: &[Found]) {
        let Some(view) = self.pools.get_mut(pool.0) else { return };
        found.iter().for_each(|found| add_dialect(&mut self.dialects, view.own_engine(found.engine)));
        let mut news: BTreeMap<&str, &Found> = found.iter().map(|found| (found.address.as_str(), found)).collect();
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| endpoint.is_in(pool)) {
            if let Some(found) = news.remove(endpoint.load.address.as_str()) {
                let was_asked = endpoint.outstanding.is_some();
                view.changed |= endpoint.update(found, view);
                // The answer would be about another place.
                view.outstanding =
                    view.outstanding.saturating_sub(usize::from(was_asked && endpoint.outstanding.is_none()));
                continue;
            }
            endpoint.is_gone = true;
            view.changed = true;
            // An answer to its last scrape is about nobody.
            view.outstanding = view.outstanding.saturating_sub(usize::from(endpoint.outstanding.take().is_some()));
            view.unheard = view.unheard.saturating_sub(usize::from(!endpoint.is_heard));
        }
        for found in news.into_values() {
            let endpoint = Endpoint::found(pool, found, view);
            view.changed = true;
            view.unheard += 1;
            match self.endpoints.iter_mut().find(|endpoint| endpoint.is_gone) {
                Some(place) => *place = endpoint,
                None => self.endpoints.push(endpoint),
            }
        }
        view.changed |= !view.is_known;
        view.is_known = true;
    }

    /// How often to call [`Poller::handle_tick`]: four times an interval, so that a snapshot waits for a slow
    /// endpoint a quarter of an interval at most.
    pub fn tick_period(&self) -> Duration {
        (self.timing.interval / 4).max(Duration::from_millis(10))
    }

    /// Finds the endpoints and the publications that are due.
    pub fn handle_tick(&mut self, now: Timestamp) {
        let started_at = *self.started_at.get_or_insert(now);
        // A pool's first snapshot waits until every endpoint was heard of, but not for one that is silent.
        let waited = now.since(started_at) >= self.timing.interval * 2;
        for pool in &mut self.pools {
            pool.due = pool.is_known && pool.changed && (pool.unheard == 0 || waited);
        }
        let give_up = self.timing.timeout * GIVE_UP_AFTER;
        // A tick comes a little early or late; half a tick of slack keeps the interval from growing by one.
        let slack = self.tick_period() / 2;
        self.due.clear();
        for index in 0..self.endpoints.len() {
            let Some(endpoint) = self.endpoints.get_mut(index).filter(|endpoint| !endpoint.is_gone) else { continue };
            if let Some((id, sent_at)) = endpoint.outstanding {
                if now.since(sent_at) >= give_up {
                    self.fail(id, Seen::Timeout, now);
                }
                continue;
            }
            let clock_went_back = endpoint.next_at.since(now) > self.timing.interval * 2;
            if endpoint.next_at <= now.after(slack) || clock_went_back {
                self.due.push_back(index);
            }
        }
    }

    /// The next scrape to send: those that are due after a tick, and after an answer the one that it leads to.
    pub fn poll_scrape(&mut self, now: Timestamp) -> Option<Scrape> {
        let index = self.due.pop_front()?;
        self.sequence += 1;
        let id = ScrapeId { endpoint: index, sequence: self.sequence };
        let endpoint = self.endpoints.get_mut(index)?;
        let pool = self.pools.get_mut(endpoint.pool.0)?;
        pool.outstanding += 1;
        endpoint.outstanding = Some((id, now));
        endpoint.next_at = now.after(self.timing.interval);
        let (_, place) = endpoint.places.current();
        Some(Scrape {
            id,
            cluster: pool.cluster(&place).to_owned(),
            address: places::address(&endpoint.load.address, &place),
            path: place.path,
            timeout: self.timing.timeout,
        })
    }

    /// Takes an answer in. What it leads to is then given by [`Poller::poll_scrape`].
    pub fn handle_response(&mut self, id: ScrapeId, answer: &Answer<'_>, now: Timestamp) {
        let Some((endpoint, pool)) = answered(&mut self.endpoints, &mut self.pools, id) else { return };
        let (_, place) = endpoint.places.current();
        let asked = places::address(&endpoint.load.address, &place);
        if answer.served.is_some_and(|served| served != asked.as_bytes()) {
            return self.fail(id, Seen::Elsewhere, now);
        }
        match answer.status {
            200 => self.handle_page(id, answer, now),
            301 | 302 | 303 | 307 | 308 => {
                match endpoint.places.handle_redirect(answer.location.unwrap_or_default(), &asked) {
                    Ok(()) => {
                        endpoint.outstanding = None;
                        pool.outstanding = pool.outstanding.saturating_sub(1);
                        self.due.push_back(id.endpoint);
                    }
                    Err(why) => self.fail(id, Seen::Redirect(why), now),
                }
            }
            // Envoy's own answer when no connection could be made.
            503 => self.fail(id, Seen::Unreachable, now),
            // Envoy's own answer after the timeout.
            504 => self.fail(id, Seen::Timeout, now),
            status => self.fail(id, Seen::Status(status), now),
        }
    }

    /// Notes that the connection broke before the answer was complete.
    pub fn handle_broken(&mut self, id: ScrapeId, now: Timestamp) {
        self.fail(id, Seen::Broken, now);
    }

    /// Notes that the host could not send a scrape at all.
    pub fn handle_not_sent(&mut self, scrape: &Scrape, now: Timestamp) {
        self.fail(scrape.id, Seen::NoCluster(scrape.cluster.clone()), now);
    }

    /// The next snapshot to store: when the last outstanding answer of a pool has come, and with each tick.
    pub fn poll_publication(&mut self, now: Timestamp) -> Option<Publication> {
        let endpoints = &self.endpoints;
        let index = self.pools.iter().position(|pool| pool.due)?;
        let pool = self.pools.get_mut(index)?;
        pool.changed = false;
        pool.due = false;
        pool.generation += 1;
        let loads = || endpoints.iter().filter(|endpoint| endpoint.is_in(PoolId(index))).map(|endpoint| &endpoint.load);
        let count = |health| loads().filter(|load| load.health == health).count() as u64;
        let counts = [Health::Up, Health::Unreachable, Health::Silent, Health::Unknown].map(count);
        self.stats.endpoints(PoolId(index), counts);
        let snapshot =
            Snapshot { generation: pool.generation, published_at: now, endpoints: loads().cloned().collect() };
        Some(Publication { key: pool.key.clone(), blob: snapshot.encode() })
    }

    /// The next thing to log.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// What happened, for the metrics.
    pub fn stats(&mut self) -> &mut PollerStats {
        &mut self.stats
    }

    fn handle_page(&mut self, id: ScrapeId, answer: &Answer<'_>, now: Timestamp) {
        let Some((endpoint, pool)) = answered(&mut self.endpoints, &mut self.pools, id) else { return };
        let own = endpoint.engine.and_then(|engine| self.dialects.get(&engine));
        let reading = match read(own.unwrap_or(&pool.dialect), answer) {
            Ok(reading) => reading,
            Err(why) => return self.fail(id, Seen::Unreadable(why), now),
        };
        let sent_at = endpoint.outstanding.map_or(Timestamp::default(), |(_, sent_at)| sent_at);
        endpoint.refused = 0;
        let rates = endpoint.meter.handle_counters(sent_at, reading.counters);
        let EndpointLoad { address, labels, .. } = std::mem::take(&mut endpoint.load);
        endpoint.load = EndpointLoad { labels, ..EndpointLoad::scraped(address, sent_at, reading, rates) };
        endpoint.places.handle_page();
        let (_, place) = endpoint.places.current();
        let news = endpoint.note_page(place, now);
        settle(endpoint, pool, news, &mut self.notices);
        self.stats.scraped(endpoint.pool, ScrapeResult::Ok);
    }

    fn fail(&mut self, id: ScrapeId, seen: Seen, now: Timestamp) {
        let Some((endpoint, pool)) = answered(&mut self.endpoints, &mut self.pools, id) else { return };
        let result = match seen {
            Seen::Unreachable | Seen::Elsewhere => ScrapeResult::Unreachable,
            Seen::Timeout => ScrapeResult::Timeout,
            _ => ScrapeResult::Unreadable,
        };
        self.stats.scraped(endpoint.pool, result);
        let (at, place) = endpoint.places.current();
        // A port that does not serve may be closed, or its cluster be missing, while the endpoint works.
        let is_aside = endpoint.places.is_on_another_port();
        let next = match seen.is_away() && !is_aside {
            true => endpoint.places.handle_silence(),
            false => endpoint.places.handle_miss(),
        };
        if is_aside {
            endpoint.load.health = endpoint.load.health.without_page();
        } else {
            let is_away = matches!(seen, Seen::Unreachable | Seen::Elsewhere);
            endpoint.refused = if is_away { endpoint.refused + 1 } else { 0 };
            endpoint.load.health = match seen {
                // A timeout is several intervals without an answer: no second one is waited for.
                Seen::Timeout => Health::Silent,
                _ if endpoint.refused >= UNREACHABLE_AFTER => Health::Unreachable,
                _ => Health::Unknown,
            };
        }
        endpoint.failures.insert(at, (place, seen));
        if next == Next::Now {
            // It is not heard of until the other places were tried, and there is no trouble yet.
            endpoint.outstanding = None;
            pool.outstanding = pool.outstanding.saturating_sub(1);
            self.due.push_back(id.endpoint);
            return;
        }
        let news = endpoint.note_failure(now);
        settle(endpoint, pool, news, &mut self.notices);
    }
}

/// Reads the page of an answer with status 200.
fn read(dialect: &Dialect, answer: &Answer<'_>) -> Result<Reading, Unreadable> {
    let body = answer.body.ok_or(Unreadable::TooLong)?;
    dialect.read(&Page::of(body, answer.encoding, answer.is_whole)?)
}

/// Notes that a scrape has ended, and whether it was the last to come.
fn settle(endpoint: &mut Endpoint, pool: &mut Pool, news: Option<News>, notices: &mut VecDeque<Notice>) {
    endpoint.outstanding = None;
    pool.changed = true;
    pool.outstanding = pool.outstanding.saturating_sub(1);
    pool.unheard = pool.unheard.saturating_sub(usize::from(!endpoint.is_heard));
    pool.due = pool.is_known && pool.outstanding == 0 && pool.unheard == 0;
    endpoint.is_heard = true;
    if let Some(what) = news {
        notices.push_back(Notice { pool: pool.name.clone(), address: endpoint.load.address.clone(), what });
    }
}

/// The endpoint and pool of an answer, if it is the one that is waited for.
fn answered<'p>(
    endpoints: &'p mut [Endpoint],
    pools: &'p mut [Pool],
    id: ScrapeId,
) -> Option<(&'p mut Endpoint, &'p mut Pool)> {
    let endpoint = endpoints.get_mut(id.endpoint)?;
    if endpoint.outstanding.is_none_or(|(outstanding, _)| outstanding != id) {
        return None;
    }
    let pool = pools.get_mut(endpoint.pool.0)?;
    Some((endpoint, pool))
}

fn add_dialect(dialects: &mut BTreeMap<EngineName, Dialect>, engine: Option<EngineName>) {
    if let Some(engine) = engine {
        dialects.entry(engine).or_insert_with(|| Dialect::of(engine));
    }
}

#[cfg(test)]
mod tests;
