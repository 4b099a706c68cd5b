//! One worker's work at each endpoint, and its bytes under `ip1/inflight/<slot>`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Sent;
use crate::time::Timestamp;
use crate::wire::{Reader, Writer};

const MAGIC: &[u8; 4] = b"IPif";
const VERSION: u8 = 2;
/// The time of the last answer matters for a minute: an endpoint that is silent for longer was judged before.
const ANSWER_LIFE: Duration = Duration::from_secs(60);
/// More adapters in flight at one endpoint are not told apart: engines run a handful at a time.
const MAX_ADAPTERS: usize = 64;

/// Work at one endpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    /// Requests that were sent there and have not ended.
    pub requests: u32,
    /// Those of them whose prompt is not known to be done.
    pub prefilling: u32,
    /// The prompt tokens of these that the endpoint has to compute.
    pub prefill_tokens: u64,
    /// When the oldest of these was sent; the epoch when there is none.
    pub prefilling_since: Timestamp,
    /// When a byte of an answer last came from there; the epoch when none is remembered.
    pub answered_at: Timestamp,
    /// The adapters of the requests, by the hashes of their names, sorted, each with its number of requests.
    pub adapters: Vec<(u64, u32)>,
    /// What the endpoint last reported in an answer.
    pub report: Option<Report>,
}

/// What an endpoint says about itself in an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// When the answer came.
    pub at: Timestamp,
    /// Requests that wait there.
    pub waiting: Option<u32>,
    /// The used share of the KV cache.
    pub kv_cache_usage: Option<f32>,
}

impl Work {
    pub(super) fn add(&mut self, sent: &Sent) {
        self.requests = self.requests.saturating_add(1);
        self.prefilling = self.prefilling.saturating_add(1);
        self.prefill_tokens = self.prefill_tokens.saturating_add(sent.tokens);
        if let Some(adapter) = sent.adapter {
            self.add_adapter(adapter, 1);
        }
    }

    pub(super) fn prefilled(&mut self, sent: &Sent) {
        self.prefilling = self.prefilling.saturating_sub(1);
        self.prefill_tokens = self.prefill_tokens.saturating_sub(sent.tokens);
    }

    pub(super) fn remove(&mut self, sent: &Sent) {
        self.requests = self.requests.saturating_sub(1);
        let found = sent.adapter.map(|adapter| self.adapters.binary_search_by_key(&adapter, |(key, _)| *key));
        if let Some(Ok(index)) = found
            && let Some((_, count)) = self.adapters.get_mut(index)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.adapters.remove(index);
            }
        }
    }

    pub(super) fn merge(&mut self, other: &Work) {
        self.requests = self.requests.saturating_add(other.requests);
        self.prefilling = self.prefilling.saturating_add(other.prefilling);
        self.prefill_tokens = self.prefill_tokens.saturating_add(other.prefill_tokens);
        self.prefilling_since = match (self.prefilling_since.0, other.prefilling_since.0) {
            (0, since) | (since, 0) => Timestamp(since),
            (own, others) => Timestamp(own.min(others)),
        };
        self.answered_at = self.answered_at.max(other.answered_at);
        for (adapter, count) in &other.adapters {
            self.add_adapter(*adapter, *count);
        }
        let newer = |report: &&Report| self.report.is_none_or(|own| report.at > own.at);
        if let Some(report) = other.report.as_ref().filter(newer) {
            self.report = Some(*report);
        }
    }

    /// Whether nothing here is worth remembering.
    pub(super) fn is_idle(&self, now: Timestamp) -> bool {
        self.requests == 0 && self.report.is_none() && now.since(self.answered_at) >= ANSWER_LIFE
    }

    fn add_adapter(&mut self, adapter: u64, count: u32) {
        match self.adapters.binary_search_by_key(&adapter, |(key, _)| *key) {
            Ok(index) => {
                if let Some((_, sum)) = self.adapters.get_mut(index) {
                    *sum = sum.saturating_add(count);
                }
            }
            Err(index) if self.adapters.len() < MAX_ADAPTERS => self.adapters.insert(index, (adapter, count)),
            Err(_) => {}
        }
    }
}

/// What a slot holds.
#[derive(Debug)]
pub(super) struct SlotBlob {
    pub(super) owner: u64,
    pub(super) heartbeat: Timestamp,
    pub(super) work: Vec<(u64, Work)>,
}

pub(super) fn encode(generation: u64, owner: u64, now: Timestamp, work: &BTreeMap<u64, Work>) -> Vec<u8> {
    let mut writer = Writer::new(MAGIC, VERSION, generation);
    writer.u64(owner);
    writer.u64(now.0);
    writer.u32(u32::try_from(work.len()).unwrap_or(u32::MAX));
    for (endpoint, work) in work {
        writer.u64(*endpoint);
        writer.u32(work.requests);
        writer.u32(work.prefilling);
        writer.u64(work.prefill_tokens);
        writer.u64(work.prefilling_since.0);
        writer.u64(work.answered_at.0);
        writer.u8(u8::try_from(work.adapters.len()).unwrap_or(u8::MAX));
        for (adapter, count) in &work.adapters {
            writer.u64(*adapter);
            writer.u32(*count);
        }
        encode_report(&mut writer, work.report);
    }
    writer.finish()
}

/// One byte of flags, then what they announce.
fn encode_report(writer: &mut Writer, report: Option<Report>) {
    let Some(report) = report else { return writer.u8(0) };
    writer.u8(1 | if report.waiting.is_some() { 2 } else { 0 } | if report.kv_cache_usage.is_some() { 4 } else { 0 });
    writer.u64(report.at.0);
    if let Some(waiting) = report.waiting {
        writer.u32(waiting);
    }
    if let Some(usage) = report.kv_cache_usage {
        writer.f32(usage);
    }
}

fn decode_report(reader: &mut Reader<'_>) -> Option<Option<Report>> {
    let flags = reader.u8()?;
    if flags == 0 {
        return Some(None);
    }
    let at = Timestamp(reader.u64()?);
    let waiting = if flags & 2 != 0 { Some(reader.u32()?) } else { None };
    let kv_cache_usage = if flags & 4 != 0 { Some(reader.f32()?) } else { None };
    Some(Some(Report { at, waiting, kv_cache_usage }))
}

impl SlotBlob {
    pub(super) fn decode(blob: &[u8]) -> Option<SlotBlob> {
        let (mut reader, _generation) = Reader::new(blob, MAGIC, VERSION)?;
        let owner = reader.u64()?;
        let heartbeat = Timestamp(reader.u64()?);
        let count = reader.u32()?;
        let mut work = Vec::new();
        for _ in 0..count {
            let endpoint = reader.u64()?;
            let (requests, prefilling) = (reader.u32()?, reader.u32()?);
            let prefill_tokens = reader.u64()?;
            let (prefilling_since, answered_at) = (Timestamp(reader.u64()?), Timestamp(reader.u64()?));
            let mut adapters = Vec::new();
            for _ in 0..reader.u8()? {
                adapters.push((reader.u64()?, reader.u32()?));
            }
            let report = decode_report(&mut reader)?;
            let counts = Work { requests, prefilling, prefill_tokens, prefilling_since, answered_at, adapters, report };
            work.push((endpoint, counts));
        }
        reader.is_at_end().then_some(SlotBlob { owner, heartbeat, work })
    }
}
