//! The configuration after every check: what the rest of the core may rely on.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::raw;
use crate::ejection::OutlierDetection;
use crate::engine::Dialect;
use crate::flow::FlowControl;
use crate::hash;
use crate::load;
use crate::rules::Rules;
use crate::saturation::Limits;
use crate::scheduling::Profile;
use crate::scheduling::labels::Labels;

/// A checked plugin configuration.
#[derive(Debug)]
pub struct Config {
    /// The pools, in the order of the document; at least one. A [`PoolId`] is a position here.
    pub pools: Vec<Pool>,
    /// Names that clients may ask for besides the pools' own, and what is said of those.
    pub models: Vec<Model>,
    /// Rules by which requests ask for another model, in the order in which they count.
    pub rewrites: Vec<Rewrite>,
    /// Names by which requests say how much they matter.
    pub objectives: Vec<Objective>,
    /// Rules that look at requests.
    pub rules: Rules,
    /// Where requests name their sessions, the first one that is there counts.
    pub session_keys: Vec<SessionKey>,
    /// The control headers that are believed, by these very names.
    pub trusted_headers: Vec<&'static str>,
    /// Whether answers say who has served.
    pub exposes_endpoint: bool,
    /// How metrics are read.
    pub poller: PollerConfig,
    /// The longest body that is buffered.
    pub max_body_bytes: usize,
    /// The size of a worker's prefix table.
    pub max_prefix_entries: usize,
    /// Where resources say more about models.
    pub resources: Option<Resources>,
    /// The document as it was read.
    pub document: raw::Config,
    /// A hash of the document: VMs with the same one may poll for each other.
    pub fingerprint: u64,
}

/// Where the Inference Extension's resources are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// The Envoy cluster that leads to the Kubernetes API.
    pub cluster: String,
    /// The namespace.
    pub namespace: String,
}

/// A pool's position in [`Config::pools`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolId(pub usize);

impl Config {
    /// The pool with this id.
    pub fn pool(&self, id: PoolId) -> Option<&Pool> {
        self.pools.get(id.0)
    }

    /// Every pool with its id.
    pub fn pools(&self) -> impl Iterator<Item = (PoolId, &Pool)> {
        self.pools.iter().enumerate().map(|(index, pool)| (PoolId(index), pool))
    }
}

/// Model servers that serve one base model and its adapters.
#[derive(Debug)]
pub struct Pool {
    /// The unique name.
    pub name: String,
    /// The Envoy cluster.
    pub cluster: String,
    /// The model that the servers were started with.
    pub base_model: String,
    /// LoRA adapters on top of it.
    pub adapters: Vec<AdapterName>,
    /// How to read the servers' metrics.
    pub dialect: Dialect,
    /// Whether a pod's label that names its engine takes the place of that.
    pub follows_engine_label: bool,
    /// The path of the metrics page, where it is not the engine's.
    pub metrics_path: Option<String>,
    /// The port of the metrics page, where it is not the one that serves.
    pub metrics_port: Option<u16>,
    /// The Envoy cluster by which pages on another port are read.
    pub metrics_cluster: String,
    /// The endpoints; at least one, each once, or none where they are discovered.
    pub endpoints: Vec<EndpointAddress>,
    /// The labels of each, as they are written down.
    pub labels: Vec<Labels>,
    /// The port of each one's metrics page, where it is another than the pool's.
    pub metrics_ports: Vec<Option<u16>>,
    /// Where they are discovered.
    pub discovery: Option<Discovery>,
    /// What happens when no endpoint can be picked.
    pub failure_mode: FailureMode,
    /// How an endpoint is chosen.
    pub profile: Profile,
    /// When an endpoint has enough to do.
    pub saturation: Limits,
    /// Whether and how requests wait while the pool is saturated.
    pub flow_control: Option<FlowControl>,
    /// When endpoints are ejected.
    pub outlier_detection: OutlierDetection,
    /// Whether a refused request may go on to the next endpoint.
    pub retry_refused: bool,
}

