//! The HTTP filter: hands each request to the core's exchange and does what it says.

mod root;
mod stream;

proxy_wasm::main! {{
    inference_host::logging::start();
    proxy_wasm::set_root_context(|context| Box::new(root::InferenceRoot::new(context)));
}}
