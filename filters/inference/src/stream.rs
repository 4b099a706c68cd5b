//! One HTTP stream: translates Envoy's callbacks into the exchange's events.

use std::cell::RefCell;
use std::rc::Rc;

use inference_host::http;
use inference_plugin::exchange::{Edit, Exchange, Next, WATCHED_BYTES};
use inference_plugin::time::Timestamp;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::root::{Cause, Vm};

pub(crate) struct InferenceStream {
    vm: Rc<RefCell<Vm>>,
    context: u32,
    /// Shared with the VM while the request waits.
    exchange: Rc<RefCell<Exchange>>,
    edits: Vec<Edit>,
    /// The request's number, if it has waited.
    waiting: Option<u64>,
    /// Whether the plugin itself has answered.
    is_answered: bool,
}

impl InferenceStream {
    pub(crate) fn new(vm: Rc<RefCell<Vm>>, context: u32) -> InferenceStream {
        InferenceStream { vm, context, exchange: Rc::default(), edits: Vec::new(), waiting: None, is_answered: false }
    }

    /// Does what the exchange asks for until the request goes on, waits, or is answered.
    fn follow(&mut self, mut next: Next) -> Action {
        loop {
            next = match next {
                Next::Continue => {
                    http::apply(&mut self.edits);
                    return Action::Continue;
                }
                Next::Buffer => {
                    http::apply(&mut self.edits);
                    return Action::Pause;
                }
                Next::Route => {
                    http::apply(&mut self.edits);
                    let cluster = http::route_cluster();
                    self.with_vm(|vm, exchange, _| exchange.handle_route(&mut vm.gateway, cluster.as_deref()))
                }
                Next::Load(pool) => self.decide(|vm, exchange, edits| {
                    let now = inference_host::now();
                    vm.read_shared(pool, now);
                    exchange.handle_load(&mut vm.gateway, now, edits)
                }),
                Next::Claim(place) => self.decide(|vm, exchange, edits| {
                    let now = inference_host::now();
                    let got = vm.claim(place, now);
                    exchange.handle_claimed(&mut vm.gateway, got, now, edits)
                }),
                Next::Wait(id) => {
                    http::apply(&mut self.edits);
                    self.waiting = Some(id);
                    let (context, exchange) = (self.context, Rc::clone(&self.exchange));
                    self.with_vm(|vm, _, _| {
                        vm.park(id, context, exchange);
                        Next::Continue
                    });
                    return Action::Pause;
                }
                Next::Refuse(refusal) => {
                    // The request goes nowhere, and its headers may be out of reach by the next callback.
                    self.edits.clear();
                    if let Some(model) = refusal.unknown_model() {
                        http::set_filter_state("inference_unknown_model", &model);
                    }
                    http::answer(&refusal.reply());
                    self.is_answered = true;
                    return Action::Pause;
                }
            }
        }
    }

    /// Takes a step of a pick; its last one leaves what it rests on for access logs.
    fn decide(&mut self, step: impl FnOnce(&mut Vm, &mut Exchange, &mut Vec<Edit>) -> Next) -> Next {
        let next = self.with_vm(step);
        if !matches!(next, Next::Claim(_)) {
            http::set_tier(self.ask(|exchange| exchange.tier()).flatten());
        }
        next
    }

    /// Hands the complete request over, at the event that ends it.
    fn finish_request(&mut self) -> Action {
        let started = inference_host::nanoseconds();
        let body = http::request_body();
        let arrived = inference_host::timestamp(started);
        let next = self.with_vm(|vm, exchange, edits| {
            vm.read_names(arrived);
            exchange.handle_request_end(&mut vm.gateway, body, arrived, edits)
        });
        let action = self.follow(next);
        let ended = inference_host::nanoseconds();
        self.with_vm(|vm, _, _| {
            vm.gateway.stats.decided_in(ended.saturating_sub(started) / 1000);
            Next::Continue
        });
        // Its turn may have come already.
        if self.advance(inference_host::timestamp(ended)) { Action::Continue } else { action }
    }

    /// Publishes what changed and lets waiting requests go; says whether this one may go that has waited till now.
    fn advance(&self, now: Timestamp) -> bool {
        // The exchange must be free for this.
        self.vm.try_borrow_mut().is_ok_and(|mut vm| vm.advance(self.context, self.waiting, Cause::Stream, now))
    }

    fn with_vm(&mut self, act: impl FnOnce(&mut Vm, &mut Exchange, &mut Vec<Edit>) -> Next) -> Next {
        // Envoy never calls a VM while it is in a call. If it did, letting the request pass beats a trap.
        match (self.vm.try_borrow_mut(), self.exchange.try_borrow_mut()) {
            (Ok(mut vm), Ok(mut exchange)) => act(&mut vm, &mut exchange, &mut self.edits),
            _ => Next::Continue,
        }
    }

