//! A Kubernetes API server as far as discovery knows one: TLS, tokens and rights, pods in pages, watches, and its faults.
//!
//! What it answers is what kube-apiserver 1.36 does, down to the status of each refusal. Rights are checked before anything else is
//! looked at, so that without one a resource that is not installed is forbidden, and not unknown.

mod pods;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
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

pub use pods::PodSpec;

use pods::Pods;

/// The name in the certificate.
const NAME: &str = "kubernetes.default.svc";
/// Who has the token.
const ACCOUNT: &str = "system:serviceaccount:models:envoy";

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiFault {
    /// Nothing.
    None,
    /// Every answer has this status.
    Status(u16),
    /// It is starting: its paths are not there yet, and it asks to be left alone for a second.
    Starting,
    /// It has started, and its caches of roles are still empty: everything is forbidden.
    Filling,
    /// What watches and lists began with is no longer kept.
    Expired,
    /// Answers come after this time.
    Slow(Duration),
    /// Connections are closed before they are answered.
    Away,
    /// Watches are cut in the middle of an event.
    Cut,
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
    pods: Pods,
    /// InferencePools by their group and name.
    pools: BTreeMap<(String, String), Value>,
    /// Resources about models, by their kind in paths.
    resources: BTreeMap<String, Vec<Value>>,
    /// The rights that were taken away, each as `VERB RESOURCE` with the group, such as `watch pods` or `list inferenceobjectives.llm-d.ai`.
    denied: BTreeSet<String>,
    fault: ApiFault,
    /// The paths that were asked for, with their statuses.
    asked: Vec<(String, u16)>,
}

/// A request as far as it matters.
struct Asked {
    path: String,
    query: BTreeMap<String, String>,
    bearer: Option<String>,
    accept: String,
}

/// An answer: the status, what to say of `retry-after`, and the body.
struct Reply {
    status: u16,
    retry_after: Option<u16>,
    body: String,
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
            pods: Pods::new(),
            pools: BTreeMap::new(),
            resources: BTreeMap::new(),
            denied: BTreeSet::new(),
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

    /// Takes rights away, each as `VERB RESOURCE` with the group: `watch pods`, `list inferenceobjectives.llm-d.ai`. The others are there.
    pub fn deny(&self, rights: &[&str]) {
        self.lock().denied = rights.iter().map(|right| (*right).to_owned()).collect();
    }

    /// Sets an InferencePool.
    pub fn set_pool(&self, name: &str, labels: &[(&str, &str)], ports: &[u16]) {
        let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
        let ports: Vec<Value> = ports.iter().map(|port| json!({"number": port})).collect();
        let pool = json!({"apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool",
            "metadata": {"name": name}, "spec": {"selector": {"matchLabels": labels}, "targetPorts": ports}});
        self.lock().pools.insert(("inference.networking.k8s.io/v1".to_owned(), name.to_owned()), pool);
    }

    /// Sets an InferencePool of the older kind.
    pub fn set_old_pool(&self, name: &str, labels: &[(&str, &str)], port: u16) {
        let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
        let pool = json!({"apiVersion": "inference.networking.x-k8s.io/v1alpha2", "kind": "InferencePool",
            "metadata": {"name": name}, "spec": {"selector": labels, "targetPortNumber": port, "extensionRef": {"name": "epp"}}});
        self.lock().pools.insert(("inference.networking.x-k8s.io/v1alpha2".to_owned(), name.to_owned()), pool);
    }

    /// Sets an InferencePool as `kubectl apply` would, of whatever kind it is.
    pub fn apply_pool(&self, pool: &Value) -> anyhow::Result<()> {
        let text = |pointer: &str| {
            let value = pool.pointer(pointer).and_then(Value::as_str);
            value.map(str::to_owned).with_context(|| format!("an InferencePool without {pointer}"))
        };
        self.lock().pools.insert((text("/apiVersion")?, text("/metadata/name")?), pool.clone());
        Ok(())
    }

