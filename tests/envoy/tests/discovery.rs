//! Endpoints that nobody has written down: found in Envoy's own clusters, or among the pods that a Kubernetes API lists.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use envoy_tests::kube::{ApiFault, KubeApi, PodSpec, replace};
use envoy_tests::site::Site;
use envoy_tests::take_modules_with_faults;
use inferencectl::client::Address;
use inferencectl::render::Hosts;
use serde_json::{Value, json};
use simulator::fault::MetricsFault;
use simulator::flags::Flags;
use simulator::server::Server;

const POOL: &str = "pool";
const MODEL: &str = "m";
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
            let mut flags = Flags::for_model(MODEL);
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

/// A pool that is discovered so.
fn pool(endpoints: Value) -> Value {
    json!({"pools": [{"name": POOL, "baseModel": MODEL, "endpoints": endpoints}]})
}

/// How many picks rested on fresh metrics.
async fn fresh_picks(site: &Site) -> anyhow::Result<u64> {
    let name = "wasmcustom.inference_picks_total;pool=pool;tier=fresh";
    Ok(site.envoy.stat(name).await?.unwrap_or(0))
}

/// Waits until exactly these pods serve.
async fn serve(site: &Site, pods: &Pods, wanted: &[usize]) -> anyhow::Result<()> {
    let wanted: BTreeSet<String> = hosts(pods, wanted).iter().map(SocketAddr::to_string).collect();
    site.eventually(&format!("{wanted:?} serve"), || async { Ok(site.serving(MODEL).await? == wanted) }).await
}

