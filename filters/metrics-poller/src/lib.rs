//! The bootstrap singleton: scrapes every endpoint from Envoy's main thread and publishes what it reads.

use inference_host::polling::Polling;
use inference_plugin::lease::Rank;
use proxy_wasm::traits::{Context, RootContext};
use proxy_wasm::types::ContextType;

proxy_wasm::main! {{
    inference_host::logging::start();
    proxy_wasm::set_root_context(|_| Box::new(MetricsPoller { polling: None }));
}}

struct MetricsPoller {
    polling: Option<Polling>,
}

impl Context for MetricsPoller {
    fn on_http_call_response(&mut self, token: u32, num_headers: usize, body_size: usize, _num_trailers: usize) {
        #[cfg(feature = "fault-injection")]
        fault::trap_on_request(num_headers, body_size);
        if let Some(polling) = &mut self.polling {
            polling.handle_response(token, num_headers, body_size, inference_host::now());
        }
    }
}

impl RootContext for MetricsPoller {
    fn on_configure(&mut self, _size: usize) -> bool {
        let Some(config) = inference_host::configuration() else { return false };
        let nanoseconds = inference_host::nanoseconds();
        let now = inference_host::timestamp(nanoseconds);
        let mut polling = Polling::new(&config, Rank::Singleton, inference_host::vm_id(nanoseconds), now);
        inference_host::tick_every(polling.tick_period());
        // The first scrapes leave here and not with the first tick, to be back before the first request.
        polling.handle_tick(now);
        self.polling = Some(polling);
        true
    }

    fn on_tick(&mut self) {
        if let Some(polling) = &mut self.polling {
            polling.handle_tick(inference_host::now());
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        None
    }
}

#[cfg(feature = "fault-injection")]
mod fault {
    //! Lets a test kill this VM, the way a bug would.

    use proxy_wasm::hostcalls;
    use proxy_wasm::types::BufferType;

    pub(super) fn trap_on_request(num_headers: usize, body_size: usize) {
        if num_headers == 0 {
            return;
        }
        let page = hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, body_size).ok().flatten();
        #[expect(clippy::panic, reason = "this is what the feature is for")]
        if page.is_some_and(|page| page.starts_with(b"# trap")) {
            panic!("the test asked for a trap");
        }
    }
}
