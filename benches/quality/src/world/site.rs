//! An endpoint: an engine, and the ways in which it fails.
//!
//! The engine's clock stops while it hangs, and starts anew with a new process.

use std::time::Duration;

use simulator::engine::{Engine, EngineConfig, Event, Request, Time, Totals};

use crate::policy::Scraped;
use crate::workload::FaultKind;

/// What an endpoint says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// Nothing yet.
    Accepted,
    /// No.
    Refused,
    /// An error.
    Status(u16),
}

/// The endpoint.
#[derive(Debug)]
pub(super) struct Site {
    config: EngineConfig,
    engine: Engine,
    /// When the process started, in virtual time.
    started_at: Time,
    /// Virtual time less the engine's.
    lag: Duration,
    fault: Option<(FaultKind, Time)>,
    /// Requests that came while it hung.
    held: Vec<Request>,
    /// Requests that this process has accepted and not finished.
    accepted: Vec<u64>,
    /// What earlier processes did.
    earlier: Totals,
    /// For when a step is scheduled.
    scheduled: Option<Time>,
}

impl Site {
    pub(super) fn new(config: EngineConfig) -> Site {
        Site {
            engine: Engine::new(config.clone()),
            config,
            started_at: Time::ZERO,
            lag: Duration::ZERO,
            fault: None,
            held: Vec::new(),
            accepted: Vec::new(),
            earlier: Totals::default(),
            scheduled: None,
        }
    }

    pub(super) fn prefill_time_per_token(&self) -> Duration {
        self.config.prefill_time_per_token
    }

    /// What all its processes did.
    pub(super) fn totals(&self) -> Totals {
        sum(self.earlier, self.engine.totals())
    }

    fn failing(&self) -> Option<FaultKind> {
        self.fault.map(|(kind, _)| kind)
    }

    pub(super) fn handle_request(&mut self, now: Time, request: Request) -> Delivery {
        match self.failing() {
            Some(FaultKind::FailsFast) => return Delivery::Status(500),
            Some(FaultKind::Restarts) => return Delivery::Refused,
            Some(FaultKind::Refuses) => return Delivery::Status(401),
            Some(FaultKind::RoomFor(most)) if self.accepted.len() >= most => return Delivery::Status(429),
            Some(FaultKind::TakesUpTo(most)) if request.prompt_tokens > most => return Delivery::Status(400),
            Some(FaultKind::Hangs) => {
                self.accepted.push(request.id);
                self.held.push(request);
            }
            Some(FaultKind::RoomFor(_) | FaultKind::TakesUpTo(_)) | None => {
                let id = request.id;
                if self.engine.handle_request(now.saturating_sub(self.lag), request).is_err() {
                    return Delivery::Status(503);
                }
                self.accepted.push(id);
            }
        }
        Delivery::Accepted
    }

    pub(super) fn handle_abort(&mut self, request: u64) {
        self.held.retain(|held| held.id != request);
        self.accepted.retain(|accepted| *accepted != request);
        self.engine.handle_abort(request);
    }

    /// When to call [`Site::handle_step`], if that is not scheduled already.
    pub(super) fn poll_step(&mut self) -> Option<Time> {
        if self.failing() == Some(FaultKind::Hangs) {
            return None;
        }
        let at = self.engine.poll_timeout()? + self.lag;
        if self.scheduled == Some(at) {
            return None;
        }
        self.scheduled = Some(at);
        Some(at)
    }

    /// Ends the step that ends at this time, if there is one.
    pub(super) fn handle_step(&mut self, now: Time) -> Vec<Event> {
        if self.scheduled != Some(now) {
            return Vec::new();
        }
        self.scheduled = None;
        if self.failing() == Some(FaultKind::Hangs) {
            return Vec::new();
        }
        let events = self.engine.handle_timeout(now.saturating_sub(self.lag));
        for event in &events {
            if let Event::Finished { id } = event {
                self.accepted.retain(|accepted| accepted != id);
            }
        }
        events
    }

    /// The metrics page, if one can be had.
    pub(super) fn page(&self) -> Option<Scraped> {
        let page = Scraped::of(&self.engine, self.started_at);
        match self.failing() {
            None | Some(FaultKind::Refuses | FaultKind::RoomFor(_) | FaultKind::TakesUpTo(_)) => Some(page),
            Some(FaultKind::FailsFast | FaultKind::Hangs) => Some(page.with_zero_gauges()),
            Some(FaultKind::Restarts) => None,
        }
    }

    /// A fault begins, or with `None` the present one is over; gives the requests that break.
    pub(super) fn handle_fault(&mut self, now: Time, begins: Option<FaultKind>) -> Vec<u64> {
        let before = self.fault.take();
        if let Some(kind) = begins {
            self.fault = Some((kind, now));
            return if kind == FaultKind::Restarts { self.stop() } else { Vec::new() };
        }
        match before {
            Some((FaultKind::Hangs, since)) => {
                self.lag += now.saturating_sub(since);
                for request in std::mem::take(&mut self.held) {
                    // The queue of these engines has no limit.
                    let _ = self.engine.handle_request(now.saturating_sub(self.lag), request);
                }
            }
            Some((FaultKind::Restarts, _)) => {
                self.started_at = now;
                self.lag = now;
            }
            _ => {}
        }
        Vec::new()
    }

    /// The process is gone, with all it knew.
    fn stop(&mut self) -> Vec<u64> {
        self.earlier = self.totals();
        self.engine = Engine::new(self.config.clone());
        self.scheduled = None;
        std::mem::take(&mut self.accepted)
    }
}

fn sum(a: Totals, b: Totals) -> Totals {
    combine(a, b, u64::saturating_add)
}

/// What was done since.
pub(super) fn difference(after: Totals, before: Totals) -> Totals {
    combine(after, before, u64::saturating_sub)
}

fn combine(a: Totals, b: Totals, with: fn(u64, u64) -> u64) -> Totals {
    Totals {
        prompt_tokens: with(a.prompt_tokens, b.prompt_tokens),
        generation_tokens: with(a.generation_tokens, b.generation_tokens),
        prefix_cache_queries: with(a.prefix_cache_queries, b.prefix_cache_queries),
        prefix_cache_hits: with(a.prefix_cache_hits, b.prefix_cache_hits),
        preemptions: with(a.preemptions, b.preemptions),
        finished: with(a.finished, b.finished),
        rejected: with(a.rejected, b.rejected),
    }
}
