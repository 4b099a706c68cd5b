//! The chart's objects through a control plane's own translator, and the result in a real Envoy in front of simulated pods.
//!
//! A test of the chart that applies its patches by code of this project only finds what this project knows of a control plane. Here the
//! control plane's code does it. What a test has to change on the way in and on the way out is in [`egctl`] and [`xds`], each with the reason.

pub mod egctl;
pub mod site;
pub mod xds;

use serde_json::{Map, Value};

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
