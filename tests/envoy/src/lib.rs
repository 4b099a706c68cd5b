//! What the tests on a real Envoy share: the two-pool example on simulators, and patience.

pub mod chain;
pub mod counting;
pub mod kube;
pub mod limits;
pub mod site;
pub mod tokens;
pub mod web;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use inferencectl::check;
use inferencectl::client::{self, Answer};
use inferencectl::demo::{Scratch, scratch};
use inferencectl::envoy::Envoy;
use inferencectl::render::Bootstrap;
use serde_json::{Value, json};
use simulator::fault::FakeMetrics;
use simulator::flags::Flags;
use simulator::server::Server;

/// The one knob of patience: how long a condition may take to come true on a machine that pauses.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The example's base models.
pub const QWEN: &str = "Qwen/Qwen3-32B";
/// The other one.
pub const DEEPSEEK: &str = "deepseek/DeepSeek-r1";

/// The project's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// How to start the example.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Take the modules that can be made to trap.
    pub with_faults: bool,
    /// Load the singleton.
    pub with_poller: bool,
    /// Envoy's workers.
    pub concurrency: u32,
    /// Change the plugin JSON.
    pub change: fn(&mut Value),
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { with_faults: false, with_poller: true, concurrency: 2, change: |_| {} }
    }
}

/// The two-pool example: Envoy before three and two simulators.
pub struct Example {
    /// Envoy.
    pub envoy: Envoy,
    /// Servers of the pool for Qwen.
    pub qwen: Vec<Server>,
    /// Servers of the pool for DeepSeek.
    pub deepseek: Vec<Server>,
    folder: Scratch,
    chats: AtomicU64,
}

impl Example {
    /// Starts it and waits until metrics are known.
    pub async fn start(setup: Setup) -> anyhow::Result<Example> {
        let qwen = servers(QWEN, &["food-review-1"], 3).await?;
        let deepseek = servers(DEEPSEEK, &["ski-resorts", "movie-critique"], 2).await?;
        let mut document: Value = serde_json::from_str(include_str!("../../../envoy/plugin.json"))?;
        for (index, servers) in [&qwen, &deepseek].into_iter().enumerate() {
            let addresses: Vec<String> = servers.iter().map(|server| server.address().to_string()).collect();
            let endpoints = document.pointer_mut(&format!("/pools/{index}/endpoints")).context("no such pool")?;
            *endpoints = json!({"static": addresses});
        }
        (setup.change)(&mut document);
        let folder = scratch("envoy-test")?;
        let plugin_json = document.to_string();
        let config = check::load(plugin_json.as_bytes())?;
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut bootstrap = Bootstrap::new(&plugin_json, &config, free, free, &root().join("dist"));
        if setup.with_faults {
            take_modules_with_faults(&mut bootstrap);
        }
        if !setup.with_poller {
            bootstrap.poller_wasm = None;
        }
        bootstrap.access_log = folder.path().join("access.log");
        // The clients of these tests may send what the plugin believes.
        bootstrap.client_headers = config.trusted_headers.iter().map(|name| (*name).to_owned()).collect();
        let envoy = Envoy::start(&bootstrap.yaml(), folder.path(), setup.concurrency).await?;
        let example = Example { envoy, qwen, deepseek, folder, chats: AtomicU64::new(0) };
        for pool in &config.pools {
            let name = format!("wasmcustom.inference_endpoints;pool={};health=up", pool.name);
            let all = pool.endpoints.len() as u64;
            example
                .eventually("the poller has read every endpoint", || async {
                    Ok(example.envoy.stat(&name).await? == Some(all))
                })
                .await?;
        }
        Ok(example)
    }

    /// Asks for a chat completion by this model, with a prompt that was not sent before: no cache and no tie-break
    /// makes an endpoint better than another for all of them.
    pub async fn chat(&self, model: &str) -> anyhow::Result<Answer> {
        let number = self.chats.fetch_add(1, Ordering::Relaxed);
        let content = format!("{number}: hi");
        let body = json!({"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": content}]});
        self.post("/v1/chat/completions", &[], body.to_string()).await
    }

    /// Waits until picks for a model settle on one server of a list, and gives the time of the last pick
    /// elsewhere. One right pick may be luck among three servers; twenty in a row are none.
    pub async fn picks_settle_on(&self, model: &str, servers: &[Server], wanted: usize) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let mut last_elsewhere = Duration::ZERO;
        let mut in_a_row = 0;
        while in_a_row < 20 {
            anyhow::ensure!(started.elapsed() < PATIENCE, "picks never settle:\n{}", self.envoy.log());
            let answer = self.chat(model).await?;
            if answer.status == 200 && served_by(&answer, servers) == Some(wanted) {
                in_a_row += 1;
            } else {
                in_a_row = 0;
                last_elsewhere = started.elapsed();
            }
        }
        Ok(last_elsewhere)
    }

    /// Posts a body.
    pub async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<bytes::Bytes>,
    ) -> anyhow::Result<Answer> {
        client::send(self.envoy.listen(), client::post(path, headers, body)?).await
    }

    /// Waits until a condition holds; fails with Envoy's log when it never does.
    pub async fn eventually<F, C>(&self, what: &str, condition: C) -> anyhow::Result<()>
    where
        C: Fn() -> F,
        F: Future<Output = anyhow::Result<bool>>,
    {
        eventually(&self.envoy, what, condition).await
    }

    /// The access log.
    pub fn access_log(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("access.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Waits until a condition holds; fails with Envoy's log when it never does.
pub async fn eventually<F, C>(envoy: &Envoy, what: &str, condition: C) -> anyhow::Result<()>
where
    C: Fn() -> F,
    F: Future<Output = anyhow::Result<bool>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        let last = condition().await;
        match &last {
            Ok(true) => return Ok(()),
            _ if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(20)).await,
            _ => anyhow::bail!("never came true: {what} ({last:?})\n{}", envoy.log()),
        }
    }
}

/// Makes Envoy load the modules that can be made to trap.
pub fn take_modules_with_faults(bootstrap: &mut Bootstrap<'_>) {
    let built = root().join("target/fault-injection/wasm32-wasip1/wasm");
    bootstrap.inference_wasm = built.join("inference_filter.wasm");
    bootstrap.poller_wasm = Some(built.join("metrics_poller.wasm"));
}

/// Which server of a list answered.
pub fn served_by(answer: &Answer, servers: &[Server]) -> Option<usize> {
    let address = answer.header("x-gateway-destination-endpoint-served")?;
    servers.iter().position(|server| server.address().to_string() == address)
}

/// Makes a server report this queue.
pub fn report_waiting(server: &Server, waiting: u32) {
    let fake = FakeMetrics { waiting_requests: waiting, running_requests: 1, kv_cache_usage: 0.1 };
    server.set_fake_metrics(Some(fake));
}

async fn servers(model: &str, adapters: &[&str], count: usize) -> anyhow::Result<Vec<Server>> {
    let mut servers = Vec::new();
    for _ in 0..count {
        let mut flags = Flags::for_model(model);
        flags.lora_modules = adapters.iter().map(|name| (*name).to_owned()).collect();
        flags.max_loras = 4;
        flags.lora_load_time = Duration::ZERO;
        flags.prefill_time_per_token = Duration::ZERO;
        servers.push(Server::start(flags).await?);
    }
    Ok(servers)
}
