//! The pods of the API server: lists in pages, watches with bookmarks, and a history that can be compacted and restored.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::{ApiFault, Asked, Reply};

/// A pod as a test wants it.
#[derive(Clone)]
pub struct PodSpec {
    addresses: Vec<IpAddr>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    ready: &'static str,
    is_leaving: bool,
}

impl PodSpec {
    /// A pod that is ready, with this address and these labels.
    pub fn ready(address: IpAddr, labels: &[(&str, &str)]) -> PodSpec {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        PodSpec { addresses: vec![address], labels, annotations: BTreeMap::new(), ready: "True", is_leaving: false }
    }

    /// The status of its condition Ready: `True`, `False` or `Unknown`. Its containers are ready all the same, as they are with a readiness
    /// gate that is not met, and on a node that is lost.
    pub fn condition(self, ready: &'static str) -> PodSpec {
        PodSpec { ready, ..self }
    }

    /// All of its addresses, the first one first.
    pub fn addresses(self, addresses: Vec<IpAddr>) -> PodSpec {
        PodSpec { addresses, ..self }
    }

    /// One more annotation.
    pub fn annotation(mut self, name: &str, value: &str) -> PodSpec {
        self.annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The whole object, as the API has it.
    fn object(&self, name: &str, version: u64) -> Value {
        let mut metadata = json!({"name": name, "namespace": "models", "uid": format!("uid-{name}"), "resourceVersion": version.to_string(),
            "labels": self.labels, "creationTimestamp": "2026-01-01T00:00:00Z",
            "managedFields": [{"manager": "kubelet", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {"f:status": {}}}]});
        if !self.annotations.is_empty() {
            metadata["annotations"] = json!(self.annotations);
        }
        if self.is_leaving {
            metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let conditions: Vec<Value> = [("PodScheduled", "True"), ("ContainersReady", "True"), ("Ready", self.ready)]
            .map(|(kind, status)| json!({"type": kind, "status": status, "lastProbeTime": null}))
            .into();
        let addresses: Vec<Value> = self.addresses.iter().map(|address| json!({"ip": address})).collect();
        json!({"metadata": metadata, "spec": {"nodeName": "node", "containers": [{"name": "vllm", "image": "vllm/vllm-openai"}]},
            "status": {"phase": "Running", "conditions": conditions, "podIP": self.addresses.first(), "podIPs": addresses,
                "containerStatuses": [{"name": "vllm", "ready": true}]}})
    }
}

/// All pods, and what happened to them.
pub(super) struct Pods {
    version: u64,
    pods: BTreeMap<String, (u64, PodSpec)>,
    events: Vec<Happened>,
}

/// A change of a pod. What a watch is told depends on which of the two sets of labels it selects.
struct Happened {
    version: u64,
    object: Value,
    /// None of a pod that is new.
    before: Option<BTreeMap<String, String>>,
    /// None of a pod that is gone.
    after: Option<BTreeMap<String, String>>,
}

impl Happened {
    fn kind(&self, asked: &Asked) -> Option<&'static str> {
        let is_selected =
            |labels: &Option<BTreeMap<String, String>>| labels.as_ref().is_some_and(|labels| matches(asked, labels));
        match (is_selected(&self.before), is_selected(&self.after)) {
            (false, false) => None,
            (false, true) => Some("ADDED"),
            (true, true) => Some("MODIFIED"),
            (true, false) => Some("DELETED"),
        }
    }
}

impl Pods {
    pub(super) fn new() -> Pods {
        Pods { version: 1_000, pods: BTreeMap::new(), events: Vec::new() }
    }

    pub(super) fn set(&mut self, name: &str, pod: PodSpec) {
        self.change(name, pod, false);
    }

    pub(super) fn terminate(&mut self, name: &str) {
        if let Some((_, pod)) = self.pods.get(name).cloned() {
            self.change(name, PodSpec { is_leaving: true, ..pod }, false);
        }
    }

    pub(super) fn delete(&mut self, name: &str) {
        if let Some((_, pod)) = self.pods.get(name).cloned() {
            self.change(name, pod, true);
        }
    }

