//! Overloads a pool through a real Envoy: what do requests that matter notice of it?
//!
//! Open loop: requests come at their times, whatever became of those before. Critical ones come alone first; then
//! with so many others that the pool gets half as much again as it can do, once with flow control and once without. One
//! run prints all three. It fails when a request is lost or answered twice, or a queue is over its limit.

mod report;
mod stage;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use inference_plugin::headers;
use inference_plugin::rng::{Rng, SplitMix64};
use inferencectl::client;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use stage::{CLASSES, CRITICAL, Stage};

/// Longer than any request may wait and run.
const LONGEST: Duration = Duration::from_secs(60);

/// Measures what flow control keeps for requests that matter.
#[derive(Debug, Parser)]
struct Options {
    /// Requests under overload, with flow control and without.
    #[arg(long, default_value_t = 10_000)]
    requests: usize,
    /// The load, in multiples of what the pool can do.
    #[arg(long, default_value_t = 1.5)]
    load: f64,
    /// Seeds arrivals and engines.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The folder with inference.wasm and metrics-poller.wasm.
    #[arg(long, default_value = "dist")]
    wasm_dir: PathBuf,
}

/// What became of a request.
#[derive(Clone, Debug)]
struct Outcome {
    class: usize,
    status: u16,
    reason: Option<String>,
    first_token: Duration,
    /// Whether the answer is whole: all its events and their end.
    is_whole: bool,
}

/// One phase's outcomes.
struct Phase {
    name: &'static str,
    outcomes: Vec<Outcome>,
    lost: usize,
    /// The most that ever waited, as Envoy's gauge says, and the limit of all bands.
    most_waiting: u64,
    seconds: f64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let phases = runtime.block_on(run(&options))?;
    report::print(&phases, options.load);
    let limit = CLASSES.iter().map(|class| class.max_requests).sum::<u64>();
    for phase in &phases {
        ensure!(phase.lost == 0, "{}: {} requests were lost", phase.name, phase.lost);
        ensure!(phase.most_waiting <= limit, "{}: {} waited, of {limit}", phase.name, phase.most_waiting);
        let broken = phase.outcomes.iter().filter(|outcome| outcome.status == 200 && !outcome.is_whole).count();
        ensure!(broken == 0, "{}: {broken} answers are not whole", phase.name);
    }
    Ok(())
}

async fn run(options: &Options) -> Result<Vec<Phase>> {
    let capacity = stage::capacity();
    let total = capacity * options.load;
    let mut phases = Vec::new();
    for (name, with_flow_control, only_critical) in [
        ("critical requests alone", true, true),
        ("overload, flow control", true, false),
        ("overload, none", false, false),
    ] {
        let stage = Stage::start(with_flow_control, options.seed, &options.wasm_dir).await?;
        let share = if only_critical { CRITICAL.share } else { 1.0 };
        let classes = if only_critical { 1 } else { CLASSES.len() };
        let requests = (options.requests as f64 * share) as usize;
        let phase = phase(name, &stage, requests, total * share, classes, options.seed).await?;
        stage.check_after(&phase.outcomes).await?;
        phases.push(phase);
    }
    Ok(phases)
}

async fn phase(
    name: &'static str,
    stage: &Stage,
    requests: usize,
    rate: f64,
    classes: usize,
    seed: u64,
) -> Result<Phase> {
    eprintln!("{name}: {requests} requests, {rate:.0} a second");
    let mut rng = SplitMix64::new(seed);
    let mut even = || (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let started = Instant::now() + Duration::from_millis(200);
    let mut at = 0.0;
    let mut clients = JoinSet::new();
    let watch = stage.watch();
    for number in 0..requests {
        at += -(1.0 - even()).ln() / rate;
        let mut draw = even();
        let class = CLASSES.iter().take(classes).position(|class| {
            draw -= class.share;
            draw < 0.0
        });
        let class = class.unwrap_or(classes - 1);
        let model = CLASSES.get(class).map_or("", |class| class.model);
        let gateway = stage.gateway();
        let begins = started + Duration::from_secs_f64(at);
        clients.spawn(async move {
            sleep_until(begins).await;
            timeout(LONGEST, ask(gateway, class, model, number)).await
        });
    }
    let (mut outcomes, mut lost) = (Vec::new(), 0);
    while let Some(joined) = clients.join_next().await {
        match joined? {
            Ok(Ok(outcome)) => outcomes.push(outcome),
            Ok(Err(error)) => {
                eprintln!("lost: {error:#}");
                lost += 1;
            }
            Err(_) => {
                eprintln!("lost: no end within {LONGEST:?}");
                lost += 1;
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let most_waiting = watch.finish().await?;
    Ok(Phase { name, outcomes, lost, most_waiting, seconds })
}

/// One request on a connection of its own, so that it comes to any of Envoy's workers.
async fn ask(gateway: SocketAddr, class: usize, model: &str, number: usize) -> Result<Outcome> {
    let prompt = format!("{number} {}", "is what this is about ".repeat(stage::PROMPT_REPEATS));
    let body = json!({"model": model, "stream": true, "max_tokens": stage::OUTPUT_TOKENS,
        "messages": [{"role": "user", "content": prompt}]});
    // Four tenants: nobody's requests stand behind all of another's.
    let tenant = format!("tenant-{}", number % 4);
    let headers = [(headers::FAIRNESS_ID, tenant.as_str())];
    let answer = client::send(gateway, client::post("/v1/chat/completions", &headers, body.to_string())?).await?;
    let events = answer.text().matches("data: ").count();
    Ok(Outcome {
        class,
        status: answer.status,
        reason: answer.header("x-llm-d-request-dropped-reason").map(str::to_owned),
        first_token: answer.first_byte,
        is_whole: events == stage::OUTPUT_TOKENS + 1,
    })
}
