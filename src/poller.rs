//! The metrics poller as a machine: told of ticks and answers, it says what to scrape and what to publish.
//!
//! Every endpoint has its own rhythm, so that one that answers slowly holds up no other. A failed scrape
//! never changes what is known about an endpoint's load, it only lets it age. Connections that are refused
//! twice in a row mark the endpoint as unreachable, a timeout marks it as silent. Whatever an endpoint
//! answers, the machine goes on.

mod seen;
mod state;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::config::raw::EngineName;
use crate::config::{Config, PollerConfig, PoolId};
use crate::discovery::Found;
use crate::engine::Dialect;
use crate::load::{EndpointLoad, Health, Snapshot};
use crate::stats::{PollerStats, ScrapeResult};
use crate::time::Timestamp;

pub use seen::{Notice, Seen};
use state::{Endpoint, Pool};

/// One lost connection may be a restart of the connection; two in a row are an endpoint that is gone.
const UNREACHABLE_AFTER: u32 = 2;
/// The host ends a scrape after `poller.timeout`; one that it never answers for is given up after this many times that.
const GIVE_UP_AFTER: u32 = 2;

/// A metrics page of a thousand series has some 100 KB. Much larger ones are left with the host: a VM's memory never
/// shrinks again.
pub const MAX_PAGE_BYTES: usize = 4 << 20;

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
    /// Of engines that pods have named.
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
        for (id, pool) in config.pools() {
            pools.push(Pool::new(pool));
            endpoints.extend(pool.endpoints.iter().map(|address| Endpoint::new(id, address.to_string())));
        }
        Poller {
            timing: config.poller,
            pools,
            dialects: BTreeMap::new(),
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
        self.endpoints.retain(|endpoint| pools.get(endpoint.pool.0).is_some_and(|pool| !pool.is_discovered));
        for endpoint in &mut self.endpoints {
            *endpoint = Endpoint::new(endpoint.pool, std::mem::take(&mut endpoint.load.address));
        }
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
        for engine in found.iter().filter_map(|found| found.engine).filter(|_| view.follows_engine_label) {
            self.dialects.entry(engine).or_insert_with(|| Dialect::of(engine));
        }
        let engine = |found: &Found| found.engine.filter(|_| view.follows_engine_label);
        let mut news: BTreeMap<&str, &Found> = found.iter().map(|found| (found.address.as_str(), found)).collect();
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| endpoint.is_in(pool)) {
            if let Some(found) = news.remove(endpoint.load.address.as_str()) {
                view.changed |= endpoint.load.labels != found.labels;
                endpoint.load.labels.clone_from(&found.labels);
                endpoint.engine = engine(found);
                continue;
            }
            endpoint.is_gone = true;
            view.changed = true;
            // An answer to its last scrape is about nobody.
            view.outstanding = view.outstanding.saturating_sub(usize::from(endpoint.outstanding.take().is_some()));
            view.unheard = view.unheard.saturating_sub(usize::from(endpoint.seen.is_none()));
        }
        for (address, found) in news {
            let mut endpoint = Endpoint { engine: engine(found), ..Endpoint::new(pool, address.to_owned()) };
            endpoint.load.labels.clone_from(&found.labels);
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
                    self.fail(id, Seen::Timeout, ScrapeResult::Timeout);
                }
                continue;
            }
            let clock_went_back = endpoint.next_at.since(now) > self.timing.interval * 2;
            if endpoint.next_at <= now.after(slack) || clock_went_back {
                self.due.push_back(index);
            }
        }
    }

    /// The next scrape to send.
    pub fn poll_scrape(&mut self, now: Timestamp) -> Option<Scrape> {
        let index = self.due.pop_front()?;
        self.sequence += 1;
        let id = ScrapeId { endpoint: index, sequence: self.sequence };
        let endpoint = self.endpoints.get_mut(index)?;
        let pool = self.pools.get_mut(endpoint.pool.0)?;
        pool.outstanding += 1;
        endpoint.outstanding = Some((id, now));
        endpoint.next_at = now.after(self.timing.interval);
        Some(Scrape {
            id,
            cluster: pool.cluster.clone(),
            address: endpoint.load.address.clone(),
            path: pool.path.clone(),
            timeout: self.timing.timeout,
        })
    }

    /// Takes an answer in, and who has given it if Envoy's cluster says so: Envoy balances what it cannot send where it should.
    pub fn handle_response(&mut self, id: ScrapeId, status: u16, served: Option<&[u8]>, page: &[u8]) {
        let asked = self.endpoints.get(id.endpoint).map(|endpoint| endpoint.load.address.as_bytes());
        if served.is_some() && served != asked {
            return self.fail(id, Seen::Elsewhere, ScrapeResult::Unreachable);
        }
        match status {
            200 => self.handle_page(id, page),
            // Envoy's own answer when no connection could be made.
            503 => self.fail(id, Seen::Unreachable, ScrapeResult::Unreachable),
            // Envoy's own answer after the timeout.
            504 => self.fail(id, Seen::Timeout, ScrapeResult::Timeout),
            status => self.fail(id, Seen::Status(status), ScrapeResult::Unreadable),
        }
    }

    /// Notes that the page is longer than [`MAX_PAGE_BYTES`] and was not read.
    pub fn handle_too_large(&mut self, id: ScrapeId) {
        self.fail(id, Seen::TooLarge, ScrapeResult::Unreadable);
    }

    /// Notes that the connection broke before the answer was complete.
    pub fn handle_broken(&mut self, id: ScrapeId) {
        self.fail(id, Seen::Broken, ScrapeResult::Unreadable);
    }

    /// Notes that the host could not send a scrape at all.
    pub fn handle_not_sent(&mut self, id: ScrapeId) {
        self.fail(id, Seen::NoCluster, ScrapeResult::Unreadable);
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

    fn handle_page(&mut self, id: ScrapeId, page: &[u8]) {
        let Some((endpoint, pool)) = answered(&mut self.endpoints, &self.pools, id) else { return };
        let own = endpoint.engine.and_then(|engine| self.dialects.get(&engine));
        let reading = match own.unwrap_or(&pool.dialect).read(page) {
            Ok(reading) => reading,
            Err(why) => return self.fail(id, Seen::Unreadable(why), ScrapeResult::Unreadable),
        };
        let sent_at = endpoint.outstanding.take().map_or(Timestamp::default(), |(_, sent_at)| sent_at);
        endpoint.refused = 0;
        let rates = endpoint.meter.handle_counters(sent_at, reading.counters);
        let EndpointLoad { address, labels, .. } = std::mem::take(&mut endpoint.load);
        endpoint.load = EndpointLoad { labels, ..EndpointLoad::scraped(address, sent_at, reading, rates) };
        self.settle(id, Seen::Ok, ScrapeResult::Ok);
    }

    fn fail(&mut self, id: ScrapeId, seen: Seen, result: ScrapeResult) {
        let Some((endpoint, _)) = answered(&mut self.endpoints, &self.pools, id) else { return };
        endpoint.outstanding = None;
        let is_away = matches!(seen, Seen::Unreachable | Seen::Elsewhere);
        endpoint.refused = if is_away { endpoint.refused + 1 } else { 0 };
        endpoint.load.health = match seen {
            // A timeout is several intervals without an answer: no second one is waited for.
            Seen::Timeout => Health::Silent,
            _ if endpoint.refused >= UNREACHABLE_AFTER => Health::Unreachable,
            _ => Health::Unknown,
        };
        self.settle(id, seen, result);
    }

    /// Counts a result, says so where it differs from the last one, and sees whether it was the last to come.
    fn settle(&mut self, id: ScrapeId, seen: Seen, result: ScrapeResult) {
        let Some((endpoint, pool)) = self
            .endpoints
            .get_mut(id.endpoint)
            .and_then(|endpoint| self.pools.get_mut(endpoint.pool.0).map(|pool| (endpoint, pool)))
        else {
            return;
        };
        pool.changed = true;
        pool.outstanding = pool.outstanding.saturating_sub(1);
        pool.unheard = pool.unheard.saturating_sub(usize::from(endpoint.seen.is_none()));
        pool.due = pool.is_known && pool.outstanding == 0 && pool.unheard == 0;
        self.stats.scraped(endpoint.pool, result);
        if endpoint.seen.as_ref() != Some(&seen) {
            self.notices.push_back(Notice {
                pool: pool.name.clone(),
                address: endpoint.load.address.clone(),
                what: seen.clone(),
            });
            endpoint.seen = Some(seen);
        }
    }
}

