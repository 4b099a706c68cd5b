//! A Kubernetes API server as far as discovery knows one: TLS, a token, pods as tables in pages, watches, and faults.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// The name in the certificate.
const NAME: &str = "kubernetes.default.svc";

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiFault {
    /// Nothing.
    None,
    /// Every answer has this status.
    Status(u16),
    /// What watches begin with is no longer kept.
    Expired,
    /// Answers come after this time.
    Slow(Duration),
}

/// A running API server. Dropping it stops it.
pub struct KubeApi {
    address: SocketAddr,
    authority: String,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

struct State {
    token: String,
    version: u64,
    pods: BTreeMap<String, Pod>,
    events: Vec<(u64, &'static str, Value, BTreeMap<String, String>)>,
    pools: BTreeMap<String, Value>,
    /// Resources about models, by their kind in paths.
    resources: BTreeMap<String, Vec<Value>>,
    fault: ApiFault,
    /// The paths that were asked for, with their statuses.
    asked: Vec<(String, u16)>,
}

#[derive(Clone)]
struct Pod {
    address: IpAddr,
    labels: BTreeMap<String, String>,
    is_ready: bool,
    is_leaving: bool,
    version: u64,
}

impl KubeApi {
    /// Starts one that takes this token.
    pub async fn start(token: &str) -> anyhow::Result<KubeApi> {
        let certified = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])?;
        let authority = certified.cert.pem();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State {
            token: token.to_owned(),
            version: 100,
            pods: BTreeMap::new(),
            events: Vec::new(),
            pools: BTreeMap::new(),
            resources: BTreeMap::new(),
            fault: ApiFault::None,
            asked: Vec::new(),
        }));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(socket).await else { return };
                    let service = service_fn(|request| answer(Arc::clone(&shared), request));
                    // A client that goes away is none of the server's business.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(KubeApi { address, authority, state, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes what Envoy reads in a pod: the token, the authority, and the two files that lead to them.
    pub fn write_secrets(&self, folder: &Path, token: &str) -> anyhow::Result<()> {
        let at = |name: &str| folder.join(name).display().to_string();
        std::fs::write(folder.join("ca.crt"), &self.authority)?;
        replace(&folder.join("token"), token)?;
        const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
        let token = json!({"resources": [{"@type": SECRET, "name": "kube-token",
            "generic_secret": {"secret": {"filename": at("token")}}}]});
        let authority = json!({"resources": [{"@type": SECRET, "name": "kube-ca",
            "validation_context": {"trusted_ca": {"filename": at("ca.crt")},
                "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": NAME}}]}}]});
        std::fs::write(folder.join("sds-token.yaml"), token.to_string())?;
        std::fs::write(folder.join("sds-ca.yaml"), authority.to_string())?;
        Ok(())
    }

    /// Takes another token from now on, and the old one no more.
    pub fn rotate(&self, token: &str) {
        self.lock().token = token.to_owned();
    }

    /// Makes something go wrong.
    pub fn set_fault(&self, fault: ApiFault) {
        self.lock().fault = fault;
    }

    /// Sets an InferencePool.
    pub fn set_pool(&self, name: &str, labels: &[(&str, &str)], ports: &[u16]) {
        let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
        let ports: Vec<Value> = ports.iter().map(|port| json!({"number": port})).collect();
        let pool = json!({"apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool",
            "metadata": {"name": name}, "spec": {"selector": {"matchLabels": labels}, "targetPorts": ports}});
        self.lock().pools.insert(name.to_owned(), pool);
    }

    /// Sets the resources of a kind, such as `inferencemodels`, or `llm-d.ai/inferenceobjectives` in that group, each with its
    /// name and `spec`.
    pub fn set_resources(&self, kind: &str, resources: &[(&str, Value)]) {
        let item = |(name, spec): &(&str, Value)| json!({"metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec});
        self.lock().resources.insert(kind.to_owned(), resources.iter().map(item).collect());
    }

    /// Adds a pod, or changes it.
    pub fn set_pod(&self, name: &str, address: IpAddr, labels: &[(&str, &str)], is_ready: bool) {
        let mut state = self.lock();
        let kind = if state.pods.contains_key(name) { "MODIFIED" } else { "ADDED" };
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let pod = Pod { address, labels, is_ready, is_leaving: false, version: 0 };
        state.change(name, pod, kind);
    }

    /// Says that a pod is on its way out.
    pub fn terminate(&self, name: &str) {
        let mut state = self.lock();
        if let Some(pod) = state.pods.get(name).cloned() {
            state.change(name, Pod { is_leaving: true, ..pod }, "MODIFIED");
        }
    }

    /// Removes a pod.
    pub fn delete(&self, name: &str) {
        let mut state = self.lock();
        if let Some(pod) = state.pods.get(name).cloned() {
            state.change(name, pod, "DELETED");
            state.pods.remove(name);
        }
    }

    /// What was asked, and how it was answered.
    pub fn asked(&self) -> Vec<(String, u16)> {
        self.lock().asked.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for KubeApi {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Replaces a file in one step, as kubelet does.
pub fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let next = path.with_extension("next");
    std::fs::write(&next, text)?;
    std::fs::rename(&next, path).with_context(|| path.display().to_string())
}

impl State {
    fn change(&mut self, name: &str, pod: Pod, kind: &'static str) {
        self.version += 1;
        let pod = Pod { version: self.version, ..pod };
        self.events.push((self.version, kind, pod.row(name), pod.labels.clone()));
        self.pods.insert(name.to_owned(), pod);
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Value {
        let rows: Vec<Value> =
            self.pods.iter().filter(|(_, pod)| matches(query, &pod.labels)).map(|(name, pod)| pod.row(name)).collect();
        let limit: usize = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let start: usize = query.get("continue").and_then(|token| token.parse().ok()).unwrap_or(0);
        let end = rows.len().min(start.saturating_add(limit));
        let token = if end < rows.len() { end.to_string() } else { String::new() };
        json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "columnDefinitions": columns(), "rows": rows[start.min(end)..end],
            "metadata": {"resourceVersion": self.version.to_string(), "continue": token}})
    }

    fn events_since(&self, query: &BTreeMap<String, String>) -> String {
        if self.fault == ApiFault::Expired {
            let status =
                json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"});
            return json!({"type": "ERROR", "object": status}).to_string();
        }
        let since: u64 = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        let mut lines = String::new();
        let mut columns = Some(columns());
        let start = self.events.partition_point(|(version, ..)| *version <= since);
        for (_, kind, row, labels) in self.events.iter().skip(start) {
            if matches(query, labels) {
                // Only a watch's first event says which columns there are.
                let object = json!({"kind": "Table", "columnDefinitions": columns.take(), "rows": [row]});
                lines += &json!({"type": kind, "object": object}).to_string();
                lines.push('\n');
            }
        }
        lines
    }
}

fn matches(query: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    let selector = query.get("labelSelector").map(String::as_str).unwrap_or_default();
    selector
        .split(',')
        .filter_map(|label| label.split_once('='))
        .all(|(name, value)| labels.get(name).map(String::as_str) == Some(value))
}

fn columns() -> Value {
    let names = ["Name", "Ready", "Status", "Restarts", "Age", "IP", "Node", "Nominated Node", "Readiness Gates"];
    names.iter().map(|name| json!({"name": name, "type": "string"})).collect()
}

impl Pod {
    fn row(&self, name: &str) -> Value {
        let ready = if self.is_ready { "1/1" } else { "0/1" };
        let status = if self.is_leaving { "Terminating" } else { "Running" };
        let mut metadata = json!({"name": name, "resourceVersion": self.version.to_string(), "labels": self.labels});
        if self.is_leaving {
            metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let cells = json!([name, ready, status, "0", "5m", self.address.to_string(), "node", "<none>", "<none>"]);
        json!({"cells": cells, "object": {"kind": "PartialObjectMetadata", "metadata": metadata}})
    }
}

async fn answer<B>(state: Arc<Mutex<State>>, request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let query: BTreeMap<String, String> = request
        .uri()
        .query()
        .map(|query| form_urlencoded::parse(query.as_bytes()).into_owned().collect())
        .unwrap_or_default();
    let bearer = request.headers().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (fault, is_known) = {
        let state = lock(&state);
        (state.fault, bearer == format!("Bearer {}", state.token))
    };
    if let ApiFault::Slow(time) = fault {
        tokio::time::sleep(time).await;
    }
    let is_watch = query.get("watch").map(String::as_str) == Some("1");
    let (status, body) = match fault {
        ApiFault::Status(status) => (status, String::new()),
        _ if !is_known => (401, json!({"kind": "Status", "code": 401}).to_string()),
        _ if path.contains("/inferencepools/") => {
            let name = path.rsplit('/').next().unwrap_or_default();
            match lock(&state).pools.get(name) {
                Some(pool) => (200, pool.to_string()),
                None => (404, json!({"kind": "Status", "code": 404}).to_string()),
            }
        }
        _ if path.ends_with("/pods") && is_watch => {
            let seconds = query.get("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).unwrap_or(1);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            let state = lock(&state);
            let mut events = state.events_since(&query);
            // The API sends a bookmark two seconds before the end, and so none in a shorter watch.
            if seconds > 2 && state.fault == ApiFault::None {
                let object =
                    json!({"kind": "Table", "metadata": {"resourceVersion": state.version.to_string()}, "rows": []});
                events += &json!({"type": "BOOKMARK", "object": object}).to_string();
            }
            (200, events)
        }
        _ if path.ends_with("/pods") => (200, lock(&state).list(&query).to_string()),
        _ => {
            let of = |group: &str| path.strip_prefix(&format!("/apis/{group}/v1alpha2/namespaces/models/"));
            let kind = of("inference.networking.x-k8s.io").map(str::to_owned);
            let kind = kind.or_else(|| of("llm-d.ai").map(|kind| format!("llm-d.ai/{kind}")));
            match kind.and_then(|kind| lock(&state).resources.get(&kind).cloned()) {
                Some(items) => (200, json!({"kind": "List", "items": items}).to_string()),
                None => (404, json!({"kind": "Status", "code": 404}).to_string()),
            }
        }
    };
    lock(&state).asked.push((request.uri().to_string(), status));
    let response = Response::builder().status(status).header("content-type", "application/json");
    Ok(response.body(Full::new(Bytes::from(body))).unwrap_or_default())
}
