//! The world in virtual time: clients, gateways with their policies, a network, engines, and faults.
//!
//! One heap of events, in the order of time and, within an instant, of their making; nothing else decides what happens
//! next, so a run is a function of its plan. A hop between gateway and engine takes half a millisecond; what lies between
//! client and gateway is left out, as is the time that a policy itself needs to pick.

mod clock;
mod exchange;
mod site;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use simulator::engine::{self, Time, Totals};

use crate::policies::{Entry, Gateway};
use crate::policy::{Outcome, Policy, Scraped};
use crate::random::Random;
use crate::workload::{Conversation, Workload};
use clock::{Clock, Event};
use exchange::{Exchange, Verdict, request_id, split_id};
use site::{Delivery, Site};

/// From gateway to engine, and back.
const HOP: Duration = Duration::from_micros(500);
/// How old a page's values are when the gateway has them.
const SCRAPE_TAKES: Duration = Duration::from_millis(2);
/// How long an engine takes to refuse, whether by status or by a closed port.
const REFUSAL_TAKES: Duration = Duration::from_millis(2);
/// How long a client waits for the first token; what fails counts as if it had taken that long.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Clients of closed loops begin within this time, in seconds.
pub const CLIENTS_BEGIN_WITHIN: f64 = 1.0;

/// A run.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    /// Endpoints, gateways and faults.
    pub workload: &'a Workload,
    /// What is asked.
    pub conversations: &'a [Conversation],
    /// When.
    pub demand: &'a Demand,
    /// Who picks.
    pub policy: &'a Entry,
    /// Workers of each gateway.
    pub workers: usize,
    /// What engines remember of answers.
    pub answers: Answers,
    /// Seeds engines, gateways, scrape phases and the ways that requests take.
    pub seed: u64,
}

/// What engines remember of the answers that they gave, besides their prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Their KV blocks, as vLLM does: a conversation's next turn finds the last answer.
    Cached,
    /// Nothing, as the simulator behind HTTP, whose clients make up the answers that they send back.
    Forgotten,
}

/// When conversations begin, in absolute terms.
#[derive(Clone, Debug)]
pub enum Demand {
    /// Each at its time.
    At(Vec<Time>),
    /// So many clients, one conversation after the other.
    Clients(usize),
    /// The same without pauses, patience or faults, to measure what the engines can do.
    Saturating(usize),
}

/// What a client saw of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Until the first token was at the gateway.
    pub first_token: Duration,
    /// Until the last one was.
    pub end_to_end: Duration,
    /// Whether it failed.
    pub failed: bool,
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// The measured requests, in the order of their ends.
    pub samples: Vec<Sample>,
    /// From the first measured conversation's beginning to the last one's end.
    pub span: Duration,
    /// What each endpoint did in that time, and how long it takes for a token of a prompt.
    pub work: Vec<(Totals, Duration)>,
    /// When each request of the whole run ended.
    pub ends: Vec<Time>,
    /// When the last conversation began.
    pub last_began: Time,
}

/// Runs a plan until its last measured request is over.
pub fn run(plan: &Plan<'_>) -> Measured {
    let mut world = World::new(plan);
    world.begin();
    while world.unmeasured > 0 {
        let Some(event) = world.clock.next() else { break };
        world.handle(event);
    }
    world.finish()
}

/// The seed of a run's engine.
pub fn engine_seed(seed: u64, endpoint: usize) -> u64 {
    seed.wrapping_mul(1000) + endpoint as u64 + 1
}

struct World<'a> {
    plan: Plan<'a>,
    clock: Clock,
    sites: Vec<Site>,
    gateways: Vec<Box<dyn Policy>>,
    exchanges: HashMap<u64, Exchange>,
    next_conversation: usize,
    /// Requests that are to be measured and aren't yet.
    unmeasured: usize,
    /// What the endpoints had done when measuring began, and when that was.
    baseline: Option<(Time, Vec<Totals>)>,
    measured: Measured,
}

