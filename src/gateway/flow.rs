//! Who may go now, who waits, and who is refused: saturation and flow control.

use std::time::Duration;

use super::Gateway;
use super::endpoint::EndpointView;
use super::pool::PoolView;
use crate::acceptance::LIKELY;
use crate::config::PoolId;
use crate::flow::Waiting;
use crate::load::Health;
use crate::refusal::Refusal;
use crate::saturation;
use crate::stats::WaitOutcome;
use crate::time::Timestamp;

/// What is assumed of the time that a pool needs, where no endpoint counts what it finishes.
const UNKNOWN_DRAIN: Duration = Duration::from_secs(5);
/// A request that has waited goes where no more than so much prompt work is ahead of it: enough to keep an engine busy
/// until the gateway hears of a first token, and little for a request that matters more and comes next.
const PROMPTS_AHEAD: Duration = Duration::from_millis(10);
/// Nobody is told to stay away for longer: load changes.
const LONGEST_DRAIN: Duration = Duration::from_secs(60);

/// A request that wants to go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Applicant {
    pub(crate) priority: i32,
    /// A hash of its flow's name.
    pub(crate) flow: u64,
    /// Of its body.
    pub(crate) bytes: u64,
    /// How long it will wait, if it says so.
    pub(crate) ttl: Option<Duration>,
    /// The time to first token that it hopes for.
    pub(crate) slo_ttft: Option<f32>,
}

/// What becomes of a request that wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It goes.
    Go,
    /// It waits under this number.
    Wait(u64),
    /// It is refused.
    Refuse(Refusal),
}

/// What an endpoint does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Openness {
    /// It takes them.
    Open,
    /// It has as many as it takes.
    Full,
    /// It refuses all of them.
    Closed,
}

impl Gateway {
    /// How saturated a pool is now; at 1 it has enough to do.
    pub fn saturation(&self, pool: PoolId, now: Timestamp) -> f32 {
        let (Some(config), Some(view)) = (self.config.pool(pool), self.pools.get(pool.0)) else { return 0.0 };
        let stale_after = self.config.poller.stale_after;
        let there = view.endpoints.iter().filter(|endpoint| self.is_there(view, endpoint, now));
        saturation::mean(there.filter_map(|endpoint| {
            let saturation = config.saturation.of(&endpoint.burden(self.inflight.work(endpoint.key), stale_after, now));
            match self.openness(view, endpoint, now) {
                Openness::Open => saturation,
                Openness::Full => Some(saturation.unwrap_or(0.0).max(1.0)),
                Openness::Closed => None,
            }
        }))
    }

    /// Whether an endpoint takes requests. One that refuses requests adds no room to the pool, however idle it is.
    fn openness(&self, view: &PoolView, endpoint: &EndpointView, now: Timestamp) -> Openness {
        let standing = view.standing(endpoint, self.inflight.work(endpoint.key));
        if self.acceptance.expect_any(standing, now).probability <= LIKELY {
            return Openness::Open;
        }
        let has_some_room = self.acceptance.room(endpoint.key, now).is_some_and(|room| room > 0);
        if has_some_room { Openness::Full } else { Openness::Closed }
    }

    /// Whether requests may go to an endpoint: what is unreachable or ejected takes no part in what a pool can do. When
    /// nobody polls any more, what was dead may be alive.
    fn is_there(&self, view: &PoolView, endpoint: &EndpointView, now: Timestamp) -> bool {
        let health_counts = now.since(view.published_at) < self.config.poller.stale_after;
        let is_out = health_counts && endpoint.load.health == Health::Unreachable;
        let is_ejected = !view.ejections.is_clean() && view.ejections.is_ejected(endpoint.key, now);
        endpoint.gone_at.is_none() && !is_out && !is_ejected
    }

    /// Decides on a request whose pool's load was read.
    pub(crate) fn admit(&mut self, pool: PoolId, applicant: &Applicant, now: Timestamp) -> Admission {
        self.look(pool, now);
        let Some(config) = self.config.pool(pool) else { return Admission::Go };
        let Some(control) = &config.flow_control else {
            // Only who may be refused is asked about.
            if applicant.priority >= 0 || self.saturation(pool, now) < 1.0 {
                return Admission::Go;
            }
            return Admission::Refuse(self.saturated(pool, now));
        };
        let ceiling = control.band(applicant.priority).ceiling;
        if !self.is_anybody_ahead(pool, applicant.priority, now) && self.saturation(pool, now) < ceiling {
            return Admission::Go;
        }
        self.turn_away(pool, applicant, now)
    }

