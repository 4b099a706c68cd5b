//! `inferencectl demo`: the main job on simulated model servers, or on engines that the user already runs.
//!
//! The same requests at the same times go through two Envoys: one with the plugin, one with round robin.
//! Then a table says who served what, how long the first token took, and what each refused request got.

mod report;
mod servers;
mod traffic;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use inference_plugin::config::Config;

use crate::envoy::Envoy;
use crate::render::{Bootstrap, Filter};
use crate::{check, latency};
use servers::Servers;

/// What to run.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Engines that are already running, as HOST:PORT; without any, five are simulated.
    #[arg(long, num_args = 1..)]
    pub endpoint: Vec<String>,
    /// What they run.
    #[arg(long, default_value = "vllm")]
    pub engine: String,
    /// The path of their metrics page, where it is not the engine's.
    #[arg(long)]
    pub metrics_path: Option<String>,
    /// The port of their metrics page, where it is not the one that serves: 8002 with Triton.
    #[arg(long)]
    pub metrics_port: Option<u16>,
    /// Requests to send.
    #[arg(long, default_value_t = 320)]
    pub requests: usize,
    /// Requests for each second.
    #[arg(long, default_value_t = 40.0)]
    pub rate: f64,
    /// The folder with the two .wasm files.
    #[arg(long, default_value = "dist")]
    pub wasm_dir: PathBuf,
    /// Send nothing: leave servers and Envoy running until interrupted.
    #[arg(long)]
    pub hold: bool,
    /// Where Envoy listens with --hold.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Where its admin interface listens with --hold.
    #[arg(long, default_value = "127.0.0.1:9901")]
    pub admin: SocketAddr,
}

/// Files of this run; removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed lies in the system's folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A new folder for the files of a run.
pub fn scratch(name: &str) -> anyhow::Result<Scratch> {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("inference-plugin-{name}-{}-{count}", std::process::id()));
    std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(Scratch { path })
}

/// Runs the demo.
pub fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for module in ["inference.wasm", "metrics-poller.wasm"] {
        let path = args.wasm_dir.join(module);
        anyhow::ensure!(
            path.exists(),
            "{} is missing: run ./build.sh, or name its folder with --wasm-dir",
            path.display()
        );
    }
    runtime.block_on(async {
        let servers =
            if args.endpoint.is_empty() { Servers::simulated(args.hold).await? } else { Servers::users(args).await? };
        if args.hold { hold(args, &servers).await } else { compare(args, &servers).await }
    })
}

async fn hold(args: &DemoArgs, servers: &Servers) -> anyhow::Result<()> {
    let config = check::load(servers.plugin_json.as_bytes())?;
    let folder = scratch("demo")?;
    let mut bootstrap = Bootstrap::new(&servers.plugin_json, &config, args.listen, args.admin, &args.wasm_dir);
    bootstrap.access_log = folder.path().join("access.log");
    let envoy = Envoy::start(&bootstrap.yaml(), folder.path(), 2).await?;
    println!("Envoy serves on {}, its admin interface on {}", envoy.listen(), envoy.admin());
    println!("Access log: {}", bootstrap.access_log.display());
    println!("Envoy's log: {}", folder.path().join("envoy.log").display());
    for (address, note) in &servers.notes {
        println!("  {address}: {note}");
    }
    wait_for_interrupt().await
}

async fn wait_for_interrupt() -> anyhow::Result<()> {
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminated.recv() => {}
    }
    Ok(())
}

async fn compare(args: &DemoArgs, servers: &Servers) -> anyhow::Result<()> {
    let config = check::load(servers.plugin_json.as_bytes())?;
    println!("{}", servers.description);
    let requests = traffic::plan(&config, args.requests, args.rate);
    let round_robin = arm(args, servers, &config, &requests, Filter::NativeBuffer).await?;
    let plugin = arm(args, servers, &config, &requests, Filter::Plugin).await?;
    report::print(&config, servers, &requests, &plugin, &round_robin);
    let added = latency::measure(&[2_048], 2000, &args.wasm_dir).await?;
    for latency in added {
        println!(
            "\nAdded latency of the whole plugin, 2 KB body, one connection: {:.0} us at p50 ({} us with Envoy's own buffer filter, {} us with the plugin)",
            latency.added_microseconds(),
            latency.native.0.as_micros(),
            latency.plugin.0.as_micros()
        );
    }
    Ok(())
}

/// One run of all requests through one Envoy, on fresh servers.
async fn arm(
    args: &DemoArgs,
    servers: &Servers,
    config: &Config,
    requests: &[traffic::Planned],
    filter: Filter,
) -> anyhow::Result<Vec<traffic::Outcome>> {
    servers.restart();
    let folder = scratch("demo")?;
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut bootstrap = Bootstrap::new(&servers.plugin_json, config, free, free, &args.wasm_dir);
    bootstrap.access_log = folder.path().join("access.log");
    bootstrap.filter = filter;
    let envoy = Envoy::start(&bootstrap.yaml(), folder.path(), 2).await?;
    if filter == Filter::Plugin {
        wait_for_metrics(&envoy, config).await?;
    }
    Ok(traffic::send(envoy.listen(), config, requests, filter).await)
}

/// Waits until the poller has seen every pool, which takes a scrape.
async fn wait_for_metrics(envoy: &Envoy, config: &Config) -> anyhow::Result<()> {
    for _ in 0..500 {
        let stats = envoy.ask_admin("/stats?filter=inference_endpoints").await?.text();
        let seen = |pool: &str| {
            let prefix = format!("wasmcustom.inference_endpoints;pool={pool};health=up: ");
            stats.lines().any(|line| line.strip_prefix(&prefix).is_some_and(|count| count.trim() != "0"))
        };
        if config.pools.iter().all(|pool| seen(&pool.name)) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("no metrics from the model servers:\n{}", envoy.log())
}
