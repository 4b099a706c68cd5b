//! Runs the core's poller and discovery at the host, under the lease: used by the singleton, and by every inference VM as
//! its backup.

use std::collections::BTreeMap;

use inference_plugin::config::Config;
use inference_plugin::discovery::{Answer, Call, CallId, Discovery, MAX_ANSWER_BYTES};
use inference_plugin::headers;
use inference_plugin::lease::{self, Lease, Rank, Turn};
use inference_plugin::page::MAX_PAGE_BYTES;
use inference_plugin::poller::{self, News, Poller, Scrape, ScrapeId};
use inference_plugin::time::Timestamp;
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType};

use crate::calls;
use crate::metrics::Metrics;
use crate::shared;

/// A poller that polls while it holds the lease.
#[derive(Debug)]
pub struct Polling {
    poller: Poller,
    lease: Lease,
    lease_key: String,
    rank: Rank,
    metrics: Metrics,
    discovery: Discovery,
    callouts: BTreeMap<u32, Callout>,
}

/// What a callout is about.
#[derive(Clone, Copy, Debug)]
enum Callout {
    Scrape(ScrapeId),
    Discovery(CallId),
}

impl Polling {
    /// Polling by the VM `owner`, an id that no other living VM has.
    pub fn new(config: &Config, rank: Rank, owner: u64, now: Timestamp) -> Polling {
        let mut poller = Poller::new(config);
        let metrics = Metrics::define(poller.stats().metrics());
        let lease = Lease::new(owner, rank, now, config.poller.interval);
        let lease_key = lease::key(config.fingerprint);
        let discovery = Discovery::new(config, owner);
        Polling { poller, lease, lease_key, rank, metrics, discovery, callouts: BTreeMap::new() }
    }

    /// How often to tick.
    pub fn tick_period(&self) -> std::time::Duration {
        let scrapes = self.poller.tick_period();
        self.discovery.tick_period().map_or(scrapes, |discovery| discovery.min(scrapes))
    }

    /// Renews or watches the lease, and scrapes what is due.
    pub fn handle_tick(&mut self, now: Timestamp) {
        let held_before = self.lease.is_held();
        let stored = shared::get(&self.lease_key);
        match self.lease.handle_tick(now, shared::lend(&stored)) {
            Turn::Follow => {}
            Turn::Claim { blob, cas } => self.lease.handle_claimed(shared::set_if(&self.lease_key, &blob, cas)),
        }
        if !self.lease.is_held() {
            return;
        }
        if !held_before {
            log::info!("this VM polls the metrics: rank={:?}", self.rank);
            self.poller.restart();
            self.discovery.restart();
            if let Some(published) = self.discovery.resources_key().and_then(|key| shared::get(&key)) {
                self.discovery.handle_published(&published.0);
            }
            self.poller.stats().lease_acquired(self.rank);
        }
        self.ask_due(now);
        self.poller.handle_tick(now);
        self.scrape_due(now);
        self.settle(now);
    }

    /// Takes in the answer to a callout, if it is one of ours.
    pub fn handle_response(&mut self, token: u32, num_headers: usize, body_size: usize, now: Timestamp) {
        let Some(callout) = self.callouts.remove(&token) else { return };
        if !self.lease.is_held() {
            return;
        }
        // No headers at all: the connection broke.
        let is_broken = num_headers == 0;
        let body = || calls::buffer(BufferType::HttpCallResponseBody, body_size);
        match callout {
            Callout::Scrape(id) if is_broken => {
                self.poller.handle_broken(id, now);
                self.scrape_due(now);
            }
            Callout::Scrape(id) => {
                let [served, location, encoding, length, chunks] =
                    [headers::SERVED, "location", "content-encoding", "content-length", "transfer-encoding"]
                        .map(response_header);
                let body = if body_size > MAX_PAGE_BYTES { None } else { Some(body().unwrap_or_default()) };
                let answer = poller::Answer {
                    status: status(),
                    served: served.as_deref(),
                    location: location.as_deref(),
                    encoding: encoding.as_deref(),
                    is_whole: length.is_some() || chunks.is_some(),
                    body: body.as_deref(),
                };
                self.poller.handle_response(id, &answer, now);
                // A redirect, and the search for the page, go on at once.
                self.scrape_due(now);
            }
            Callout::Discovery(id) => {
                let is_too_large = body_size > MAX_ANSWER_BYTES;
                let body = if is_broken || is_too_large { None } else { body() };
                let retry_after = if is_broken { None } else { response_header("retry-after") };
                let answer = match &body {
                    _ if is_broken => Answer::Broken,
                    _ if is_too_large => Answer::TooLarge,
                    body => Answer::Answered {
                        status: status(),
                        retry_after: retry_after.as_deref().unwrap_or_default(),
                        body: body.as_deref().unwrap_or_default(),
                    },
                };
                self.discovery.handle_answer(id, answer, now);
                // The next page of a list need not wait for the next tick.
                self.ask_due(now);
            }
        }
        self.settle(now);
    }

