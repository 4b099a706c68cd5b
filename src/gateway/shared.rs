//! What a VM reads from shared data before a pick, and what it stores after one.

use std::borrow::Cow;
use std::time::Duration;

use super::pool::PoolView;
use super::{Gateway, places};
use crate::acceptance;
use crate::config::{self, PoolId};
use crate::discovery::resources;
use crate::ejection;
use crate::inflight::{self, MAX_SLOTS};
use crate::load::Snapshot;
use crate::models::ModelTable;
use crate::prefix::log as prefix_log;
use crate::stats::EjectionReason;
use crate::time::Timestamp;

/// A pool's load is read again after this time: reading it enters the VM once more, which takes some
/// microseconds, and the poller publishes ten times less often.
const LOAD_REFRESH: Duration = Duration::from_millis(5);
/// Ejections are rare, and one that is known a little later costs a request at most.
const HEALTH_REFRESH: Duration = Duration::from_millis(50);
/// While requests wait, what the other workers have waiting decides whose turn it is.
const QUEUE_REFRESH: Duration = Duration::from_millis(5);
/// Resources change seldom, and the poller lists them every two seconds.
const RESOURCES_REFRESH: Duration = Duration::from_millis(100);
/// Others' prefix logs are read again after this time: they are copied whole, and a turn of a conversation comes
/// seconds after the one before.
const PREFIX_REFRESH: Duration = Duration::from_millis(50);

/// Something to read from shared data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// A pool's load.
    Load(PoolId),
    /// A pool's ejections.
    Health(PoolId),
    /// What resources say of models.
    Resources,
    /// What all workers have waiting in a pool.
    Queue(PoolId),
    /// A worker's requests in flight.
    Inflight(u32),
    /// A worker's additions to its prefix table.
    Prefix(u32),
    /// What a worker knows of endpoints that refuse.
    Acceptance(u32),
}

/// Something to store in shared data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: String,
    /// The bytes.
    pub blob: Vec<u8>,
    /// The version to compare with; `None` to overwrite. After a write with one, [`Gateway::handle_read`] is to be given
    /// what is stored, and [`Gateway::handle_conflict`] to be called when the version had moved.
    pub cas: Option<u32>,
    /// What it is about.
    pub what: Read,
}

/// How far reading has come.
#[derive(Debug, Default)]
pub(super) struct Reading {
    slot: Option<u32>,
    with_prefixes: bool,
    prefixes_read_at: Timestamp,
}

impl Gateway {
    /// What to read next before a pick in `pool`; [`Gateway::handle_read`] takes the answer.
    pub fn poll_read(&mut self, pool: PoolId, now: Timestamp) -> Option<Read> {
        let view = self.pools.get(pool.0)?;
        if now.is_due(view.load_read_at, LOAD_REFRESH) {
            return Some(Read::Load(pool));
        }
        if now.is_due(view.health_read_at, HEALTH_REFRESH) {
            return Some(Read::Health(pool));
        }
        let has_queue = self.config.pool(pool).is_some_and(|pool| pool.flow_control.is_some());
        if has_queue && now.is_due(view.queue_read_at, QUEUE_REFRESH) {
            return Some(Read::Queue(pool));
        }
        self.poll_slot(now)
    }

    /// What to read before a request's model is looked up; [`Gateway::handle_read`] takes the answer.
    pub fn poll_names(&self, now: Timestamp) -> Option<Read> {
        let is_due = self.config.resources.is_some() && now.is_due(self.resources_read_at, RESOURCES_REFRESH);
        is_due.then_some(Read::Resources)
    }

    /// Takes over what resources say of models; what cannot be used changes nothing.
    fn handle_resources(&mut self, stored: Option<(&[u8], u32)>) {
        let Some((blob, version)) = stored.filter(|(_, version)| self.resources_version != Some(*version)) else {
            return;
        };
        self.resources_version = Some(version);
        let Some(more) = resources::decode(blob) else { return };
        if let Some(extended) = config::extend(&self.config.document, &more) {
            (self.config.models, self.config.rewrites) = (extended.models, extended.rewrites);
            self.config.objectives = extended.objectives;
            self.models = ModelTable::new(&self.config);
        }
    }

    /// The next of the other workers' slots.
    fn poll_slot(&mut self, now: Timestamp) -> Option<Read> {
        if self.reading.slot.is_none() && self.inflight.is_refresh_due(now) {
            self.reading.slot = Some(0);
            self.reading.with_prefixes = now.is_due(self.reading.prefixes_read_at, PREFIX_REFRESH);
        }
        let mut slot = self.reading.slot?;
        if Some(slot) == self.inflight.slot() {
            slot += 1;
            self.reading.slot = Some(slot);
        }
        Some(Read::Inflight(slot))
    }

