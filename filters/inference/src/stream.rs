//! One HTTP stream: translates Envoy's callbacks into the exchange's events.

use std::cell::RefCell;
use std::rc::Rc;

use inference_host::http;
use inference_plugin::exchange::{Edit, Exchange, Next};
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::root::Vm;

pub(crate) struct InferenceStream {
    vm: Rc<RefCell<Vm>>,
    exchange: Exchange,
    edits: Vec<Edit>,
}

impl InferenceStream {
    pub(crate) fn new(vm: Rc<RefCell<Vm>>) -> InferenceStream {
        InferenceStream { vm, exchange: Exchange::default(), edits: Vec::new() }
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
                    let cluster = http::route_cluster();
                    self.with_vm(|vm, exchange, _| exchange.handle_route(&mut vm.gateway, cluster.as_deref()))
                }
                Next::Load(pool) => {
                    let next = self.with_vm(|vm, exchange, edits| {
                        let now = inference_host::now();
                        vm.read_shared(pool, now);
                        exchange.handle_load(&mut vm.gateway, now, edits)
                    });
                    http::set_filter_state("inference_tier", self.exchange.tier().map_or("", |tier| tier.name()));
                    next
                }
                Next::Refuse(refusal) => {
                    // The request goes nowhere, and its headers may be out of reach by the next callback.
                    self.edits.clear();
                    if let Some(model) = refusal.unknown_model() {
                        http::set_filter_state("inference_unknown_model", model);
                    }
                    http::answer(&refusal.reply());
                    return Action::Pause;
                }
            }
        }
    }

    /// Hands the complete request over, at the event that ends it.
    fn finish_request(&mut self) -> Action {
        let started = inference_host::nanoseconds();
        let body = http::request_body();
        let next = self.with_vm(|vm, exchange, _| exchange.handle_request_end(&mut vm.gateway, body));
        let action = self.follow(next);
        let ended = inference_host::nanoseconds();
        self.with_vm(|vm, _, _| {
            vm.gateway.stats.decided_in(ended.saturating_sub(started) / 1000);
            vm.settle(inference_host::timestamp(ended));
            Next::Continue
        });
        action
    }

    fn with_vm(&mut self, act: impl FnOnce(&mut Vm, &mut Exchange, &mut Vec<Edit>) -> Next) -> Next {
        // Envoy never calls a VM while it is in a call. If it did, letting the request pass beats a trap.
        match self.vm.try_borrow_mut() {
            Ok(mut vm) => act(&mut vm, &mut self.exchange, &mut self.edits),
            Err(_) => Next::Continue,
        }
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
            exchange.handle_request_headers(&mut vm.gateway, &headers, end_of_stream, edits)
        });
        self.follow(next)
    }

    fn on_http_request_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        if !self.exchange.wants_request_end() {
            return Action::Continue;
        }
        if end_of_stream {
            return self.finish_request();
        }
        let next = self.with_vm(|vm, exchange, _| exchange.handle_request_body(&mut vm.gateway, body_size));
        self.follow(next)
    }

    fn on_http_request_trailers(&mut self, _num_trailers: usize) -> Action {
        if self.exchange.wants_request_end() { self.finish_request() } else { Action::Continue }
    }

    fn on_http_response_headers(&mut self, _num_headers: usize, end_of_stream: bool) -> Action {
        self.with_vm(|vm, exchange, edits| {
            let response = http::Response::read(vm.gateway.config().poller.in_band);
            let now = inference_host::now();
            exchange.handle_response_headers(&mut vm.gateway, &response.head(), now, edits);
            exchange.handle_response_body(&mut vm.gateway, 0, end_of_stream, now);
            Next::Continue
        });
        http::apply(&mut self.edits);
        Action::Continue
    }

    fn on_http_response_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        if self.exchange.wants_response_body(body_size, end_of_stream) {
            self.with_vm(|vm, exchange, _| {
                let now = inference_host::now();
                exchange.handle_response_body(&mut vm.gateway, body_size, end_of_stream, now);
                vm.settle(now);
                Next::Continue
            });
        }
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _num_trailers: usize) -> Action {
        self.with_vm(|vm, exchange, _| {
            exchange.handle_response_body(&mut vm.gateway, 0, true, inference_host::now());
            Next::Continue
        });
        Action::Continue
    }

    /// Called once for each stream, right after its end, whether it was answered, reset or left.
    fn on_log(&mut self) {
        let details = if self.exchange.is_under_way() { http::code_details() } else { None };
        self.with_vm(|vm, exchange, _| {
            let now = inference_host::now();
            if let Some(pool) = exchange.load_to_judge_by() {
                vm.read_shared(pool, now);
            }
            exchange.handle_end(&mut vm.gateway, details.as_deref(), now);
            vm.settle(now);
            Next::Continue
        });
    }
}