fn hosts(pods: &Pods, indices: &[usize]) -> Vec<SocketAddr> {
    indices.iter().map(|index| SocketAddr::new(address(*index), pods.port)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn envoys_own_hosts_are_the_pools_endpoints() -> anyhow::Result<()> {
    let pods = Pods::start(4).await?;
    let site = Site::start(pool(json!({"envoyAdmin": {"interval": "500ms"}})), |bootstrap, folder| {
        bootstrap.admin = Address::Unix(folder.join("admin.sock"));
    })
    .await?;
    site.set_hosts(POOL, &hosts(&pods, &[0, 1]))?;
    serve(&site, &pods, &[0, 1]).await?;
    let before = fresh_picks(&site).await?;
    site.eventually("picks rest on their metrics", || async {
        site.serving(MODEL).await?;
        Ok(fresh_picks(&site).await? >= before + 30)
    })
    .await?;
    site.set_hosts(POOL, &hosts(&pods, &[1, 2, 3]))?;
    serve(&site, &pods, &[1, 2, 3]).await?;
    site.eventually("the new ones are scraped", || async {
        Ok(site.envoy.stat("wasmcustom.inference_endpoints;pool=pool;health=up").await? == Some(3))
    })
    .await?;
    assert!(site.envoy.log().contains("discovery: pool=pool"), "{}", site.envoy.log());
    Ok(())
}

/// The usual bootstrap asks DNS, which knows the name of an address, too.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_a_name_are_the_pools_endpoints() -> anyhow::Result<()> {
    let (first, second) =
        (Server::start(Flags::for_model(MODEL)).await?, Server::start(Flags::for_model(MODEL)).await?);
    let plugin_json = json!({"pools": [{"name": POOL, "baseModel": MODEL, "cluster": "127.0.0.1",
        "endpoints": {"envoyAdmin": {"interval": "500ms"}}}]});
    let site = Site::start(plugin_json, |bootstrap, folder| {
        bootstrap.admin = Address::Unix(folder.join("admin.sock"));
        bootstrap.hosts = Hosts::Dns { ports: vec![first.address().port(), second.address().port()] };
    })
    .await?;
    let wanted = BTreeSet::from([first.address().to_string(), second.address().to_string()]);
    site.eventually("both ports serve", || async { Ok(site.serving(MODEL).await? == wanted) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_an_inference_pool_are_followed() -> anyhow::Result<()> {
    let pods = Pods::start(4).await?;
    let api = KubeApi::start("secret-1").await?;
    api.set_pool("llama", &LABELS, &[pods.port]);
    for index in 0..2 {
        api.set_pod(&format!("pod-{index}"), PodSpec::ready(address(index), &LABELS));
    }
    api.set_pod("starting", PodSpec::ready(address(2), &LABELS).condition("False"));
    api.set_pod("another", PodSpec::ready(address(3), &[("app", "other")]));
    let endpoints = json!({"kubernetes": {"namespace": "models", "inferencePool": "llama"}});
    let started = Instant::now();
    let site = Site::on_kubernetes(&api, pool(endpoints), "secret-1").await?;
    // Envoy has them all: the API says which ones take requests.
    site.set_hosts(POOL, &hosts(&pods, &[0, 1, 2, 3]))?;
    serve(&site, &pods, &[0, 1]).await?;
    api.set_pod("starting", PodSpec::ready(address(2), &LABELS));
    serve(&site, &pods, &[0, 1, 2]).await?;
    api.terminate("pod-0");
    serve(&site, &pods, &[1, 2]).await?;
    api.delete("pod-0");
    api.set_pod("another", PodSpec::ready(address(3), &LABELS));
    serve(&site, &pods, &[1, 2, 3]).await?;
    let asked = api.asked();
    assert!(asked.iter().any(|(path, _)| path.contains("watch=1")), "{asked:?}");
    let lists = asked.iter().filter(|(path, status)| path.contains("limit=") && *status == 200).count();
    // Checks come every 15 and 30 seconds. A machine that pauses breaks watches off, after five seconds each, and lists follow.
    let most = 3 + started.elapsed().as_secs() / 5;
    assert!(lists as u64 <= most, "listed once, watched then, and checked now and then: {lists} lists, not {most}");
    Ok(())
}

/// Who takes over finds the pods by itself; until then those that were last known serve, also while the API is away.
#[tokio::test(flavor = "multi_thread")]
async fn discovery_goes_on_when_the_poller_is_killed() -> anyhow::Result<()> {
    let pods = Pods::start(3).await?;
    let api = KubeApi::start("secret-1").await?;
    for index in 0..2 {
        api.set_pod(&format!("pod-{index}"), PodSpec::ready(address(index), &LABELS));
    }
    let endpoints =
        json!({"kubernetes": {"namespace": "models", "selector": {"app": LABELS[0].1}, "targetPorts": [pods.port]}});
    let site = Site::on_kubernetes_with(&api, pool(endpoints), "secret-1", take_modules_with_faults).await?;
    site.set_hosts(POOL, &hosts(&pods, &[0, 1, 2]))?;
    serve(&site, &pods, &[0, 1]).await?;
    api.set_fault(ApiFault::Status(500));
    let asked = api.asked().len();
    site.eventually("the outage is seen", || async { Ok(api.asked().len() > asked) }).await?;
    // The next page traps the singleton, for good.
    pods.servers[0].set_metrics_fault(MetricsFault::Instead(200, "# trap\n".into()));
    let backup = "wasmcustom.inference_lease_acquired_total;rank=backup";
    site.eventually("an inference VM polls", || async {
        assert!(!site.serving(MODEL).await?.is_empty(), "every request is answered meanwhile");
        Ok(site.envoy.stat(backup).await?.unwrap_or(0) > 0)
    })
    .await?;
    pods.servers[0].set_metrics_fault(MetricsFault::None);
    serve(&site, &pods, &[0, 1]).await?;
    api.terminate("pod-0");
    api.set_pod("pod-2", PodSpec::ready(address(2), &LABELS));
    api.set_fault(ApiFault::None);
    serve(&site, &pods, &[1, 2]).await
}

/// The API knows a pod before Envoy's cluster has it: nothing else's metrics are taken for its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_the_cluster_lacks_is_left_alone_until_it_is_there() -> anyhow::Result<()> {
    let pods = Pods::start(3).await?;
    let api = KubeApi::start("secret-1").await?;
    for index in 0..3 {
        api.set_pod(&format!("pod-{index}"), PodSpec::ready(address(index), &LABELS));
    }
    let endpoints =
        json!({"kubernetes": {"namespace": "models", "selector": {"app": LABELS[0].1}, "targetPorts": [pods.port]}});
    let site = Site::on_kubernetes(&api, pool(endpoints), "secret-1").await?;
    site.set_hosts(POOL, &hosts(&pods, &[0, 1]))?;
    let count = async |health: &str, count: u64| {
        let name = format!("wasmcustom.inference_endpoints;pool={POOL};health={health}");
        Ok::<bool, anyhow::Error>(site.envoy.stat(&name).await? == Some(count))
    };
    site.eventually("one is away", || async { Ok(count("up", 2).await? && count("unreachable", 1).await?) }).await?;
    let missed = format!("wasmcustom.inference_override_missed_total;pool={POOL}");
    let before = site.envoy.stat(&missed).await?;
    serve(&site, &pods, &[0, 1]).await?;
    assert_eq!(site.envoy.stat(&missed).await?, before, "nobody is sent there");
    // Trouble is told once it has lasted.
    let said = "another host has answered: it is not in Envoy's cluster";
    site.eventually("the log says why", || async { Ok(site.envoy.log().contains(said)) }).await?;
    site.set_hosts(POOL, &hosts(&pods, &[0, 1, 2]))?;
    site.eventually("it is there", || async { count("up", 3).await }).await?;
    serve(&site, &pods, &[0, 1, 2]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_pods_tell_them_apart() -> anyhow::Result<()> {
    let pods = Pods::start(3).await?;
    let api = KubeApi::start("secret-1").await?;
    let labels = |tier: &'static str| [LABELS[0], ("tier", tier)];
    for (index, tier) in ["gold", "silver", "gold"].into_iter().enumerate() {
        api.set_pod(&format!("pod-{index}"), PodSpec::ready(address(index), &labels(tier)));
    }
    let mut document = pool(
        json!({"kubernetes": {"namespace": "models", "selector": {"app": LABELS[0].1}, "targetPorts": [pods.port]}}),
    );
    document["pools"][0]["scheduling"] =
        json!({"filters": [{"type": "label-selector-filter", "parameters": {"matchLabels": {"tier": "gold"}}}]});
    let site = Site::on_kubernetes(&api, document, "secret-1").await?;
    site.set_hosts(POOL, &hosts(&pods, &[0, 1, 2]))?;
    serve(&site, &pods, &[0, 2]).await?;
    api.set_pod("pod-1", PodSpec::ready(address(1), &labels("gold")));
    api.set_pod("pod-0", PodSpec::ready(address(0), &labels("silver")));
    serve(&site, &pods, &[1, 2]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_api_changes_nothing_and_ends() -> anyhow::Result<()> {
    let pods = Pods::start(3).await?;
    let api = KubeApi::start("secret-1").await?;
    for index in 0..2 {
        api.set_pod(&format!("pod-{index}"), PodSpec::ready(address(index), &LABELS));
    }
    let endpoints =
        json!({"kubernetes": {"namespace": "models", "selector": {"app": LABELS[0].1}, "targetPorts": [pods.port]}});
    let site = Site::on_kubernetes(&api, pool(endpoints), "secret-1").await?;
    site.set_hosts(POOL, &hosts(&pods, &[0, 1, 2]))?;
    serve(&site, &pods, &[0, 1]).await?;
    for fault in
        [ApiFault::Status(500), ApiFault::Status(429), ApiFault::Expired, ApiFault::Slow(Duration::from_secs(60))]
    {
        api.set_fault(fault);
        let asked = api.asked().len();
        if fault != ApiFault::Slow(Duration::from_secs(60)) {
            site.eventually("the fault is seen", || async { Ok(api.asked().len() > asked) }).await?;
        }
        assert_eq!(site.serving(MODEL).await?.len(), 2, "{fault:?}");
        if fault == ApiFault::Status(500) {
            site.eventually("what lasts is said", || async {
                Ok(site.envoy.log().contains("the answer is 500; what was last known holds"))
            })
            .await?;
        }
    }
    api.set_pod("pod-2", PodSpec::ready(address(2), &LABELS));
    api.set_fault(ApiFault::None);
    serve(&site, &pods, &[0, 1, 2]).await?;
    // The service account's token is rotated: Envoy reads the new one from its file.
    api.rotate("secret-2");
    site.eventually("the old one is refused", || async {
        Ok(api.asked().last().is_some_and(|(_, status)| *status == 401))
    })
    .await?;
    replace(&site.folder.path().join("token"), "secret-2\n")?;
    api.terminate("pod-2");
    serve(&site, &pods, &[0, 1]).await?;
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
    let site = Site::on_kubernetes(&api, plugin_json, "secret-1").await?;
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
    api.set_resources("llm-d.ai/inferencemodelrewrites", &[("gpt", json!({"poolRef": pool_ref, "rules": rules}))]);
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

/// A new configuration of a pool whose pods the API lists by their label.
fn selected(pods: &Pods) -> Value {
    pool(json!({"kubernetes": {"namespace": "models", "selector": {"app": LABELS[0].1}, "targetPorts": [pods.port]}}))
}

/// What containers say is not all: a readiness gate that is not met, and a node that is lost. And a pod may have two addresses.
#[tokio::test(flavor = "multi_thread")]
async fn a_pods_condition_and_its_ipv4_address_count() -> anyhow::Result<()> {
    let pods = Pods::start(4).await?;
    let api = KubeApi::start("secret-1").await?;
    let ready = |index: usize| PodSpec::ready(address(index), &LABELS);
    let both = |index: usize| ready(index).addresses(vec!["fd00::7".parse().unwrap(), address(index)]);
    api.set_pod("dual-stack", both(0));
    api.set_pod("gate", ready(1).condition("False"));
    api.set_pod("lost", ready(2).condition("Unknown"));
    api.set_pod("host-1", ready(3));
    api.set_pod("host-2", ready(3));
    let site = Site::on_kubernetes(&api, selected(&pods), "secret-1").await?;
    site.set_hosts(POOL, &hosts(&pods, &[0, 1, 2, 3]))?;
    serve(&site, &pods, &[0, 3]).await?;
    api.set_pod("gate", ready(1));
    api.delete("host-1");
    serve(&site, &pods, &[0, 1, 3]).await?;
    api.set_pod("dual-stack", both(0).condition("Unknown"));
    api.delete("host-2");
    serve(&site, &pods, &[1]).await?;
    // The annotation that names no port of the pool is said, and leaves the pod out.
    api.set_pod("lost", ready(2).annotation("llm-d.ai/active-ports", "8000;8001"));
    site.eventually("it is said", || async {
        Ok(site.envoy.log().contains(
            "pool=pool pod lost: the annotation llm-d.ai/active-ports \"8000;8001\" names none of the pool's ports",
        ))
    })
    .await?;
    assert_eq!(site.serving(MODEL).await?.len(), 1);
    Ok(())
}

/// An API server that starts, and one that restarts, passes through refusals which are not errors.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_api_is_a_wait_and_not_an_error() -> anyhow::Result<()> {
    let pods = Pods::start(3).await?;
    let api = KubeApi::start("secret-1").await?;
    api.set_pool("llama", &LABELS, &[pods.port]);
    for index in 0..2 {
        api.set_pod(&format!("pod-{index}"), PodSpec::ready(address(index), &LABELS));
    }
    let restart = async |phases: &[ApiFault]| {
        for fault in phases {
            api.set_fault(*fault);
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        api.set_fault(ApiFault::None);
    };
    let away = Instant::now();
    api.set_fault(ApiFault::Away);
    let endpoints = json!({"kubernetes": {"namespace": "models", "inferencePool": "llama"}});
    let site = Site::on_kubernetes(&api, pool(endpoints), "secret-1").await?;
    site.set_hosts(POOL, &hosts(&pods, &[0, 1, 2]))?;
    restart(&[ApiFault::Starting, ApiFault::Filling]).await;
    let first = away.elapsed();
    serve(&site, &pods, &[0, 1]).await?;
    let away = Instant::now();
    api.set_fault(ApiFault::Away);
    api.terminate("pod-0");
    api.set_pod("pod-2", PodSpec::ready(address(2), &LABELS));
    restart(&[ApiFault::Away, ApiFault::Starting, ApiFault::Status(429), ApiFault::Filling]).await;
    let outage = first.max(away.elapsed());
    serve(&site, &pods, &[1, 2]).await?;
    let log = site.envoy.log();
    assert!(log.contains("discovery: pool=pool 2 endpoints"), "{log}");
    // What lasts for five seconds is said, and on a machine that pauses the outage may last that long.
    let is_said = log.contains("access is denied") || log.contains("it cannot be reached");
    assert!(!is_said || outage >= Duration::from_secs(5), "an outage of {outage:?} was said:\n{log}");
    // A watch that is cut off loses nothing.
    api.set_fault(ApiFault::Cut);
    api.terminate("pod-2");
    serve(&site, &pods, &[1]).await
}

/// An outage that lasts is said once, and so is its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_away_is_said_once_and_so_is_its_return() -> anyhow::Result<()> {
    let pods = Pods::start(2).await?;
    let api = KubeApi::start("secret-1").await?;
    api.set_pod("pod-0", PodSpec::ready(address(0), &LABELS));
    let site = Site::on_kubernetes(&api, selected(&pods), "secret-1").await?;
    site.set_hosts(POOL, &hosts(&pods, &[0, 1]))?;
    serve(&site, &pods, &[0]).await?;
    let count = |text: &str| site.envoy.log().matches(text).count();
    // Without the right to watch lists take its place.
    api.deny(&["watch pods"]);
    let denied = "cannot watch resource \"pods\" in API group \"\" in the namespace \"models\"";
    site.eventually("it is said", || async { Ok(count(denied) > 0) }).await?;
    api.set_pod("pod-1", PodSpec::ready(address(1), &LABELS));
    serve(&site, &pods, &[0, 1]).await?;
    api.deny(&[]);
    site.eventually("its end is said", || async { Ok(count("pool=pool it works again: 2 endpoints") == 1) }).await?;
    api.delete("pod-0");
    serve(&site, &pods, &[1]).await?;
    assert_eq!(count(denied), 1, "{}", site.envoy.log());
    assert_eq!(count("discovery: pool=pool 1 endpoint\n"), 1, "{}", site.envoy.log());
    Ok(())
}

/// A cluster's data come back from an older copy: no watch is told, and pods that never were go on being known.
#[tokio::test(flavor = "multi_thread")]
async fn data_that_were_restored_are_noticed() -> anyhow::Result<()> {
    let pods = Pods::start(3).await?;
    let api = KubeApi::start("secret-1").await?;
    for index in 0..2 {
        api.set_pod(&format!("pod-{index}"), PodSpec::ready(address(index), &LABELS));
    }
    let site = Site::on_kubernetes(&api, selected(&pods), "secret-1").await?;
    site.set_hosts(POOL, &hosts(&pods, &[0, 1, 2]))?;
    serve(&site, &pods, &[0, 1]).await?;
    api.restore(vec![("pod-0", PodSpec::ready(address(0), &LABELS)), ("older", PodSpec::ready(address(2), &LABELS))]);
    serve(&site, &pods, &[0, 2]).await?;
    api.terminate("older");
    serve(&site, &pods, &[0]).await
}

/// Pods with 250 KiB of annotations each make pages that are too long to be read.
#[tokio::test(flavor = "multi_thread")]
async fn long_pages_are_asked_for_in_shorter_ones() -> anyhow::Result<()> {
    let pods = Pods::start(2).await?;
    let api = KubeApi::start("secret-1").await?;
    let heavy = "x".repeat(250 << 10);
    for index in 0..120 {
        let pod = PodSpec::ready(address(0), &LABELS).condition("False").annotation("example.org/notes", &heavy);
        api.set_pod(&format!("heavy-{index:03}"), pod);
    }
    api.set_pod("pod-1", PodSpec::ready(address(1), &LABELS));
    let site = Site::on_kubernetes(&api, selected(&pods), "secret-1").await?;
    site.set_hosts(POOL, &hosts(&pods, &[0, 1]))?;
    serve(&site, &pods, &[1]).await?;
    assert!(!site.envoy.log().contains("it is too long"), "{}", site.envoy.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_the_older_kind_is_read() -> anyhow::Result<()> {
    let pods = Pods::start(2).await?;
    let api = KubeApi::start("secret-1").await?;
    api.set_old_pool("llama", &LABELS, pods.port);
    api.set_pod("pod-0", PodSpec::ready(address(0), &LABELS));
    let endpoints = json!({"kubernetes": {"namespace": "models", "inferencePool": "llama"}});
    let site = Site::on_kubernetes(&api, pool(endpoints), "secret-1").await?;
    site.set_hosts(POOL, &hosts(&pods, &[0, 1]))?;
    serve(&site, &pods, &[0]).await?;
    // Whoever moves has both for a while: the newer one counts.
    api.set_pod("pod-1", PodSpec::ready(address(1), &[("app", "new")]));
    api.set_pool("llama", &[("app", "new")], &[pods.port]);
    serve(&site, &pods, &[1]).await
}

/// A role that is replaced is away for a moment; names that clients use hold.
#[tokio::test(flavor = "multi_thread")]
async fn names_hold_while_their_lists_are_refused() -> anyhow::Result<()> {
    let pods = Pods::start(1).await?;
    let api = KubeApi::start("secret-1").await?;
    let rules =
        json!([{"matches": [{"model": {"type": "Exact", "value": "gpt-4"}}], "targets": [{"modelRewrite": "m"}]}]);
    let rewrite = json!({"poolRef": {"name": "pool"}, "rules": rules});
    let static_ = [SocketAddr::new(address(0), pods.port).to_string()];
    let plugin_json = json!({"pools": [{"name": "pool", "baseModel": "m", "endpoints": {"static": static_}}],
        "kubernetesResources": {"namespace": "models"}});
    api.set_resources("llm-d.ai/inferencemodelrewrites", &[("gpt", rewrite)]);
    let site = Site::on_kubernetes(&api, plugin_json, "secret-1").await?;
    site.eventually("the rewrite is followed", || async { Ok(site.ask("gpt-4", 0).await?.status == 200) }).await?;
    let right = "list inferencemodelrewrites.llm-d.ai";
    api.deny(&[right]);
    site.eventually("the loss is said", || async {
        assert_eq!(site.ask("gpt-4", 0).await?.status, 200, "{}", site.envoy.log());
        Ok(site.envoy.log().contains("namespace=models model resources: access is denied: the answer is 403"))
    })
    .await?;
    api.deny(&[]);
    site.eventually("its end is said", || async {
        assert_eq!(site.ask("gpt-4", 0).await?.status, 200, "{}", site.envoy.log());
        Ok(site.envoy.log().contains("namespace=models model resources: it works again"))
    })
    .await
}

/// Whoever takes over while a right is missing knows no list of its own: what was published before holds.
#[tokio::test(flavor = "multi_thread")]
async fn names_hold_when_the_poller_is_killed() -> anyhow::Result<()> {
    let pods = Pods::start(1).await?;
    let api = KubeApi::start("secret-1").await?;
    let rules =
        json!([{"matches": [{"model": {"type": "Exact", "value": "gpt-4"}}], "targets": [{"modelRewrite": "m"}]}]);
    let rewrite = json!({"poolRef": {"name": "pool"}, "rules": rules});
    let static_ = [SocketAddr::new(address(0), pods.port).to_string()];
    let plugin_json = json!({"pools": [{"name": "pool", "baseModel": "m", "endpoints": {"static": static_}}],
        "kubernetesResources": {"namespace": "models"}});
    api.set_resources("llm-d.ai/inferencemodelrewrites", &[("gpt", rewrite)]);
    let site = Site::on_kubernetes_with(&api, plugin_json, "secret-1", take_modules_with_faults).await?;
    site.eventually("the rewrite is followed", || async { Ok(site.ask("gpt-4", 0).await?.status == 200) }).await?;
    api.deny(&["list inferencemodelrewrites.llm-d.ai"]);
    pods.servers[0].set_metrics_fault(MetricsFault::Instead(200, "# trap\n".into()));
    let backup = "wasmcustom.inference_lease_acquired_total;rank=backup";
    site.eventually("an inference VM polls", || async { Ok(site.envoy.stat(backup).await?.unwrap_or(0) > 0) }).await?;
    pods.servers[0].set_metrics_fault(MetricsFault::None);
    // A right that stays away for ten seconds is done without, and what else there is becomes known.
    let more = json!({"poolRef": {"name": "pool"}, "modelName": "more", "targetModels": [{"name": "m"}]});
    api.set_resources("inferencemodels", &[("more", more)]);
    site.eventually("the others are known", || async {
        assert_eq!(site.ask("gpt-4", 0).await?.status, 200, "{}", site.envoy.log());
        Ok(site.ask("more", 0).await?.status == 200)
    })
    .await?;
    assert_eq!(site.ask("gpt-4", 0).await?.status, 200, "{}", site.envoy.log());
    api.deny(&[]);
    api.set_resources("llm-d.ai/inferencemodelrewrites", &[]);
    site.eventually("it goes when its list says so", || async { Ok(site.ask("gpt-4", 0).await?.status == 404) }).await
}
