//! What Envoy Gateway does with the chart's objects, as far as Envoy's validation needs it: JSON patches to a listener,
//! a bootstrap that is merged, and a cluster for each route.

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::{NAMESPACE, RELEASE, document, of_kind};

/// A listener with a connection manager as control planes write it: routes, a filter of their own, and the router.
pub fn listener(name: &str, chain: &str, clusters: &[String]) -> Value {
    let routes: Vec<Value> = clusters
        .iter()
        .map(|cluster| json!({"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}))
        .collect();
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "http_filters": [{"name": "authentication", "disabled": true,
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"}},
            {"name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
        "route_config": {"name": "http", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    });
    let filters =
        json!({"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]});
    let mut listener = json!({"name": name, "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}});
    listener[chain] = if chain == "filter_chains" { json!([filters]) } else { filters };
    listener
}

/// The bootstrap of a proxy of Envoy Gateway's that has the chart's objects.
pub fn envoy_gateway(objects: &[Value]) -> anyhow::Result<Value> {
    let clusters: Vec<String> = of_kind(objects, "HTTPRoute")
        .iter()
        .map(|route| format!("httproute/{NAMESPACE}/{}/rule/0", route["metadata"]["name"].as_str().unwrap_or_default()))
        .collect();
    let mut listener = listener(&format!("{NAMESPACE}/{RELEASE}-gateway/http"), "default_filter_chain", &clusters);
    for policy in of_kind(objects, "EnvoyPatchPolicy") {
        for patch in policy["spec"]["jsonPatches"].as_array().context("no patches")? {
            if patch["name"] != listener["name"] {
                bail!("a patch is for the listener {}, which is not there", patch["name"]);
            }
            let operation = &patch["operation"];
            let path = match operation["jsonPath"].as_str() {
                Some(path) => router_place(&listener, path)?,
                None => operation["path"].as_str().context("no path")?.to_owned(),
            };
            add(&mut listener, &path, operation["value"].clone())?;
        }
    }
    client_traffic(&mut listener, objects)?;
    let policy = of_kind(objects, "BackendTrafficPolicy").pop().context("no BackendTrafficPolicy")?;
    let header = &policy["spec"]["loadBalancer"]["endpointOverride"]["extractFrom"][0]["header"];
    let clusters: Vec<Value> = clusters
        .iter()
        .map(|name| {
            json!({"name": name, "type": "STRICT_DNS", "load_balancing_policy": {"policies": [{"typed_extension_config": {
                "name": "envoy.load_balancing_policies.override_host",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost",
                    "override_host_sources": [{"header": header}],
                    "fallback_policy": {"policies": [{"typed_extension_config": {
                        "name": "envoy.load_balancing_policies.least_request",
                        "typed_config": {"@type":
                            "type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest"},
                    }}]},
                },
            }}]}})
        })
        .collect();
    let mut bootstrap = json!({
        "node": {"id": "proxy", "cluster": "proxy"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    });
    let proxy = of_kind(objects, "EnvoyProxy").pop().context("no EnvoyProxy")?;
    let more = document(proxy["spec"]["bootstrap"]["value"].as_str().context("no bootstrap")?)?;
    merge(&mut bootstrap, &more);
    Ok(bootstrap)
}

/// What the ClientTrafficPolicy changes in a listener.
fn client_traffic(listener: &mut Value, objects: &[Value]) -> anyhow::Result<()> {
    let spec = &of_kind(objects, "ClientTrafficPolicy").pop().context("no ClientTrafficPolicy")?["spec"];
    let bytes = |value: &Value| anyhow::Ok(value.as_str().context("no size")?.parse::<u64>()?);
    listener["per_connection_buffer_limit_bytes"] = json!(bytes(&spec["connection"]["bufferLimit"])?);
    let manager = listener.pointer_mut("/default_filter_chain/filters/0/typed_config").context("no manager")?;
    manager["http2_protocol_options"] = json!({
        "initial_stream_window_size": bytes(&spec["http2"]["initialStreamWindowSize"])?,
        "initial_connection_window_size": bytes(&spec["http2"]["initialConnectionWindowSize"])?,
    });
    let removed = spec["headers"]["earlyRequestHeaders"]["remove"].as_array().context("no header is removed")?;
    let mutations: Vec<Value> = removed.iter().map(|name| json!({"remove": name})).collect();
    manager["early_header_mutation_extensions"] = json!([{
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": mutations,
        },
    }]);
    Ok(())
}

/// The JSON pointer to the router, which is all that the chart asks for by a JSON path.
fn router_place(listener: &Value, path: &str) -> anyhow::Result<String> {
    let rest = path.strip_prefix("..").context("not from the document's beginning")?;
    let (filters, selector) = rest.split_once("[?").context("selects nothing")?;
    ensure!(selector == "match(@.name, 'envoy.filters.http.router')]", "{selector:?} is not known here");
    let pointer = format!("/{}", filters.replace(['.', '['], "/").replace(']', ""));
    let filters = listener.pointer(&pointer).and_then(Value::as_array).context("no filters")?;
    let at = filters.iter().position(|filter| filter["name"] == "envoy.filters.http.router").context("no router")?;
    Ok(format!("{pointer}/{at}"))
}

/// Adds a value where a JSON pointer says, as RFC 6902 does.
fn add(target: &mut Value, pointer: &str, value: Value) -> anyhow::Result<()> {
    let (parent, last) = pointer.rsplit_once('/').context("no pointer")?;
    match target.pointer_mut(parent).with_context(|| format!("{parent} is not there"))? {
        Value::Object(map) => {
            map.insert(last.to_owned(), value);
        }
        Value::Array(values) => values.insert(last.parse()?, value),
        _ => bail!("{parent} has no members"),
    }
    Ok(())
}

/// Merges as protocol buffers do: maps by key, lists one after the other.
pub fn merge(target: &mut Value, more: &Value) {
    match (target, more) {
        (Value::Object(target), Value::Object(more)) => {
            for (key, value) in more {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(target), Value::Array(more)) => target.extend(more.iter().cloned()),
        (target, more) => *target = more.clone(),
    }
}
