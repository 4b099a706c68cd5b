//! The Inference Extension's conformance cases that need no controller, replayed: what its tests ask of a gateway's traffic.
//!
//! Its endpoint picker for tests restricts candidates by a header of its own; here the subset's header does so, which the
//! bootstrap of these tests doesn't take from requests. Requests without a body and paths of no API are part of the cases.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use envoy_tests::{PATIENCE, root};
use inferencectl::check;
use inferencectl::client::{self, Answer};
use inferencectl::demo::{Scratch, scratch};
use inferencectl::envoy::Envoy;
use inferencectl::render::Bootstrap;
use serde_json::{Value, json};
use simulator::fault::{Fault, MetricsFault};
use simulator::flags::Flags;
use simulator::server::Server;

const SUBSET: &str = "x-gateway-destination-endpoint-subset";

/// Two pools of three servers each, and routes by path as an HTTPRoute has them.
struct Gateway {
    envoy: Envoy,
    primary: Vec<Server>,
    secondary: Vec<Server>,
    _folder: Scratch,
}

/// How the gateway differs from the usual one.
#[derive(Clone, Copy)]
struct Setup {
    /// Load the singleton.
    with_poller: bool,
    /// What happens when nobody can be picked.
    failure_mode: &'static str,
    /// The secondary pool's servers are spoken to in HTTP/2.
    h2c: bool,
}

const USUAL: Setup = Setup { with_poller: true, failure_mode: "FailOpen", h2c: false };