impl<'a> World<'a> {
    fn new(plan: &Plan<'a>) -> World<'a> {
        let Plan { workload, seed, .. } = *plan;
        let site = |(index, config): (usize, &engine::EngineConfig)| {
            Site::new(engine::EngineConfig { seed: engine_seed(seed, index), ..config.clone() })
        };
        let gateway = |index| Gateway {
            endpoints: workload.endpoints.len(),
            workers: plan.workers,
            index,
            gateways: workload.gateways,
            seed: Random::with_purpose(seed, 100 + index as u64).bits(),
        };
        let mut world = World {
            plan: *plan,
            clock: Clock::default(),
            sites: workload.endpoints.iter().enumerate().map(site).collect(),
            gateways: (0..workload.gateways).map(|index| (plan.policy.build)(&gateway(index))).collect(),
            exchanges: HashMap::new(),
            next_conversation: 0,
            unmeasured: 0,
            baseline: None,
            measured: Measured::default(),
        };
        let conversations = plan.conversations.iter().enumerate();
        let measured = conversations.filter(|(index, _)| world.is_measured(*index));
        world.unmeasured = measured.map(|(_, conversation)| conversation.turns.len()).sum();
        world
    }

    fn is_saturating(&self) -> bool {
        matches!(self.plan.demand, Demand::Saturating(_))
    }

    fn is_measured(&self, conversation: usize) -> bool {
        let Workload { warm_up, measured, .. } = *self.plan.workload;
        self.is_saturating() || (warm_up..warm_up + measured).contains(&conversation)
    }

    fn begin(&mut self) {
        let mut random = Random::with_purpose(self.plan.seed, 1);
        match self.plan.demand {
            Demand::At(starts) => {
                for (conversation, start) in starts.iter().enumerate().take(self.plan.conversations.len()) {
                    self.clock.at(*start, Event::Turn { request: request_id(conversation, 0) });
                }
                self.next_conversation = self.plan.conversations.len();
            }
            Demand::Clients(count) | Demand::Saturating(count) => {
                for _ in 0..*count {
                    self.begin_conversation(Duration::from_secs_f64(random.even() * CLIENTS_BEGIN_WITHIN));
                }
            }
        }
        for (index, gateway) in self.gateways.iter().enumerate() {
            let Some(interval) = gateway.scrape_interval() else { continue };
            for endpoint in 0..self.sites.len() {
                let phase = interval.mul_f64(random.even());
                self.clock.at(phase, Event::Scrape { gateway: index, endpoint, interval });
            }
        }
        if !self.is_saturating() {
            for (fault, what) in self.plan.workload.faults.iter().enumerate() {
                self.clock.at(what.from, Event::Fault { fault, begins: true });
                self.clock.at(what.from + what.lasts, Event::Fault { fault, begins: false });
            }
        }
    }

    fn begin_conversation(&mut self, after: Duration) {
        if self.next_conversation < self.plan.conversations.len() {
            self.clock.after(after, Event::Turn { request: request_id(self.next_conversation, 0) });
            self.next_conversation += 1;
            self.measured.last_began = self.clock.now();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Turn { request } => self.handle_turn(request),
            Event::Deliver { request, attempt } => self.handle_delivery(request, attempt),
            Event::Step { endpoint } => self.handle_step(endpoint),
            Event::FirstToken { request, attempt } => self.handle_first_token(request, attempt),
            Event::End { request, attempt, outcome } => self.handle_end(request, attempt, outcome),
            Event::GiveUp { request } => self.handle_give_up(request),
            Event::Abort { request, endpoint } => {
                if let Some(site) = self.sites.get_mut(endpoint) {
                    site.handle_abort(request);
                }
            }
            Event::Scrape { gateway, endpoint, interval } => self.handle_scrape(gateway, endpoint, interval),
            Event::Page { gateway, endpoint, page } => self.handle_page(gateway, endpoint, page.as_deref()),
            Event::Fault { fault, begins } => self.handle_fault(fault, begins),
        }
    }

    fn handle_turn(&mut self, request: u64) {
        let now = self.clock.now();
        let (conversation, _) = split_id(request);
        if self.baseline.is_none() && self.is_measured(conversation) {
            self.baseline = Some((now, self.sites.iter().map(Site::totals).collect()));
        }
        let mut way = Random::with_purpose(self.plan.seed, request.wrapping_add(1 << 32));
        let (gateway, worker) = (way.below(self.gateways.len()), way.below(self.plan.workers));
        self.exchanges.insert(request, Exchange::new(now, gateway, worker));
        if !self.is_saturating() {
            self.clock.after(PATIENCE, Event::GiveUp { request });
        }
        self.send(request);
    }

    /// Sends a request to its next endpoint, picking anew when the list is used up.
    fn send(&mut self, request: u64) {
        let now = self.clock.now();
        let Some(exchange) = self.exchanges.get_mut(&request) else { return };
        let Some(policy) = self.gateways.get_mut(exchange.gateway) else { return };
        if exchange.candidates.is_empty() {
            let Some(arrival) = exchange.arrival(request, self.plan.conversations) else { return };
            exchange.candidates = VecDeque::from(policy.pick(now, &arrival));
        }
        let endpoint = exchange.next_attempt(self.sites.len());
        policy.handle_sent(now, request, endpoint);
        self.clock.after(HOP, Event::Deliver { request, attempt: exchange.attempt });
    }

    fn handle_delivery(&mut self, request: u64, attempt: u32) {
        let now = self.clock.now();
        let Some(exchange) = self.exchanges.get(&request).filter(|exchange| exchange.attempt == attempt) else {
            return;
        };
        let Some(site) = self.sites.get_mut(exchange.endpoint) else { return };
        let Some(mut work) = exchange::engine_request(request, self.plan.conversations) else { return };
        if self.plan.answers == Answers::Forgotten {
            work.answer_blocks.clear();
        }
        let endpoint = exchange.endpoint;
        let outcome = match site.handle_request(now, work) {
            Delivery::Accepted => return self.schedule_step(endpoint),
            Delivery::Refused => Outcome::Refused,
            Delivery::Status(status) => Outcome::Status(status),
        };
        self.clock.after(REFUSAL_TAKES + HOP, Event::End { request, attempt, outcome });
    }

    fn schedule_step(&mut self, endpoint: usize) {
        if let Some(at) = self.sites.get_mut(endpoint).and_then(Site::poll_step) {
            self.clock.at(at, Event::Step { endpoint });
        }
    }

    fn handle_step(&mut self, endpoint: usize) {
        let Some(site) = self.sites.get_mut(endpoint) else { return };
        for event in site.handle_step(self.clock.now()) {
            let (engine::Event::Token { id, .. } | engine::Event::Finished { id }) = event;
            let Some(exchange) = self.exchanges.get_mut(&id).filter(|exchange| exchange.endpoint == endpoint) else {
                continue;
            };
            let (request, attempt) = (id, exchange.attempt);
            if let engine::Event::Finished { .. } = event {
                self.clock.after(HOP, Event::End { request, attempt, outcome: Outcome::Finished });
            } else if !exchange.has_begun {
                exchange.has_begun = true;
                self.clock.after(HOP, Event::FirstToken { request, attempt });
            }
        }
        self.schedule_step(endpoint);
    }

    fn handle_first_token(&mut self, request: u64, attempt: u32) {
        let now = self.clock.now();
        let Some(exchange) = self.exchanges.get_mut(&request).filter(|exchange| exchange.attempt == attempt) else {
            return;
        };
        exchange.first_token_at = Some(now);
        if let Some(policy) = self.gateways.get_mut(exchange.gateway) {
            policy.handle_first_token(now, request, exchange.endpoint);
        }
    }

    fn handle_end(&mut self, request: u64, attempt: u32, outcome: Outcome) {
        let now = self.clock.now();
        let Some(exchange) = self.exchanges.get_mut(&request).filter(|exchange| exchange.attempt == attempt) else {
            return;
        };
        let Some(policy) = self.gateways.get_mut(exchange.gateway) else { return };
        let verdict = exchange.verdict(outcome, |status| policy.retries_on(request, status));
        policy.handle_end(now, request, exchange.endpoint, outcome);
        match verdict {
            Verdict::Retry => self.send(request),
            Verdict::Done => self.conclude(request, false),
            Verdict::Failed => self.conclude(request, true),
        }
    }

    fn handle_give_up(&mut self, request: u64) {
        let now = self.clock.now();
        let Some(exchange) = self.exchanges.get(&request).filter(|exchange| exchange.first_token_at.is_none()) else {
            return;
        };
        let endpoint = exchange.endpoint;
        if let Some(policy) = self.gateways.get_mut(exchange.gateway) {
            policy.handle_end(now, request, endpoint, Outcome::Timeout);
        }
        self.clock.after(HOP, Event::Abort { request, endpoint });
        self.conclude(request, true);
    }

    /// A request is over: notes what its client saw, and goes on with the conversation or the next one.
    fn conclude(&mut self, request: u64, failed: bool) {
        let now = self.clock.now();
        let Some(exchange) = self.exchanges.remove(&request) else { return };
        let (conversation, turn) = split_id(request);
        if self.is_measured(conversation) {
            self.measured.samples.push(exchange.sample(now, failed));
            self.unmeasured = self.unmeasured.saturating_sub(1);
        }
        self.measured.ends.push(now);
        let pauses = !self.is_saturating();
        let pause = |conversation: usize, turn: usize| {
            let turn = self.plan.conversations.get(conversation)?.turns.get(turn)?;
            Some(if pauses { turn.pause } else { Duration::ZERO })
        };
        if let Some(pause) = pause(conversation, turn + 1) {
            self.clock.after(pause, Event::Turn { request: request_id(conversation, turn + 1) });
        } else if let Some(pause) = pause(self.next_conversation, 0) {
            self.begin_conversation(pause);
        }
    }

    fn handle_scrape(&mut self, gateway: usize, endpoint: usize, interval: Duration) {
        let page = self.sites.get(endpoint).and_then(Site::page).map(Box::new);
        self.clock.after(SCRAPE_TAKES, Event::Page { gateway, endpoint, page });
        self.clock.after(interval, Event::Scrape { gateway, endpoint, interval });
    }

    fn handle_page(&mut self, gateway: usize, endpoint: usize, page: Option<&Scraped>) {
        if let Some(policy) = self.gateways.get_mut(gateway) {
            policy.handle_scrape(self.clock.now(), endpoint, page);
        }
    }

    fn handle_fault(&mut self, fault: usize, begins: bool) {
        let Some(fault) = self.plan.workload.faults.get(fault) else { return };
        let Some(site) = self.sites.get_mut(fault.endpoint) else { return };
        for request in site.handle_fault(self.clock.now(), begins.then_some(fault.kind)) {
            let Some(exchange) = self.exchanges.get(&request) else { continue };
            // As vLLM ends: before the first byte there is a status to send, after it only a broken stream.
            let outcome = if exchange.has_begun { Outcome::Reset } else { Outcome::Status(500) };
            self.clock.after(HOP, Event::End { request, attempt: exchange.attempt, outcome });
        }
        self.schedule_step(fault.endpoint);
    }

    fn finish(mut self) -> Measured {
        let Some((began, before)) = self.baseline else { return self.measured };
        self.measured.span = self.clock.now().saturating_sub(began);
        let work = |(site, before): (&Site, Totals)| {
            let after = site.totals();
            (site::difference(after, before), site.prefill_time_per_token())
        };
        self.measured.work = self.sites.iter().zip(before).map(work).collect();
        self.measured
    }
}

#[cfg(test)]
mod tests;
