//! Envoy with a control plane's xDS, in front of pods of this machine that a Kubernetes API lists.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use chart_tests::{Setup, config, document, of_kind};
use envoy_tests::kube::{KubeApi, PodSpec, replace};
use http_body_util::Full;
use inferencectl::client::{self, Answer};
use inferencectl::demo::{Scratch, scratch};
use inferencectl::envoy::Envoy;
use serde_json::{Value, json};
use simulator::flags::Flags;
use simulator::server::Server;

use crate::xds::{Place, Xds};
use crate::{Pods, egctl, istio};

/// Pods of each pool.
pub const PODS: usize = 2;
/// The namespace of the release, which is the one that the API of the tests has.
pub const NAMESPACE: &str = "models";
const TOKEN: &str = "a-token";

/// A running Envoy with everything around it.
pub struct Site {
    /// Envoy.
    pub envoy: Envoy,
    /// The model servers of each pool: one for each port of each pod.
    pub pools: BTreeMap<String, Vec<Server>>,
    asked: AtomicU64,
    _api: KubeApi,
    _folder: Scratch,
}

/// A way to render the chart for a provider and this API.
pub fn setup(provider: &'static str, example: &Path, more: &[&str]) -> Setup {
    let mut setup = Setup { namespace: NAMESPACE, ..Setup::new(example, provider) };
    // By this header a test sees who has served.
    setup.more.push("exposeEndpoint=true".to_owned());
    setup.more.extend(more.iter().map(|value| (*value).to_owned()));
    setup
}

impl Site {
    /// Translates the chart and these policies, and starts what comes out.
    pub async fn start(setup: &Setup, policies: &[Value]) -> anyhow::Result<Site> {
        let objects = setup.objects()?;
        let api = KubeApi::start(TOKEN).await?;
        let plugin: Value = serde_json::from_str(config(&objects, "plugin.json").context("no plugin.json")?)?;
        let (mut pools, mut pods) = (BTreeMap::new(), Pods::new());
        for service in of_kind(&objects, "Service") {
            let name = service["metadata"]["name"].as_str().context("no name")?;
            let (servers, addresses) = start_pods(&api, service, &plugin).await?;
            pools.insert(name.to_owned(), servers);
            pods.insert(name.to_owned(), addresses);
        }
        for pool in of_kind(&objects, "InferencePool") {
            api.apply_pool(pool)?;
        }
        let folder = scratch("control-plane")?;
        write_secrets(&api, &objects, &folder)?;
        let admin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let place = Place { folder: folder.path(), admin, kubernetes: api.address() };
        let bootstrap = translate(setup, &objects, policies, &pods)?.install(&place)?;
        let envoy = Envoy::start(&bootstrap, folder.path(), 2).await?;
        let site = Site { envoy, pools, asked: AtomicU64::new(0), _api: api, _folder: folder };
        for (pool, servers) in &site.pools {
            site.eventually("every endpoint's metrics are known", || site.are_up(pool, servers.len())).await?;
        }
        Ok(site)
    }

    /// Whether so many endpoints of a pool are up.
    pub async fn are_up(&self, pool: &str, wanted: usize) -> anyhow::Result<bool> {
        let up = self.envoy.stat(&format!("wasmcustom.inference_endpoints;pool={pool};health=up")).await?;
        Ok(up == Some(u64::try_from(wanted)?))
    }

    /// Waits until a condition holds; fails with Envoy's log when it never does.
    pub async fn eventually<F, C>(&self, what: &str, condition: C) -> anyhow::Result<()>
    where
        C: Fn() -> F,
        F: Future<Output = anyhow::Result<bool>>,
    {
        envoy_tests::eventually(&self.envoy, what, condition).await
    }