    /// Lets a request wait for which there is no room, or refuses it where none waits.
    pub(crate) fn turn_away(&mut self, pool: PoolId, applicant: &Applicant, now: Timestamp) -> Admission {
        let Some(control) = self.config.pool(pool).and_then(|pool| pool.flow_control.as_ref()) else {
            return Admission::Refuse(self.saturated(pool, now));
        };
        let band = *control.band(applicant.priority);
        let ttl = applicant.ttl.map_or(band.ttl, |ttl| ttl.min(band.ttl));
        let expires = now.after(ttl);
        let deadline = match applicant.slo_ttft {
            Some(seconds) => now.after(Duration::from_secs_f32(seconds.clamp(0.0, 86_400.0))),
            None => expires,
        };
        let Some(view) = self.pools.get_mut(pool.0) else { return Admission::Go };
        self.last_waiting += 1;
        let waiting = Waiting {
            id: self.last_waiting,
            priority: applicant.priority,
            flow: applicant.flow,
            bytes: applicant.bytes,
            since: now,
            deadline,
            expires,
        };
        view.queue.push(control, waiting);
        Admission::Wait(waiting.id)
    }

    /// Whether somebody waits who came earlier or matters more.
    fn is_anybody_ahead(&self, pool: PoolId, priority: i32, now: Timestamp) -> bool {
        let Some(view) = self.pools.get(pool.0) else { return false };
        let first = view.queue.first_priority().max(view.queue_table.others_first(now));
        first.is_some_and(|first| first >= priority)
    }

