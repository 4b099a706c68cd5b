//! Runs the workload `chat` through a real Envoy and in virtual time, and reports how far the two are from each other.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use quality::live::report::{self, Origin};
use quality::live::{self, Live};
use quality::machine::{cpu, today};
use quality::workload::Workload;
use quality::workloads;

/// Compares the quality benchmark's virtual time with a real Envoy.
#[derive(Debug, Parser)]
struct Options {
    /// Clients in a closed loop.
    #[arg(long, default_value_t = 25)]
    clients: usize,
    /// Conversations at the beginning that are not measured.
    #[arg(long, default_value_t = 20)]
    warm_up: usize,
    /// Conversations after those that are measured.
    #[arg(long, default_value_t = 80)]
    measured: usize,
    /// Seeds conversations and engines.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The folder with inference.wasm and metrics-poller.wasm.
    #[arg(long, default_value = "dist")]
    wasm_dir: PathBuf,
    /// The report.
    #[arg(long, default_value = "docs/results/quality/live.md")]
    out: PathBuf,
    /// The date of the report, YYYY-MM-DD; today without it.
    #[arg(long)]
    date: Option<String>,
}

fn main() -> Result<()> {
    let Options { clients, warm_up, measured, seed, wasm_dir, out, date } = Options::parse();
    let chat = workloads::all().into_iter().find(|workload| workload.name == "chat").context("no workload chat")?;
    let workload = Workload { warm_up, measured, ..chat };
    let live = Live { workload, clients, seed, wasm_dir };
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let pairs = runtime.block_on(live::compare(&live))?;
    let seconds = started.elapsed().as_secs_f64();
    let origin = Origin { date: date.unwrap_or_else(today), cpu: cpu(), seconds };
    let text = report::markdown(&live, &origin, &pairs);
    print!("{text}");
    std::fs::write(&out, text).with_context(|| format!("cannot write {}", out.display()))
}
