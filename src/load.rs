//! What the poller knows about a pool's endpoints: the load snapshot, and its bytes under `ip1/load/<pool>`.
//!
//! One blob a pool, written by whoever holds the poll lease, read by every worker for each request. Each
//! endpoint carries the time of its own last good scrape, so that a reader can tell fresh from stale.

use crate::engine::Reading;
use crate::rates::Rates;
use crate::scheduling::labels::Labels;
use crate::time::Timestamp;
use crate::wire::{Reader, Writer};

const MAGIC: &[u8; 4] = b"IPld";
const VERSION: u8 = 3;
/// A longer list of adapters is cut: it only serves affinity, and engines run a handful at a time.
const MAX_ADAPTERS: usize = 64;
/// Longer names than the configuration takes for an adapter match none.
const MAX_ADAPTER_NAME: usize = 256;

/// The shared-data key of a pool's snapshot.
pub fn key(pool: &str) -> String {
    format!("ip1/load/{pool}")
}

/// The load of a pool's endpoints, in the configuration's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Counts the snapshots that one poller has published.
    pub generation: u64,
    /// When it was published.
    pub published_at: Timestamp,
    /// The endpoints.
    pub endpoints: Vec<EndpointLoad>,
}

/// The load of one endpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointLoad {
    /// Its `ip:port`.
    pub address: String,
    /// Those of its labels that filters and scorers look at, if it was discovered.
    pub labels: Labels,
    /// Whether it answers.
    pub health: Health,
    /// When the last good scrape was sent; the epoch when there was none.
    pub scraped_at: Timestamp,
    /// Requests that wait, if the engine says so.
    pub waiting: Option<u32>,
    /// Requests that run.
    pub running: Option<u32>,
    /// The used share of the KV cache, from 0 to 1.
    pub kv_cache_usage: Option<f32>,
    /// How many tokens the KV cache holds; zero when prefix caching is off.
    pub capacity_tokens: Option<u64>,
    /// LoRA activity.
    pub adapters: Option<Adapters>,
    /// Tokens that have gone into the KV cache since the engine's start.
    pub cache_clock: Option<u64>,
    /// When the engine's process started, in seconds since the Unix epoch.
    pub started_at: Option<u64>,
    /// What the engine has done in a second, over the last seconds.
    pub rates: Option<Rates>,
}

/// Whether an endpoint answers its scrapes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It was not asked yet, or its answers cannot be read: no opinion.
    #[default]
    Unknown,
    /// It gave a readable page.
    Up,
    /// It cannot be connected to.
    Unreachable,
    /// It takes the scrape and does not answer in time.
    Silent,
}

impl Health {
    /// What is left of it when a page on another port is missing, which says nothing of the port that serves.
    pub fn without_page(self) -> Health {
        if self == Health::Up { Health::Unknown } else { self }
    }
}

/// The LoRA adapters that an engine works with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapters {
    /// How many fit in at a time.
    pub max: u32,
    /// Adapters of running requests, sorted.
    pub running: Vec<String>,
    /// Adapters of waiting requests that are not running, sorted.
    pub waiting: Vec<String>,
}

impl EndpointLoad {
    /// What a good scrape says that was sent at `scraped_at`.
    pub fn scraped(address: String, scraped_at: Timestamp, reading: Reading, rates: Option<Rates>) -> EndpointLoad {
        EndpointLoad {
            address,
            labels: Labels::new(),
            health: Health::Up,
            scraped_at,
            waiting: reading.waiting,
            running: reading.running,
            kv_cache_usage: reading.kv_cache_usage,
            capacity_tokens: reading.capacity_tokens,
            adapters: reading.adapters,
            cache_clock: reading.counters.cache_clock(),
            started_at: reading.counters.started_at,
            rates,
        }
    }
}

