//! This project's own picker: the real core, with its default profile, fed as the filters feed it.
//!
//! Each worker has a `Gateway` of its own, and all share bytes under keys, as VMs do: what one worker knows of
//! another has gone through the real formats and no faster than the real refresh times allow. Requests are JSON
//! bodies, metrics are text pages in vLLM's format. Left out are the host, whose calls take no virtual time, and the
//! poller's own rhythm: pages come when the world says so.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::time::Duration;

use inference_plugin::config::{self, raw::EngineName};
use inference_plugin::engine::Dialect;
use inference_plugin::exchange::{Edit, Exchange, Next, ResponseHead};
use inference_plugin::gateway::Gateway;
use inference_plugin::headers;
use inference_plugin::load::{self, EndpointLoad, Health, Snapshot};
use inference_plugin::page::Page;
use inference_plugin::rates::RateMeter;
use inference_plugin::time::Timestamp;
use simulator::engine::Time;

use super::Gateway as Setting;
use crate::policy::{Arrival, Outcome, Policy, Scraped};
use crate::workload::BASE_MODEL;

/// The product's default, four times the endpoint picker's.
const SCRAPE_INTERVAL: Duration = Duration::from_millis(200);
/// How old a page is when it comes: `scraped_at` is the time at which it was asked for.
const SCRAPE_TAKES: u64 = 2;
/// Adapters that workloads name `adapter-N`.
const ADAPTERS: usize = 64;
/// Virtual time begins here, so that zero stays "never".
const EPOCH: u64 = 1_000_000_000;
/// As Envoy is told in the rendered configuration.
const ATTEMPTS: u32 = 3;

/// One gateway with its workers.
pub struct Ours {
    workers: Vec<Gateway>,
    shared: SharedData,
    requests: HashMap<u64, InFlight>,
    endpoints: Vec<Polled>,
    published: u64,
    is_dirty: bool,
}

struct InFlight {
    worker: usize,
    exchange: Exchange,
    attempts: u32,
    has_headers: bool,
    /// On which statuses the host is to try again.
    retried: Vec<u16>,
}

/// What the poller knows of an endpoint.
struct Polled {
    load: EndpointLoad,
    meter: RateMeter,
    refused: u32,
}

/// Bytes under keys, with versions, as Envoy keeps them for VMs with one id.
#[derive(Default)]
struct SharedData {
    values: BTreeMap<String, (Vec<u8>, u32)>,
}

impl SharedData {
    fn get(&self, key: &str) -> Option<(&[u8], u32)> {
        self.values.get(key).map(|(value, version)| (value.as_slice(), *version))
    }

    fn set(&mut self, key: String, value: Vec<u8>, cas: Option<u32>) -> bool {
        let entry = self.values.entry(key).or_insert((Vec::new(), 0));
        if entry.1 != 0 && cas.is_some_and(|cas| cas != entry.1) {
            return false;
        }
        *entry = (value, entry.1 + 1);
        true
    }
}

fn address(endpoint: usize) -> String {
    format!("10.0.{}.{}:8000", endpoint / 250, endpoint % 250 + 1)
}

