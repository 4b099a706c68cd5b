//! Pods as the Kubernetes API prints them: a table, whose cells say what `kubectl get pods -o wide` shows.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error;
use serde_json::Value;

use super::Pod;
use crate::config::raw::EngineName;

/// A page of a list, or an event's object.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Table {
    #[serde(default)]
    pub(super) metadata: ListMetadata,
    #[serde(default)]
    column_definitions: Option<Vec<Column>>,
    #[serde(default)]
    pub(super) rows: Vec<Row>,
    /// Of a Status, in the place of a table.
    #[serde(default)]
    pub(super) code: u16,
}

/// An event of a watch.
#[derive(Deserialize)]
pub(super) struct Event {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) object: Table,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    pub(super) continue_: String,
}

#[derive(Deserialize)]
struct Column {
    name: String,
}

/// Where the cells are that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    ready: usize,
    status: usize,
    ip: usize,
}

#[derive(Deserialize)]
pub(super) struct Row {
    #[serde(default)]
    cells: Vec<Value>,
    #[serde(default)]
    object: Object,
}

#[derive(Default, Deserialize)]
struct Object {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    deletion_timestamp: Option<String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// The annotation that limits a pod's ports, and what it was called before.
const ACTIVE_PORTS: [&str; 2] = ["llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports"];
/// The label that names a pod's engine, and what it was called before.
const ENGINE_TYPE: [&str; 2] = ["llm-d.ai/engine-type", "inference.networking.k8s.io/engine-type"];

impl Table {
    /// The version that it is of.
    pub(super) fn version(&self) -> Option<u64> {
        self.metadata.resource_version.parse().ok()
    }

    /// Where the cells are, if the table says so: later events of a watch don't.
    pub(super) fn columns(&self) -> Option<Columns> {
        let columns = self.column_definitions.as_ref()?;
        let at = |name: &str| columns.iter().position(|column| column.name == name);
        Some(Columns { ready: at("Ready")?, status: at("Status")?, ip: at("IP")? })
    }
}

impl Row {
    pub(super) fn name(&self) -> &str {
        &self.object.metadata.name
    }

    /// When it was last changed; versions count changes, as Kubernetes 1.35 promises and every API before has done.
    pub(super) fn version(&self) -> Option<u64> {
        self.object.metadata.resource_version.parse().ok()
    }

    /// The pod with these of its labels, if it takes requests: it runs, all of its containers are ready, and it is not on
    /// its way out.
    pub(super) fn pod(&self, columns: Columns, labels: &BTreeSet<String>) -> Option<Pod> {
        let cell = |at: usize| self.cells.get(at).and_then(Value::as_str).unwrap_or_default();
        let (ready, all) = cell(columns.ready).split_once('/')?;
        let is_ready = ready == all && ready != "0" && cell(columns.status) == "Running";
        let metadata = &self.object.metadata;
        if !is_ready || metadata.deletion_timestamp.is_some() {
            return None;
        }
        let address = cell(columns.ip).parse().ok()?;
        let active_ports = ACTIVE_PORTS.iter().find_map(|name| metadata.annotations.get(*name));
        let ports = active_ports.map(|list| list.split(',').filter_map(|port| port.trim().parse().ok()).collect());
        let engine = ENGINE_TYPE.iter().find_map(|label| metadata.labels.get(*label));
        let engine = engine
            .and_then(|name| EngineName::deserialize(IntoDeserializer::<Error>::into_deserializer(name.as_str())).ok());
        let wanted = metadata.labels.iter().filter(|(name, _)| labels.contains(*name));
        let labels = wanted.map(|(name, value)| (name.clone(), value.clone())).collect();
        Some(Pod { address, active_ports: ports, engine, labels })
    }
}
