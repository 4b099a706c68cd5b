//! Endpoints that nobody has written down: found in Envoy's own clusters, or among the pods that a Kubernetes API lists.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use envoy_tests::kube::{ApiFault, KubeApi, replace};
use envoy_tests::{PATIENCE, root};
use inferencectl::check;
use inferencectl::client::{self, Answer};
use inferencectl::demo::{Scratch, scratch};
use inferencectl::envoy::Envoy;
use inferencectl::render::{Bootstrap, Hosts};
use serde_json::{Value, json};
use simulator::flags::Flags;
use simulator::server::Server;

const LABELS: [(&str, &str); 1] = [("app", "vllm-llama3-8b")];

/// Pods: servers on addresses of their own with one port, as pods have them.
struct Pods {
    port: u16,
    servers: Vec<Server>,
}

fn address(index: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 7, u8::try_from(index + 1).unwrap()))
}

impl Pods {
    async fn start(count: usize) -> anyhow::Result<Pods> {
        let mut pods = Pods { port: 0, servers: Vec::new() };
        for index in 0..count {
            let mut flags = Flags::for_model("m");
            flags.host = address(index).to_string();
            flags.port = pods.port;
            flags.prefill_time_per_token = Duration::ZERO;
            let server = Server::start(flags).await?;
            pods.port = server.address().port();
            pods.servers.push(server);
        }
        Ok(pods)
    }
}

/// Envoy before a pool that is discovered, whose hosts come from a file.
struct Site {
    envoy: Envoy,
    folder: Scratch,
}

impl Site {
    async fn start(endpoints: Value, change: impl FnOnce(&mut Bootstrap<'_>, &Path)) -> anyhow::Result<Site> {
        let plugin_json = json!({"pools": [{"name": "pool", "baseModel": "m", "endpoints": endpoints}]});
        Site::start_with(plugin_json, change).await
    }

    async fn start_with(plugin_json: Value, change: impl FnOnce(&mut Bootstrap<'_>, &Path)) -> anyhow::Result<Site> {
        let plugin_json = plugin_json.to_string();
        let config = check::load(plugin_json.as_bytes())?;
        let folder = scratch("discovery")?;
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut bootstrap = Bootstrap::new(&plugin_json, &config, free, free, &root().join("dist"));
        bootstrap.access_log = folder.path().join("access.log");
        bootstrap.hosts = Hosts::Files(folder.path().to_owned());
        change(&mut bootstrap, folder.path());
        write_hosts(folder.path(), &[])?;
        let envoy = Envoy::start(&bootstrap.yaml(), folder.path(), 2).await?;
        Ok(Site { envoy, folder })
    }

    /// Gives the cluster these hosts, as a control plane would.
    fn set_hosts(&self, hosts: &[SocketAddr]) -> anyhow::Result<()> {
        write_hosts(self.folder.path(), hosts)
    }

    async fn chat(&self, number: usize) -> anyhow::Result<Answer> {
        self.ask("m", number).await
    }

    async fn ask(&self, model: &str, number: usize) -> anyhow::Result<Answer> {
        let body = json!({"model": model, "max_tokens": 1, "prompt": format!("{number} hi")});
        client::send(self.envoy.listen(), client::post("/v1/completions", &[], body.to_string())?).await
    }

    /// Who serves some requests in a row.
    async fn serving(&self) -> anyhow::Result<BTreeSet<String>> {
        let mut serving = BTreeSet::new();
        for number in 0..30 {
            let answer = self.chat(number).await?;
            anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
            serving.extend(answer.header("x-gateway-destination-endpoint-served").map(str::to_owned));
        }
        Ok(serving)
    }

    /// How many picks rested on fresh metrics.
    async fn fresh_picks(&self) -> anyhow::Result<u64> {
        let name = "wasmcustom.inference_picks_total;pool=pool;tier=fresh";
        Ok(self.envoy.stat(name).await?.unwrap_or(0))
    }

    async fn eventually<F, C>(&self, what: &str, condition: C) -> anyhow::Result<()>
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
                _ => anyhow::bail!("never came true: {what} ({last:?})\n{}", self.envoy.log()),
            }
        }
    }

    /// Waits until exactly these pods serve.
    async fn serves(&self, pods: &Pods, wanted: &[usize]) -> anyhow::Result<()> {
        let wanted: BTreeSet<String> =
            wanted.iter().map(|index| SocketAddr::new(address(*index), pods.port).to_string()).collect();
        self.eventually(&format!("{wanted:?} serve"), || async { Ok(self.serving().await? == wanted) }).await
    }
}