    fn ask<T>(&self, question: impl FnOnce(&mut Exchange) -> T) -> Option<T> {
        self.exchange.try_borrow_mut().ok().map(|mut exchange| question(&mut exchange))
    }
}

impl InferenceStream {
    fn wants_request_end(&self) -> bool {
        self.ask(|exchange| exchange.wants_request_end()).unwrap_or_default()
    }
}

impl Context for InferenceStream {}

impl HttpContext for InferenceStream {
    fn on_http_request_headers(&mut self, _num_headers: usize, end_of_stream: bool) -> Action {
        let headers = http::request_headers();
        #[cfg(feature = "fault-injection")]
        #[expect(clippy::panic, reason = "this is what the feature is for")]
        if headers.iter().any(|(name, _)| name == "x-test-panic") {
            panic!("the test asked for a trap");
        }
        let next = self.with_vm(|vm, exchange, edits| {
            exchange.handle_request_headers(&mut vm.gateway, headers, end_of_stream, inference_host::now(), edits)
        });
        self.follow(next)
    }

    fn on_http_request_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        if !self.wants_request_end() {
            return Action::Continue;
        }
        if end_of_stream {
            return self.finish_request();
        }
        let next = self.with_vm(|vm, exchange, _| exchange.handle_request_body(&mut vm.gateway, body_size));
        self.follow(next)
    }

    fn on_http_request_trailers(&mut self, _num_trailers: usize) -> Action {
        // They may be out of reach once the request is answered.
        let trailers = http::request_trailers();
        let action = if self.wants_request_end() { self.finish_request() } else { Action::Continue };
        if !self.is_answered {
            self.with_vm(|_, exchange, edits| {
                exchange.handle_request_trailers(&trailers, edits);
                Next::Continue
            });
            http::apply(&mut self.edits);
        }
        action
    }

    fn on_http_response_headers(&mut self, _num_headers: usize, end_of_stream: bool) -> Action {
        self.with_vm(|vm, exchange, edits| {
            let response = http::Response::read(vm.gateway.config().poller.in_band, exchange.wants_content());
            let now = inference_host::now();
            exchange.handle_response_headers(&mut vm.gateway, &response.head(), now, edits);
            exchange.handle_response_body(&mut vm.gateway, 0, end_of_stream, now);
            Next::Continue
        });
        http::apply(&mut self.edits);
        Action::Continue
    }

    fn on_http_response_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        let wants = |exchange: &mut Exchange| (exchange.wants_to_watch(), exchange.wants_response_bytes());
        let (wants_to_watch, wants_bytes) = self.ask(wants).unwrap_or_default();
        let size = if wants_bytes { body_size } else { body_size.min(WATCHED_BYTES) };
        let part = if wants_bytes || wants_to_watch { http::response_part(size) } else { Vec::new() };
        if wants_to_watch {
            self.with_vm(|vm, exchange, _| {
                exchange.watch(&mut vm.gateway, &part, body_size, end_of_stream, inference_host::now());
                Next::Continue
            });
        }
        if wants_bytes && let Some(restored) = self.ask(|exchange| exchange.restore(&part, end_of_stream)).flatten() {
            http::replace_response_part(&restored);
        }
        let wants_event = |exchange: &mut Exchange| exchange.wants_response_body(body_size, end_of_stream);
        if self.ask(wants_event).unwrap_or_default() {
            let now = inference_host::now();
            self.with_vm(|vm, exchange, _| {
                exchange.handle_response_body(&mut vm.gateway, body_size, end_of_stream, now);
                Next::Continue
            });
            self.advance(now);
        }
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _num_trailers: usize) -> Action {
        self.with_vm(|vm, exchange, edits| {
            if exchange.wants_response_bytes() {
                exchange.handle_response_trailers(&http::response_trailers(), edits);
            }
            exchange.handle_response_body(&mut vm.gateway, 0, true, inference_host::now());
            Next::Continue
        });
        http::apply(&mut self.edits);
        Action::Continue
    }

    /// Called once for each stream, right after its end, whether it was answered, reset or left.
    fn on_log(&mut self) {
        let is_under_way = self.ask(|exchange| exchange.is_under_way()).unwrap_or_default();
        let details = if is_under_way { http::code_details() } else { None };
        let (now, waiting) = (inference_host::now(), self.waiting.take());
        self.with_vm(|vm, exchange, _| {
            if let Some(pool) = exchange.load_to_judge_by() {
                vm.read_shared(pool, now);
            }
            exchange.handle_end(&mut vm.gateway, details.as_deref(), now);
            if let Some(id) = waiting {
                vm.forget(id);
            }
            Next::Continue
        });
        if let Ok(mut vm) = self.vm.try_borrow_mut() {
            vm.refuse_waiting(self.context, now);
        }
        self.advance(now);
    }
}