    pub(super) fn restore(&mut self, pods: Vec<(&str, PodSpec)>) {
        self.version -= 500;
        self.events.clear();
        self.pods = pods.into_iter().map(|(name, pod)| (name.to_owned(), (self.version, pod))).collect();
    }

    fn change(&mut self, name: &str, pod: PodSpec, is_gone: bool) {
        self.version += 1;
        let before = self.pods.remove(name).map(|(_, before)| before.labels);
        let object = with_kind(pod.object(name, self.version));
        let after = (!is_gone).then(|| pod.labels.clone());
        self.events.push(Happened { version: self.version, object, before, after });
        if !is_gone {
            self.pods.insert(name.to_owned(), (self.version, pod));
        }
    }

    pub(super) fn reply(&self, asked: &Asked, fault: ApiFault) -> Reply {
        match (asked.is_watch(), fault) {
            (true, _) => self.watch(asked, fault),
            (false, ApiFault::Expired) if asked.query.contains_key("continue") => {
                let message = "The provided continue parameter is too old to display a consistent list result.";
                Reply::status(410, "Expired", message)
            }
            (false, _) => self.list(asked),
        }
    }

    fn list(&self, asked: &Asked) -> Reply {
        let has_metadata_alone = asked.accept.starts_with("application/json;as=PartialObjectMetadataList;");
        let mut items: Vec<Value> = self
            .pods
            .iter()
            .filter(|(_, (_, pod))| matches(asked, &pod.labels))
            .map(|(name, (version, pod))| pod.object(name, *version))
            .collect();
        if has_metadata_alone {
            items = items.into_iter().map(|item| json!({"metadata": item["metadata"]})).collect();
        }
        let number = |key: &str| asked.query.get(key).and_then(|value| value.parse::<usize>().ok());
        let (limit, start) = (number("limit").unwrap_or(usize::MAX), number("continue").unwrap_or(0));
        let end = items.len().min(start.saturating_add(limit));
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if end < items.len() {
            metadata["continue"] = json!(end.to_string());
        }
        let kind = if has_metadata_alone { "PartialObjectMetadataList" } else { "PodList" };
        Reply::ok(json!({"kind": kind, "metadata": metadata, "items": items[start.min(end)..end]}))
    }

    fn watch(&self, asked: &Asked, fault: ApiFault) -> Reply {
        if fault == ApiFault::Expired {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Expired",
                "code": 410, "message": "too old resource version"});
            return Reply::ok(json!({"type": "ERROR", "object": status}));
        }
        let since: u64 = asked.query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        let mut lines = String::new();
        for event in self.events.iter().filter(|event| event.version > since) {
            if let Some(kind) = event.kind(asked) {
                lines += &json!({"type": kind, "object": event.object}).to_string();
                lines.push('\n');
            }
        }
        // The API sends a bookmark two seconds before the end, and so none in a shorter watch; and none that is older than what was asked for.
        if asked.seconds() > 2 && self.version >= since {
            let object = json!({"kind": "Pod", "apiVersion": "v1", "spec": {"containers": null}, "status": {},
                "metadata": {"resourceVersion": self.version.to_string(), "creationTimestamp": null}});
            lines += &json!({"type": "BOOKMARK", "object": object}).to_string();
            lines.push('\n');
        }
        if fault == ApiFault::Cut {
            lines += r#"{"type":"DELETED","object":{"kind":"Pod","metadata":{"na"#;
        }
        Reply::ok(lines)
    }
}

fn with_kind(mut object: Value) -> Value {
    object["kind"] = json!("Pod");
    object["apiVersion"] = json!("v1");
    object
}

fn matches(asked: &Asked, labels: &BTreeMap<String, String>) -> bool {
    let selector = asked.query.get("labelSelector").map(String::as_str).unwrap_or_default();
    selector
        .split(',')
        .filter_map(|label| label.split_once('='))
        .all(|(name, value)| labels.get(name).map(String::as_str) == Some(value))
}