fn write_hosts(folder: &Path, hosts: &[SocketAddr]) -> anyhow::Result<()> {
    let endpoints: Vec<Value> = hosts
        .iter()
        .map(|host| json!({"endpoint": {"address": {"socket_address": {"address": host.ip(), "port_value": host.port()}}}}))
        .collect();
    let assignment = json!({"resources": [{"@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": "pool", "endpoints": [{"lb_endpoints": endpoints}]}]});
    replace(&folder.join("pool.yaml"), &assignment.to_string())
}

fn hosts(pods: &Pods, indices: &[usize]) -> Vec<SocketAddr> {
    indices.iter().map(|index| SocketAddr::new(address(*index), pods.port)).collect()
}

/// A port that is free now, for an admin interface that a cluster must lead to.
fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn envoys_own_hosts_are_the_pools_endpoints() -> anyhow::Result<()> {
    let pods = Pods::start(4).await?;
    let admin = free_port()?;
    let site =
        Site::start(json!({"envoyAdmin": {"interval": "500ms"}}), |bootstrap, _| bootstrap.admin = admin).await?;
    site.set_hosts(&hosts(&pods, &[0, 1]))?;
    site.serves(&pods, &[0, 1]).await?;
    let before = site.fresh_picks().await?;
    site.eventually("picks rest on their metrics", || async {
        site.serving().await?;
        Ok(site.fresh_picks().await? >= before + 30)
    })
    .await?;
    site.set_hosts(&hosts(&pods, &[1, 2, 3]))?;
    site.serves(&pods, &[1, 2, 3]).await?;
    site.eventually("the new ones are scraped", || async {
        Ok(site.envoy.stat("wasmcustom.inference_endpoints;pool=pool;health=up").await? == Some(3))
    })
    .await?;
    assert!(site.envoy.log().contains("discovery: pool=pool"), "{}", site.envoy.log());
    Ok(())
}

async fn kubernetes(api: &KubeApi, endpoints: Value, token: &str) -> anyhow::Result<Site> {
    kubernetes_with(api, json!({"pools": [{"name": "pool", "baseModel": "m", "endpoints": endpoints}]}), token).await
}

