//! The state of one VM: the gateway, its slot in the shared in-flight table, and the backup poller.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use inference_host::metrics::Metrics;
use inference_host::polling::Polling;
use inference_host::{http, shared};
use inference_plugin::config::{Config, PoolId};
use inference_plugin::exchange::{Exchange, Next};
use inference_plugin::gateway::Gateway;
use inference_plugin::inflight::{self, Inflight};
use inference_plugin::lease::Rank;
use inference_plugin::refusal::Refusal;
use inference_plugin::room::{self, Place};
use inference_plugin::time::Timestamp;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

use crate::stream::InferenceStream;

/// A write loses a race against each other worker once at most; more is left for later, since it is tried with
/// every change.
const MAX_CONFLICTS: u32 = 8;

/// Each lost race for a place is one that another worker has won, so this many in a row are a sign of something else; it is tried again with the
/// next tick.
const MAX_RACES: u32 = 16;

/// While requests wait, or others don't know of places that came free, whether one may go is looked at so often: another worker's request may have ended.
const WAITING_TICK: Duration = Duration::from_millis(5);

/// What the root context and all streams of a VM share.
pub(crate) struct Vm {
    pub(crate) gateway: Gateway,
    metrics: Metrics,
    polling: Polling,
    owner: u64,
    slot_checked_at: Timestamp,
    polled_at: Timestamp,
    /// Requests that wait, by their numbers.
    parked: BTreeMap<u64, Parked>,
    /// Requests that wait no more, and have not been answered: their contexts and why.
    refused: BTreeMap<u64, (u32, Refusal)>,
    ticks_fast: bool,
}

/// A request that waits.
struct Parked {
    context: u32,
    exchange: Rc<RefCell<Exchange>>,
}

/// Why waiting requests are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A request of this worker has come, or has ended.
    Stream,
    /// It is time.
    Tick,
}

/// What became of a request whose turn it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// It has gone, or is refused.
    Done,
    /// It may go by the answer of Envoy's callback.
    ByOwnCallback,
    /// There was no place for it: it waits on.
    Not,
}

pub(crate) struct InferenceRoot {
    context: u32,
    vm: Option<Rc<RefCell<Vm>>>,
}

impl InferenceRoot {
    pub(crate) fn new(context: u32) -> InferenceRoot {
        InferenceRoot { context, vm: None }
    }
}

impl Vm {
    fn new(config: Config, nanoseconds: u64) -> Vm {
        let now = inference_host::timestamp(nanoseconds);
        let owner = inference_host::vm_id(nanoseconds);
        let polling = Polling::new(&config, Rank::Backup, owner, now);
        let gateway = Gateway::new(config, owner);
        let metrics = Metrics::define(gateway.stats.metrics());
        Vm {
            gateway,
            metrics,
            polling,
            owner,
            slot_checked_at: now,
            polled_at: Timestamp::default(),
            parked: BTreeMap::new(),
            refused: BTreeMap::new(),
            ticks_fast: false,
        }
    }

    /// Remembers who is to be told when it may go.
    pub(crate) fn park(&mut self, id: u64, context: u32, exchange: Rc<RefCell<Exchange>>) {
        self.parked.insert(id, Parked { context, exchange });
    }

    /// Forgets a request whose client has left.
    pub(crate) fn forget(&mut self, id: u64) {
        self.parked.remove(&id);
        self.refused.remove(&id);
    }

    /// Publishes what changed, and lets go who may go, while Envoy is calling the context `current`. That context's own
    /// request, number `own`, goes on by what its callback answers: says whether it may.
    pub(crate) fn advance(&mut self, current: u32, own: Option<u64>, cause: Cause, now: Timestamp) -> bool {
        self.settle(now);
        if self.parked.is_empty() && !self.ticks_fast && !self.gateway.is_room_unwritten() {
            return false;
        }
        let mut may_own_go = false;
        let pools: Vec<PoolId> = self.gateway.waiting_pools().collect();
        for pool in pools {
            self.read_shared(pool, now);
            if self.gateway.leaves_place_to_others(pool, cause == Cause::Tick, now) {
                continue;
            }
            while let Some(id) = self.gateway.poll_release(pool, now) {
                let left = self.let_go(id, current, own == Some(id), now);
                may_own_go |= left == Left::ByOwnCallback;
                if left == Left::Not {
                    break;
                }
            }
        }
        self.settle(now);
        let is_urgent = !self.refused.is_empty() || self.gateway.is_room_unwritten();
        let ticks_fast = !self.parked.is_empty() || is_urgent;
        if ticks_fast != self.ticks_fast {
            self.ticks_fast = ticks_fast;
            inference_host::tick_every(if ticks_fast { WAITING_TICK } else { self.polling.tick_period() });
        }
        may_own_go
    }