    /// Sends a request.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Answer> {
        let mut request = hyper::Request::builder().method(method).uri(path).header("host", "gateway");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        client::send(self.envoy.listen(), request.body(Full::new(body.into()))?).await
    }

    /// Asks a model for one token, with a prompt that no server has cached.
    pub async fn ask(&self, model: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let body = json!({"model": model, "max_tokens": 1, "prompt": format!("{number} hi")}).to_string();
        self.send("POST", "/v1/completions", headers, body).await
    }

    /// The status of such an answer, with a token or without.
    pub async fn status(&self, model: &str, token: Option<&str>) -> anyhow::Result<u16> {
        let headers: Vec<(&str, &str)> = token.map(|token| ("authorization", token)).into_iter().collect();
        Ok(self.ask(model, &headers).await?.status)
    }

    /// The pool and the place among its servers of who has answered.
    pub fn served(&self, answer: &Answer) -> anyhow::Result<(&str, usize)> {
        let address = answer.header("x-gateway-destination-endpoint-served");
        let address: SocketAddr =
            address.with_context(|| format!("nobody has served: {} {}", answer.status, answer.text()))?.parse()?;
        let found = self.pools.iter().find_map(|(pool, servers)| {
            Some((pool.as_str(), servers.iter().position(|server| server.address() == address)?))
        });
        found.with_context(|| format!("{address} is nobody here"))
    }
}

/// What the provider's control plane makes of the objects, where it accepts them all.
fn translate(setup: &Setup, objects: &[Value], policies: &[Value], pods: &Pods) -> anyhow::Result<Xds> {
    if setup.provider == "istio" {
        return istio::translate(objects, policies, pods);
    }
    let translated = egctl::translate(objects, policies, pods)?;
    let refused = translated.refused();
    ensure!(refused.is_empty(), "{refused:#?}");
    Ok(translated.xds)
}

/// Starts the pods of a Service, and lists them in the API.
async fn start_pods(api: &KubeApi, service: &Value, plugin: &Value) -> anyhow::Result<(Vec<Server>, Vec<Ipv4Addr>)> {
    let name = service["metadata"]["name"].as_str().context("no name")?;
    let mut settings = plugin["pools"].as_array().context("no pools")?.iter();
    let settings = settings.find(|pool| pool["name"] == name).with_context(|| format!("no pool {name}"))?;
    let labels: Vec<(&str, &str)> = service["spec"]["selector"]
        .as_object()
        .context("no selector")?
        .iter()
        .map(|(label, value)| anyhow::Ok((label.as_str(), value.as_str().context("no value")?)))
        .collect::<Result<_, _>>()?;
    let mut flags = Flags::for_model(settings["baseModel"].as_str().context("no model")?);
    flags.lora_modules =
        settings["adapters"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    flags.max_loras = flags.lora_modules.len().max(1);
    flags.max_model_len = usize::MAX;
    flags.lora_load_time = Duration::ZERO;
    flags.prefill_time_per_token = Duration::ZERO;
    let (mut servers, mut addresses) = (Vec::new(), Vec::new());
    for index in 0..PODS {
        let address = pod_address()?;
        for port in service["spec"]["ports"].as_array().context("no ports")? {
            flags.host = address.to_string();
            flags.port = u16::try_from(port["targetPort"].as_u64().context("no port")?)?;
            servers.push(Server::start(flags.clone()).await?);
        }
        api.set_pod(&format!("{name}-{index}"), PodSpec::ready(address.into(), &labels));
        addresses.push(address);
    }
    Ok((servers, addresses))
}

/// An address of loopback that no other pod has, nor one of a test that runs at the same time: pods have the ports that the chart names.
fn pod_address() -> anyhow::Result<Ipv4Addr> {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    ensure!(number != 0, "more pods than addresses");
    let [.., high, low] = std::process::id().to_be_bytes();
    Ok(Ipv4Addr::new(127, 64 | (high & 63), low, number))
}

/// What the chart mounts: the ConfigMap's own files, which lead to the token and the authority.
fn write_secrets(api: &KubeApi, objects: &[Value], folder: &Scratch) -> anyhow::Result<()> {
    api.write_secrets(folder.path(), TOKEN)?;
    for file in ["sds-token.yaml", "sds-ca.yaml"] {
        let text = config(objects, file).with_context(|| format!("no {file}"))?;
        let text = chart_tests::envoy::localize(text, folder.path())?;
        document(&text)?;
        replace(&folder.path().join(file), &text)?;
    }
    Ok(())
}
