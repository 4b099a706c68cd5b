//! How long the shipped module takes to decide, and how much of that is the pick.
//!
//! The pick is what a prompt and endpoints to choose from add: the difference to the same body under a key that is
//! no prompt, in a pool of one endpoint. The host's clock stands still while a callback runs, so the machine's is
//! read around it; the median of many rounds leaves its pauses out.

use std::time::{Duration, Instant};

use wasm_tests::{Metering, scene};

const ROUNDS: usize = 1_000;

fn main() -> wasmtime::Result<()> {
    println!("{:>9}  {:>9}  {:>12}  {:>12}", "body", "endpoints", "decision us", "pick us");
    for (bytes, endpoints) in [(2_048, 100), (16_384, 100), (16_384, 1_000), (225_280, 100)] {
        let decision = measure(bytes, endpoints, "messages")?;
        let without = measure(bytes, 1, "metadata")?;
        let microseconds = |time: Duration| time.as_nanos() as f64 / 1000.0;
        let pick = microseconds(decision.saturating_sub(without));
        println!("{bytes:>7} B  {endpoints:>9}  {:>12.1}  {pick:>12.1}", microseconds(decision));
    }
    Ok(())
}

/// The median time of the callback that takes a body in, picks, and writes the headers.
fn measure(bytes: usize, endpoints: usize, key: &str) -> wasmtime::Result<Duration> {
    let (process, mut vm) = scene::inference_vm(endpoints, Metering::Off)?;
    let body = scene::body(bytes, key);
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let id = vm.stream()?;
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        vm.request_headers(id, vec![header(":method", "POST"), header(":path", "/v1/chat/completions")], false)?;
        let started = Instant::now();
        vm.request_body(id, body.as_bytes(), true)?;
        times.push(started.elapsed());
        vm.end(id)?;
        // Shared data is read again every few milliseconds and not for each request.
        process.pass(u64::from(round % 20 == 0) * 6);
    }
    times.sort_unstable();
    Ok(times.get(ROUNDS / 2).copied().unwrap_or_default())
}
