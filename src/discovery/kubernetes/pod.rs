//! Pods as the Kubernetes API gives them, of which only what an endpoint needs is kept.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Deserialize;

use crate::config::raw::EngineName;
use crate::discovery::failure::one_line;
use crate::engine;
use crate::poller::{Hint, is_path};
use crate::scheduling::labels::Labels;

/// The annotation that limits a pod's ports, and what it was called before.
const ACTIVE_PORTS: [&str; 2] = ["llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports"];
/// The annotations by which pods tell Prometheus where their metrics are.
const METRICS_PORT: &str = "prometheus.io/port";
const METRICS_PATH: &str = "prometheus.io/path";

/// A pod that takes requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) address: IpAddr,
    /// Of the pool's ports only these, if it says so.
    pub(super) active_ports: Option<ActivePorts>,
    /// What runs in it, if it says so.
    pub(super) engine: Option<EngineName>,
    /// Where its metrics page is, if it says so.
    pub(super) page: Hint,
    /// What it says of that and cannot be used.
    pub(super) odd: Vec<String>,
    pub(super) labels: Labels,
}

/// What a pod's annotation says of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ActivePorts {
    pub(super) annotation: &'static str,
    pub(super) value: String,
    pub(super) ports: Vec<u16>,
    /// Whether every element is a port.
    pub(super) is_sound: bool,
}

/// A page of a list.
#[derive(Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    pub(super) metadata: ListMetadata,
    /// A list without items may have none at all.
    #[serde(default)]
    pub(super) items: Option<Vec<Object>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    pub(super) continue_: String,
}

/// A list of which only the version matters.
#[derive(Deserialize)]
pub(super) struct Version {
    #[serde(default)]
    pub(super) metadata: ListMetadata,
}

/// What an event of a watch is, which says what its object is.
#[derive(Deserialize)]
pub(super) struct EventType<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) name: Cow<'a, str>,
}

/// An event with its object.
#[derive(Deserialize)]
pub(super) struct Event<T> {
    pub(super) object: T,
}

#[derive(Deserialize)]
pub(super) struct Object {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    status: Status,
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
    annotations: Option<Annotations>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

/// Pods may have a quarter of a megabyte of annotations: the others are skipped and not copied.
#[derive(Default, Deserialize)]
struct Annotations {
    #[serde(default, rename = "llm-d.ai/active-ports")]
    active_ports: Option<String>,
    #[serde(default, rename = "inference.networking.k8s.io/active-ports")]
    active_ports_before: Option<String>,
    #[serde(default, rename = "prometheus.io/port")]
    metrics_port: Option<String>,
    #[serde(default, rename = "prometheus.io/path")]
    metrics_path: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    phase: String,
    #[serde(default, rename = "podIP")]
    pod_ip: String,
    #[serde(default, rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
    #[serde(default)]
    conditions: Option<Vec<Condition>>,
}

#[derive(Deserialize)]
struct PodIp {
    #[serde(default)]
    ip: String,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    status: String,
}

impl ListMetadata {
    /// The version that the list is of; versions count changes, as Kubernetes 1.35 promises and every API before has done.
    pub(super) fn version(&self) -> Option<u64> {
        self.resource_version.parse().ok()
    }
}

impl Object {
    pub(super) fn name(&self) -> &str {
        &self.metadata.name
    }

    /// When it was last changed.
    pub(super) fn version(&self) -> Option<u64> {
        self.metadata.resource_version.parse().ok()
    }

    /// The pod with these of its labels, if it takes requests: it runs, it is ready, and it is not on its way out. The condition Ready
    /// is false where a readiness gate is, and false or unknown where the node is lost, whatever the containers say.
    pub(super) fn pod(&self, labels: &BTreeSet<String>) -> Option<Pod> {
        let conditions = self.status.conditions.as_deref().unwrap_or_default();
        let is_ready = conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True");
        if self.status.phase != "Running" || !is_ready || self.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let all: BTreeMap<String, String>;
        let of_pod = match &self.metadata.labels {
            Some(of_pod) => of_pod,
            None => {
                all = BTreeMap::new();
                &all
            }
        };
        let engine = engine::named_by(of_pod);
        let wanted = of_pod.iter().filter(|(name, _)| labels.contains(*name));
        let labels = wanted.map(|(name, value)| (name.clone(), value.clone())).collect();
        let (page, odd) = self.page();
        Some(Pod { address: self.address()?, active_ports: self.active_ports(), engine, page, odd, labels })
    }

    /// Where Prometheus is told to find the pod's metrics, by the annotations that most charts of model servers set.
    fn page(&self) -> (Hint, Vec<String>) {
        let Some(annotations) = &self.metadata.annotations else { return (Hint::default(), Vec::new()) };
        let mut odd = Vec::new();
        let mut read = |name: &str, value: &Option<String>, what: &str, is_good: fn(&str) -> bool| {
            let value = value.as_deref()?.trim();
            if !is_good(value) {
                odd.push(format!("the annotation {name} {:?} is {what}; it is left aside", one_line(value)));
            }
            is_good(value).then(|| value.to_owned())
        };
        let is_port = |value: &str| value.parse::<u16>().is_ok_and(|port| port != 0);
        let port = read(METRICS_PORT, &annotations.metrics_port, "not a port", is_port);
        let path = read(METRICS_PATH, &annotations.metrics_path, "not a path, which begins with /", is_path);
        (Hint { port: port.and_then(|port| port.parse().ok()), path }, odd)
    }

    /// Of the addresses of a pod the IPv4 one, which Envoy's cluster has where there is any: its names are looked up so.
    fn address(&self) -> Option<IpAddr> {
        let listed = self.status.pod_ips.iter().flatten().map(|pod_ip| pod_ip.ip.as_str());
        let all: Vec<IpAddr> = listed.chain([self.status.pod_ip.as_str()]).filter_map(|ip| ip.parse().ok()).collect();
        all.iter().find(|address| address.is_ipv4()).or_else(|| all.first()).copied()
    }

    fn active_ports(&self) -> Option<ActivePorts> {
        let annotations = self.metadata.annotations.as_ref()?;
        let values = [&annotations.active_ports, &annotations.active_ports_before];
        let (annotation, value) =
            ACTIVE_PORTS.into_iter().zip(values).find_map(|(name, value)| Some((name, value.as_ref()?)))?;
        let parsed: Vec<Option<u16>> =
            value.split(',').map(|port| port.trim().parse().ok().filter(|port| *port != 0)).collect();
        let is_sound = parsed.iter().all(Option::is_some);
        Some(ActivePorts { annotation, value: value.clone(), ports: parsed.into_iter().flatten().collect(), is_sound })
    }
}
