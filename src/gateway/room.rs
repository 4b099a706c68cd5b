//! The places at a pool's endpoints, where `maxConcurrency` limits them: who needs one, and what the host does to get it.
//!
//! A request that may wait or be refused needs a place; any other goes, and counts. The host asks with [`Gateway::look_for_place`]
//! and tells others of what came and went with [`Gateway::poll_unwritten`], each by compare-and-swap.

use super::Gateway;
use crate::config::PoolId;
use crate::rng::Rng;
use crate::room::{Claim, Look, Place};
use crate::time::Timestamp;

impl Gateway {
    /// How many requests of this gateway an endpoint may have, for one of this priority to go there; `None` where it goes
    /// in any case. Below a ceiling the rest is kept for higher priorities.
    pub(crate) fn concurrency_limit(&self, pool: PoolId, priority: i32) -> Option<u32> {
        let config = self.config.pool(pool)?;
        let limit = config.saturation.max_concurrency?;
        match &config.flow_control {
            Some(control) => Some((limit * control.band(priority).ceiling).ceil().max(1.0) as u32),
            None if priority < 0 => Some(limit.ceil() as u32),
            None => None,
        }
    }

    /// Whether a place that is free is left to the other workers: by lot, each that has requests waiting with the same chance. A worker
    /// hears of its own requests' ends first and would hand its places on to itself for ever. At its tick, when that chance has passed, a worker that
    /// has nothing under way in the pool takes what it finds.
    pub fn leaves_place_to_others(&mut self, pool: PoolId, is_tick: bool, now: Timestamp) -> bool {
        let Some(view) = self.pools.get(pool.0).filter(|_| self.has_limit(pool)) else { return false };
        let Some(priority) = view.queue.first_priority() else { return false };
        let others = view.queue_table.others_waiting(priority, now);
        let mut here = view.here.iter().filter_map(|at| view.endpoints.get(*at));
        let has_nothing = is_tick && !here.any(|endpoint| self.room.holds(endpoint.key));
        others > 0 && !has_nothing && self.rng.below(others + 1) > 0
    }

    /// The place that a request needs at an endpoint of a pool.
    pub(crate) fn place(&self, pool: PoolId, at: usize, limit: u32) -> Option<Place> {
        self.endpoint(pool, at).map(|endpoint| Place { endpoint: endpoint.key, limit })
    }

    /// Whether any endpoint that may be picked has a place, as far as this worker knows.
    pub(crate) fn has_place(&self, pool: PoolId, limit: u32) -> bool {
        let Some(view) = self.pools.get(pool.0) else { return false };
        let is_below = |key| self.inflight.work(key).is_none_or(|work| work.requests < limit);
        view.here.iter().filter_map(|at| view.endpoints.get(*at)).any(|endpoint| is_below(endpoint.key))
    }

    /// What to store under the key of a shard that holds `stored`, to take the place that is wanted there or only to tell others
    /// what this worker has; `None` when there is no such place. Afterwards [`Gateway::handle_stored_room`] is to be called, or
    /// when the version had moved this once more.
    pub fn look_for_place(
        &mut self,
        shard: u32,
        wanted: Option<Place>,
        stored: Option<(&[u8], u32)>,
        now: Timestamp,
    ) -> Option<Claim> {
        let Gateway { room, inflight, owner, .. } = self;
        let look = room.look(shard, wanted, *owner, stored, |other| inflight.is_gone(other, now), now);
        let (claim, requests) = match look {
            Look::Claim(claim, requests) => (Some(claim), requests),
            Look::Full(requests) => (None, requests),
        };
        if let Some(place) = wanted {
            self.inflight.handle_counted(place.endpoint, requests);
        }
        claim
    }

    /// Notes that what [`Gateway::look_for_place`] gave was stored.
    pub fn handle_stored_room(&mut self, shard: u32, wanted: Option<Place>) {
        self.room.handle_stored(shard, wanted);
    }

    /// Notes that others were quicker, as often as the host tries: it is tried again with the next tick.
    pub fn handle_contended_room(&mut self, shard: u32) {
        self.room.handle_conflict(shard);
    }

    /// A shard under which is to be stored what this worker has; see [`Gateway::look_for_place`].
    pub fn poll_unwritten(&mut self) -> Option<u32> {
        self.room.poll_unwritten()
    }

    /// Whether a shard is still to be written.
    pub fn is_room_unwritten(&self) -> bool {
        self.room.is_unwritten()
    }

    /// Counts a request at an endpoint of a pool whose places are limited.
    pub(super) fn take_place(&mut self, pool: PoolId, endpoint: u64) {
        if self.has_limit(pool) {
            self.room.take(endpoint);
        }
    }

    /// Counts it no more.
    pub(super) fn give_place_back(&mut self, pool: PoolId, endpoint: u64) {
        if self.has_limit(pool) {
            self.room.give_back(endpoint);
        }
    }

    fn has_limit(&self, pool: PoolId) -> bool {
        self.config.pool(pool).is_some_and(|pool| pool.saturation.max_concurrency.is_some())
    }
}
