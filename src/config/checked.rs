//! The configuration after every check: what the rest of the core may rely on.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::ejection::OutlierDetection;
use crate::engine::Dialect;
use crate::scheduling::Profile;

/// A checked plugin configuration.
#[derive(Debug)]
pub struct Config {
    /// The pools, in the order of the document; at least one. A [`PoolId`] is a position here.
    pub pools: Vec<Pool>,
    /// Names that stand for other models.
    pub aliases: Vec<ModelAlias>,
    /// How metrics are read.
    pub poller: PollerConfig,
    /// The longest body that is buffered.
    pub max_body_bytes: usize,
    /// The size of a worker's prefix table.
    pub max_prefix_entries: usize,
    /// A hash of the document: VMs with the same one may poll for each other.
    pub fingerprint: u64,
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
    /// The path of the metrics page.
    pub metrics_path: String,
    /// The endpoints; at least one, each once.
    pub endpoints: Vec<EndpointAddress>,
    /// What happens when no endpoint can be picked.
    pub failure_mode: FailureMode,
    /// How an endpoint is chosen.
    pub profile: Profile,
    /// When endpoints are ejected.
    pub outlier_detection: OutlierDetection,
}

/// A LoRA adapter's name as clients write it.
pub type AdapterName = String;

/// An endpoint's `ip:port`, in the form in which Envoy prints it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointAddress(String);

impl EndpointAddress {
    /// The address of a socket; Envoy and Rust print it alike.
    pub(super) fn new(address: SocketAddr) -> EndpointAddress {
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

/// A name that stands for one or more models of a pool.
#[derive(Debug, PartialEq, Eq)]
pub struct ModelAlias {
    /// The name that clients ask for.
    pub name: String,
    /// The pool.
    pub pool: PoolId,
    /// What it stands for; at least one with a weight above zero.
    pub targets: Vec<TargetModel>,
}

/// One model that a name stands for.
#[derive(Debug, PartialEq, Eq)]
pub struct TargetModel {
    /// A base model or adapter of the alias's pool.
    pub name: String,
    /// Its share, relative to the others'.
    pub weight: u32,
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
