//! What bodies of 16 MiB cost that are made to be slow, beside plain text of the same length.
//!
//! `./build.sh bench hostile` runs it. Each body goes through the shipped module, in the callback that takes it in: while that
//! runs, all other requests of the worker wait. Beside it stands what builds a document of the same bytes, `serde_json`, in
//! native code; it is a naive twin, and not what any gateway does. All shapes take turns, and each figure is the least of some
//! rounds, so that what else the machine does counts little.

#[path = "hostile/shapes.rs"]
mod shapes;

use std::time::{Duration, Instant};

use shapes::{Shape, shapes};
use wasm_tests::{Metering, Process, Vm};

const ROUNDS: usize = 5;
/// The largest body that the default configuration takes.
const BYTES: usize = 16 << 20;

/// Rules that look at the body as a whole, and some that compare its members with texts.
const RULES: [&str; 2] = ["size(body) > 100000", "body.user == 'somebody' && body.model == 'auto'"];

fn main() -> wasmtime::Result<()> {
    let only = std::env::args().nth(1).unwrap_or_default();
    let shapes: Vec<Shape> =
        shapes(BYTES).into_iter().filter(|shape| shape.name == shapes::PLAIN || shape.name.contains(&only)).collect();
    let mut vms = [vm(&[])?, vm(&RULES)?];
    let mut best = vec![[Duration::MAX; 3]; shapes.len()];
    let mut answers = vec![String::new(); shapes.len()];
    for _ in 0..ROUNDS {
        for (index, shape) in shapes.iter().enumerate() {
            let mut times = [Duration::MAX; 3];
            for (time, (_, vm)) in times.iter_mut().zip(&mut vms) {
                (*time, answers[index]) = ask(vm, shape)?;
            }
            let started = Instant::now();
            drop(serde_json::from_slice::<serde_json::Value>(&shape.body));
            times[2] = started.elapsed();
            for (best, time) in best[index].iter_mut().zip(times) {
                *best = time.min(*best);
            }
        }
    }
    let plain = best[0][0];
    println!("{:<44}  {:>9}  {:>8}  {:>9}  {:>10}  answer", "16 MiB of", "module ms", "x plain", "rules ms", "twin ms");
    for ((shape, [module, rules, twin]), answer) in shapes.iter().zip(best).zip(answers) {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let times = module.as_secs_f64() / plain.as_secs_f64();
        let twin =
            if shape.content_type.starts_with("multipart") { "-".to_owned() } else { format!("{:.0}", ms(twin)) };
        println!("{:<44}  {:>9.1}  {times:>8.2}  {:>9.1}  {twin:>10}  {answer}", shape.name, ms(module), ms(rules));
    }
    Ok(())
}

fn vm(rules: &[&str]) -> wasmtime::Result<(Process, Vm)> {
    let rules: Vec<String> = rules.iter().map(|when| format!(r#"{{"when": "{when}", "priority": 1}}"#)).collect();
    let config = format!(
        r#"{{"pools": [{{"name": "p", "baseModel": "m", "endpoints": {{"static": ["10.0.0.1:8000"]}}}}], "rules": [{}]}}"#,
        rules.join(",")
    );
    let process = Process::new();
    let vm = Vm::load_with(&process, "inference.wasm", &config, Metering::Off)?;
    Ok((process, vm))
}

/// Sends a body, and gives how long the worker was held and what became of the request.
fn ask(vm: &mut Vm, shape: &Shape) -> wasmtime::Result<(Duration, String)> {
    let id = vm.stream()?;
    vm.request_headers(id, shape.headers(), false)?;
    let started = Instant::now();
    vm.request_body(id, &shape.body, true)?;
    let time = started.elapsed();
    let answer = vm.local_response().map_or("goes".to_owned(), |reply| reply.status.to_string());
    vm.end(id)?;
    Ok((time, answer))
}
