//! The model servers of a demo: five simulated ones of unequal strength, or the user's own.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use simulator::flags::Flags;
use simulator::server::Server;

use super::DemoArgs;
use crate::{check, client, scrape};

/// The example's plugin JSON; its endpoints are where the simulators listen with --hold.
const EXAMPLE: &str = include_str!("../../../envoy/plugin.json");

/// Model servers and the plugin JSON that leads to them.
pub(super) struct Servers {
    pub(super) plugin_json: String,
    pub(super) description: String,
    /// What is said of each endpoint in the report.
    pub(super) notes: Vec<(String, &'static str)>,
    simulated: Vec<Server>,
}

struct Simulated {
    model: &'static str,
    adapters: &'static [&'static str],
    note: &'static str,
    change: fn(&mut Flags),
}

/// The order is that of the example's endpoints.
const SIMULATED: [Simulated; 5] = [
    Simulated { model: QWEN, adapters: &["food-review-1"], note: "an ordinary server", change: |_| {} },
    Simulated {
        model: QWEN,
        adapters: &["food-review-1"],
        note: "busy with other clients",
        change: |flags| flags.background_requests = 20,
    },
    Simulated {
        model: QWEN,
        adapters: &["food-review-1"],
        note: "older hardware, half as fast",
        change: |flags| {
            flags.prefill_time_per_token *= 2;
            flags.inter_token_latency *= 2;
        },
    },
    Simulated {
        model: DEEPSEEK,
        adapters: &["ski-resorts", "movie-critique"],
        note: "an ordinary server",
        change: |_| {},
    },
    Simulated {
        model: DEEPSEEK,
        adapters: &["ski-resorts", "movie-critique"],
        note: "room for a quarter of the batch",
        change: |flags| flags.max_num_seqs = 4,
    },
];
const QWEN: &str = "Qwen/Qwen3-32B";
const DEEPSEEK: &str = "deepseek/DeepSeek-r1";

impl Servers {
    /// Five simulators: on the example's own ports with `fixed_ports`, else on free ones.
    pub(super) async fn simulated(fixed_ports: bool) -> anyhow::Result<Servers> {
        let mut document: Value = serde_json::from_str(EXAMPLE)?;
        let mut servers = Vec::new();
        let mut notes = Vec::new();
        let mut plan = SIMULATED.iter();
        for pool in document.get_mut("pools").and_then(Value::as_array_mut).into_iter().flatten() {
            let endpoints = pool.pointer_mut("/endpoints/static").and_then(Value::as_array_mut);
            for endpoint in endpoints.into_iter().flatten() {
                let simulated = plan.next().context("the example has more endpoints than the demo has servers")?;
                let address: SocketAddr = endpoint.as_str().context("an endpoint is no string")?.parse()?;
                let mut flags = Flags::for_model(simulated.model);
                flags.port = if fixed_ports { address.port() } else { 0 };
                flags.lora_modules = simulated.adapters.iter().map(|name| (*name).to_owned()).collect();
                flags.max_num_seqs = 16;
                flags.max_loras = 2;
                flags.lora_load_time = Duration::from_millis(50);
                flags.inter_token_latency = Duration::from_millis(8);
                flags.time_factor_under_load = 2.0;
                (simulated.change)(&mut flags);
                let server = Server::start(flags).await?;
                *endpoint = json!(server.address().to_string());
                notes.push((server.address().to_string(), simulated.note));
                servers.push(server);
            }
        }
        let description = "Two pools, five simulated model servers of unequal strength.".to_owned();
        Ok(Servers { plugin_json: format!("{document:#}"), description, notes, simulated: servers })
    }

    /// The user's engines, as one pool; their models are asked for.
    pub(super) async fn users(args: &DemoArgs) -> anyhow::Result<Servers> {
        let mut addresses = Vec::new();
        for endpoint in &args.endpoint {
            let resolved = endpoint.to_socket_addrs().with_context(|| format!("{endpoint:?} is no HOST:PORT"))?;
            addresses.extend(resolved.take(1));
        }
        let Some(&first) = addresses.first() else { bail!("no endpoint") };
        let answer = client::get(first, "/v1/models").await?.json()?;
        let models = answer.get("data").and_then(Value::as_array);
        let models = models.with_context(|| format!("{first} has no models: {answer}"))?;
        let ids: Vec<&str> = models.iter().filter_map(|model| model.get("id")?.as_str()).collect();
        let Some((base_model, adapters)) = ids.split_first() else { bail!("{first} serves no model") };
        let endpoints: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        let document = json!({"pools": [{
            "name": "demo", "baseModel": base_model, "adapters": adapters, "engine": args.engine,
            "metricsPath": args.metrics_path, "metricsPort": args.metrics_port, "endpoints": {"static": endpoints},
        }]});
        let unread = scrape::unread(&check::load(document.to_string().as_bytes())?).await;
        if let Some(first) = unread.first() {
            bail!(
                "{} of {} endpoints have no metrics: {}: {}",
                unread.len(),
                endpoints.len(),
                first.address,
                first.why
            );
        }
        let description = format!("{} model servers of yours, model {base_model:?}.", endpoints.len());
        let notes = endpoints.into_iter().map(|endpoint| (endpoint, "yours")).collect();
        Ok(Servers { plugin_json: format!("{document:#}"), description, notes, simulated: Vec::new() })
    }

    /// Forgets all that simulated engines have cached, so that both runs begin alike.
    pub(super) fn restart(&self) {
        for server in &self.simulated {
            server.restart();
        }
    }
}
