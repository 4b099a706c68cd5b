//! xDS of a control plane for an Envoy of this machine.
//!
//! Envoy gets its listeners, routes, clusters, hosts and filters by xDS as it does in a cluster, but from files. These things differ, and an
//! address that is none of them is an error, so that nothing leaves the machine:
//!
//! - where a resource comes from: a file, and not the control plane;
//! - where Envoy listens: on a free port of loopback;
//! - where the Kubernetes API is: the test's;
//! - where the modules, the token and the authority lie.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use chart_tests::envoy;
use envoy_tests::kube::replace;
use serde_json::{Value, json};

use crate::walk_mut;

/// Where Envoy Gateway and Istio put the admin interface.
const ADMINS: [(&str, u64); 2] = [("127.0.0.1", 19000), ("127.0.0.1", 15000)];

/// What a proxy is told.
#[derive(Clone, Debug, Default)]
pub struct Xds {
    /// The bootstrap, but for what leads to the control plane.
    pub bootstrap: Value,
    /// The listeners.
    pub listeners: Vec<Value>,
    /// The clusters.
    pub clusters: Vec<Value>,
    /// The routes.
    pub routes: Vec<Value>,
    /// The hosts of clusters.
    pub endpoints: Vec<Value>,
    /// Filters of listeners that come by themselves.
    pub extensions: Vec<Value>,
}

/// What of this machine stands for what.
pub struct Place<'p> {
    /// Where files may be written.
    pub folder: &'p Path,
    /// The admin interface.
    pub admin: SocketAddr,
    /// The Kubernetes API.
    pub kubernetes: SocketAddr,
}

impl Xds {
    /// The connection managers of listeners that have the plugin's filter, with the listener's name.
    pub fn managers(&self) -> Vec<(&str, &Value)> {
        let mut found = Vec::new();
        for listener in &self.listeners {
            let chains =
                listener["filterChains"].as_array().into_iter().flatten().chain([&listener["defaultFilterChain"]]);
            for filter in chains.flat_map(|chain| chain["filters"].as_array().into_iter().flatten()) {
                let manager = &filter["typedConfig"];
                let filters = manager["httpFilters"].as_array().into_iter().flatten();
                if filters.into_iter().any(|filter| filter["name"] == "inference") {
                    found.push((listener["name"].as_str().unwrap_or_default(), manager));
                }
            }
        }
        found
    }

    /// Writes the resources into files, and returns the bootstrap that leads to them.
    pub fn install(mut self, place: &Place<'_>) -> anyhow::Result<String> {
        let with_plugin: Vec<String> = self.managers().iter().map(|(name, _)| (*name).to_owned()).collect();
        ensure!(with_plugin.len() == 1, "the plugin is in the listeners {with_plugin:?}");
        for listener in self.listeners.iter_mut().filter(|listener| listener["name"] == with_plugin[0]) {
            // By this name the tests find it.
            listener["name"] = json!("inference");
        }
        let mut files = BTreeMap::new();
        for (kind, key, resources) in [
            ("routes", "name", &self.routes),
            ("hosts", "clusterName", &self.endpoints),
            ("extensions", "name", &self.extensions),
        ] {
            for (index, resource) in resources.iter().enumerate() {
                let name = resource[key].as_str().context("a resource has no name")?;
                let file = format!("{kind}-{index}.json");
                write(place, &file, resource_type(kind), std::slice::from_ref(resource))?;
                files.insert((kind, name.to_owned()), source(place, &file));
            }
        }
        for value in self.listeners.iter_mut().chain(&mut self.clusters).chain([&mut self.bootstrap]) {
            read_files(value, &files)?;
        }
        write(place, "listeners.json", "envoy.config.listener.v3.Listener", &self.listeners)?;
        write(place, "clusters.json", "envoy.config.cluster.v3.Cluster", &self.clusters)?;
        self.bootstrap["dynamicResources"] =
            json!({"ldsConfig": source(place, "listeners.json"), "cdsConfig": source(place, "clusters.json")});
        // Who asks for files must have a name; in a cluster it is on the command line.
        self.bootstrap["node"] = json!({"id": "proxy", "cluster": "proxy"});
        let mut bootstrap = self.bootstrap.take();
        relocate(&mut bootstrap, place)?;
        envoy::localize(&bootstrap.to_string(), place.folder)
    }
}

fn resource_type(kind: &str) -> &'static str {
    match kind {
        "routes" => "envoy.config.route.v3.RouteConfiguration",
        "hosts" => "envoy.config.endpoint.v3.ClusterLoadAssignment",
        _ => "envoy.config.core.v3.TypedExtensionConfig",
    }
}

/// Makes what comes from the control plane come from files.
fn read_files(value: &mut Value, files: &BTreeMap<(&str, String), Value>) -> anyhow::Result<()> {
    walk_mut(value, &mut |map| {
        for (kind, source, name) in
            [("routes", "configSource", "routeConfigName"), ("hosts", "edsConfig", "serviceName")]
        {
            if let (Some(_), Some(name)) = (map.get(source), map.get(name).and_then(Value::as_str)) {
                let file =
                    files.get(&(kind, name.to_owned())).with_context(|| format!("nothing has the {kind} {name}"))?;
                map.insert(source.to_owned(), file.clone());
            }
        }
        let name = map.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(discovery) = map.get_mut("configDiscovery") {
            let file =
                files.get(&("extensions", name.clone())).with_context(|| format!("nothing has the filter {name}"))?;
            discovery["configSource"] = file.clone();
        }
        Ok(())
    })
}

/// Puts this machine's addresses in.
fn relocate(value: &mut Value, place: &Place<'_>) -> anyhow::Result<()> {
    walk_mut(value, &mut |map| {
        let Some(socket) = map.get_mut("socketAddress") else { return Ok(()) };
        let address = socket["address"].as_str().context("no address")?.to_owned();
        let port = socket["portValue"].as_u64().context("no port")?;
        let is_here = || address.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback());
        let there = match (address.as_str(), port) {
            ("0.0.0.0" | "::", _) => ("127.0.0.1".to_owned(), 0),
            own if ADMINS.contains(&own) => (place.admin.ip().to_string(), place.admin.port()),
            // By a name, as in a cluster: Envoy's cluster is ready only when it has been looked up.
            ("kubernetes.default.svc", 443) => ("localhost".to_owned(), place.kubernetes.port()),
            _ if is_here() => return Ok(()),
            _ => bail!("{address}:{port} is not of this machine"),
        };
        *socket = json!({"address": there.0, "portValue": there.1});
        Ok(())
    })
}

fn source(place: &Place<'_>, file: &str) -> Value {
    json!({"resourceApiVersion": "V3", "pathConfigSource": {"path": place.folder.join(file)}})
}

fn write(place: &Place<'_>, file: &str, kind: &str, resources: &[Value]) -> anyhow::Result<()> {
    let mut resources = resources.to_vec();
    for resource in &mut resources {
        resource["@type"] = json!(format!("type.googleapis.com/{kind}"));
    }
    let mut document = json!({"resources": resources});
    relocate(&mut document, place)?;
    replace(&place.folder.join(file), &envoy::localize(&document.to_string(), place.folder)?)
}