impl Pool {
    /// The shared-data key of its load snapshot. Configurations that name the same pool share one; where its endpoints are
    /// discovered, only if they look for the same ones and for the same of their labels.
    pub fn load_key(&self) -> String {
        match &self.discovery {
            None => load::key(&self.name),
            Some(discovery) => {
                let looked_for = format!("{discovery:?} {:?}", self.profile.wanted_labels());
                load::key(&format!("{}#{:016x}", self.name, hash::bytes(looked_for.as_bytes())))
            }
        }
    }
}

/// A LoRA adapter's name as clients write it.
pub type AdapterName = String;

/// Where a pool's endpoints are discovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// In Envoy's own clusters.
    EnvoyAdmin {
        /// The Envoy cluster that leads to the admin interface.
        cluster: String,
        /// The time between two looks.
        interval: Duration,
    },
    /// Among a namespace's pods.
    Kubernetes {
        /// The Envoy cluster that leads to the API.
        cluster: String,
        /// The namespace.
        namespace: String,
        /// Which pods and ports.
        pods: Pods,
    },
}

/// Which pods are a pool's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pods {
    /// Those of the InferencePool with this name.
    InferencePool(String),
    /// Those with all of these labels.
    Selected {
        /// Names and values.
        labels: Vec<(String, String)>,
        /// Their ports.
        ports: Vec<u16>,
    },
}

/// A pool that is discovered has no more endpoints than one that is written down.
pub const MAX_ENDPOINTS: usize = 1024;

/// The usual name of the Envoy cluster by which metrics pages on a port of their own are read.
pub const METRICS_CLUSTER: &str = "inference-metrics";

/// An endpoint's `ip:port`, in the form in which Envoy prints it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointAddress(String);

impl EndpointAddress {
    /// The address of a socket; Envoy and Rust print it alike.
    pub(crate) fn new(address: SocketAddr) -> EndpointAddress {
        EndpointAddress(address.to_string())
    }

    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What happens to a request when no endpoint can be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureMode {
    /// Envoy balances it.
    FailOpen,
    /// It is refused with 503.
    FailClose,
}

/// A name that clients may ask for.
#[derive(Debug, PartialEq, Eq)]
pub struct Model {
    /// The name.
    pub name: String,
    /// The pool.
    pub pool: PoolId,
    /// How much its requests matter, if that is said.
    pub priority: Option<i32>,
    /// What it stands for.
    pub split: Split,
}

/// A rule by which a pool's requests ask for another model than the client did.
#[derive(Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The pool.
    pub pool: PoolId,
    /// The names that it is for; none when it is for all of the pool's.
    pub names: Vec<String>,
    /// What is asked for instead.
    pub split: Split,
}

/// Models among which one is drawn for each request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// At least one with a weight above zero.
    pub targets: Vec<TargetModel>,
    /// Whether a session always gets the same one.
    pub is_sticky: bool,
    /// Whether answers name the model as the client did.
    pub restores_name: bool,
}

/// One model of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetModel {
    /// A base model or adapter of the pool.
    pub name: String,
    /// Its share, relative to the others'.
    pub weight: u32,
}

/// A name by which requests say how much they matter.
#[derive(Debug, PartialEq, Eq)]
pub struct Objective {
    /// The name.
    pub name: String,
    /// The pool.
    pub pool: PoolId,
    /// The priority.
    pub priority: i32,
}

/// Where a request says to which session it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionKey {
    /// A header, in lower case.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// A member of the JSON body.
    BodyField(String),
}

/// How metrics are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollerConfig {
    /// The time between two scrapes of an endpoint.
    pub interval: Duration,
    /// After this time a scrape has failed.
    pub timeout: Duration,
    /// Metrics older than this do not count.
    pub stale_after: Duration,
    /// Whether engines are asked to report their load with each answer.
    pub in_band: bool,
}
