//! Istio's own control plane, on the chart's objects.
//!
//! It is the code of `istiod`: the conversion of the Gateway API, the registry of Services and EndpointSlices, the patches of EnvoyFilters, and xDS.
//! The program in the folder `istio` runs it on a Kubernetes client that has the objects in memory, as Istio's own tests do, and asks
//! as the Gateway's proxy. These things differ on the way in:
//!
//! - InferencePools are left out: the chart routes to Services, and [`crate::without_pools`] fails if it does not.
//! - What a cluster has besides the chart is added: the GatewayClass, the Service that Istio makes for the Gateway with the proxy as its
//!   endpoint, and the EndpointSlices of the pods, with their addresses of loopback.
//!
//! And on the way out, for a stock Envoy without Istio's agent:
//!
//! - Filters that only Istio's build of Envoy has are left out ([`ONLY_IN_ISTIOS_ENVOY`]). None of them changes a request's route or body.
//! - The agent fetches a module by its `oci://` address and gives Envoy a file; here the file is there already.
//! - The cluster of the Gateway's own Service is left out, since the agent has its certificates; no route leads to it.
//! - The bootstrap is the agent's. Here it is a short one with the admin interface, and nothing of the chart's is in it.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use chart_tests::{document, of_kind, root};
use inferencectl::demo::scratch;
use serde_json::{Value, json};

use crate::site::NAMESPACE;
use crate::xds::Xds;
use crate::{Pods, walk_mut, without_pools};

/// HTTP filters and filters of clusters that a stock Envoy does not know.
pub const ONLY_IN_ISTIOS_ENVOY: [&str; 3] = ["istio.metadata_exchange", "istio.alpn", "istio.stats"];
/// The kinds that Istio reads as its own; the rest is read from Kubernetes.
const ISTIOS_OWN: [&str; 3] = ["EnvoyFilter", "RequestAuthentication", "AuthorizationPolicy"];
/// The Gateway's, as the chart calls it.
const GATEWAY: &str = "llm-gateway";
/// The label by which Istio knows the pods of a Gateway.
const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// Translates the chart's objects and a test's own; `pods` are the addresses of each Service's pods.
pub fn translate(rendered: &[Value], more: &[Value], pods: &Pods) -> anyhow::Result<Xds> {
    let mut output = run(&prepare(rendered, more, pods)?)?;
    let mut list = |key: &str| match output[key].take() {
        Value::Array(values) => Ok(values),
        other => Err(anyhow::anyhow!("{key} is {other}")),
    };
    let mut xds = Xds {
        bootstrap: json!({"admin": {"address": {"socketAddress": {"address": "127.0.0.1", "portValue": 15000}}}}),
        listeners: list("listeners")?,
        clusters: list("clusters")?,
        routes: list("routes")?,
        endpoints: list("endpoints")?,
        extensions: list("extensions")?,
    };
    let own = |name: &Value| name.as_str().is_some_and(|name| name.contains(&format!("||{GATEWAY}-istio.")));
    xds.clusters.retain(|cluster| !own(&cluster["name"]));
    xds.endpoints.retain(|assignment| !own(&assignment["clusterName"]));
    for value in xds.listeners.iter_mut().chain(&mut xds.clusters) {
        drop_istios_filters(value)?;
    }
    for extension in &mut xds.extensions {
        let code = extension.pointer_mut("/typedConfig/value/config/vm_config/code").context("no code")?;
        let uri = code["remote"]["http_uri"]["uri"].as_str().unwrap_or_default();
        ensure!(uri.starts_with("oci://") || uri.starts_with("https://"), "{uri:?} is not an address of a module");
        *code = json!({"local": {"filename": "/plugin/inference.wasm"}});
    }
    Ok(xds)
}

fn drop_istios_filters(value: &mut Value) -> anyhow::Result<()> {
    walk_mut(value, &mut |map| {
        for list in ["httpFilters", "filters"] {
            if let Some(filters) = map.get_mut(list).and_then(Value::as_array_mut) {
                filters
                    .retain(|filter| !filter["name"].as_str().is_some_and(|name| ONLY_IN_ISTIOS_ENVOY.contains(&name)));
            }
        }
        Ok(())
    })
}

/// What the program gets.
fn prepare(rendered: &[Value], more: &[Value], pods: &Pods) -> anyhow::Result<Value> {
    let proxy = Ipv4Addr::LOCALHOST;
    let mut all = without_pools(rendered)?;
    all.extend_from_slice(more);
    all.push(
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "istio"},
        "spec": {"controllerName": "istio.io/gateway-controller"}}),
    );
    all.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}));
    let gateway = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("{GATEWAY}-istio"), "namespace": NAMESPACE},
        "spec": {"clusterIP": "10.96.0.10", "selector": {GATEWAY_LABEL: GATEWAY},
            "ports": [{"name": "http", "port": 80, "targetPort": 80, "protocol": "TCP"}]}});
    all.push(slice(&gateway, &[proxy])?);
    all.push(gateway);
    for service in of_kind(rendered, "Service") {
        let name = service["metadata"]["name"].as_str().context("no name")?;
        all.push(slice(service, pods.get(name).map(Vec::as_slice).unwrap_or_default())?);
    }
    let (istios, kubernetes): (Vec<Value>, Vec<Value>) =
        all.into_iter().partition(|object| object["kind"].as_str().is_some_and(|kind| ISTIOS_OWN.contains(&kind)));
    let text = |objects: Vec<Value>| objects.iter().map(Value::to_string).collect::<Vec<String>>().join("\n---\n");
    Ok(
        json!({"namespace": NAMESPACE, "labels": {GATEWAY_LABEL: GATEWAY}, "address": proxy, "kubernetes": text(kubernetes),
        "istio": text(istios), "extensions": ["inference"]}),
    )
}

/// The EndpointSlice of a Service with these pods.
fn slice(service: &Value, pods: &[Ipv4Addr]) -> anyhow::Result<Value> {
    let name = service["metadata"]["name"].as_str().context("no name")?;
    let endpoints: Vec<Value> =
        pods.iter().map(|pod| json!({"addresses": [pod], "conditions": {"ready": true}})).collect();
    let ports = service["spec"]["ports"].as_array().context("no ports")?;
    let ports: Vec<Value> =
        ports.iter().map(|port| json!({"name": port["name"], "port": port["targetPort"], "protocol": "TCP"})).collect();
    Ok(
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": name}}}),
    )
}

fn run(input: &Value) -> anyhow::Result<Value> {
    let folder = scratch("istio")?;
    let (asked, told) = (folder.path().join("input.json"), folder.path().join("output.json"));
    std::fs::write(&asked, input.to_string())?;
    let output = Command::new(binary()?).arg(&asked).arg(&told).output()?;
    let log = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "istio-xds: {log}");
    document(&std::fs::read_to_string(told)?)
}

/// `ISTIO_XDS_BIN`, or what `./build.sh test control-planes` builds.
fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("ISTIO_XDS_BIN") {
        return Ok(PathBuf::from(path));
    }
    let built = root().join(".tools/istio-xds/istio-xds");
    ensure!(built.exists(), "{} is missing: run ./build.sh test control-planes", built.display());
    Ok(built)
}