impl Adapters {
    /// The adapters of an engine that lists running and waiting ones; one that is in both counts as running.
    pub fn new(max: u32, mut running: Vec<String>, mut waiting: Vec<String>) -> Adapters {
        running.retain(|name| name.len() <= MAX_ADAPTER_NAME);
        waiting.retain(|name| name.len() <= MAX_ADAPTER_NAME);
        running.sort();
        running.dedup();
        running.truncate(MAX_ADAPTERS);
        waiting.retain(|name| running.binary_search(name).is_err());
        waiting.sort();
        waiting.dedup();
        waiting.truncate(MAX_ADAPTERS - running.len());
        Adapters { max, running, waiting }
    }
}

impl Snapshot {
    /// The snapshot's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new(MAGIC, VERSION, self.generation);
        writer.u64(self.published_at.0);
        writer.u16(u16::try_from(self.endpoints.len()).unwrap_or(u16::MAX));
        for endpoint in self.endpoints.iter().take(usize::from(u16::MAX)) {
            endpoint.encode(&mut writer);
        }
        writer.finish()
    }

    /// The snapshot in `blob`; `None` when it is of another version or damaged.
    pub fn decode(blob: &[u8]) -> Option<Snapshot> {
        let (mut reader, generation) = Reader::new(blob, MAGIC, VERSION)?;
        let published_at = Timestamp(reader.u64()?);
        let count = reader.u16()?;
        let mut endpoints = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            endpoints.push(EndpointLoad::decode(&mut reader)?);
        }
        reader.is_at_end().then_some(Snapshot { generation, published_at, endpoints })
    }
}

/// Which optional fields follow an endpoint's fixed ones.
mod field {
    pub(super) const WAITING: u8 = 1;
    pub(super) const RUNNING: u8 = 2;
    pub(super) const KV_CACHE_USAGE: u8 = 4;
    pub(super) const CAPACITY: u8 = 8;
    pub(super) const ADAPTERS: u8 = 16;
    pub(super) const CACHE_CLOCK: u8 = 32;
    pub(super) const STARTED_AT: u8 = 64;
    pub(super) const RATES: u8 = 128;
}

