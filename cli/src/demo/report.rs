//! What the demo shows at the end: who served what, how fast, and what each refused request got.

use std::collections::BTreeMap;
use std::time::Duration;

use inference_plugin::config::Config;

use super::servers::Servers;
use super::traffic::{Kind, Outcome, Planned};
use crate::latency::percentile;

/// The answers that one endpoint gave.
#[derive(Default)]
struct Served {
    count: usize,
    first_bytes: Vec<Duration>,
}

pub(super) fn print(
    config: &Config,
    servers: &Servers,
    requests: &[Planned],
    plugin: &[Outcome],
    round_robin: &[Outcome],
) {
    println!("\nWho served how many, and the time to the first token (mean / p99)\n");
    println!("  {:<18} {:<22} {:>24}  {:>24}", "pool", "endpoint", "round robin", "plugin");
    for pool in &config.pools {
        let rivals = [round_robin, plugin].map(|outcomes| by_endpoint(requests, outcomes, &pool.base_model));
        for endpoint in &pool.endpoints {
            let [left, right] = [0, 1].map(|arm| cell(rivals.get(arm).and_then(|arm| arm.get(endpoint.as_str()))));
            let note =
                servers.notes.iter().find(|(address, _)| address == endpoint.as_str()).map_or("", |(_, note)| note);
            println!("  {:<18} {:<22} {left:>24}  {right:>24}  {note}", pool.name, endpoint.as_str());
        }
        let [left, right] = rivals.each_ref().map(|arm| cell(Some(&total(arm))));
        println!("  {:<18} {:<22} {left:>24}  {right:>24}", pool.name, "all");
    }
    let [left, right] = [round_robin, plugin].map(|outcomes| {
        let mut all = Served::default();
        for pool in &config.pools {
            let pool = total(&by_endpoint(requests, outcomes, &pool.base_model));
            all.count += pool.count;
            all.first_bytes.extend(pool.first_bytes);
        }
        all
    });
    if config.pools.len() > 1 {
        let (left, right) = (cell(Some(&left)), cell(Some(&right)));
        println!("  {:<18} {:<22} {left:>24}  {right:>24}", "every pool", "all");
    }
    println!(
        "\n  The plugin's mean is {:.1} times and its p99 {:.1} times as fast.",
        ratio(mean(&left), mean(&right)),
        ratio(p99(&left), p99(&right))
    );
    print_refusals(requests, plugin);
}

fn print_refusals(requests: &[Planned], outcomes: &[Outcome]) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (request, outcome) in requests.iter().zip(outcomes) {
        let line = match (&request.kind, outcome) {
            (Kind::Bad(what), Outcome::Answered(answer)) => format!("{what:<18} {} {}", answer.status, answer.text()),
            (Kind::Good, Outcome::Answered(answer)) if answer.status != 200 => {
                format!("{:<18} {} {}", "a good request", answer.status, answer.text())
            }
            (_, Outcome::Failed(error)) => format!("{:<18} {error}", "no answer"),
            _ => continue,
        };
        *seen.entry(line).or_default() += 1;
    }
    if !seen.is_empty() {
        println!("\nWhat could not be served, with the plugin\n");
    }
    // Bodies that were cut at different places differ in the place alone: one of each kind is enough to see.
    let mut shown: Vec<&str> = Vec::new();
    for line in seen.keys() {
        let kind = line.get(..22).unwrap_or(line);
        if !shown.contains(&kind) {
            shown.push(kind);
            let count: usize = seen.iter().filter(|(other, _)| other.starts_with(kind)).map(|(_, count)| count).sum();
            println!("  {count:>3} x {line}");
        }
    }
}

fn by_endpoint(requests: &[Planned], outcomes: &[Outcome], base_model: &str) -> BTreeMap<String, Served> {
    let mut served: BTreeMap<String, Served> = BTreeMap::new();
    for (request, outcome) in requests.iter().zip(outcomes) {
        let Outcome::Answered(answer) = outcome else { continue };
        if request.kind != Kind::Good || request.base_model != base_model || answer.status != 200 {
            continue;
        }
        let entry = served.entry(endpoint(answer)).or_default();
        entry.count += 1;
        entry.first_bytes.push(answer.first_byte);
    }
    served
}

fn endpoint(answer: &crate::client::Answer) -> String {
    let names = ["x-gateway-destination-endpoint-served", crate::render::SERVED_BY];
    names.iter().find_map(|name| answer.header(name)).unwrap_or("?").to_owned()
}

fn total(served: &BTreeMap<String, Served>) -> Served {
    let mut total = Served::default();
    for one in served.values() {
        total.count += one.count;
        total.first_bytes.extend(&one.first_bytes);
    }
    total
}

fn cell(served: Option<&Served>) -> String {
    match served {
        Some(served) if served.count > 0 => {
            format!("{:>4}  {:>5} / {:>5} ms", served.count, mean(served).as_millis(), p99(served).as_millis())
        }
        _ => "0  -".to_owned(),
    }
}

fn mean(served: &Served) -> Duration {
    served.first_bytes.iter().sum::<Duration>() / u32::try_from(served.count.max(1)).unwrap_or(1)
}

fn p99(served: &Served) -> Duration {
    let mut sorted = served.first_bytes.clone();
    sorted.sort_unstable();
    percentile(&sorted, 99)
}

fn ratio(slow: Duration, fast: Duration) -> f64 {
    slow.as_secs_f64() / fast.as_secs_f64().max(1e-9)
}
