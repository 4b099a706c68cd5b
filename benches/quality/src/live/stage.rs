//! Simulators on HTTP, and an Envoy before them.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use inferencectl::demo::{Scratch, scratch};
use inferencectl::envoy::Envoy;
use inferencectl::render::{Bootstrap, Filter};
use inferencectl::{check, client};
use serde_json::json;
use simulator::engine::{EngineConfig, Totals};
use simulator::flags::Flags;
use simulator::server::Server;

use super::WORKERS;
use crate::workload::BASE_MODEL;
use crate::world::engine_seed;

/// How long the poller may take until it has read every endpoint, on a machine that pauses.
const PATIENCE: Duration = Duration::from_secs(30);

/// Servers and Envoy; all end when this is dropped.
pub(super) struct Stage {
    envoy: Envoy,
    servers: Vec<Server>,
    _folder: Scratch,
}

impl Stage {
    /// Starts everything, and waits until metrics are known where they are read.
    pub(super) async fn start(endpoints: &[EngineConfig], seed: u64, filter: Filter, wasm_dir: &Path) -> Result<Stage> {
        let mut servers = Vec::new();
        for (index, config) in endpoints.iter().enumerate() {
            servers.push(Server::start(flags(config, engine_seed(seed, index))).await?);
        }
        let addresses: Vec<String> = servers.iter().map(|server| server.address().to_string()).collect();
        let pool = json!({"name": "live", "baseModel": BASE_MODEL, "endpoints": {"static": addresses}});
        let plugin_json = json!({"pools": [pool]}).to_string();
        let config = check::load(plugin_json.as_bytes())?;
        let folder = scratch("quality")?;
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut bootstrap = Bootstrap::new(&plugin_json, &config, free, free, wasm_dir);
        bootstrap.access_log = "/dev/null".into();
        bootstrap.filter = filter;
        let envoy = Envoy::start(&bootstrap.yaml(), folder.path(), WORKERS).await?;
        let stage = Stage { envoy, servers, _folder: folder };
        if filter == Filter::Plugin {
            stage.wait_for_metrics().await?;
        }
        Ok(stage)
    }

    async fn wait_for_metrics(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let all = Some(self.servers.len() as u64);
        while self.envoy.stat("wasmcustom.inference_endpoints;pool=live;health=up").await? != all {
            ensure!(Instant::now() < deadline, "no metrics from the simulators:\n{}", self.envoy.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Where Envoy listens.
    pub(super) fn gateway(&self) -> SocketAddr {
        self.envoy.listen()
    }

    /// What each engine has done, as far as its page says.
    pub(super) async fn totals(&self) -> Result<Vec<Totals>> {
        let mut totals = Vec::new();
        for server in &self.servers {
            totals.push(read(&client::get(server.address(), "/metrics").await?.text()));
        }
        Ok(totals)
    }
}

/// The flags that make a server's engine this one.
///
/// Every field is named, so that a new one is not forgotten here.
fn flags(config: &EngineConfig, seed: u64) -> Flags {
    let EngineConfig {
        max_num_seqs,
        max_num_batched_tokens,
        max_waiting_queue_length,
        block_size,
        kv_cache_blocks,
        max_loras,
        lora_load_time,
        prefill_overhead,
        prefill_time_per_token,
        inter_token_latency,
        inter_token_latency_std_dev,
        time_factor_under_load,
        seed: _,
    } = *config;
    Flags {
        max_num_seqs,
        max_num_batched_tokens,
        max_waiting_queue_length: max_waiting_queue_length.unwrap_or(usize::MAX),
        block_size,
        kv_cache_size: kv_cache_blocks,
        max_loras,
        lora_load_time,
        prefill_overhead,
        prefill_time_per_token,
        inter_token_latency,
        inter_token_latency_std_dev,
        time_factor_under_load,
        seed,
        ..Flags::for_model(BASE_MODEL)
    }
}

fn read(page: &str) -> Totals {
    let value = |name: &str| {
        // A name is followed by its labels, where it has any.
        let mut lines = page.lines().filter_map(|line| line.strip_prefix(name));
        let line = lines.find(|rest| rest.starts_with(['{', ' ']));
        let value = line.and_then(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok());
        value.unwrap_or_default() as u64
    };
    Totals {
        prompt_tokens: value("vllm:prompt_tokens_total"),
        generation_tokens: value("vllm:generation_tokens_total"),
        prefix_cache_queries: value("vllm:prefix_cache_queries_total"),
        prefix_cache_hits: value("vllm:prefix_cache_hits_total"),
        ..Totals::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_s_engine_is_the_preset() {
        let preset = EngineConfig { max_waiting_queue_length: Some(usize::MAX), seed: 7, ..EngineConfig::a10_8b() };
        let engine = flags(&EngineConfig::a10_8b(), 7).engine();
        assert_eq!(format!("{engine:?}"), format!("{preset:?}"));
    }

    #[test]
    fn totals_are_read_from_a_server_s_page() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let page = runtime.block_on(async {
            let server = Server::start(flags(&EngineConfig::default(), 1)).await.unwrap();
            let body = json!({"model": BASE_MODEL, "prompt": "a".repeat(400), "max_tokens": 3}).to_string();
            for _ in 0..2 {
                client::send(server.address(), client::post("/v1/completions", &[], body.clone()).unwrap())
                    .await
                    .unwrap();
            }
            client::get(server.address(), "/metrics").await.unwrap().text()
        });
        let totals = read(&page);
        assert_eq!((totals.prompt_tokens, totals.generation_tokens), (200, 6));
        assert_eq!((totals.prefix_cache_queries, totals.prefix_cache_hits), (200, 96));
    }
}