impl Gateway {
    async fn start(setup: Setup) -> anyhow::Result<Gateway> {
        let (primary, secondary) = (servers("primary-model").await?, servers("secondary-model").await?);
        let pool = |name: &str, servers: &[Server]| {
            let addresses: Vec<String> = servers.iter().map(|server| server.address().to_string()).collect();
            json!({"name": name, "baseModel": format!("{name}-model"), "endpoints": {"static": addresses},
                "failureMode": setup.failure_mode})
        };
        let plugin_json =
            json!({"pools": [pool("primary", &primary), pool("secondary", &secondary)], "trustedHeaders": [SUBSET]});
        let plugin_json = plugin_json.to_string();
        let config = check::load(plugin_json.as_bytes())?;
        let folder = scratch("conformance")?;
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut bootstrap = Bootstrap::new(&plugin_json, &config, free, free, &root().join("dist"));
        bootstrap.access_log = folder.path().join("access.log");
        bootstrap.client_headers = vec![SUBSET.to_owned()];
        if !setup.with_poller {
            bootstrap.poller_wasm = None;
        }
        if setup.h2c {
            bootstrap.h2c.push("secondary".to_owned());
        }
        let routes = "              - match: {prefix: /primary/}
                route: {cluster: primary, prefix_rewrite: /}
              - match: {prefix: /secondary/}
                route: {cluster: secondary, prefix_rewrite: /}
              - match: {prefix: /weighted/}
                route:
                  prefix_rewrite: /
                  weighted_clusters: {clusters: [{name: primary, weight: 70}, {name: secondary, weight: 30}]}
              # What names no model belongs to no pool";
        let yaml = bootstrap.yaml();
        let yaml = yaml.replace("              # What names no model belongs to no pool", routes);
        anyhow::ensure!(yaml.contains("weighted_clusters"), "the bootstrap has changed");
        let envoy = Envoy::start(&yaml, folder.path(), 2).await?;
        let gateway = Gateway { envoy, primary, secondary, _folder: folder };
        if setup.with_poller {
            let deadline = Instant::now() + PATIENCE;
            for pool in ["primary", "secondary"] {
                let name = format!("wasmcustom.inference_endpoints;pool={pool};health=up");
                while gateway.envoy.stat(&name).await? != Some(3) {
                    anyhow::ensure!(Instant::now() < deadline, "no metrics:\n{}", gateway.envoy.log());
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        Ok(gateway)
    }

    async fn get(&self, path: &str, subset: Option<&str>) -> anyhow::Result<Answer> {
        get(self.envoy.listen(), "gateway", path.to_owned(), subset.map(str::to_owned)).await
    }

    async fn complete(&self, model: &str, subset: &str) -> anyhow::Result<Answer> {
        let body = json!({"model": model, "prompt": "hi", "max_tokens": 1});
        let request = client::post("/v1/completions", &[(SUBSET, subset)], body.to_string())?;
        client::send(self.envoy.listen(), request).await
    }
}

async fn get(listen: SocketAddr, host: &str, path: String, subset: Option<String>) -> anyhow::Result<Answer> {
    let mut request = hyper::Request::get(path).header("host", host);
    if let Some(subset) = subset {
        request = request.header(SUBSET, subset);
    }
    client::send(listen, request.body(http_body_util::Full::default())?).await
}

async fn servers(model: &str) -> anyhow::Result<Vec<Server>> {
    let mut servers = Vec::new();
    for _ in 0..3 {
        let mut flags = Flags::for_model(model);
        flags.prefill_time_per_token = Duration::ZERO;
        servers.push(Server::start(flags).await?);
    }
    Ok(servers)
}

fn addresses(servers: &[Server]) -> Vec<String> {
    servers.iter().map(|server| server.address().to_string()).collect()
}

fn served(answer: &Answer) -> String {
    answer.header("x-gateway-destination-endpoint-served").unwrap_or_default().to_owned()
}

/// Where so many requests go, ten at a time.
async fn spread(
    gateway: &Gateway,
    requests: usize,
    path: &str,
    subset: &str,
) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for _ in 0..requests / 10 {
        let mut ten = tokio::task::JoinSet::new();
        for _ in 0..10 {
            ten.spawn(get(gateway.envoy.listen(), "gateway", path.to_owned(), Some(subset.to_owned())));
        }
        while let Some(answer) = ten.join_next().await {
            let answer = answer??;
            anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
            *counts.entry(served(&answer)).or_insert(0) += 1;
        }
    }
    Ok(counts)
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_following_epp_routing() -> anyhow::Result<()> {
    let gateway = Gateway::start(USUAL).await?;
    let pods = addresses(&gateway.primary);
    for pod in &pods {
        let answer = gateway.complete("primary-model", pod).await?;
        assert_eq!((answer.status, served(&answer)), (200, pod.clone()), "{}", answer.text());
        assert_eq!(served(&gateway.get("/primary/v1/models", Some(pod)).await?), *pod, "without a body too");
    }
    for count in 1..=3 {
        let allowed = &pods[..count];
        let counts = spread(&gateway, 100, "/primary/v1/models", &allowed.join(",")).await?;
        assert!(counts.keys().all(|pod| allowed.contains(pod)), "{counts:?}");
        assert_eq!(counts.values().sum::<usize>(), 100);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_following_epp_routing_with_data_parallelism() -> anyhow::Result<()> {
    // The servers have one address and a port each, as the ranks of one pod have: a port must be told from another.
    let gateway = Gateway::start(USUAL).await?;
    let ranks = addresses(&gateway.primary);
    let counts = spread(&gateway, 50, "/primary/v1/models", &format!("{},{}", ranks[0], ranks[2])).await?;
    assert!(!counts.contains_key(&ranks[1]), "{counts:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_destination_endpoint_served() -> anyhow::Result<()> {
    let gateway = Gateway::start(USUAL).await?;
    for (model, servers) in [("primary-model", &gateway.primary), ("secondary-model", &gateway.secondary)] {
        for pod in addresses(servers) {
            assert_eq!(served(&gateway.complete(model, &pod).await?), pod);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn epp_unavailable_fail_open() -> anyhow::Result<()> {
    // What may be unavailable here is the poller, and every metrics page with it.
    let gateway = Gateway::start(Setup { with_poller: false, ..USUAL }).await?;
    for server in &gateway.primary {
        server.set_metrics_fault(MetricsFault::Instead(500, bytes::Bytes::new()));
    }
    let pods = addresses(&gateway.primary);
    for _ in 0..20 {
        let body = json!({"model": "primary-model", "prompt": "hi", "max_tokens": 1});
        let request = client::post("/v1/completions", &[], body.to_string())?;
        let answer = client::send(gateway.envoy.listen(), request).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(pods.contains(&served(&answer)));
        assert_eq!(gateway.get("/primary/v1/models", None).await?.status, 200);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_weighted_across_two_inference_pools() -> anyhow::Result<()> {
    let gateway = Gateway::start(USUAL).await?;
    let (primary, secondary) = (addresses(&gateway.primary), addresses(&gateway.secondary));
    // The list has pods of both pools; each pool takes its own.
    let both = [primary.clone(), secondary.clone()].concat().join(",");
    let counts = spread(&gateway, 200, "/weighted/v1/models", &both).await?;
    let to_primary: usize = counts.iter().filter(|(pod, _)| primary.contains(pod)).map(|(_, count)| count).sum();
    // The case's own tolerance: 0.10, or 4.5 sigma of a binomial with n = 200 and p = 0.7, whichever is larger: 0.146.
    assert!((to_primary as f64 / 200.0 - 0.7).abs() <= 0.146, "{counts:?}");
    for pool in ["primary", "secondary"] {
        let missed = format!("wasmcustom.inference_override_missed_total;pool={pool}");
        assert_eq!(
            gateway.envoy.stat(&missed).await?.unwrap_or(0),
            0,
            "the pick is of the pool that the route has chosen"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn httproute_multiple_rules_different_pools() -> anyhow::Result<()> {
    let gateway = Gateway::start(USUAL).await?;
    for (path, servers) in [("/primary/v1/models", &gateway.primary), ("/secondary/v1/models", &gateway.secondary)] {
        for _ in 0..10 {
            let answer = gateway.get(path, None).await?;
            assert_eq!(answer.status, 200);
            assert!(addresses(servers).contains(&served(&answer)), "{path}");
        }
    }
    let models: Value = gateway.get("/secondary/v1/models", None).await?.json()?;
    assert_eq!(models["data"][0]["id"], "secondary-model");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn httproute_multiple_gateways_different_pools() -> anyhow::Result<()> {
    // Two gateways that know nothing of each other, each asked for its own pool, without a body.
    let (one, other) = tokio::try_join!(Gateway::start(USUAL), Gateway::start(USUAL))?;
    for (gateway, path, own) in
        [(&one, "/primary/v1/models", &one.primary), (&other, "/secondary/v1/models", &other.secondary)]
    {
        let own = addresses(own);
        for _ in 0..10 {
            let answer = gateway.get(path, None).await?;
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(own.contains(&served(&answer)), "{path}: {}", served(&answer));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn inferencepool_app_protocol() -> anyhow::Result<()> {
    let gateway = Gateway::start(Setup { h2c: true, ..USUAL }).await?;
    for (pool, servers, http2) in [("primary", &gateway.primary, false), ("secondary", &gateway.secondary, true)] {
        let pods = addresses(servers);
        for pod in &pods {
            let answer = gateway.get(&format!("/{pool}/v1/models"), Some(pod)).await?;
            assert_eq!((answer.status, &served(&answer)), (200, pod), "{}", answer.text());
            assert_eq!(&served(&gateway.complete(&format!("{pool}-model"), pod).await?), pod);
        }
        let connections = gateway.envoy.stat(&format!("cluster.{pool}.upstream_cx_http2_total")).await?.unwrap_or(0);
        assert_eq!(connections > 0, http2, "{pool}: {connections} connections");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn inferencepool_httproute_port_validation() -> anyhow::Result<()> {
    // The part about traffic: the pool's ports count, whichever port the client names, or none.
    let gateway = Gateway::start(USUAL).await?;
    let pods = addresses(&gateway.primary);
    let port = gateway.primary[0].address().port();
    for host in ["gateway".to_owned(), format!("gateway:{port}"), "gateway:1".to_owned()] {
        let answer = get(gateway.envoy.listen(), &host, "/primary/v1/models".to_owned(), None).await?;
        assert_eq!(answer.status, 200, "{host}: {}", answer.text());
        assert!(pods.contains(&served(&answer)), "{host}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn inferencepool_invalid_epp_service() -> anyhow::Result<()> {
    // The part about traffic: 5xx where nobody can pick, and the pool says to fail then.
    let gateway = Gateway::start(Setup { failure_mode: "FailClose", ..USUAL }).await?;
    for server in &gateway.primary {
        server.set_fault(Fault::Refuse);
    }
    let up = "wasmcustom.inference_endpoints;pool=primary;health=unreachable";
    let deadline = Instant::now() + PATIENCE;
    while gateway.envoy.stat(up).await? != Some(3) {
        anyhow::ensure!(Instant::now() < deadline, "they are still there:\n{}", gateway.envoy.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..10 {
        let answer = gateway.get("/primary/v1/models", None).await?;
        assert_eq!(answer.status / 100, 5, "{}", answer.text());
        let body = json!({"model": "primary-model", "prompt": "hi", "max_tokens": 1});
        let answer =
            client::send(gateway.envoy.listen(), client::post("/v1/completions", &[], body.to_string())?).await?;
        assert_eq!(
            (answer.status, answer.header("x-llm-d-request-dropped-reason")),
            (503, Some("rejected-no-endpoints"))
        );
        assert_eq!(gateway.get("/secondary/v1/models", None).await?.status, 200);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subset_without_anybody_is_503_for_inference() -> anyhow::Result<()> {
    let gateway = Gateway::start(USUAL).await?;
    let foreign = addresses(&gateway.secondary).join(",");
    for subset in ["", "10.9.9.9:3000", foreign.as_str()] {
        let answer = gateway.complete("primary-model", subset).await?;
        assert_eq!(
            (answer.status, answer.header("x-llm-d-request-dropped-reason")),
            (503, Some("rejected-no-endpoints"))
        );
    }
    Ok(())
}
