//! Four simulators, and an Envoy before them.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use inference_plugin::headers::FAIRNESS_ID;
use inferencectl::demo::{Scratch, scratch};
use inferencectl::envoy::Envoy;
use inferencectl::render::Bootstrap;
use inferencectl::{check, client};
use serde_json::json;
use simulator::flags::Flags;
use simulator::server::Server;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::Outcome;

const SERVERS: usize = 4;
const BATCH: usize = 16;
/// 20 ms a step: a model of some 30 billion parameters on one accelerator.
const STEP: Duration = Duration::from_millis(20);
pub(crate) const OUTPUT_TOKENS: usize = 20;
/// Some 110 tokens.
pub(crate) const PROMPT_REPEATS: usize = 20;
const BASE_MODEL: &str = "m";
const WORKERS: u32 = 2;

/// Requests of one priority.
pub(crate) struct Class {
    pub(crate) model: &'static str,
    pub(crate) criticality: &'static str,
    pub(crate) share: f64,
    /// How many may wait.
    pub(crate) max_requests: u64,
    priority: i32,
    ttl: &'static str,
    /// From which saturation on they wait.
    ceiling: f64,
}

pub(crate) const CRITICAL: Class = Class {
    model: "critical",
    criticality: "Critical",
    share: 0.2,
    max_requests: 500,
    priority: 1,
    ttl: "10s",
    ceiling: 1.0,
};

/// The others leave a quarter and half of the room to those above them.
pub(crate) const CLASSES: [Class; 3] = [
    CRITICAL,
    Class {
        model: "standard",
        criticality: "Standard",
        share: 0.4,
        max_requests: 200,
        priority: 0,
        ttl: "10s",
        ceiling: 0.75,
    },
    Class {
        model: "batch",
        criticality: "Sheddable",
        share: 0.4,
        max_requests: 100,
        priority: -1,
        ttl: "5s",
        ceiling: 0.5,
    },
];

/// Requests a second that the engines finish when their batches are full.
pub(crate) fn capacity() -> f64 {
    (SERVERS * BATCH) as f64 / (OUTPUT_TOKENS as f64 * STEP.as_secs_f64())
}

/// Servers and Envoy; all end when this is dropped.
pub(crate) struct Stage {
    envoy: Envoy,
    servers: Vec<Server>,
    _folder: Scratch,
}

impl Stage {
    pub(crate) async fn start(with_flow_control: bool, seed: u64, wasm_dir: &Path) -> Result<Stage> {
        let mut servers = Vec::new();
        for server in 0..SERVERS {
            let mut flags = Flags::for_model(BASE_MODEL);
            flags.max_num_seqs = BATCH;
            flags.inter_token_latency = STEP;
            flags.seed = seed + server as u64;
            servers.push(Server::start(flags).await?);
        }
        let addresses: Vec<String> = servers.iter().map(|server| server.address().to_string()).collect();
        let bands: Vec<serde_json::Value> = CLASSES
            .iter()
            .map(|class| {
                json!({"priority": class.priority, "maxRequests": class.max_requests, "ttl": class.ttl,
                    "saturationCeiling": class.ceiling})
            })
            .collect();
        let endpoints = json!({"static": addresses});
        let pool = if with_flow_control {
            json!({"name": "pool", "baseModel": BASE_MODEL, "endpoints": endpoints,
                "saturation": {"maxConcurrency": BATCH}, "flowControl": {"bands": bands}})
        } else {
            json!({"name": "pool", "baseModel": BASE_MODEL, "endpoints": endpoints})
        };
        let models: Vec<serde_json::Value> = CLASSES
            .iter()
            .map(|class| json!({"modelName": class.model, "pool": "pool", "criticality": class.criticality}))
            .collect();
        let plugin_json = json!({"pools": [pool], "models": models, "trustedHeaders": [FAIRNESS_ID]}).to_string();
        let config = check::load(plugin_json.as_bytes())?;
        let folder = scratch("overload")?;
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut bootstrap = Bootstrap::new(&plugin_json, &config, free, free, wasm_dir);
        bootstrap.client_headers = vec![FAIRNESS_ID.to_owned()];
        bootstrap.access_log = "/dev/null".into();
        let envoy = Envoy::start(&bootstrap.yaml(), folder.path(), WORKERS).await?;
        let stage = Stage { envoy, servers, _folder: folder };
        let deadline = Instant::now() + Duration::from_secs(30);
        while stage.stat("inference_endpoints;pool=pool;health=up").await? != SERVERS as u64 {
            ensure!(Instant::now() < deadline, "no metrics from the simulators:\n{}", stage.envoy.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(stage)
    }

    pub(crate) fn gateway(&self) -> SocketAddr {
        self.envoy.listen()
    }

    async fn stat(&self, name: &str) -> Result<u64> {
        Ok(self.envoy.stat(&format!("wasmcustom.{name}")).await?.unwrap_or(0))
    }

    /// Watches the queue until it is told to stop.
    pub(crate) fn watch(&self) -> Watch {
        let admin = self.envoy.admin().clone();
        let (stop, mut stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let mut most = 0;
            while stopped.try_recv().is_err() {
                let page = client::get(admin.clone(), "/stats?filter=inference_waiting_requests").await?;
                let now = page.text().lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).max();
                most = most.max(now.unwrap_or(0));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(most)
        });
        Watch { stop, task }
    }

    /// Compares what clients saw with what the engines did: each request that was answered was computed once, and each
    /// that was refused never.
    pub(crate) async fn check_after(&self, outcomes: &[Outcome]) -> Result<()> {
        let served = outcomes.iter().filter(|outcome| outcome.status == 200).count() as u64;
        let mut finished = 0;
        for server in &self.servers {
            let page = client::get(server.address(), "/metrics").await?.text();
            let lines = page.lines().filter(|line| line.starts_with("vllm:request_success_total"));
            finished += lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64;
        }
        ensure!(finished == served, "{served} requests were answered, and {finished} were computed");
        ensure!(self.stat("inference_waiting_requests;pool=pool").await? == 0, "somebody still waits");
        Ok(())
    }
}

/// The queue's watcher.
pub(crate) struct Watch {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<u64>>,
}

impl Watch {
    /// The most that ever waited.
    pub(crate) async fn finish(self) -> Result<u64> {
        let _ = self.stop.send(());
        self.task.await?
    }
}