    /// Refuses whose wait is over. Answering one stream stops the callback of another one, so this is for the tick and
    /// for ends of streams, which cannot be stopped.
    pub(crate) fn refuse_waiting(&mut self, current: u32, now: Timestamp) {
        if self.parked.is_empty() && self.refused.is_empty() {
            return;
        }
        let pools: Vec<PoolId> = self.gateway.waiting_pools().collect();
        for pool in pools {
            while let Some((id, refusal)) = self.gateway.poll_refusal(pool, now) {
                let Some(parked) = self.parked.remove(&id) else { continue };
                if let Ok(mut exchange) = parked.exchange.try_borrow_mut() {
                    exchange.handle_release_refused(&mut self.gateway, &refusal);
                }
                self.refused.insert(id, (parked.context, refusal));
            }
        }
        for (context, refusal) in std::mem::take(&mut self.refused).into_values() {
            http::in_context(context, current, || http::answer(&refusal.reply()));
        }
    }

    /// Lets a request go on that has waited, if there is a place for it; `is_own` says that it is the one of Envoy's callback.
    fn let_go(&mut self, id: u64, current: u32, is_own: bool, now: Timestamp) -> Left {
        let Some(parked) = self.parked.remove(&id) else { return Left::Done };
        let shared = Rc::clone(&parked.exchange);
        let Ok(mut exchange) = shared.try_borrow_mut() else { return Left::Done };
        let mut edits = Vec::new();
        let mut next = exchange.handle_release(&mut self.gateway, now, &mut edits);
        while let Next::Claim(place) = next {
            let got = self.claim(place, now);
            next = exchange.handle_claimed(&mut self.gateway, got, now, &mut edits);
        }
        match next {
            Next::Refuse(refusal) => {
                self.refused.insert(id, (parked.context, refusal));
                return Left::Done;
            }
            Next::Wait(_) => {
                self.parked.insert(id, parked);
                return Left::Not;
            }
            _ => {}
        }
        let tier = exchange.tier();
        http::in_context(parked.context, current, || {
            http::set_tier(tier);
            http::apply(&mut edits);
            if !is_own {
                http::resume();
            }
        });
        if is_own { Left::ByOwnCallback } else { Left::Done }
    }

    /// Takes a place at an endpoint; says whether there was one.
    pub(crate) fn claim(&mut self, place: Place, now: Timestamp) -> bool {
        self.write_room(room::shard(place.endpoint), Some(place), now)
    }

    /// Stores what this worker has in a shard of places, with one more where one is wanted; says whether it could.
    fn write_room(&mut self, shard: u32, wanted: Option<Place>, now: Timestamp) -> bool {
        let key = room::key(shard);
        for _ in 0..MAX_RACES {
            let stored = shared::get(&key);
            let look = self.gateway.look_for_place(shard, wanted, shared::lend(&stored), now);
            let Some(claim) = look else { return false };
            if shared::set_if(&key, &claim.blob, claim.cas) {
                self.gateway.handle_stored_room(shard, wanted);
                return true;
            }
        }
        self.gateway.handle_contended_room(shard);
        false
    }

    /// Reads what shared data holds about models, when it is time.
    pub(crate) fn read_names(&mut self, now: Timestamp) {
        if let Some(read) = self.gateway.poll_names(now) {
            let stored = shared::get(&self.gateway.read_key(read));
            self.gateway.handle_read(read, shared::lend(&stored), now);
        }
    }