    /// Sets the resources of a kind, such as `inferencemodels`, or `llm-d.ai/inferenceobjectives` in that group, each with its
    /// name and `spec`.
    pub fn set_resources(&self, kind: &str, resources: &[(&str, Value)]) {
        let item = |(name, spec): &(&str, Value)| json!({"metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec});
        self.lock().resources.insert(kind.to_owned(), resources.iter().map(item).collect());
    }

    /// Adds a pod, or changes it.
    pub fn set_pod(&self, name: &str, pod: PodSpec) {
        self.lock().pods.set(name, pod);
    }

    /// Says that a pod is on its way out.
    pub fn terminate(&self, name: &str) {
        self.lock().pods.terminate(name);
    }

    /// Removes a pod.
    pub fn delete(&self, name: &str) {
        self.lock().pods.delete(name);
    }

    /// Brings an older copy of the data back, with these pods: the version is lower, and no watch is told.
    pub fn restore(&self, pods: Vec<(&str, PodSpec)>) {
        self.lock().pods.restore(pods);
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

impl Reply {
    fn ok(body: impl ToString) -> Reply {
        Reply { status: 200, retry_after: None, body: body.to_string() }
    }

    fn status(status: u16, reason: &str, message: &str) -> Reply {
        let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
            "reason": reason, "code": status});
        Reply { status, retry_after: None, body: body.to_string() }
    }

    fn retry_after(self, seconds: u16) -> Reply {
        Reply { retry_after: Some(seconds), ..self }
    }
}

impl Asked {
    fn is_watch(&self) -> bool {
        self.query.get("watch").map(String::as_str) == Some("1")
    }

    fn seconds(&self) -> u64 {
        self.query.get("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).unwrap_or(1)
    }

    /// The verb, the resource with its group, and the name if one is asked for.
    fn resource(&self) -> Option<(&'static str, String, Option<&str>)> {
        let parts: Vec<&str> = self.path.trim_start_matches('/').split('/').collect();
        let (group, rest) = match parts.as_slice() {
            ["api", "v1", "namespaces", "models", rest @ ..] => ("", rest),
            ["apis", group, _, "namespaces", "models", rest @ ..] => (*group, rest),
            _ => return None,
        };
        let with_group = |plural: &str| if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
        match rest {
            [plural] => Some((if self.is_watch() { "watch" } else { "list" }, with_group(plural), None)),
            [plural, name] => Some(("get", with_group(plural), Some(*name))),
            _ => None,
        }
    }
}

impl State {
    /// Why a request is refused whatever it asks for.
    fn refusal(&self, asked: &Asked) -> Option<Reply> {
        match self.fault {
            ApiFault::Status(429) => {
                return Some(Reply::status(429, "TooManyRequests", "the server is overloaded").retry_after(1));
            }
            ApiFault::Status(status) => return Some(Reply { status, retry_after: None, body: String::new() }),
            ApiFault::Starting => {
                let message =
                    "the request has been made before all known HTTP paths have been installed, please try again";
                return Some(Reply::status(503, "ServiceUnavailable", message).retry_after(1));
            }
            _ => {}
        }
        // Without a token one is anonymous, and forbidden; with a wrong one it is unknown who one is.
        let user = match &asked.bearer {
            None => "system:anonymous",
            Some(token) if *token == self.token => ACCOUNT,
            Some(_) => return Some(Reply::status(401, "Unauthorized", "Unauthorized")),
        };
        let (verb, resource, name) = asked.resource()?;
        let is_denied =
            user != ACCOUNT || self.fault == ApiFault::Filling || self.denied.contains(&format!("{verb} {resource}"));
        is_denied.then(|| {
            let (plural, group) = resource.split_once('.').unwrap_or((&resource, ""));
            let name = name.map(|name| format!(" \"{name}\"")).unwrap_or_default();
            let message = format!(
                "{resource}{name} is forbidden: User \"{user}\" cannot {verb} resource \"{plural}\" in API group \"{group}\" in the namespace \"models\""
            );
            Reply::status(403, "Forbidden", &message)
        })
    }

    fn reply(&self, asked: &Asked) -> Reply {
        if let Some(refusal) = self.refusal(asked) {
            return refusal;
        }
        // A path whose definition is not installed is not served.
        let no_path = Reply { status: 404, retry_after: None, body: "404 page not found\n".to_owned() };
        let Some((_, resource, name)) = asked.resource() else { return no_path };
        if resource == "pods" {
            return self.pods.reply(asked, self.fault);
        }
        let group_and_version = asked.path.split('/').skip(2).take(2).collect::<Vec<_>>().join("/");
        match (resource.split_once('.'), name) {
            (Some(("inferencepools", group)), Some(name)) => {
                match self.pools.get(&(group_and_version.clone(), name.to_owned())) {
                    Some(pool) => Reply::ok(pool),
                    None if self.pools.keys().any(|(installed, _)| *installed == group_and_version) => {
                        Reply::status(404, "NotFound", &format!("inferencepools.{group} \"{name}\" not found"))
                    }
                    None => no_path,
                }
            }
            (Some((plural, group)), None) => {
                let kind = if group == "llm-d.ai" { format!("llm-d.ai/{plural}") } else { plural.to_owned() };
                match self.resources.get(&kind) {
                    Some(items) => {
                        Reply::ok(json!({"kind": "List", "metadata": {"resourceVersion": "1"}, "items": items}))
                    }
                    None => no_path,
                }
            }
            _ => no_path,
        }
    }
}

async fn answer<B>(state: Arc<Mutex<State>>, request: Request<B>) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let asked = Asked {
        path: request.uri().path().to_owned(),
        query: request
            .uri()
            .query()
            .map(|query| form_urlencoded::parse(query.as_bytes()).into_owned().collect())
            .unwrap_or_default(),
        bearer: header("authorization").strip_prefix("Bearer ").filter(|token| !token.is_empty()).map(str::to_owned),
        accept: header("accept").to_owned(),
    };
    let fault = lock(&state).fault;
    if let ApiFault::Slow(time) = fault {
        tokio::time::sleep(time).await;
    }
    // A watch that is refused is refused at once.
    let is_refused = lock(&state).refusal(&asked).is_some();
    if asked.is_watch() && !is_refused && !matches!(fault, ApiFault::Expired | ApiFault::Away) {
        tokio::time::sleep(Duration::from_secs(asked.seconds())).await;
    }
    let mut state = lock(&state);
    if state.fault == ApiFault::Away {
        state.asked.push((request.uri().to_string(), 0));
        return Err(std::io::Error::other("away"));
    }
    let reply = state.reply(&asked);
    state.asked.push((request.uri().to_string(), reply.status));
    let mut response = Response::builder().status(reply.status).header("content-type", "application/json");
    if let Some(seconds) = reply.retry_after {
        response = response.header("retry-after", seconds);
    }
    Ok(response.body(Full::new(Bytes::from(reply.body))).unwrap_or_default())
}
