//! The HTTP filter: hands each request to the core's exchange and does what it says.

mod root;
mod stream;

use proxy_wasm::types::LogLevel;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|context| Box::new(root::InferenceRoot::new(context)));
}}
