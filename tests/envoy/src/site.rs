//! Envoy before pools that are discovered, whose hosts come from files as from a control plane.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;

use inferencectl::check;
use inferencectl::client::{self, Answer};
use inferencectl::demo::{Scratch, scratch};
use inferencectl::envoy::Envoy;
use inferencectl::render::{Bootstrap, Hosts};
use serde_json::{Value, json};

use crate::kube::{KubeApi, replace};
use crate::root;

/// A running Envoy and its folder.
pub struct Site {
    /// Envoy.
    pub envoy: Envoy,
    /// Where its files are.
    pub folder: Scratch,
}

impl Site {
    /// Starts Envoy with a plugin JSON, after a change of the bootstrap. Its clusters have no host at first.
    pub async fn start(plugin_json: Value, change: impl FnOnce(&mut Bootstrap<'_>, &Path)) -> anyhow::Result<Site> {
        let plugin_json = plugin_json.to_string();
        let config = check::load(plugin_json.as_bytes())?;
        let folder = scratch("discovery")?;
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut bootstrap = Bootstrap::new(&plugin_json, &config, free, free, &root().join("dist"));
        bootstrap.access_log = folder.path().join("access.log");
        bootstrap.hosts = Hosts::Files(folder.path().to_owned());
        change(&mut bootstrap, folder.path());
        for pool in &config.pools {
            write_hosts(folder.path(), &pool.cluster, &[])?;
        }
        let envoy = Envoy::start(&bootstrap.yaml(), folder.path(), 2).await?;
        Ok(Site { envoy, folder })
    }

    /// Starts Envoy with a plugin JSON whose pools are discovered by a Kubernetes API that takes this token.
    pub async fn on_kubernetes(api: &KubeApi, plugin_json: Value, token: &str) -> anyhow::Result<Site> {
        Site::on_kubernetes_with(api, plugin_json, token, |_| {}).await
    }

    /// The same, after a change of the bootstrap.
    pub async fn on_kubernetes_with(
        api: &KubeApi,
        plugin_json: Value,
        token: &str,
        change: impl FnOnce(&mut Bootstrap<'_>),
    ) -> anyhow::Result<Site> {
        let port = api.address().port();
        Site::start(plugin_json, |bootstrap, folder| {
            // By a name, as in a cluster: Envoy's cluster is ready only when it has been looked up.
            bootstrap.kube.address = ("localhost".to_owned(), port);
            bootstrap.kube.sds_folder = folder.to_owned();
            bootstrap.kube.token_folder = folder.to_owned();
            change(bootstrap);
            // Envoy reads them when it starts.
            api.write_secrets(folder, token).unwrap();
        })
        .await
    }

    /// Gives a cluster these hosts.
    pub fn set_hosts(&self, cluster: &str, hosts: &[SocketAddr]) -> anyhow::Result<()> {
        write_hosts(self.folder.path(), cluster, hosts)
    }

    /// Asks a model for one token.
    pub async fn ask(&self, model: &str, number: usize) -> anyhow::Result<Answer> {
        let body = json!({"model": model, "max_tokens": 1, "prompt": format!("{number} hi")});
        client::send(self.envoy.listen(), client::post("/v1/completions", &[], body.to_string())?).await
    }

    /// Who serves some requests for a model in a row.
    pub async fn serving(&self, model: &str) -> anyhow::Result<BTreeSet<String>> {
        let mut serving = BTreeSet::new();
        for number in 0..30 {
            let answer = self.ask(model, number).await?;
            anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
            serving.extend(answer.header("x-gateway-destination-endpoint-served").map(str::to_owned));
        }
        Ok(serving)
    }

    /// Waits until a condition holds; fails with Envoy's log when it never does.
    pub async fn eventually<F, C>(&self, what: &str, condition: C) -> anyhow::Result<()>
    where
        C: Fn() -> F,
        F: Future<Output = anyhow::Result<bool>>,
    {
        crate::eventually(&self.envoy, what, condition).await
    }
}

fn write_hosts(folder: &Path, cluster: &str, hosts: &[SocketAddr]) -> anyhow::Result<()> {
    let endpoints: Vec<Value> = hosts
        .iter()
        .map(|host| json!({"endpoint": {"address": {"socket_address": {"address": host.ip(), "port_value": host.port()}}}}))
        .collect();
    let assignment = json!({"resources": [{"@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": cluster, "endpoints": [{"lb_endpoints": endpoints}]}]});
    replace(&folder.join(format!("{cluster}.yaml")), &assignment.to_string())
}