    /// The key under which it lies.
    pub fn read_key(&self, read: Read) -> Cow<'_, str> {
        let view = |pool: PoolId| self.pools.get(pool.0);
        match read {
            Read::Load(pool) => view(pool).map_or(Cow::Borrowed(""), |view| Cow::Borrowed(view.load_key.as_str())),
            Read::Health(pool) => view(pool).map_or(Cow::Borrowed(""), |view| Cow::Borrowed(view.health_key.as_str())),
            Read::Resources => Cow::Borrowed(&self.resources_key),
            Read::Queue(pool) => view(pool).map_or(Cow::Borrowed(""), |view| Cow::Borrowed(view.queue_key.as_str())),
            Read::Inflight(slot) => Cow::Owned(inflight::key(slot)),
            Read::Prefix(slot) => Cow::Owned(prefix_log::key(slot)),
            Read::Acceptance(slot) => Cow::Owned(acceptance::key(slot)),
        }
    }

    /// Takes in what is stored; `None` when nothing is. Gives what to read along with it.
    pub fn handle_read(&mut self, read: Read, stored: Option<(&[u8], u32)>, now: Timestamp) -> Option<Read> {
        match read {
            Read::Load(pool) => {
                self.handle_load(pool, stored, now);
                None
            }
            Read::Health(pool) => {
                if let Some(view) = self.pools.get_mut(pool.0) {
                    view.health_read_at = now;
                    view.ejections.handle_stored(stored, now);
                }
                None
            }
            Read::Resources => {
                self.resources_read_at = now;
                self.handle_resources(stored);
                None
            }
            Read::Queue(pool) => {
                if let Some(view) = self.pools.get_mut(pool.0) {
                    view.queue_read_at = now;
                    view.queue_table.handle_stored(self.owner, stored);
                }
                None
            }
            Read::Inflight(slot) => {
                self.inflight.handle_slot(slot, stored);
                if stored.is_none() || slot + 1 >= MAX_SLOTS {
                    return self.end_of_slots(now);
                }
                self.reading.slot = Some(slot + 1);
                self.reading.with_prefixes.then_some(Read::Prefix(slot))
            }
            Read::Prefix(slot) => {
                self.handle_prefix_log(slot, stored);
                Some(Read::Acceptance(slot))
            }
            Read::Acceptance(slot) => {
                self.acceptance.handle_slot(slot, stored);
                None
            }
        }
    }

    fn end_of_slots(&mut self, now: Timestamp) -> Option<Read> {
        self.reading.slot = None;
        self.inflight.handle_refreshed(now);
        if self.reading.with_prefixes {
            self.reading.prefixes_read_at = now;
        }
        None
    }

    /// Takes in what is stored under a pool's load key. Without anything there, the last view is kept.
    fn handle_load(&mut self, pool: PoolId, stored: Option<(&[u8], u32)>, now: Timestamp) {
        let Some(view) = self.pools.get_mut(pool.0) else { return };
        view.load_read_at = now;
        let Some((blob, version)) = stored else { return };
        if view.load_version == Some(version) {
            return;
        }
        view.load_version = Some(version);
        let Some(snapshot) = Snapshot::decode(blob) else { return };
        let Some(settings) = self.config.pool(pool) else { return };
        if view.handle_snapshot(snapshot, &settings.profile, &self.inflight, now) {
            self.places = places(&self.pools);
        }
        let Some(view) = self.pools.get_mut(pool.0) else { return };
        for stalled in view.stalled(&self.inflight, now) {
            if view.ejections.eject(stalled, now, &mut self.rng) {
                self.stats.ejected(pool, EjectionReason::Stalled);
            }
        }
    }

    fn handle_prefix_log(&mut self, slot: u32, stored: Option<(&[u8], u32)>) {
        let Some((blob, version)) = stored else { return };
        for addition in self.prefix_log.handle_slot(slot, blob, version) {
            let found = self.places.binary_search_by_key(&addition.endpoint, |(key, _, _)| *key);
            let Some((_, pool, at)) = found.ok().and_then(|index| self.places.get(index)) else { continue };
            if let Some(endpoint) = self.pools.get(pool.0).and_then(|view| view.endpoints.get(*at)) {
                self.prefixes.touch(addition.block, endpoint.cache());
                self.sampler.note_block(addition.block, *at);
            }
        }
    }

    /// What to store next.
    pub fn poll_write(&mut self, now: Timestamp) -> Option<Write> {
        let owner = self.owner;
        if let Some((slot, blob)) = self.inflight.poll_publication(now) {
            return Some(Write { key: inflight::key(slot), blob, cas: None, what: Read::Inflight(slot) });
        }
        if let Some(slot) = self.inflight.slot()
            && let Some(blob) = self.prefix_log.poll_publication(owner, now)
        {
            return Some(Write { key: prefix_log::key(slot), blob, cas: None, what: Read::Prefix(slot) });
        }
        if let Some(slot) = self.inflight.slot()
            && let Some(blob) = self.acceptance.poll_publication(now)
        {
            return Some(Write { key: acceptance::key(slot), blob, cas: None, what: Read::Acceptance(slot) });
        }
        for (index, view) in self.pools.iter_mut().enumerate() {
            if let Some((blob, cas)) = view.ejections.poll_publication() {
                let what = Read::Health(PoolId(index));
                return Some(Write { key: ejection::key(&view.name), blob, cas: Some(cas), what });
            }
            let Some(control) = self.config.pools.get(index).and_then(|pool| pool.flow_control.as_ref()) else {
                continue;
            };
            let PoolView { queue, queue_table, surplus, .. } = view;
            if let Some((blob, cas)) = queue_table.poll_publication(owner, control, queue, surplus, now) {
                let waiting = queue.len() as u64 + u64::from(queue_table.others_ahead(i32::MIN, now));
                self.stats.waiting(PoolId(index), waiting);
                let what = Read::Queue(PoolId(index));
                return Some(Write { key: view.queue_key.clone(), blob, cas: Some(cas), what });
            }
        }
        None
    }

    /// Notes that somebody else was quicker, after what is stored was read: it is to be written again.
    pub fn handle_conflict(&mut self, what: Read) {
        let (Read::Health(pool) | Read::Queue(pool)) = what else { return };
        let Some(view) = self.pools.get_mut(pool.0) else { return };
        match what {
            Read::Queue(_) => view.queue_table.handle_conflict(),
            _ => view.ejections.handle_conflict(),
        }
    }
}