fn timestamp(now: Time) -> Timestamp {
    Timestamp(EPOCH + u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

impl Ours {
    /// A gateway's instance.
    pub fn new(setting: &Setting) -> Ours {
        let adapters: Vec<String> = (0..ADAPTERS).map(|index| format!("adapter-{index}")).collect();
        let endpoints: Vec<String> = (0..setting.endpoints).map(address).collect();
        let document = serde_json::json!({
            "pools": [{"name": "p", "baseModel": BASE_MODEL, "adapters": adapters, "endpoints": {"static": endpoints}}]
        });
        let text = document.to_string();
        let mut workers = Vec::new();
        for worker in 0..setting.workers as u64 {
            // A document of our own making is right; without it there would be no gateway to compare.
            let Ok(config) = config::parse(text.as_bytes()) else { break };
            let mut gateway = Gateway::new(config, setting.seed.wrapping_add(worker * 7919));
            gateway.inflight.handle_claimed(worker as u32, worker + 1, timestamp(Time::ZERO));
            workers.push(gateway);
        }
        let polled = |address: String| Polled {
            load: EndpointLoad { address, ..EndpointLoad::default() },
            meter: RateMeter::default(),
            refused: 0,
        };
        let mut ours = Ours {
            workers,
            shared: SharedData::default(),
            requests: HashMap::new(),
            endpoints: endpoints.into_iter().map(polled).collect(),
            published: 0,
            is_dirty: true,
        };
        for worker in 0..setting.workers {
            ours.settle(worker, timestamp(Time::ZERO));
        }
        ours
    }

    /// Publishes the snapshot when a page has come since the last time.
    fn publish(&mut self, now: Timestamp) {
        if !std::mem::take(&mut self.is_dirty) {
            return;
        }
        self.published += 1;
        let endpoints = self.endpoints.iter().map(|polled| polled.load.clone()).collect();
        let snapshot = Snapshot { generation: self.published, published_at: now, endpoints };
        self.shared.set(load::key("p"), snapshot.encode(), None);
    }

    fn settle(&mut self, worker: usize, now: Timestamp) {
        let Some(gateway) = self.workers.get_mut(worker) else { return };
        while let Some(write) = gateway.poll_write(now) {
            let stored = self.shared.set(write.key.clone(), write.blob, write.cas);
            if write.cas.is_some() {
                gateway.handle_read(write.what, self.shared.get(&write.key), now);
            }
            if !stored {
                gateway.handle_conflict(write.what);
            }
        }
        gateway.stats.drain().for_each(drop);
    }

    /// What the filter does from a request's headers to its pick.
    fn decide(&mut self, now: Timestamp, request: &Arrival<'_>) -> (Exchange, Vec<Edit>) {
        let mut exchange = Exchange::default();
        let mut edits = Vec::new();
        let Some(gateway) = self.workers.get_mut(request.worker) else { return (exchange, edits) };
        let head = [(":method", "POST"), (":path", "/v1/chat/completions")];
        let head = head.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec();
        exchange.handle_request_headers(gateway, head, false, now, &mut edits);
        let body = request.prompt.json_body(request.model, request.max_tokens, true);
        if let Next::Load(pool) = exchange.handle_request_end(gateway, body, now, &mut Vec::new()) {
            while let Some(mut read) = gateway.poll_read(pool, now) {
                loop {
                    let stored = self.shared.get(&gateway.read_key(read));
                    match gateway.handle_read(read, stored, now) {
                        Some(along) => read = along,
                        None => break,
                    }
                }
            }
            exchange.handle_load(gateway, now, &mut edits);
        }
        (exchange, edits)
    }

    /// The response's headers, once for each request: attempts that the host repeats are not seen.
    fn handle_headers(&mut self, now: Timestamp, request: u64, endpoint: usize, status: u16, details: &[u8]) {
        let Some(in_flight) = self.requests.get_mut(&request).filter(|in_flight| !in_flight.has_headers) else {
            return;
        };
        in_flight.has_headers = true;
        let attempts = in_flight.attempts;
        let Some(gateway) = self.workers.get_mut(in_flight.worker) else { return };
        let address = address(endpoint);
        let head = ResponseHead {
            status,
            address: Some(address.as_bytes()),
            details: Some(details),
            attempts: Some(attempts),
            ..ResponseHead::default()
        };
        in_flight.exchange.handle_response_headers(gateway, &head, now, &mut Vec::new());
    }

    fn end(&mut self, now: Timestamp, request: u64, details: Option<&[u8]>) {
        let Some(mut in_flight) = self.requests.remove(&request) else { return };
        if let Some(gateway) = self.workers.get_mut(in_flight.worker) {
            in_flight.exchange.handle_end(gateway, details, now);
            self.settle(in_flight.worker, now);
        }
    }
}

impl Policy for Ours {
    fn pick(&mut self, now: Time, request: &Arrival<'_>) -> Vec<usize> {
        let now = timestamp(now);
        self.publish(now);
        let (exchange, edits) = self.decide(now, request);
        let retried = set_header(&edits, headers::RETRIABLE).unwrap_or_default();
        let retried = retried.split(',').filter_map(|status| status.parse().ok()).collect();
        let in_flight = InFlight { worker: request.worker, exchange, attempts: 0, has_headers: false, retried };
        self.requests.insert(request.id, in_flight);
        self.settle(request.worker, now);
        let picked = set_header(&edits, headers::DESTINATION);
        let position = |wanted: &str| self.endpoints.iter().position(|polled| polled.load.address == wanted);
        let list: Vec<usize> = picked.iter().flat_map(|list| list.split(',')).filter_map(position).collect();
        if list.is_empty() { vec![0] } else { list }
    }

    fn scrape_interval(&self) -> Option<Duration> {
        Some(SCRAPE_INTERVAL)
    }

    fn handle_scrape(&mut self, now: Time, endpoint: usize, page: Option<&Scraped>) {
        let Some(polled) = self.endpoints.get_mut(endpoint) else { return };
        self.is_dirty = true;
        let Some(page) = page else {
            polled.refused += 1;
            polled.load.health = if polled.refused >= 2 { Health::Unreachable } else { Health::Unknown };
            return;
        };
        let Ok(reading) = Dialect::of(EngineName::Vllm).read(&Page::text(text(page).as_bytes())) else { return };
        let scraped_at = Timestamp(timestamp(now).0 - SCRAPE_TAKES);
        polled.refused = 0;
        let rates = polled.meter.handle_counters(scraped_at, reading.counters);
        let address = std::mem::take(&mut polled.load.address);
        polled.load = EndpointLoad::scraped(address, scraped_at, reading, rates);
    }

    fn handle_sent(&mut self, _: Time, request: u64, _: usize) {
        if let Some(in_flight) = self.requests.get_mut(&request) {
            in_flight.attempts += 1;
        }
    }

    fn handle_first_token(&mut self, now: Time, request: u64, endpoint: usize) {
        let now = timestamp(now);
        self.handle_headers(now, request, endpoint, 200, b"via_upstream");
        let Some(in_flight) = self.requests.get_mut(&request) else { return };
        let worker = in_flight.worker;
        if let Some(gateway) = self.workers.get_mut(worker) {
            in_flight.exchange.handle_response_body(gateway, 100, false, now);
        }
        self.settle(worker, now);
    }

    fn retries_on(&self, request: u64, status: u16) -> bool {
        self.requests.get(&request).is_some_and(|in_flight| in_flight.retried.contains(&status))
    }

    fn handle_end(&mut self, now: Time, request: u64, endpoint: usize, outcome: Outcome) {
        let now = timestamp(now);
        let attempts = self.requests.get(&request).map_or(0, |in_flight| in_flight.attempts);
        let is_retried = |status| matches!(status, 500 | 503) || self.retries_on(request, status);
        match outcome {
            Outcome::Finished | Outcome::Timeout => self.end(now, request, None),
            Outcome::Reset => {
                self.end(now, request, Some(b"upstream_reset_after_response_started{connection_termination}"))
            }
            // The host tries again.
            Outcome::Refused if attempts < ATTEMPTS => {}
            Outcome::Status(status) if attempts < ATTEMPTS && is_retried(status) => {}
            Outcome::Status(status) => {
                self.handle_headers(now, request, endpoint, status, b"via_upstream");
                self.end(now, request, None);
            }
            Outcome::Refused => {
                let details = b"upstream_reset_before_response_started{remote_connection_failure}";
                self.handle_headers(now, request, endpoint, 503, details);
                self.end(now, request, None);
            }
        }
    }
}

/// What a request header was set to.
fn set_header<'e>(edits: &'e [Edit], wanted: &str) -> Option<&'e str> {
    edits.iter().find_map(|edit| match edit {
        Edit::SetRequestHeader(name, value) if name == wanted => Some(value.as_str()),
        _ => None,
    })
}

/// A page as vLLM writes it, as far as the reader looks.
fn text(page: &Scraped) -> String {
    let mut text = String::new();
    let started_at = 1_700_000_000 + page.started_at.as_secs();
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "process_start_time_seconds {started_at}\n\
         vllm:num_requests_waiting {}\nvllm:num_requests_running {}\nvllm:kv_cache_usage_perc {}\n\
         vllm:cache_config_info{{block_size=\"{}\",num_gpu_blocks=\"{}\"}} 1\n\
         vllm:prompt_tokens_total {}\nvllm:generation_tokens_total {}\nvllm:prefix_cache_hits_total {}\n\
         vllm:request_success_total {}\n",
        page.waiting,
        page.running,
        page.kv_cache_usage,
        page.block_size,
        page.blocks,
        page.prompt_tokens,
        page.generation_tokens,
        page.prefix_cache_hits,
        page.finished,
    );
    if let Some(lora) = &page.lora {
        let running = lora.running.join(",");
        let _ = writeln!(
            text,
            "vllm:lora_requests_info{{max_lora=\"{}\",running_lora_adapters=\"{running}\",waiting_lora_adapters=\"{running}\"}} 1",
            lora.max
        );
    }
    text
}
