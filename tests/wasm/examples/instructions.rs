//! Counts the instructions that the inference filter executes for one request, callback by callback.
//!
//! `./build.sh bench` runs it. The figures do not depend on the machine, so a change shows to the last instruction.

use wasm_tests::{Metering, scene};

const ENDPOINTS: usize = 100;

fn main() -> wasmtime::Result<()> {
    println!("{:>9}  {:>10}  {:>10}  {:>10}  {:>10}", "body", "headers", "body+pick", "response", "end");
    for bytes in [2_048, 16_384, 32_768, 225_280, 1_048_576] {
        let [headers, pick, response, end] = measure(bytes)?;
        println!("{bytes:>7} B  {headers:>10}  {pick:>10}  {response:>10}  {end:>10}");
    }
    println!("({ENDPOINTS} endpoints, fresh metrics)");
    Ok(())
}

fn measure(bytes: usize) -> wasmtime::Result<[u64; 4]> {
    let (process, mut vm) = scene::inference_vm(ENDPOINTS, Metering::Counted)?;
    let body = scene::body(bytes, "messages");
    let mut last = [0; 4];
    // The second request finds everything allocated and claimed.
    for _ in 0..2 {
        let id = vm.stream()?;
        let headers = scene::headers();
        let marks = [
            vm.instructions(),
            {
                vm.request_headers(id, headers, false)?;
                vm.instructions()
            },
            {
                vm.request_body(id, body.as_bytes(), true)?;
                vm.instructions()
            },
            {
                vm.response_headers(id, vec![scene::header(":status", "200")], "10.0.0.1:8000", false)?;
                vm.instructions()
            },
            {
                vm.end(id)?;
                vm.instructions()
            },
        ];
        for (difference, pair) in last.iter_mut().zip(marks.windows(2)) {
            *difference = pair[1] - pair[0];
        }
        process.pass(1);
    }
    Ok(last)
}
