//! A workload in real time: Envoy with the shipped modules before HTTP simulators, to see whether virtual time is right.
//!
//! [`compare`] runs a closed loop of clients with the same conversations through a real Envoy and in virtual time, with
//! the product's policy and with round robin. The virtual run is told what is different there: as many workers as Envoy
//! has, and engines that do not remember answers. What remains is what virtual time leaves out.

mod clients;
mod stage;

pub mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use inferencectl::render::Filter;
use simulator::engine::Totals;
use tokio::sync::mpsc;

use crate::policies;
use crate::random::Random;
use crate::statistics::{Summary, summarize};
use crate::workload::{Conversation, Workload};
use crate::world::{self, Answers, Demand, Measured, Plan, Sample};
use clients::{Clients, News};
use stage::Stage;

/// Envoy's workers: the machine that this is meant for has two cores.
pub const WORKERS: u32 = 2;
/// What is compared: the names of policies in virtual time, and who picks in Envoy.
const POLICIES: [(&str, Filter); 2] = [("ours", Filter::Plugin), ("round-robin", Filter::NativeBuffer)];

/// What to run.
#[derive(Clone, Debug)]
pub struct Live {
    /// Endpoints and conversations; how many of those are measured.
    pub workload: Workload,
    /// Clients in a closed loop.
    pub clients: usize,
    /// Seeds conversations and engines.
    pub seed: u64,
    /// The folder with the modules.
    pub wasm_dir: PathBuf,
}

/// A policy in real and in virtual time.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Its name.
    pub policy: &'static str,
    /// Through Envoy.
    pub live: Summary,
    /// In virtual time.
    pub virtual_time: Summary,
}

/// Runs every policy in virtual time and live.
pub async fn compare(live: &Live) -> Result<Vec<Pair>> {
    for module in ["inference.wasm", "metrics-poller.wasm"] {
        let path = live.wasm_dir.join(module);
        ensure!(path.exists(), "{} is missing: run ./build.sh, or name its folder with --wasm-dir", path.display());
    }
    let conversations = (live.workload.conversations)(&mut Random::with_purpose(live.seed, 2));
    let (wanted, known) = (live.workload.warm_up + live.workload.measured, conversations.len());
    ensure!(wanted <= known, "there are {known} conversations, not {wanted}");
    let mut pairs = Vec::new();
    for (policy, filter) in POLICIES {
        let virtual_time = summarize(&[run_virtual(live, &conversations, policy)?]);
        let started = Instant::now();
        let real = run_live(live, &conversations, filter).await?;
        eprintln!("{policy} done after {:.1} s", started.elapsed().as_secs_f64());
        pairs.push(Pair { policy, live: summarize(&[real]), virtual_time });
    }
    Ok(pairs)
}

fn run_virtual(live: &Live, conversations: &[Conversation], policy: &str) -> Result<Measured> {
    let policy = policies::all().into_iter().find(|entry| entry.name == policy).context("no such policy")?;
    Ok(world::run(&Plan {
        workload: &live.workload,
        conversations,
        demand: &Demand::Clients(live.clients),
        policy: &policy,
        workers: WORKERS as usize,
        answers: Answers::Forgotten,
        seed: live.seed,
    }))
}

/// Runs until the last measured request is over, as [`world::run`] does.
async fn run_live(live: &Live, conversations: &[Conversation], filter: Filter) -> Result<Measured> {
    let Workload { warm_up, measured, ref endpoints, .. } = live.workload;
    let stage = Stage::start(endpoints, live.seed, filter, &live.wasm_dir).await?;
    let measured = warm_up..warm_up + measured;
    let turns = conversations.get(measured.clone()).unwrap_or_default().iter().map(|script| script.turns.len()).sum();
    let (sender, news) = mpsc::unbounded_channel();
    let clients = Clients::new(stage.gateway(), conversations.to_vec(), measured, sender);
    // The clients end when this is dropped.
    let _clients = clients.start(live.clients, live.seed);
    let (span, before, samples) = collect(&stage, news, turns).await?;
    let difference = |(after, before): (Totals, Totals)| Totals {
        prompt_tokens: after.prompt_tokens - before.prompt_tokens,
        generation_tokens: after.generation_tokens - before.generation_tokens,
        prefix_cache_queries: after.prefix_cache_queries - before.prefix_cache_queries,
        prefix_cache_hits: after.prefix_cache_hits - before.prefix_cache_hits,
        ..Totals::default()
    };
    let work = stage.totals().await?.into_iter().zip(before).map(difference);
    let work = work.zip(endpoints).map(|(totals, config)| (totals, config.prefill_time_per_token)).collect();
    Ok(Measured { samples, span, work, ..Measured::default() })
}

/// Takes down so many samples, how long that took, and what the engines had done before.
async fn collect(
    stage: &Stage,
    mut news: mpsc::UnboundedReceiver<News>,
    count: usize,
) -> Result<(Duration, Vec<Totals>, Vec<Sample>)> {
    let mut baseline = None;
    let mut samples = Vec::with_capacity(count);
    while samples.len() < count {
        match news.recv().await.context("the clients ended too early")? {
            News::Begins if baseline.is_none() => baseline = Some((Instant::now(), stage.totals().await?)),
            News::Begins => {}
            News::Ended(sample) => samples.push(sample),
        }
    }
    let (began, before) = baseline.context("nothing was measured")?;
    Ok((began.elapsed(), before, samples))
}
