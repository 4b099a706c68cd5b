//! Envoy Gateway's own translator, `egctl experimental translate`, on the chart's objects.
//!
//! It is the code that runs in a cluster: it checks objects by Envoy Gateway's definitions with their rules, fills in defaults, and makes
//! xDS of them. Only its loader knows less than a cluster. So three things differ on the way in:
//!
//! - InferencePools are left out, since the loader refuses kinds that Envoy Gateway has no type for. Nothing of the translation depends
//!   on them: Envoy Gateway routes to Services, and [`crate::without_pools`] fails if a route names an InferencePool.
//! - The loader reads no EndpointSlices, so a headless Service would have no endpoints. Each Service gets an address of its own instead,
//!   from the block that is for documentation (192.0.2.0/24), since a loopback address is refused where Envoy Gateway checks one. Out of the
//!   translation each comes as the one host of a cluster, and the pods' addresses take its place there, as EndpointSlices would have it.
//!   Everything else of the cluster is as translated.
//! - A GatewayClass is added, which a cluster's administrator makes.
//!
//! And on the way out the cluster that leads to Envoy Gateway is left out of the bootstrap.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use chart_tests::{root, walk};
use serde_json::{Value, json};

use crate::Pods;
use crate::xds::Xds;

/// What came out.
pub struct Translated {
    /// The xDS of the Gateway's proxy.
    pub xds: Xds,
    /// The objects with their statuses, by what Envoy Gateway calls their kinds.
    objects: Value,
}

/// Translates the chart's objects and a test's own; `pods` are the addresses of each Service's pods.
pub fn translate(rendered: &[Value], more: &[Value], pods: &Pods) -> anyhow::Result<Translated> {
    let (input, stand_ins) = prepare(rendered, more)?;
    let mut output = run(&input)?;
    let mut all = output["xds"].take();
    let gateways = all.as_object_mut().context("no xDS")?;
    ensure!(gateways.len() == 1, "xDS for {:?}", gateways.keys());
    let dump = gateways.values_mut().next().context("no xDS")?.take();
    let mut xds = read(&dump)?;
    drop_control_plane(&mut xds)?;
    set_hosts(&mut xds, &stand_ins, pods)?;
    Ok(Translated { xds, objects: output })
}

/// Reads a dump as `GET /config_dump` of Envoy's admin interface has it.
fn read(dump: &Value) -> anyhow::Result<Xds> {
    let section = |kind: &str| {
        let configs = dump["configs"].as_array().into_iter().flatten();
        let mut of_kind = configs.filter(|config| config["@type"].as_str().is_some_and(|name| name.ends_with(kind)));
        of_kind.next().with_context(|| format!("no {kind}"))
    };
    let list = |kind: &str, key: &str, inner: &str| {
        let entries = section(kind)?[key].as_array().with_context(|| format!("no {key}"))?;
        let found = entries.iter().map(|entry| entry.pointer(inner).cloned().with_context(|| format!("no {inner}")));
        found.collect::<anyhow::Result<Vec<Value>>>()
    };
    Ok(Xds {
        bootstrap: section("BootstrapConfigDump")?["bootstrap"].clone(),
        listeners: list("ListenersConfigDump", "dynamicListeners", "/activeState/listener")?,
        clusters: list("ClustersConfigDump", "dynamicActiveClusters", "/cluster")?,
        routes: list("RoutesConfigDump", "dynamicRouteConfigs", "/routeConfig")?,
        endpoints: list("EndpointsConfigDump", "dynamicEndpointConfigs", "/endpointConfig")?,
        extensions: Vec::new(),
    })
}

fn drop_control_plane(xds: &mut Xds) -> anyhow::Result<()> {
    let clusters = xds.bootstrap["staticResources"]["clusters"].as_array_mut().context("no clusters")?;
    let before = clusters.len();
    clusters.retain(|cluster| cluster["name"] != "xds_cluster");
    ensure!(clusters.len() + 1 == before, "no cluster leads to the control plane");
    // By this Envoy Gateway says who its own proxies are, for zones.
    xds.endpoints.push(json!({"clusterName": "local_cluster"}));
    Ok(())
}