/// The endpoint and pool of an answer, if it is the one that is waited for.
fn answered<'p>(
    endpoints: &'p mut [Endpoint],
    pools: &'p [Pool],
    id: ScrapeId,
) -> Option<(&'p mut Endpoint, &'p Pool)> {
    let endpoint = endpoints.get_mut(id.endpoint)?;
    if endpoint.outstanding.is_none_or(|(outstanding, _)| outstanding != id) {
        return None;
    }
    let pool = pools.get(endpoint.pool.0)?;
    Some((endpoint, pool))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EndpointAddress;
    use crate::testing::test;

    const PAGE: &[u8] = b"vllm:num_requests_waiting 3\nvllm:num_requests_running 1\nvllm:kv_cache_usage_perc 0.5\n";

    struct Bench {
        poller: Poller,
        now: Timestamp,
    }

    impl Bench {
        fn new(endpoints: &str) -> Bench {
            let json =
                format!(r#"{{"pools": [{{"name": "a", "baseModel": "m", "endpoints": {{"static": {endpoints}}}}}]}}"#);
            let config = crate::config::parse(json.as_bytes()).unwrap();
            Bench { poller: Poller::new(&config), now: Timestamp(10_000) }
        }

        /// Lets time pass and gives the scrapes that become due.
        fn after(&mut self, millis: u64) -> Vec<Scrape> {
            self.now = Timestamp(self.now.0 + millis);
            self.poller.handle_tick(self.now);
            std::iter::from_fn(|| self.poller.poll_scrape(self.now)).collect()
        }

        fn published(&mut self) -> Option<Snapshot> {
            self.poller.poll_publication(self.now).map(|publication| {
                assert_eq!(publication.key.split('#').next(), Some("ip1/load/a"));
                Snapshot::decode(&publication.blob).unwrap()
            })
        }
    }

    fn found(port: u16) -> Found {
        Found::at(EndpointAddress::new(([10, 0, 0, 1], port).into()))
    }

    #[test]
    fn every_endpoint_is_scraped_side_by_side_and_again_after_the_interval() {
        let mut bench = Bench::new(r#"["10.0.0.1:1", "10.0.0.2:1"]"#);
        let scrapes = bench.after(0);
        assert_eq!(
            scrapes.iter().map(|scrape| scrape.address.as_str()).collect::<Vec<_>>(),
            ["10.0.0.1:1", "10.0.0.2:1"]
        );
        assert!(bench.after(100).is_empty(), "both are outstanding");
        bench.poller.handle_response(scrapes[0].id, 200, None, PAGE);
        assert!(bench.after(50).is_empty(), "not due yet");
        assert_eq!(bench.after(50).len(), 1, "the slow one holds up nobody");
    }

    #[test]
    fn a_snapshot_is_published_once_all_were_heard_of() {
        let mut bench = Bench::new(r#"["10.0.0.1:1", "10.0.0.2:1"]"#);
        let scrapes = bench.after(0);
        bench.poller.handle_response(scrapes[0].id, 200, None, PAGE);
        assert_eq!(bench.published(), None);
        bench.poller.handle_response(scrapes[1].id, 500, None, b"");
        let snapshot = bench.published().unwrap();
        assert_eq!((snapshot.endpoints[0].waiting, snapshot.endpoints[0].health), (Some(3), Health::Up));
        assert_eq!((snapshot.endpoints[1].waiting, snapshot.endpoints[1].health), (None, Health::Unknown));
        assert_eq!(bench.published(), None, "nothing changed");
    }

    #[test]
    fn a_silent_endpoint_does_not_hold_back_the_first_snapshot_for_ever() {
        let mut bench = Bench::new(r#"["10.0.0.1:1", "10.0.0.2:1"]"#);
        let scrapes = bench.after(0);
        bench.poller.handle_response(scrapes[0].id, 200, None, PAGE);
        assert_eq!(bench.published(), None);
        bench.after(400);
        let snapshot = bench.published().unwrap();
        assert_eq!((snapshot.endpoints[0].waiting, snapshot.endpoints[1].waiting), (Some(3), None));
    }

    #[test]
    fn a_snapshot_waits_for_the_round_or_for_a_tick() {
        let mut bench = Bench::new(r#"["10.0.0.1:1", "10.0.0.2:1"]"#);
        for scrape in bench.after(0) {
            bench.poller.handle_response(scrape.id, 200, None, PAGE);
        }
        assert!(bench.published().is_some());
        let scrapes = bench.after(200);
        bench.poller.handle_response(scrapes[0].id, 200, None, PAGE);
        assert_eq!(bench.published(), None, "one more is to come");
        bench.after(50);
        assert!(bench.published().is_some(), "but it is not waited for longer than a tick");
    }

    #[test]
    fn a_failure_keeps_the_load_and_its_time() {
        let mut bench = Bench::new(r#"["10.0.0.1:1"]"#);
        let scrape = bench.after(0).remove(0);
        bench.poller.handle_response(scrape.id, 200, Some(b"10.0.0.1:1"), PAGE);
        let good = bench.published().unwrap();
        let failures: [fn(&mut Poller, ScrapeId); 9] = [
            |poller, id| poller.handle_response(id, 503, None, b"upstream connect error"),
            |poller, id| poller.handle_response(id, 504, None, b""),
            |poller, id| poller.handle_response(id, 200, Some(b"10.0.0.2:1"), PAGE),
            |poller, id| poller.handle_response(id, 200, None, b"half a page"),
            |poller, id| poller.handle_response(id, 200, None, b"\xff\xfe\n"),
            |poller, id| poller.handle_response(id, 404, None, PAGE),
            |poller, id| poller.handle_broken(id),
            |poller, id| poller.handle_too_large(id),
            |poller, id| poller.handle_not_sent(id),
        ];
        for fail in failures {
            let scrape = bench.after(200).remove(0);
            fail(&mut bench.poller, scrape.id);
            let after = bench.published().unwrap();
            assert_eq!(after.endpoints[0].waiting, Some(3));
            assert_eq!(after.endpoints[0].scraped_at, good.endpoints[0].scraped_at);
            assert!(matches!(after.endpoints[0].health, Health::Unknown | Health::Silent));
        }
    }

    #[test]
    fn refused_twice_is_unreachable_and_one_answer_brings_it_back() {
        let mut bench = Bench::new(r#"["10.0.0.1:1"]"#);
        let mut health = Vec::new();
        for answer in [503, 503, 503, 504, 503, 200, 503] {
            let scrape = bench.after(200).remove(0);
            bench.poller.handle_response(scrape.id, answer, None, PAGE);
            health.push(bench.published().unwrap().endpoints[0].health);
        }
        use Health::{Silent, Unknown, Unreachable, Up};
        assert_eq!(health, [Unknown, Unreachable, Unreachable, Silent, Unknown, Up, Unknown]);
        let notices: Vec<Seen> = std::iter::from_fn(|| bench.poller.poll_notice()).map(|notice| notice.what).collect();
        use Seen::{Ok, Timeout};
        assert_eq!(notices, [Seen::Unreachable, Timeout, Seen::Unreachable, Ok, Seen::Unreachable], "said once each");
    }

    #[test]
    fn an_answer_that_never_comes_is_given_up_and_a_late_one_is_ignored() {
        let mut bench = Bench::new(r#"["10.0.0.1:1"]"#);
        let lost = bench.after(0).remove(0);
        assert!(bench.after(1_999).is_empty());
        assert!(bench.after(1).is_empty(), "given up in this tick, due in the next");
        assert_eq!(bench.after(50).len(), 1);
        bench.poller.handle_response(lost.id, 200, None, PAGE);
        assert_eq!(bench.published().unwrap().endpoints[0].waiting, None);
    }

    #[test]
    fn a_clock_that_goes_back_does_not_stop_polling() {
        let mut bench = Bench::new(r#"["10.0.0.1:1"]"#);
        let scrape = bench.after(0).remove(0);
        bench.poller.handle_response(scrape.id, 200, None, PAGE);
        bench.now = Timestamp(1);
        assert_eq!(bench.after(0).len(), 1);
    }

    #[test]
    fn discovered_endpoints_come_and_go() {
        let json = r#"{"pools": [{"name": "a", "baseModel": "m", "endpoints": {"envoyAdmin": {}}}]}"#;
        let config = crate::config::parse(json.as_bytes()).unwrap();
        let mut bench = Bench { poller: Poller::new(&config), now: Timestamp(10_000) };
        assert!(bench.after(0).is_empty() && bench.published().is_none(), "nothing is known, and nothing is said");
        let found = |ports: &[u16]| ports.iter().map(|port| found(*port)).collect::<Vec<_>>();
        let scraped = |scrapes: &[Scrape]| scrapes.iter().map(|scrape| scrape.address.clone()).collect::<Vec<_>>();
        let published = |bench: &mut Bench| {
            let snapshot = bench.published()?;
            Some(snapshot.endpoints.iter().map(|load| (load.address.clone(), load.health)).collect::<Vec<_>>())
        };
        let at = |port: u16| format!("10.0.0.1:{port}");
        bench.poller.set_endpoints(PoolId(0), &found(&[1, 2]));
        let scrapes = bench.after(50);
        assert_eq!(scraped(&scrapes), [at(1), at(2)]);
        scrapes.iter().for_each(|scrape| bench.poller.handle_response(scrape.id, 200, None, PAGE));
        assert_eq!(published(&mut bench), Some(vec![(at(1), Health::Up), (at(2), Health::Up)]));
        let scrapes = bench.after(200);
        assert_eq!(scrapes.len(), 2);
        // One goes while its scrape is under way, and another one takes its place.
        bench.poller.set_endpoints(PoolId(0), &found(&[2, 3]));
        let late = bench.after(500);
        assert_eq!(scraped(&late), [at(3)]);
        assert_eq!(published(&mut bench), Some(vec![(at(3), Health::Unknown), (at(2), Health::Up)]), "at once");
        bench.poller.handle_response(scrapes[0].id, 200, None, PAGE);
        bench.poller.handle_response(scrapes[1].id, 200, None, PAGE);
        bench.poller.handle_response(late[0].id, 200, None, PAGE);
        assert_eq!(published(&mut bench), Some(vec![(at(3), Health::Up), (at(2), Health::Up)]));
        bench.poller.set_endpoints(PoolId(0), &[]);
        bench.after(50);
        assert_eq!(published(&mut bench), Some(Vec::new()), "none is an answer too");
        // Another VM has polled: what there is must be found again before anything is said.
        bench.poller.set_endpoints(PoolId(0), &found(&[1]));
        let late = bench.after(50).remove(0);
        bench.poller.restart();
        bench.poller.handle_response(late.id, 200, None, PAGE);
        assert!(bench.after(60_000).is_empty() && bench.published().is_none());
        bench.poller.set_endpoints(PoolId(0), &found(&[4]));
        assert_eq!(scraped(&bench.after(50)), [at(4)]);
    }

    #[test]
    fn a_discovered_pool_is_shared_by_those_that_look_for_the_same() {
        let key = |endpoints: &str, more: &str| {
            let json = format!(r#"{{"pools": [{{"name": "a", "baseModel": "m", "endpoints": {endpoints}{more}}}]}}"#);
            crate::config::parse(json.as_bytes()).unwrap().pools[0].load_key()
        };
        let pods = |name: &str| format!(r#"{{"kubernetes": {{"namespace": "ns", "inferencePool": "{name}"}}}}"#);
        let labels = r#", "scheduling": {"filters": [{"type": "label-selector-filter", "parameters": {"matchLabels": {"t": "x"}}}]}"#;
        assert_eq!(key(r#"{"static": ["10.0.0.1:1"]}"#, ""), "ip1/load/a");
        assert_eq!(key(&pods("p"), ""), key(&pods("p"), r#", "failureMode": "FailClose""#));
        let keys =
            [key(&pods("p"), ""), key(&pods("q"), ""), key(&pods("p"), labels), key(r#"{"envoyAdmin": {}}"#, "")];
        assert_eq!(keys.iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "{keys:?}");
    }

    #[test]
    fn a_pods_labels_say_what_runs_there() {
        let sglang = include_bytes!("../tests/engines/sglang-0.5.23-busy.prom");
        for (engine, follows) in [("\"vllm\"", true), (r#"{"waiting": "vllm:num_requests_waiting"}"#, false)] {
            let json = format!(
                r#"{{"pools": [{{"name": "a", "baseModel": "m", "engine": {engine}, "endpoints": {{"envoyAdmin": {{}}}}}}]}}"#
            );
            let config = crate::config::parse(json.as_bytes()).unwrap();
            let mut bench = Bench { poller: Poller::new(&config), now: Timestamp(10_000) };
            let labels = |tier: &str| [("tier".to_owned(), tier.to_owned())].into();
            let other = Found { engine: Some(EngineName::Sglang), labels: labels("gold"), ..found(2) };
            bench.poller.set_endpoints(PoolId(0), &[found(1), other.clone()]);
            let scrapes = bench.after(50);
            bench.poller.handle_response(scrapes[0].id, 200, None, PAGE);
            bench.poller.handle_response(scrapes[1].id, 200, None, sglang);
            let endpoints = bench.published().unwrap().endpoints;
            assert_eq!((endpoints[0].waiting, endpoints[0].labels.len()), (Some(3), 0));
            assert_eq!((endpoints[1].running.is_some(), &endpoints[1].labels), (follows, &labels("gold")));
            bench.poller.set_endpoints(PoolId(0), &[found(1), Found { labels: labels("silver"), ..other }]);
            bench.after(50);
            assert_eq!(bench.published().unwrap().endpoints[1].labels, labels("silver"), "at once");
        }
    }
}