async fn kubernetes_with(api: &KubeApi, plugin_json: Value, token: &str) -> anyhow::Result<Site> {
    let api_address = api.address();
    Site::start_with(plugin_json, |bootstrap, folder| {
        bootstrap.kube.address = (api_address.ip().to_string(), api_address.port());
        bootstrap.kube.sds_folder = folder.to_owned();
        bootstrap.kube.token_folder = folder.to_owned();
        // Envoy reads them when it starts.
        api.write_secrets(folder, token).unwrap();
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_an_inference_pool_are_followed() -> anyhow::Result<()> {
    let pods = Pods::start(4).await?;
    let api = KubeApi::start("secret-1").await?;
    api.set_pool("llama", &LABELS, &[pods.port]);
    for index in 0..2 {
        api.set_pod(&format!("pod-{index}"), address(index), &LABELS, true);
    }
    api.set_pod("starting", address(2), &LABELS, false);
    api.set_pod("another", address(3), &[("app", "other")], true);
    let endpoints = json!({"kubernetes": {"namespace": "models", "inferencePool": "llama"}});
    let site = kubernetes(&api, endpoints, "secret-1").await?;
    // Envoy has them all: the API says which ones take requests.
    site.set_hosts(&hosts(&pods, &[0, 1, 2, 3]))?;
    site.serves(&pods, &[0, 1]).await?;
    api.set_pod("starting", address(2), &LABELS, true);
    site.serves(&pods, &[0, 1, 2]).await?;
    api.terminate("pod-0");
    site.serves(&pods, &[1, 2]).await?;
    api.delete("pod-0");
    api.set_pod("another", address(3), &LABELS, true);
    site.serves(&pods, &[1, 2, 3]).await?;
    let asked = api.asked();
    assert!(asked.iter().any(|(path, _)| path.contains("watch=1")), "{asked:?}");
    let lists = asked.iter().filter(|(path, _)| path.contains("limit=")).count();
    assert_eq!(lists, 1, "listed once, and watched then");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_api_changes_nothing_and_ends() -> anyhow::Result<()> {
    let pods = Pods::start(3).await?;
    let api = KubeApi::start("secret-1").await?;
    for index in 0..2 {
        api.set_pod(&format!("pod-{index}"), address(index), &LABELS, true);
    }
    let endpoints =
        json!({"kubernetes": {"namespace": "models", "selector": {"app": LABELS[0].1}, "targetPorts": [pods.port]}});
    let site = kubernetes(&api, endpoints, "secret-1").await?;
    site.set_hosts(&hosts(&pods, &[0, 1, 2]))?;
    site.serves(&pods, &[0, 1]).await?;
    for fault in
        [ApiFault::Status(500), ApiFault::Status(429), ApiFault::Expired, ApiFault::Slow(Duration::from_secs(60))]
    {
        api.set_fault(fault);
        let asked = api.asked().len();
        if fault != ApiFault::Slow(Duration::from_secs(60)) {
            site.eventually("the fault is seen", || async { Ok(api.asked().len() > asked) }).await?;
        }
        assert_eq!(site.serving().await?.len(), 2, "{fault:?}");
    }
    api.set_pod("pod-2", address(2), &LABELS, true);
    api.set_fault(ApiFault::None);
    site.serves(&pods, &[0, 1, 2]).await?;
    assert!(site.envoy.log().contains("the answer is 500; what was last known holds"), "{}", site.envoy.log());
    // The service account's token is rotated: Envoy reads the new one from its file.
    api.rotate("secret-2");
    site.eventually("the old one is refused", || async {
        Ok(api.asked().last().is_some_and(|(_, status)| *status == 401))
    })
    .await?;
    replace(&site.folder.path().join("token"), "secret-2\n")?;
    api.terminate("pod-2");
    site.serves(&pods, &[0, 1]).await?;
    Ok(())
}

/// Pods come and go, many of them nobody's: no request is lost, and nothing goes to one that is on its way out.
#[tokio::test(flavor = "multi_thread")]
async fn churn_loses_no_request() -> anyhow::Result<()> {
    const SERVERS: usize = 8;
    let pods = Pods::start(SERVERS).await?;
    let api = KubeApi::start("secret-1").await?;
    for index in 0..1_000 {
        api.set_pod(
            &format!("other-{index}"),
            IpAddr::V4(Ipv4Addr::new(10, 9, (index / 250) as u8, (index % 250) as u8)),
            &[("app", "other")],
            true,
        );
    }
    for index in 0..SERVERS {
        api.set_pod(&format!("pod-{index}"), address(index), &LABELS, true);
    }
    let endpoints =
        json!({"kubernetes": {"namespace": "models", "selector": {"app": LABELS[0].1}, "targetPorts": [pods.port]}});
    let site = kubernetes(&api, endpoints, "secret-1").await?;
    let all: Vec<usize> = (0..SERVERS).collect();
    site.set_hosts(&hosts(&pods, &all))?;
    site.serves(&pods, &all).await?;
    let started = Instant::now();
    let mut left_at: Vec<Option<Instant>> = vec![None; SERVERS];
    let (mut number, mut late) = (0, 0);
    while started.elapsed() < Duration::from_secs(12) {
        let victim = number / 20 % SERVERS;
        if number % 20 == 0 {
            match left_at[victim].take() {
                Some(_) => api.set_pod(&format!("pod-{victim}"), address(victim), &LABELS, true),
                None if left_at.iter().flatten().count() < SERVERS / 2 => {
                    api.terminate(&format!("pod-{victim}"));
                    left_at[victim] = Some(Instant::now());
                }
                None => {}
            }
            for noise in 0..5 {
                api.set_pod(
                    &format!("other-{}", (number + noise) % 1_000),
                    address(250),
                    &[("app", "other")],
                    noise % 2 == 0,
                );
            }
        }
        let answer = site.chat(number).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let served = answer.header("x-gateway-destination-endpoint-served").unwrap_or_default().to_owned();
        let index = (0..SERVERS).find(|index| served == SocketAddr::new(address(*index), pods.port).to_string());
        late += u32::from(
            index.is_some_and(|index| left_at[index].is_some_and(|at| at.elapsed() > Duration::from_secs(3))),
        );
        number += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(number > 100, "{number} requests");
    assert_eq!(late, 0, "who left is known within a second, and three are patience");
    Ok(())
}

/// Models, objectives and rewrites come and go with resources, also while the pool's endpoints are written down.
#[tokio::test(flavor = "multi_thread")]
async fn models_are_what_resources_say() -> anyhow::Result<()> {
    let pods = Pods::start(1).await?;
    let api = KubeApi::start("secret-1").await?;
    let pool_ref = json!({"name": "pool"});
    let model = json!({"modelName": "food-review", "criticality": "Critical", "poolRef": pool_ref, "targetModels": [{"name": "m"}]});
    let stray = json!({"modelName": "stray", "poolRef": {"name": "nobody"}});
    api.set_resources("inferencemodels", &[("food", model), ("stray", stray)]);
    let static_ = [SocketAddr::new(address(0), pods.port).to_string()];
    let plugin_json = json!({"pools": [{"name": "pool", "baseModel": "m", "endpoints": {"static": static_}}],
        "kubernetesResources": {"namespace": "models"}});
    let site = kubernetes_with(&api, plugin_json, "secret-1").await?;
    let status = async |model: &str| Ok::<u16, anyhow::Error>(site.ask(model, 0).await?.status);
    assert_eq!(status("m").await?, 200, "what is written down needs no resource");
    site.eventually("the model is served", || async { Ok(status("food-review").await? == 200) }).await?;
    assert_eq!(status("stray").await?, 404);
    site.eventually("the log names the one that is left out", || async {
        Ok(site.envoy.log().contains("a resource is left out: InferenceModel stray: there is no pool \"nobody\""))
    })
    .await?;
    let rules =
        json!([{"matches": [{"model": {"type": "Exact", "value": "gpt-4"}}], "targets": [{"modelRewrite": "m"}]}]);
    api.set_resources("inferencemodelrewrites", &[("gpt", json!({"poolRef": pool_ref, "rules": rules}))]);
    site.eventually("the rewrite is followed", || async { Ok(status("gpt-4").await? == 200) }).await?;
    // An outage forgets nothing.
    api.set_fault(ApiFault::Status(500));
    let asked = api.asked().len();
    site.eventually("the fault is seen", || async { Ok(api.asked().len() > asked + 3) }).await?;
    assert_eq!((status("food-review").await?, status("gpt-4").await?), (200, 200));
    api.set_fault(ApiFault::None);
    api.set_resources("inferencemodels", &[]);
    site.eventually("the model is gone", || async { Ok(status("food-review").await? == 404) }).await?;
    assert_eq!(status("gpt-4").await?, 200);
    Ok(())
}
