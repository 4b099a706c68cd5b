//! The state of one VM: the gateway, its slot in the shared in-flight table, and the backup poller.

use std::cell::RefCell;
use std::rc::Rc;

use inference_host::metrics::Metrics;
use inference_host::polling::Polling;
use inference_host::shared;
use inference_plugin::config::{Config, PoolId};
use inference_plugin::gateway::Gateway;
use inference_plugin::inflight::{self, Inflight};
use inference_plugin::lease::Rank;
use inference_plugin::time::Timestamp;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

use crate::stream::InferenceStream;

/// A write loses a race against each other worker once at most; more is left for later, since it is tried with
/// every change.
const MAX_CONFLICTS: u32 = 8;

/// What the root context and all streams of a VM share.
pub(crate) struct Vm {
    pub(crate) gateway: Gateway,
    metrics: Metrics,
    polling: Polling,
    owner: u64,
    slot_checked_at: Timestamp,
}

#[derive(Default)]
pub(crate) struct InferenceRoot {
    vm: Option<Rc<RefCell<Vm>>>,
}

impl Vm {
    fn new(config: Config, nanoseconds: u64) -> Vm {
        let now = inference_host::timestamp(nanoseconds);
        let owner = inference_host::vm_id(nanoseconds);
        let polling = Polling::new(&config, Rank::Backup, owner, now);
        let gateway = Gateway::new(config, owner);
        let metrics = Metrics::define(gateway.stats.metrics());
        Vm { gateway, metrics, polling, owner, slot_checked_at: now }
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
    pub(crate) fn settle(&mut self, now: Timestamp) {
        if self.gateway.inflight.wants_slot(now) {
            self.claim_slot(now);
        }
        let mut conflicts = 0;
        while let Some(write) = self.gateway.poll_write(self.owner, now) {
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
        self.metrics.emit(self.gateway.stats.drain());
    }

    fn handle_tick(&mut self, now: Timestamp) {
        self.polling.handle_tick(now);
        if now.since(self.slot_checked_at) >= inflight::HEARTBEAT {
            self.slot_checked_at = now;
            self.check_slot();
        }
        self.settle(now);
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
            vm.handle_tick(inference_host::now());
        }
    }

    fn create_http_context(&self, _context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(InferenceStream::new(Rc::clone(self.vm.as_ref()?))))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