    /// Asks what discovery wants to know.
    fn ask_due(&mut self, now: Timestamp) {
        while let Some(call) = self.discovery.poll_call(now) {
            self.ask(&call, now);
        }
    }

    fn ask(&mut self, call: &Call, now: Timestamp) {
        let headers = vec![
            (":method", "GET"),
            (":path", call.path.as_str()),
            (":authority", call.cluster.as_str()),
            ("accept", call.accept),
        ];
        match hostcalls::dispatch_http_call(&call.cluster, headers, None, Vec::new(), call.timeout) {
            Ok(token) => {
                self.callouts.insert(token, Callout::Discovery(call.id));
            }
            Err(_) => self.discovery.handle_answer(call.id, Answer::Broken, now),
        }
    }

    /// Sends the scrapes that are due.
    fn scrape_due(&mut self, now: Timestamp) {
        while let Some(scrape) = self.poller.poll_scrape(now) {
            self.send(&scrape, now);
        }
    }

    fn send(&mut self, scrape: &Scrape, now: Timestamp) {
        let mut headers = vec![
            (":method", "GET"),
            (":path", scrape.path.as_str()),
            (":authority", scrape.address.as_str()),
            (headers::DESTINATION, scrape.address.as_str()),
        ];
        headers.extend(headers::SCRAPE);
        match hostcalls::dispatch_http_call(&scrape.cluster, headers, None, Vec::new(), scrape.timeout) {
            Ok(token) => {
                self.callouts.insert(token, Callout::Scrape(scrape.id));
            }
            Err(_) => self.poller.handle_not_sent(scrape, now),
        }
    }

    /// Publishes, logs and counts what the machine has ready.
    fn settle(&mut self, now: Timestamp) {
        while let Some((pool, endpoints)) = self.discovery.poll_endpoints() {
            self.poller.set_endpoints(pool, endpoints);
        }
        while let Some((key, blob)) = self.discovery.poll_resources() {
            shared::set(&key, &blob);
        }
        while let Some(why) = self.discovery.poll_refused() {
            log::warn!("discovery: a resource is left out: {why}");
        }
        while let Some(notice) = self.discovery.poll_notice() {
            let level = if notice.is_good() { log::Level::Info } else { log::Level::Warn };
            log::log!(level, "discovery: {notice}");
        }
        while let Some(publication) = self.poller.poll_publication(now) {
            shared::set(&publication.key, &publication.blob);
        }
        while let Some(notice) = self.poller.poll_notice() {
            let level = if matches!(notice.what, News::Read(_)) { log::Level::Info } else { log::Level::Warn };
            log::log!(level, "endpoint: pool={} endpoint={} {}", notice.pool, notice.address, notice.what);
        }
        self.metrics.emit(self.poller.stats().drain());
    }
}

fn response_header(name: &str) -> Option<Vec<u8>> {
    calls::map_value(MapType::HttpCallResponseHeaders, name)
}

fn status() -> u16 {
    let value = response_header(":status");
    value.and_then(|value| std::str::from_utf8(&value).ok()?.parse().ok()).unwrap_or(0)
}
