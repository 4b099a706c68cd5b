//! The configurations of the chart in a real Envoy, in front of simulated model servers. What Envoy Gateway and Istio make of
//! the chart's objects is composed as in the validation; the hosts of clusters, which Kubernetes would say, are
//! written down, and discovered by Envoy's admin interface.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chart_tests::{Setup, config, document, envoy, istio, patch};
use inferencectl::client;
use inferencectl::demo::scratch;
use inferencectl::envoy::Envoy;
use serde_json::{Value, json};
use simulator::flags::Flags;
use simulator::server::Server;

const MODEL: &str = "Qwen/Qwen2.5-1.5B-Instruct";
/// How long a condition may take to come true on a machine that pauses.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn the_charts_own_envoy_serves() -> anyhow::Result<()> {
    block_on(async {
        let (envoy, _servers) = start("none").await?;
        check(&envoy).await?;
        let listeners = envoy.ask_admin("/listeners?format=text").await?.text();
        let probes =
            listeners.lines().find_map(|line| line.strip_prefix("probes::")).context("no listener for probes")?;
        let probes: SocketAddr = probes.parse()?;
        let mut statuses = Vec::new();
        for path in ["/ready", "/stats/prometheus", "/config_dump", "/"] {
            statuses.push(client::get(probes, path).await?.status);
        }
        statuses.push(client::send(probes, client::post("/quitquitquit", &[], "")?).await?.status);
        statuses.push(client::send(probes, client::post("/ready", &[], "")?).await?.status);
        assert_eq!(statuses, [200, 200, 404, 404, 404, 404]);
        Ok(())
    })
}

#[test]
fn envoy_gateways_envoy_serves() -> anyhow::Result<()> {
    block_on(async {
        let (envoy, _servers) = start("envoy-gateway").await?;
        check(&envoy).await
    })
}

#[test]
fn istios_envoy_serves() -> anyhow::Result<()> {
    block_on(async {
        let (envoy, _servers) = start("istio").await?;
        check(&envoy).await
    })
}

fn block_on(test: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(test)
}

/// An Envoy with the quickstart on a provider, and its model servers.
async fn start(provider: &'static str) -> anyhow::Result<(Running, [Server; 2])> {
    let mut flags = Flags::for_model(MODEL);
    flags.port = 0;
    flags.lora_modules = vec!["food-review-1".to_owned()];
    flags.max_model_len = usize::MAX;
    flags.prefill_time_per_token = Duration::ZERO;
    let servers = [Server::start(flags.clone()).await?, Server::start(flags).await?];
    let more = vec!["exposeEndpoint=true".to_owned()];
    let setup = Setup { discovery: "envoyAdmin", more, ..Setup::quickstart(provider) };
    let objects = setup.objects()?;
    let mut bootstrap = match provider {
        "envoy-gateway" => patch::envoy_gateway(&objects)?,
        "istio" => istio::bootstrap(&objects)?,
        _ => document(config(&objects, "envoy.yaml").context("no envoy.yaml")?)?,
    };
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    bootstrap["admin"] = json!({"address": socket(free)});
    let resources = &mut bootstrap["static_resources"];
    for listener in resources["listeners"].as_array_mut().context("no listeners")? {
        listener["address"] = socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        if listener["name"] != "probes" {
            listener["name"] = json!("inference");
        }
    }
    for cluster in resources["clusters"].as_array_mut().context("no clusters")? {
        let hosts = if cluster["name"] == "envoy-admin" {
            vec![free]
        } else {
            servers.each_ref().map(Server::address).to_vec()
        };
        let hosts: Vec<Value> = hosts.into_iter().map(|host| json!({"endpoint": {"address": socket(host)}})).collect();
        cluster["type"] = json!("STATIC");
        cluster["load_assignment"] = json!({"cluster_name": cluster["name"], "endpoints": [{"lb_endpoints": hosts}]});
        if let Some(map) = cluster.as_object_mut() {
            map.remove("cluster_type");
        }
    }
    let folder = scratch("chart-live")?;
    let text = envoy::localize(&bootstrap.to_string(), folder.path())?;
    let envoy = Envoy::start(&text, folder.path(), 2).await?;
    Ok((Running { envoy, _folder: folder, servers: servers.each_ref().map(Server::address) }, servers))
}

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip(), "port_value": address.port()}})
}

/// Envoy with its folder, and where its model servers are.
struct Running {
    envoy: Envoy,
    _folder: inferencectl::demo::Scratch,
    servers: [SocketAddr; 2],
}

impl std::ops::Deref for Running {
    type Target = Envoy;

    fn deref(&self) -> &Envoy {
        &self.envoy
    }
}

/// Requests are picked by fresh metrics, a long prompt passes, and a client cannot steer.
async fn check(running: &Running) -> anyhow::Result<()> {
    let started = Instant::now();
    let up = "wasmcustom.inference_endpoints;pool=llm;health=up";
    while running.stat(up).await? != Some(2) {
        ensure!(started.elapsed() < PATIENCE, "no endpoint is found:\n{}", running.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let long = "hi ".repeat(700_000);
    for (model, prompt) in [(MODEL, "hi"), ("food-review", "hi"), (MODEL, long.as_str())] {
        let body = json!({"model": model, "prompt": prompt, "max_tokens": 1}).to_string();
        let elsewhere = running.admin().to_string();
        let steering = [("x-gateway-destination-endpoint", elsewhere.as_str()), ("content-type", "application/json")];
        let answer = client::send(running.listen(), client::post("/v1/completions", &steering, body)?).await?;
        ensure!(answer.status == 200, "{model}: {} {}", answer.status, answer.text());
        let served = answer.header("x-gateway-destination-endpoint-served").context("nobody has served")?;
        ensure!(running.servers.contains(&served.parse()?), "{model}: {served}");
    }
    let nobody = client::post("/v1/completions", &[], r#"{"model": "nobody", "prompt": "hi"}"#)?;
    let answer = client::send(running.listen(), nobody).await?;
    ensure!(answer.status == 404 && answer.text().contains("model_not_found"), "{} {}", answer.status, answer.text());
    ensure!(client::get(running.listen(), "/v1/models").await?.status == 200, "no models");
    let fresh = running.stat("wasmcustom.inference_picks_total;pool=llm;tier=fresh").await?;
    ensure!(fresh == Some(4), "{fresh:?} picks by fresh metrics:\n{}", running.log());
    let missed = running.stat("wasmcustom.inference_override_missed_total;pool=llm").await?;
    ensure!(missed.unwrap_or(0) == 0, "{missed:?} requests were served by others than were picked");
    Ok(())
}
