//! The chart's objects through a control plane's own translator, and the result in a real Envoy in front of simulated pods.
//!
//! A test of the chart that applies its patches by code of this project only finds what this project knows of a control plane. Here the
//! control plane's code does it. What a test has to change on the way in and on the way out is in [`egctl`], [`istio`] and [`xds`], each with the reason.

pub mod cases;
pub mod egctl;
pub mod istio;
pub mod site;
pub mod xds;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::ensure;
use chart_tests::{of_kind, walk};
use serde_json::{Map, Value};

/// The addresses of pods, by the name of their Service.
pub type Pods = BTreeMap<String, Vec<Ipv4Addr>>;

/// The chart's objects but for InferencePools. Fails where a route leads to one, since then they would matter.
pub fn without_pools(rendered: &[Value]) -> anyhow::Result<Vec<Value>> {
    for route in of_kind(rendered, "HTTPRoute") {
        let mut names_pool = false;
        walk(route, &mut |map| names_pool |= map.get("kind").is_some_and(|kind| kind == "InferencePool"));
        ensure!(!names_pool, "a route leads to an InferencePool, which is left out here: {route}");
    }
    Ok(rendered.iter().filter(|object| object["kind"] != "InferencePool").cloned().collect())
}

/// Calls `visit` with every map in a value, the inner ones first; it may change them.
pub fn walk_mut(
    value: &mut Value,
    visit: &mut impl FnMut(&mut Map<String, Value>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    match value {
        Value::Object(map) => {
            for value in map.values_mut() {
                walk_mut(value, visit)?;
            }
            visit(map)
        }
        Value::Array(values) => values.iter_mut().try_for_each(|value| walk_mut(value, visit)),
        _ => Ok(()),
    }
}