    /// The pools in which requests of this worker wait.
    pub fn waiting_pools(&self) -> impl Iterator<Item = PoolId> + '_ {
        self.pools.iter().enumerate().filter(|(_, view)| view.has_waiting()).map(|(index, _)| PoolId(index))
    }

    /// Whose wait in a pool is over without success, and why.
    pub fn poll_refusal(&mut self, pool: PoolId, now: Timestamp) -> Option<(u64, Refusal)> {
        let config = self.config.pool(pool)?;
        let control = config.flow_control.as_ref()?;
        let view = self.pools.get_mut(pool.0)?;
        if let Some(surplus) = view.surplus.pop() {
            self.stats.waited(pool, WaitOutcome::Capacity, now.since(surplus.since));
            let refusal = Refusal::QueueFull { pool: config.name.clone(), retry_after: self.drain_time(pool, now) };
            return Some((surplus.id, refusal));
        }
        let expired = view.queue.pop_expired(control, now)?;
        let view = self.pools.get(pool.0)?;
        let is_empty = !view.endpoints.iter().any(|endpoint| self.is_there(view, endpoint, now));
        self.stats.waited(pool, WaitOutcome::Expired, now.since(expired.since));
        let refusal = Refusal::Expired {
            pool: config.name.clone(),
            is_empty,
            waited: now.since(expired.since),
            retry_after: self.drain_time(pool, now),
        };
        Some((expired.id, refusal))
    }

    /// Who goes next in a pool whose load was read. To be called until there is none: each that goes counts before the
    /// next one is decided on, so that a moment's room lets in as many as fit.
    pub fn poll_release(&mut self, pool: PoolId, now: Timestamp) -> Option<u64> {
        self.look(pool, now);
        let control = self.config.pool(pool)?.flow_control.as_ref()?;
        let view = self.pools.get(pool.0)?;
        let priority = view.queue.first_priority()?;
        // Other workers' requests that matter more go first.
        if view.queue_table.others_first(now).is_some_and(|others| others > priority) {
            return None;
        }
        let ceiling = control.band(priority).ceiling;
        if self.saturation(pool, now) >= ceiling || !self.takes_a_prompt(pool, now) {
            return None;
        }
        let config = self.config.pool(pool)?;
        let view = self.pools.get_mut(pool.0)?;
        let next = view.queue.pop(config.flow_control.as_ref()?)?;
        view.released = Some(next);
        Some(next.id)
    }

    /// Notes that the request that [`Gateway::poll_release`] gave last goes.
    pub(crate) fn handle_released(&mut self, pool: PoolId, now: Timestamp) {
        let released = self.pools.get_mut(pool.0).and_then(|view| view.released.take());
        if let Some(released) = released {
            self.stats.waited(pool, WaitOutcome::Dispatched, now.since(released.since));
        }
    }

    /// Notes that it does not, since there was no place for it after all: it waits on, and its flow has its turn still.
    pub(crate) fn handle_put_back(&mut self, pool: PoolId) {
        let control = self.config.pool(pool).and_then(|pool| pool.flow_control.as_ref());
        if let (Some(control), Some(view)) = (control, self.pools.get_mut(pool.0))
            && let Some(released) = view.released.take()
        {
            view.queue.put_back(control, released);
        }
    }

    /// The refusal of a request for which there is no endpoint.
    pub(crate) fn no_endpoint(&self, pool: PoolId) -> Refusal {
        Refusal::NoEndpoint { pool: self.config.pool(pool).map_or_else(String::new, |pool| pool.name.clone()) }
    }

    /// The refusal of a request for which no endpoint has room, or is quick enough.
    pub(crate) fn saturated(&self, pool: PoolId, now: Timestamp) -> Refusal {
        let name = self.config.pool(pool).map_or_else(String::new, |pool| pool.name.clone());
        Refusal::Saturated { pool: name, retry_after: self.drain_time(pool, now) }
    }

    /// Whether some endpoint is nearly done with the prompts that this gateway has sent it, or there is none at all. Places
    /// in a batch are free as soon as answers end, many at a time, but prompts are computed one after the other.
    fn takes_a_prompt(&self, pool: PoolId, now: Timestamp) -> bool {
        let Some(view) = self.pools.get(pool.0) else { return true };
        let takes_any = |endpoint: &&EndpointView| {
            self.is_there(view, endpoint, now) && self.openness(view, endpoint, now) == Openness::Open
        };
        let mut there = view.endpoints.iter().filter(takes_any).peekable();
        there.peek().is_none()
            || there.any(|endpoint| {
                let work = self.inflight.work(endpoint.key);
                let ahead = endpoint.tokens_ahead(work, 0.0, view.usual_tokens, now);
                ahead * endpoint.line.per_token <= PROMPTS_AHEAD.as_secs_f32()
            })
    }

    /// Notes that a waiting request's client has left.
    pub(crate) fn handle_left(&mut self, pool: PoolId, id: u64, now: Timestamp) {
        let control = self.config.pool(pool).and_then(|pool| pool.flow_control.as_ref());
        let (Some(control), Some(view)) = (control, self.pools.get_mut(pool.0)) else { return };
        let left = view.queue.remove(control, id).or_else(|| {
            let at = view.surplus.iter().position(|waiting| waiting.id == id)?;
            Some(view.surplus.remove(at))
        });
        if let Some(left) = left {
            self.stats.waited(pool, WaitOutcome::Left, now.since(left.since));
        }
    }

    /// How long the pool needs for what waits in it, by what its endpoints finish in a second.
    fn drain_time(&self, pool: PoolId, now: Timestamp) -> Duration {
        let Some(view) = self.pools.get(pool.0) else { return UNKNOWN_DRAIN };
        let stale_after = self.config.poller.stale_after;
        let (mut waiting, mut finished) = (0.0, 0.0);
        for endpoint in &view.endpoints {
            let burden = endpoint.burden(self.inflight.work(endpoint.key), stale_after, now);
            waiting += burden.waiting.unwrap_or(0.0);
            finished +=
                endpoint.load.rates.filter(|_| burden.waiting.is_some()).map_or(0.0, |rates| rates.finished_requests);
        }
        waiting += view.queue.len() as f32 + view.queue_table.others_ahead(i32::MIN, now) as f32;
        if finished <= 0.0 {
            return UNKNOWN_DRAIN;
        }
        Duration::from_secs_f32((waiting / finished).clamp(1.0, LONGEST_DRAIN.as_secs_f32()))
    }
}
