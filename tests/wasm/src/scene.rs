//! One pool of scraped endpoints and a chat of a given size: what the measurements start from.

use crate::{Metering, Process, Vm};

/// A VM with the inference filter that has fresh metrics of so many endpoints, and the process that it lives in.
pub fn inference_vm(endpoints: usize, metering: Metering) -> wasmtime::Result<(Process, Vm)> {
    let addresses: Vec<String> =
        (0..endpoints).map(|index| format!("\"10.0.{}.{}:8000\"", index / 250, index % 250 + 1)).collect();
    let config = format!(
        r#"{{"pools": [{{"name": "p", "baseModel": "m", "endpoints": {{"static": [{}]}}}}]}}"#,
        addresses.join(",")
    );
    let process = Process::new();
    let mut poller = Vm::load(&process, "metrics-poller.wasm", &config)?;
    for (index, call) in poller.take_calls().into_iter().enumerate() {
        let page = format!(
            "vllm:num_requests_waiting {}\nvllm:num_requests_running 3\nvllm:kv_cache_usage_perc 0.5\n",
            index % 7
        );
        poller.answer_call(call.token, 200, page.as_bytes())?;
    }
    let vm = Vm::load_with(&process, "inference.wasm", &config, metering)?;
    Ok((process, vm))
}

/// A body of about so many bytes with its messages under `key`, asking for the pool's base model.
pub fn body(bytes: usize, key: &str) -> String {
    let message = r#"{"role":"user","content":"How long does a \"token\" wait, on average, for the next one?\n"},"#;
    let messages = message.repeat(bytes.saturating_sub(80) / message.len());
    format!(r#"{{"{key}":[{messages}{{"role":"user","content":"x"}}],"max_tokens":1,"model":"m"}}"#)
}

/// A header as the host gives it.
pub fn header(name: &str, value: &str) -> (String, Vec<u8>) {
    (name.to_owned(), value.as_bytes().to_vec())
}

/// What a client and Envoy say of a chat.
pub fn headers() -> Vec<(String, Vec<u8>)> {
    vec![
        header(":method", "POST"),
        header(":path", "/v1/chat/completions"),
        header(":authority", "gateway"),
        header("content-type", "application/json"),
        header("user-agent", "bench"),
        header("x-request-id", "0f9a2a4e-7d0c-4bb6-9f6e-0a8f6a3c1d2e"),
        header("authorization", "Bearer xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
    ]
}