/// Puts pods in the place of what stood for them.
fn set_hosts(xds: &mut Xds, stand_ins: &BTreeMap<Ipv4Addr, String>, pods: &Pods) -> anyhow::Result<()> {
    for group in xds.endpoints.iter_mut().flat_map(|one| one["endpoints"].as_array_mut().into_iter().flatten()) {
        let mut hosts = Vec::new();
        for host in group["lbEndpoints"].as_array().context("no hosts")? {
            let stand_in = host["endpoint"]["address"]["socketAddress"]["address"].as_str().context("no address")?;
            let service = stand_ins.get(&stand_in.parse()?).with_context(|| format!("{stand_in} stands for nobody"))?;
            for address in pods.get(service).into_iter().flatten() {
                let mut pod = host.clone();
                pod["endpoint"]["address"]["socketAddress"]["address"] = json!(address);
                hosts.push(pod);
            }
        }
        group["lbEndpoints"] = json!(hosts);
    }
    Ok(())
}

impl Translated {
    /// The conditions that are not true, each as `KIND NAME: TYPE MESSAGE`.
    pub fn refused(&self) -> Vec<String> {
        let mut refused = Vec::new();
        for (kind, objects) in self.objects.as_object().into_iter().flatten() {
            for object in objects.as_array().into_iter().flatten().chain([objects]) {
                walk(&object["status"], &mut |map| {
                    for condition in map.get("conditions").and_then(Value::as_array).into_iter().flatten() {
                        if condition["status"] != "True" {
                            let name = object["metadata"]["name"].as_str().unwrap_or_default();
                            refused.push(format!("{kind} {name}: {} {}", condition["type"], condition["message"]));
                        }
                    }
                });
            }
        }
        refused
    }

    /// How many objects of a kind have a condition, by Envoy Gateway's name for them, such as `securityPolicies`.
    pub fn judged(&self, kind: &str) -> usize {
        let objects = self.objects[kind].as_array().into_iter().flatten();
        objects
            .filter(|object| {
                let mut has_condition = false;
                walk(&object["status"], &mut |map| has_condition |= map.contains_key("conditions"));
                has_condition
            })
            .count()
    }
}

/// What the translator gets, and which address stands for which Service.
fn prepare(rendered: &[Value], more: &[Value]) -> anyhow::Result<(Vec<Value>, BTreeMap<Ipv4Addr, String>)> {
    let input = crate::without_pools(rendered)?;
    let mut stand_ins = BTreeMap::new();
    let mut all =
        vec![json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "eg"},
        "spec": {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller"}})];
    for mut object in input {
        if object["kind"] == "Service" {
            ensure!(object["spec"]["clusterIP"] == "None", "a Service is not headless: {object}");
            let address = Ipv4Addr::new(192, 0, 2, u8::try_from(stand_ins.len() + 1)?);
            object["spec"]["clusterIP"] = json!(address);
            stand_ins.insert(address, object["metadata"]["name"].as_str().context("no name")?.to_owned());
        }
        all.push(object);
    }
    all.extend_from_slice(more);
    Ok((all, stand_ins))
}

/// Runs the translator.
fn run(input: &[Value]) -> anyhow::Result<Value> {
    let mut child = Command::new(binary()?)
        .args(["experimental", "translate", "--from", "gateway-api", "--to", "gateway-api,xds", "--output", "json"])
        .args(["--file", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let documents: Vec<String> = input.iter().map(Value::to_string).collect();
    child.stdin.take().context("no input")?.write_all(documents.join("\n---\n").as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "egctl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// `EGCTL_BIN`, or what `./build.sh test control-planes` builds.
fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("EGCTL_BIN") {
        return Ok(PathBuf::from(path));
    }
    let built = root().join(".tools/egctl/egctl");
    ensure!(built.exists(), "{} is missing: run ./build.sh test control-planes", built.display());
    Ok(built)
}