    /// Reads what shared data holds about a pool, and what the other workers have in flight.
    pub(crate) fn read_shared(&mut self, pool: PoolId, now: Timestamp) {
        while let Some(mut read) = self.gateway.poll_read(pool, now) {
            loop {
                let stored = shared::get(&self.gateway.read_key(read));
                match self.gateway.handle_read(read, shared::lend(&stored), now) {
                    Some(along) => read = along,
                    None => break,
                }
            }
        }
    }

    /// Publishes and counts what changed. A slot is claimed with the first request: the main thread's VM and
    /// the one that only tries a configuration out never have one.
    fn settle(&mut self, now: Timestamp) {
        if self.gateway.inflight.wants_slot(now) {
            self.claim_slot(now);
        }
        let mut conflicts = 0;
        while let Some(write) = self.gateway.poll_write(now) {
            let Some(cas) = write.cas else {
                shared::set(&write.key, &write.blob);
                continue;
            };
            let stored = shared::set_if(&write.key, &write.blob, cas);
            // Either way the version has moved, and others may have stored what this VM doesn't know.
            let present = shared::get(&write.key);
            self.gateway.handle_read(write.what, shared::lend(&present), now);
            if !stored {
                self.gateway.handle_conflict(write.what);
                conflicts += 1;
                if conflicts == MAX_CONFLICTS {
                    break;
                }
            }
        }
        while let Some(shard) = self.gateway.poll_unwritten() {
            if !self.write_room(shard, None, now) {
                break;
            }
        }
        self.metrics.emit(self.gateway.stats.drain());
        while let Some(notice) = self.gateway.poll_notice() {
            log::warn!("{notice}");
        }
    }

    fn handle_tick(&mut self, root: u32, now: Timestamp) {
        // A faster tick than it has asked for is none of its business.
        if !self.ticks_fast || now.is_due(self.polled_at, self.polling.tick_period()) {
            self.polled_at = now;
            self.polling.handle_tick(now);
        }
        if now.since(self.slot_checked_at) >= inflight::HEARTBEAT {
            self.slot_checked_at = now;
            self.check_slot();
        }
        self.refuse_waiting(root, now);
        self.advance(root, None, Cause::Tick, now);
    }

    /// Gives a slot up that somebody else has taken over.
    fn check_slot(&mut self) {
        if let Some(slot) = self.gateway.inflight.slot() {
            let stored = shared::get(&inflight::key(slot));
            self.gateway.inflight.handle_own_slot(stored.as_ref().map(|(blob, _)| blob.as_slice()));
        }
    }

    /// Takes the first slot that nobody lives in.
    fn claim_slot(&mut self, now: Timestamp) {
        let claimed = (0..inflight::MAX_SLOTS).find(|slot| {
            let key = inflight::key(*slot);
            let stored = shared::get(&key);
            Inflight::claim(self.owner, shared::lend(&stored), now)
                .is_some_and(|claim| shared::set_if(&key, &claim.blob, claim.cas))
        });
        if let Some(slot) = claimed {
            self.gateway.inflight.handle_claimed(slot, self.owner, now);
        }
    }
}

impl Context for InferenceRoot {
    fn on_http_call_response(&mut self, token: u32, num_headers: usize, body_size: usize, _num_trailers: usize) {
        if let Some(vm) = &self.vm
            && let Ok(mut vm) = vm.try_borrow_mut()
        {
            vm.polling.handle_response(token, num_headers, body_size, inference_host::now());
        }
    }
}

impl RootContext for InferenceRoot {
    fn on_configure(&mut self, _size: usize) -> bool {
        let Some(config) = inference_host::configuration() else { return false };
        let vm = Vm::new(config, inference_host::nanoseconds());
        inference_host::tick_every(vm.polling.tick_period());
        self.vm = Some(Rc::new(RefCell::new(vm)));
        true
    }

    fn on_tick(&mut self) {
        if let Some(vm) = &self.vm
            && let Ok(mut vm) = vm.try_borrow_mut()
        {
            vm.handle_tick(self.context, inference_host::now());
        }
    }

    fn create_http_context(&self, context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(InferenceStream::new(Rc::clone(self.vm.as_ref()?), context_id)))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
