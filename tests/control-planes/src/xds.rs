//! xDS of a control plane for an Envoy of this machine.
//!
//! It comes as a dump of configuration. Envoy gets its listeners, routes, clusters and hosts by xDS as it does in a cluster, but from
//! files. These things differ, and an address that is none of them is an error, so that nothing leaves the machine:
//!
//! - where a resource comes from: a file, and not the control plane; so the cluster that leads to the control plane is left out;
//! - where Envoy listens: on a free port of loopback;
//! - who the hosts of a cluster are: the test's pods, in the place of the address that stood for them;
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

/// Where Envoy Gateway puts the admin interface.
const ADMIN: (&str, u64) = ("127.0.0.1", 19000);

/// What a proxy is told.
#[derive(Clone, Debug)]
pub struct Xds {
    /// The bootstrap.
    pub bootstrap: Value,
    /// The listeners.
    pub listeners: Vec<Value>,
    /// The clusters.
    pub clusters: Vec<Value>,
    routes: Vec<Value>,
    endpoints: Vec<Value>,
}

/// What of this machine stands for what.
pub struct Place<'p> {
    /// Where files may be written.
    pub folder: &'p Path,
    /// The admin interface.
    pub admin: SocketAddr,
    /// The Kubernetes API.
    pub kubernetes: SocketAddr,
    /// The pods' addresses, by the one that stood for them.
    pub pods: &'p BTreeMap<Ipv4Addr, Vec<Ipv4Addr>>,
}

impl Xds {
    /// From a dump as `GET /config_dump` of Envoy's admin interface has it.
    pub fn from_dump(dump: &Value) -> anyhow::Result<Xds> {
        let section = |kind: &str| {
            let configs = dump["configs"].as_array().into_iter().flatten();
            let mut of_kind =
                configs.filter(|config| config["@type"].as_str().is_some_and(|name| name.ends_with(kind)));
            of_kind.next().with_context(|| format!("no {kind}"))
        };
        let list = |kind: &str, key: &str, inner: &str| {
            let entries = section(kind)?[key].as_array().with_context(|| format!("no {key}"))?;
            let found =
                entries.iter().map(|entry| entry.pointer(inner).cloned().with_context(|| format!("no {inner}")));
            found.collect::<anyhow::Result<Vec<Value>>>()
        };
        Ok(Xds {
            bootstrap: section("BootstrapConfigDump")?["bootstrap"].clone(),
            listeners: list("ListenersConfigDump", "dynamicListeners", "/activeState/listener")?,
            clusters: list("ClustersConfigDump", "dynamicActiveClusters", "/cluster")?,
            routes: list("RoutesConfigDump", "dynamicRouteConfigs", "/routeConfig")?,
            endpoints: list("EndpointsConfigDump", "dynamicEndpointConfigs", "/endpointConfig")?,
        })
    }

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
        for listener in &mut self.listeners {
            // By this name the tests find it.
            if listener["name"].as_str().is_some_and(|name| name.ends_with("/http")) {
                listener["name"] = json!("inference");
            }
        }
        self.drop_control_plane()?;
        self.set_hosts(place)?;
        // Envoy Gateway says by this who its own proxies are, for zones.
        self.endpoints.push(json!({"@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "clusterName": "local_cluster"}));
        let mut files = BTreeMap::new();
        for (kind, key, resources) in [("routes", "name", &self.routes), ("hosts", "clusterName", &self.endpoints)] {
            for (index, resource) in resources.iter().enumerate() {
                let name = resource[key].as_str().context("a resource has no name")?;
                let file = format!("{kind}-{index}.json");
                write(place, &file, std::slice::from_ref(resource))?;
                files.insert((kind, name.to_owned()), source(place, &file));
            }
        }
        for value in self.listeners.iter_mut().chain(&mut self.clusters).chain([&mut self.bootstrap]) {
            read_files(value, &files)?;
        }
        write(place, "listeners.json", &self.listeners)?;
        write(place, "clusters.json", &self.clusters)?;
        self.bootstrap["dynamicResources"] =
            json!({"ldsConfig": source(place, "listeners.json"), "cdsConfig": source(place, "clusters.json")});
        // Who asks for files must have a name; in a cluster it is on the command line.
        self.bootstrap["node"] = json!({"id": "proxy", "cluster": "proxy"});
        let mut bootstrap = self.bootstrap.take();
        relocate(&mut bootstrap, place)?;
        envoy::localize(&bootstrap.to_string(), place.folder)
    }

    fn drop_control_plane(&mut self) -> anyhow::Result<()> {
        let clusters = self.bootstrap["staticResources"]["clusters"].as_array_mut().context("no clusters")?;
        let before = clusters.len();
        clusters.retain(|cluster| cluster["name"] != "xds_cluster");
        ensure!(clusters.len() + 1 == before, "no cluster leads to the control plane");
        Ok(())
    }

    fn set_hosts(&mut self, place: &Place<'_>) -> anyhow::Result<()> {
        for group in self.endpoints.iter_mut().flat_map(|one| one["endpoints"].as_array_mut().into_iter().flatten()) {
            let hosts = group["lbEndpoints"].as_array_mut().context("no hosts")?;
            let mut pods = Vec::new();
            for host in hosts.iter() {
                let stand_in =
                    host["endpoint"]["address"]["socketAddress"]["address"].as_str().context("no address")?;
                let addresses =
                    place.pods.get(&stand_in.parse()?).with_context(|| format!("{stand_in} stands for nobody"))?;
                for address in addresses {
                    let mut pod = host.clone();
                    pod["endpoint"]["address"]["socketAddress"]["address"] = json!(address);
                    pods.push(pod);
                }
            }
            *hosts = pods;
        }
        Ok(())
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
        Ok(())
    })
}

/// Puts this machine's addresses in.
fn relocate(value: &mut Value, place: &Place<'_>) -> anyhow::Result<()> {
    walk_mut(value, &mut |map| {
        let Some(socket) = map.get_mut("socketAddress") else { return Ok(()) };
        let address = socket["address"].as_str().context("no address")?.to_owned();
        let port = socket["portValue"].as_u64().context("no port")?;
        let is_pod = || {
            let address = address.parse::<Ipv4Addr>();
            address.is_ok_and(|address| place.pods.values().flatten().any(|pod| *pod == address))
        };
        let there = match (address.as_str(), port) {
            ("0.0.0.0" | "::", _) => ("127.0.0.1".to_owned(), 0),
            own if own == ADMIN => (place.admin.ip().to_string(), place.admin.port()),
            // By a name, as in a cluster: Envoy's cluster is ready only when it has been looked up.
            ("kubernetes.default.svc", 443) => ("localhost".to_owned(), place.kubernetes.port()),
            _ if is_pod() => return Ok(()),
            _ => bail!("{address}:{port} is not of this machine"),
        };
        *socket = json!({"address": there.0, "portValue": there.1});
        Ok(())
    })
}

fn source(place: &Place<'_>, file: &str) -> Value {
    json!({"resourceApiVersion": "V3", "pathConfigSource": {"path": place.folder.join(file)}})
}

fn write(place: &Place<'_>, file: &str, resources: &[Value]) -> anyhow::Result<()> {
    let mut document = json!({"resources": resources});
    relocate(&mut document, place)?;
    replace(&place.folder.join(file), &envoy::localize(&document.to_string(), place.folder)?)
}