impl EndpointLoad {
    fn encode(&self, writer: &mut Writer) {
        writer.text(&self.address);
        writer.u8(u8::try_from(self.labels.len()).unwrap_or(u8::MAX));
        for (name, value) in self.labels.iter().take(usize::from(u8::MAX)) {
            writer.text(name);
            writer.text(value);
        }
        writer.u8(match self.health {
            Health::Unknown => 0,
            Health::Up => 1,
            Health::Unreachable => 2,
            Health::Silent => 3,
        });
        writer.u64(self.scraped_at.0);
        let bit = |present: bool, bit: u8| if present { bit } else { 0 };
        writer.u8(bit(self.waiting.is_some(), field::WAITING)
            | bit(self.running.is_some(), field::RUNNING)
            | bit(self.kv_cache_usage.is_some(), field::KV_CACHE_USAGE)
            | bit(self.capacity_tokens.is_some(), field::CAPACITY)
            | bit(self.adapters.is_some(), field::ADAPTERS)
            | bit(self.cache_clock.is_some(), field::CACHE_CLOCK)
            | bit(self.started_at.is_some(), field::STARTED_AT)
            | bit(self.rates.is_some(), field::RATES));
        if let Some(waiting) = self.waiting {
            writer.u32(waiting);
        }
        if let Some(running) = self.running {
            writer.u32(running);
        }
        if let Some(usage) = self.kv_cache_usage {
            writer.f32(usage);
        }
        if let Some(tokens) = self.capacity_tokens {
            writer.u64(tokens);
        }
        if let Some(adapters) = &self.adapters {
            writer.u32(adapters.max);
            for names in [&adapters.running, &adapters.waiting] {
                writer.u8(u8::try_from(names.len()).unwrap_or(u8::MAX));
                for name in names.iter().take(usize::from(u8::MAX)) {
                    writer.text(name);
                }
            }
        }
        for number in [self.cache_clock, self.started_at].into_iter().flatten() {
            writer.u64(number);
        }
        if let Some(rates) = self.rates {
            writer.f32(rates.prefill_tokens);
            writer.f32(rates.generated_tokens);
            writer.f32(rates.finished_requests);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Option<EndpointLoad> {
        let address = reader.text()?.to_owned();
        let mut labels = Labels::new();
        for _ in 0..reader.u8()? {
            labels.insert(reader.text()?.to_owned(), reader.text()?.to_owned());
        }
        let health = match reader.u8()? {
            0 => Health::Unknown,
            1 => Health::Up,
            2 => Health::Unreachable,
            3 => Health::Silent,
            _ => return None,
        };
        let scraped_at = Timestamp(reader.u64()?);
        let fields = reader.u8()?;
        let mut load = EndpointLoad { address, labels, health, scraped_at, ..EndpointLoad::default() };
        if fields & field::WAITING != 0 {
            load.waiting = Some(reader.u32()?);
        }
        if fields & field::RUNNING != 0 {
            load.running = Some(reader.u32()?);
        }
        if fields & field::KV_CACHE_USAGE != 0 {
            load.kv_cache_usage = Some(reader.f32()?);
        }
        if fields & field::CAPACITY != 0 {
            load.capacity_tokens = Some(reader.u64()?);
        }
        if fields & field::ADAPTERS != 0 {
            let max = reader.u32()?;
            let running = names(reader)?;
            let waiting = names(reader)?;
            load.adapters = Some(Adapters { max, running, waiting });
        }
        if fields & field::CACHE_CLOCK != 0 {
            load.cache_clock = Some(reader.u64()?);
        }
        if fields & field::STARTED_AT != 0 {
            load.started_at = Some(reader.u64()?);
        }
        if fields & field::RATES != 0 {
            let (prefill_tokens, generated_tokens, finished_requests) = (reader.f32()?, reader.f32()?, reader.f32()?);
            load.rates = Some(Rates { prefill_tokens, generated_tokens, finished_requests });
        }
        Some(load)
    }
}

fn names(reader: &mut Reader<'_>) -> Option<Vec<String>> {
    let count = reader.u8()?;
    (0..count).map(|_| reader.text().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn snapshot() -> Snapshot {
        Snapshot {
            generation: 3,
            published_at: Timestamp(1_000),
            endpoints: vec![
                EndpointLoad { address: "10.0.0.1:8000".to_owned(), ..EndpointLoad::default() },
                EndpointLoad {
                    address: "[::1]:8000".to_owned(),
                    labels: Labels::from([("tier".to_owned(), "gold".to_owned())]),
                    health: Health::Up,
                    scraped_at: Timestamp(990),
                    waiting: Some(1),
                    running: Some(2),
                    kv_cache_usage: Some(0.5),
                    capacity_tokens: Some(8192),
                    adapters: Some(Adapters::new(
                        2,
                        vec!["b".to_owned(), "a".to_owned()],
                        vec!["a".to_owned(), "c".to_owned()],
                    )),
                    cache_clock: Some(9000),
                    started_at: Some(1_700_000_000),
                    rates: Some(Rates { prefill_tokens: 1.5, generated_tokens: 2.5, finished_requests: 0.25 }),
                },
            ],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Snapshot::decode(&snapshot().encode()), Some(snapshot()));
    }

    #[test]
    fn a_damaged_blob_is_no_blob() {
        let blob = snapshot().encode();
        for end in 0..blob.len() {
            assert_eq!(Snapshot::decode(&blob[..end]), None, "cut at {end}");
        }
        assert_eq!(Snapshot::decode(&[blob.as_slice(), b"x"].concat()), None);
        let mut newer = blob;
        newer[4] = VERSION + 1;
        assert_eq!(Snapshot::decode(&newer), None);
    }

    #[test]
    fn an_adapter_in_both_lists_counts_once() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let adapters = Adapters::new(2, list(&["b", "a", "b"]), list(&["a", "c"]));
        assert_eq!((adapters.running, adapters.waiting), (list(&["a", "b"]), list(&["c"])));
    }
}
