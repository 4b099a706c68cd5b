//! What 50 rules cost a request in the shipped module.
//!
//! The difference to the same request without rules, in the callback that takes the body in; the median of many rounds. The
//! first set is what people write: a header and a member of the body are compared with texts. No rule of the second can be decided at
//! a glance, and none holds, so that each is evaluated in full.

use std::time::{Duration, Instant};

use wasm_tests::{Metering, Process, Vm, scene};

const ROUNDS: usize = 1_000;
const RULES: usize = 50;

fn main() -> wasmtime::Result<()> {
    let compared = |rule: usize| format!("request.headers['x-team'] == 'team-{rule}' && body.model == 'auto'");
    let evaluated = |rule: usize| format!("body.model.endsWith('-{rule}') || size(request.path) > {}", 100 + rule);
    let sets: [(&str, &dyn Fn(usize) -> String); 2] = [("compared", &compared), ("evaluated", &evaluated)];
    println!("{:>9}  {:>10}  {:>12}  {:>12}", "body", "rules", "decision us", "rules us");
    for bytes in [2_048, 225_280] {
        let without = measure(bytes, &[])?;
        for (name, rule) in sets {
            let rules: Vec<String> = (0..RULES).map(rule).collect();
            let with = measure(bytes, &rules)?;
            let microseconds = |time: Duration| time.as_nanos() as f64 / 1000.0;
            let cost = microseconds(with) - microseconds(without);
            println!("{bytes:>7} B  {name:>10}  {:>12.1}  {cost:>12.1}", microseconds(with));
        }
    }
    println!("({RULES} rules)");
    Ok(())
}

fn measure(bytes: usize, conditions: &[String]) -> wasmtime::Result<Duration> {
    let rules: Vec<String> = conditions.iter().map(|when| format!(r#"{{"when": {when:?}, "priority": 1}}"#)).collect();
    let config = format!(
        r#"{{"pools": [{{"name": "p", "baseModel": "m", "endpoints": {{"static": ["10.0.0.1:8000"]}}}}], "rules": [{}]}}"#,
        rules.join(",")
    );
    let process = Process::new();
    let mut vm = Vm::load_with(&process, "inference.wasm", &config, Metering::Off)?;
    let body = scene::body(bytes, "messages");
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let id = vm.stream()?;
        let mut headers = scene::headers();
        headers.push(scene::header("x-team", "nobody"));
        vm.request_headers(id, headers, false)?;
        let started = Instant::now();
        vm.request_body(id, body.as_bytes(), true)?;
        times.push(started.elapsed());
        vm.end(id)?;
    }
    times.sort_unstable();
    Ok(times.get(ROUNDS / 2).copied().unwrap_or_default())
}
