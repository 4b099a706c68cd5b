//! What Istio does with the chart's EnvoyFilter, as far as Envoy's validation needs it.

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::patch::{listener, merge};
use crate::{NAMESPACE, of_kind};

/// The bootstrap of a Gateway's proxy that has the chart's objects.
pub fn bootstrap(objects: &[Value]) -> anyhow::Result<Value> {
    let mut names = Vec::new();
    let mut clusters = Vec::new();
    for route in of_kind(objects, "HTTPRoute") {
        let backend = &route["spec"]["rules"][0]["backendRefs"][0];
        let host = format!("{}.{NAMESPACE}.svc.cluster.local", backend["name"].as_str().context("no backend")?);
        let name = format!("outbound|{}||{host}", backend["port"]);
        if names.contains(&name) {
            continue;
        }
        // Istio's own, which the patch meets.
        clusters.push(json!({"name": name, "type": "STATIC", "lb_policy": "LEAST_REQUEST", "common_lb_config": {},
            "metadata": {"filter_metadata": {"istio": {"services": [{"host": host}]}}},
            "circuit_breakers": {"thresholds": [{"max_connections": 4294967295u32}]}}));
        names.push(name);
    }
    let mut listener = listener("0.0.0.0_80", "filter_chains", &names);
    for (route, found) in routes(&mut listener)?.iter_mut().zip(&of_kind(objects, "HTTPRoute")) {
        route["name"] = json!(format!("{NAMESPACE}.{}.0", found["metadata"]["name"].as_str().unwrap_or_default()));
    }
    let mut extensions = Vec::new();
    let filter = of_kind(objects, "EnvoyFilter").pop().context("no EnvoyFilter")?;
    for patch in filter["spec"]["configPatches"].as_array().context("no patches")? {
        let (kind, operation) = (patch["applyTo"].as_str(), patch["patch"]["operation"].as_str());
        let value = &patch["patch"]["value"];
        let manager = "/filter_chains/0/filters/0";
        match (kind.unwrap_or_default(), operation.unwrap_or_default()) {
            ("LISTENER", "MERGE") => merge(&mut listener, value),
            ("NETWORK_FILTER", "MERGE") => merge(listener.pointer_mut(manager).context("no manager")?, value),
            ("HTTP_FILTER", "INSERT_BEFORE") => {
                let filters = listener
                    .pointer_mut(&format!("{manager}/typed_config/http_filters"))
                    .and_then(Value::as_array_mut)
                    .context("no filters")?;
                filters.insert(filters.len() - 1, value.clone());
            }
            ("HTTP_FILTER", "INSERT_FIRST") => {
                let filters = listener
                    .pointer_mut(&format!("{manager}/typed_config/http_filters"))
                    .and_then(Value::as_array_mut)
                    .context("no filters")?;
                filters.insert(0, value.clone());
            }
            ("EXTENSION_CONFIG", "ADD") => extensions.push(value.clone()),
            ("HTTP_ROUTE", "MERGE") => {
                let name = &patch["match"]["routeConfiguration"]["vhost"]["route"]["name"];
                let route = routes(&mut listener)?.iter_mut().find(|route| route["name"] == *name);
                merge(route.with_context(|| format!("no route is called {name}"))?, value);
            }
            ("CLUSTER", "ADD") => clusters.push(value.clone()),
            ("CLUSTER", "MERGE") => {
                let service = &patch["match"]["cluster"]["service"];
                let matched = clusters
                    .iter_mut()
                    .find(|cluster| cluster["metadata"]["filter_metadata"]["istio"]["services"][0]["host"] == *service);
                merge(matched.with_context(|| format!("no cluster is for {service}"))?, value);
            }
            other => bail!("{other:?} is not known here"),
        }
    }
    resolve(&mut listener, &extensions)?;
    Ok(json!({
        "node": {"id": "proxy", "cluster": "proxy"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    }))
}

/// The routes of a listener.
fn routes(listener: &mut Value) -> anyhow::Result<&mut Vec<Value>> {
    let place = "/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes";
    listener.pointer_mut(place).and_then(Value::as_array_mut).context("no routes")
}

/// Puts in what ECDS would bring, with a file in the place of the address, as the agent does.
fn resolve(listener: &mut Value, extensions: &[Value]) -> anyhow::Result<()> {
    let filters = listener
        .pointer_mut("/filter_chains/0/filters/0/typed_config/http_filters")
        .and_then(Value::as_array_mut)
        .context("no filters")?;
    for filter in filters {
        if filter.get("config_discovery").is_none() {
            continue;
        }
        let found = extensions.iter().find(|extension| extension["name"] == filter["name"]);
        let mut config = found.with_context(|| format!("nothing brings {}", filter["name"]))?["typed_config"].clone();
        let code = config.pointer_mut("/value/config/vm_config/code").context("no code")?;
        let uri = code["remote"]["http_uri"]["uri"].as_str().unwrap_or_default();
        ensure!(uri.starts_with("oci://") || uri.starts_with("https://"), "{uri:?} is not an address of a module");
        *code = json!({"local": {"filename": "/plugin/inference.wasm"}});
        *filter = json!({"name": filter["name"], "typed_config": config});
    }
    Ok(())
}
