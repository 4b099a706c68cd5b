//! Turns the document as it was written into one that holds, and notes everything that doesn't.

mod endpoints;
mod flow;
mod models;
mod rules;
mod scheduling;

use std::collections::BTreeMap;
use std::time::Duration;

use super::checked::{Config, Discovery, FailureMode, METRICS_CLUSTER, PollerConfig, Pool, PoolId};
use super::error::ConfigErrors;
use super::{duration, raw};
use crate::ejection::OutlierDetection;
use crate::engine::{Dialect, Selector};
use crate::scheduling::labels::Labels;
use crate::shown;

/// Longer names would only make metric names and log lines longer; Kubernetes stops at 63 as well.
const MAX_POOL_NAME: usize = 63;
/// The bound on a model's or an adapter's name: generous for `organisation/model:revision`, small beside a header.
const MAX_MODEL_NAME: usize = 256;
/// With this many endpoints each, the tables stay under 10 MB.
const MAX_POOLS: usize = 128;
/// The default of `maxBodyBytes`: fits a million tokens of text, and images by value.
const DEFAULT_MAX_BODY_BYTES: u64 = 16 << 20;
/// A Wasm VM in Envoy has 1 GiB of memory, and a body that is rewritten is in it three times for a moment.
const MAX_MAX_BODY_BYTES: u64 = 256 << 20;
/// The default of `maxPrefixEntries`: the caches of some thirty engines with 500,000 tokens each.
const DEFAULT_MAX_PREFIX_ENTRIES: u64 = 1 << 18;
/// 64 MiB a worker.
const MAX_MAX_PREFIX_ENTRIES: u64 = 1 << 23;

/// Checks a document; `None` only after at least one error was noted.
pub(super) fn check(raw: raw::Config, fingerprint: u64, errors: &mut ConfigErrors) -> Option<Config> {
    let document = raw.clone();
    let mut checker = Checker { errors, sketches: Vec::new(), names: BTreeMap::new() };
    let pools = checker.pools(raw.pools);
    let models = checker.models(raw.models);
    let rewrites = checker.rewrites(raw.model_rewrites);
    let objectives = checker.objectives(raw.objectives);
    let resources = raw.kubernetes_resources.map(|resources| checker.resources("kubernetesResources", resources));
    let session_keys = checker.session_keys(raw.session_keys);
    let trusted_headers = checker.trusted_headers(raw.trusted_headers, session_keys.as_deref().unwrap_or_default());
    let is_served: Vec<String> = checker.sketches.iter().flat_map(|pool| pool.models.iter().cloned()).collect();
    let rules = checker.rules(raw.rules, |name| {
        // A resource may say what is not known yet.
        resources.is_some()
            || is_served.iter().any(|served| served == name)
            || models.iter().flatten().any(|model| model.name == name)
            || rewrites.iter().flatten().any(|rewrite| rewrite.names.iter().any(|known| known == name))
    });
    let poller = checker.poller(raw.poller.unwrap_or_default());
    let max_body_bytes =
        checker.integer("maxBodyBytes", raw.max_body_bytes, DEFAULT_MAX_BODY_BYTES, 1..=MAX_MAX_BODY_BYTES);
    let max_prefix_entries = checker.integer(
        "maxPrefixEntries",
        raw.max_prefix_entries,
        DEFAULT_MAX_PREFIX_ENTRIES,
        1024..=MAX_MAX_PREFIX_ENTRIES,
    );
    let pools: Option<Vec<Pool>> = pools.into_iter().collect();
    Some(Config {
        pools: pools?,
        models: models?,
        rewrites: rewrites?,
        objectives: objectives?,
        rules,
        session_keys: session_keys?,
        trusted_headers,
        exposes_endpoint: raw.expose_endpoint.unwrap_or(true),
        resources: match resources {
            None => None,
            Some(resources) => Some(resources?),
        },
        document,
        poller,
        max_body_bytes: max_body_bytes.try_into().ok()?,
        max_prefix_entries: max_prefix_entries.try_into().ok()?,
        fingerprint,
    })
}

/// Whether a name can be a model's: it goes into a header, and so into logs.
fn is_model_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_MODEL_NAME && !name.chars().any(shown::is_hidden)
}

struct Checker<'e> {
    errors: &'e mut ConfigErrors,
    /// The pools as they are named, so that models can be checked whatever else is wrong with a pool.
    sketches: Vec<Sketch>,
    /// Where the names that clients may ask for lead, and the place that says so.
    names: BTreeMap<String, (PoolId, String)>,
}

/// A pool's name and the models that it serves.
struct Sketch {
    name: Option<String>,
    models: Vec<String>,
}

impl Sketch {
    fn of(raw: &raw::Pool) -> Sketch {
        let adapters = raw.adapters.iter().flatten().flatten();
        Sketch { name: raw.name.clone(), models: raw.base_model.iter().chain(adapters).cloned().collect() }
    }

    fn serves(&self, model: &str) -> bool {
        self.models.iter().any(|name| name == model)
    }
}

impl Checker<'_> {
    /// Notes a mistake, unless the same place was already complained about while reading.
    fn error(&mut self, path: &str, message: impl Into<String>) {
        if !self.errors.covers(path) {
            self.errors.push(path, message);
        }
    }

    /// Notes a mistake that is as well at another place as at this one.
    fn contradiction(&mut self, path: &str, other: String, message: impl Into<String>) {
        if !self.errors.covers(path) {
            self.errors.push_contradiction(path, other, message);
        }
    }

    /// The elements of a list that are there; a null is a mistake.
    fn elements<T>(&mut self, path: &str, list: Option<Vec<Option<T>>>) -> Vec<(String, T)> {
        let mut elements = Vec::new();
        for (index, element) in list.unwrap_or_default().into_iter().enumerate() {
            let path = format!("{path}[{index}]");
            match element {
                Some(element) => elements.push((path, element)),
                None => self.error(&path, "must not be null"),
            }
        }
        elements
    }

    fn pools(&mut self, raw: Option<Vec<Option<raw::Pool>>>) -> Vec<Option<Pool>> {
        let raw = self.elements("pools", raw);
        if raw.is_empty() {
            self.error("pools", "at least one pool is needed");
        }
        if raw.len() > MAX_POOLS {
            self.error("pools", format!("{} pools, but at most {MAX_POOLS} are allowed", raw.len()));
        }
        let mut names: Vec<String> = Vec::new();
        let mut clusters: Vec<String> = Vec::new();
        let mut models: Vec<(String, String)> = Vec::new();
        let mut pools = Vec::new();
        for (path, raw) in raw {
            if let Some(name) = &raw.name {
                let cluster = raw.cluster.as_ref().unwrap_or(name);
                if names.contains(name) {
                    self.error(&format!("{path}.name"), format!("{name:?} is the name of another pool as well"));
                } else if clusters.contains(cluster) {
                    let message = format!("{cluster:?} is the cluster of another pool as well");
                    self.error(&format!("{path}.cluster"), message);
                }
                names.push(name.clone());
                clusters.push(cluster.clone());
            }
            self.sketches.push(Sketch::of(&raw));
            pools.push(self.pool(&path, raw, &mut models));
        }
        pools
    }

    fn pool(&mut self, path: &str, raw: raw::Pool, models: &mut Vec<(String, String)>) -> Option<Pool> {
        let name = self.pool_name(&format!("{path}.name"), raw.name);
        let base_model = self.model_name(&format!("{path}.baseModel"), raw.base_model);
        let mut served = vec![(format!("{path}.baseModel"), base_model.clone())];
        let mut adapters = Vec::new();
        for (path, adapter) in self.elements(&format!("{path}.adapters"), raw.adapters) {
            let adapter = self.model_name(&path, Some(adapter));
            served.push((path, adapter.clone()));
            adapters.extend(adapter);
        }
        for (path, model) in served {
            let Some(model) = model else { continue };
            match models.iter().find(|(known, _)| *known == model) {
                Some((_, first)) => self.error(&path, format!("{model:?} is already served, by {first}")),
                None => models.push((model, path)),
            }
        }
        let follows_engine_label = !matches!(raw.engine, Some(raw::Engine::Custom(_)));
        let dialect = match raw.engine {
            None => Some(Dialect::of(raw::EngineName::Vllm)),
            Some(raw::Engine::Named(name)) => Some(Dialect::of(name)),
            Some(raw::Engine::Custom(mapping)) => self.mapping(&format!("{path}.engine"), mapping),
        };
        let metrics_path = self.metrics_path(&format!("{path}.metricsPath"), raw.metrics_path);
        let metrics_port = self.metrics_port(&format!("{path}.metricsPort"), raw.metrics_port);
        let endpoints = self.endpoints(&format!("{path}.endpoints"), raw.endpoints);
        if let Some(Some(Discovery::EnvoyAdmin { .. })) = endpoints.as_ref().map(|found| &found.discovery) {
            self.no_labels(&format!("{path}.scheduling"), raw.scheduling.as_ref());
        }
        let labels: &[Labels] = endpoints.as_ref().map_or(&[], |found| &found.labels);
        let profile =
            self.profile(&format!("{path}.scheduling"), raw.scheduling.unwrap_or_default(), labels, dialect.as_ref());
        let saturation = self.saturation(&format!("{path}.saturation"), raw.saturation.unwrap_or_default());
        let flow_path = format!("{path}.flowControl");
        let flow_control = raw.flow_control.map(|raw| self.flow_control(&flow_path, raw));
        let outliers = raw.outlier_detection.unwrap_or_default();
        let outlier_detection = self.outlier_detection(&format!("{path}.outlierDetection"), outliers);
        let cluster = raw.cluster.or_else(|| name.clone());
        if cluster.as_deref() == Some("") {
            self.error(&format!("{path}.cluster"), "must not be empty");
        }
        let metrics_cluster = raw.metrics_cluster.unwrap_or_else(|| METRICS_CLUSTER.to_owned());
        if metrics_cluster.is_empty() {
            self.error(&format!("{path}.metricsCluster"), "must not be empty");
        }
        let found = endpoints?;
        Some(Pool {
            name: name?,
            cluster: cluster?,
            base_model: base_model?,
            adapters,
            dialect: dialect?,
            follows_engine_label,
            metrics_path,
            metrics_port,
            metrics_cluster,
            endpoints: found.endpoints,
            labels: found.labels,
            metrics_ports: found.metrics_ports,
            discovery: found.discovery,
            failure_mode: match raw.failure_mode {
                None | Some(raw::FailureMode::FailOpen) => FailureMode::FailOpen,
                Some(raw::FailureMode::FailClose) => FailureMode::FailClose,
            },
            profile,
            saturation,
            flow_control,
            outlier_detection,
            retry_refused: raw.retry_refused.unwrap_or(true),
        })
    }

    fn pool_name(&mut self, path: &str, name: Option<String>) -> Option<String> {
        let Some(name) = name else {
            self.error(path, "is required");
            return None;
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        if name.is_empty() || name.len() > MAX_POOL_NAME || !name.bytes().all(allowed) {
            self.error(path, format!("{name:?} must be 1 to {MAX_POOL_NAME} letters, digits, '-', '_', '.' or '/'"));
            return None;
        }
        Some(name)
    }

    /// A name that goes into a header: visible, and of bounded length.
    fn model_name(&mut self, path: &str, name: Option<String>) -> Option<String> {
        let Some(name) = name else {
            self.error(path, "is required");
            return None;
        };
        if !is_model_name(&name) {
            self.error(
                path,
                format!("{name:?} must be 1 to {MAX_MODEL_NAME} bytes without control or invisible characters"),
            );
            return None;
        }
        Some(name)
    }

    fn mapping(&mut self, path: &str, raw: raw::EngineMapping) -> Option<Dialect> {
        if raw.waiting.is_none() && raw.running.is_none() && raw.kv_cache_usage.is_none() {
            self.error(path, "names no metric: give at least one of waiting, running and kvCacheUsage");
            return None;
        }
        let mut selector = |key: &str, text: Option<String>| match text.map(|text| Selector::parse(&text)) {
            None => Some(None),
            Some(Ok(selector)) => Some(Some(selector)),
            Some(Err(error)) => {
                self.error(&format!("{path}.{key}"), error.to_string());
                None
            }
        };
        let waiting = selector("waiting", raw.waiting);
        let running = selector("running", raw.running);
        let kv_cache_usage = selector("kvCacheUsage", raw.kv_cache_usage);
        Some(Dialect::custom(waiting?, running?, kv_cache_usage?))
    }

    fn poller(&mut self, raw: raw::Poller) -> PollerConfig {
        let minute = Duration::from_secs(60);
        let shortest = Duration::from_millis(50);
        let interval = self.duration("poller.interval", raw.interval, Duration::from_millis(200), shortest..=minute);
        let timeout = self.duration("poller.timeout", raw.timeout, Duration::from_secs(1), shortest..=minute);
        let default_stale_after = (interval * 2).max(timeout * 2).max(Duration::from_secs(2));
        let stale_after = self.duration(
            "poller.staleAfter",
            raw.stale_after,
            default_stale_after,
            Duration::from_millis(100)..=minute * 10,
        );
        if stale_after < interval * 2 {
            let message = format!("{stale_after:?} is less than twice the interval of {interval:?}");
            self.error("poller.staleAfter", message);
        }
        if timeout > stale_after {
            let message = format!(
                "{timeout:?} is more than staleAfter, {stale_after:?}: a page that takes so long is never fresh"
            );
            self.error("poller.timeout", message);
        }
        PollerConfig { interval, timeout, stale_after, in_band: raw.in_band.unwrap_or(false) }
    }

    fn outlier_detection(&mut self, path: &str, raw: raw::OutlierDetection) -> OutlierDetection {
        let defaults = OutlierDetection::default();
        let shortest = Duration::from_millis(100);
        let minute = Duration::from_secs(60);
        let base_ejection_time = self.duration(
            &format!("{path}.baseEjectionTime"),
            raw.base_ejection_time,
            defaults.base_ejection_time,
            shortest..=minute * 10,
        );
        let max_ejection_time = self.duration(
            &format!("{path}.maxEjectionTime"),
            raw.max_ejection_time,
            defaults.max_ejection_time.max(base_ejection_time),
            shortest..=minute * 60,
        );
        if max_ejection_time < base_ejection_time {
            let message = format!("{max_ejection_time:?} is less than baseEjectionTime, {base_ejection_time:?}");
            self.error(&format!("{path}.maxEjectionTime"), message);
        }
        let errors = self.integer(&format!("{path}.consecutiveErrors"), raw.consecutive_errors, 3, 0..=100);
        let percent = self.integer(&format!("{path}.maxEjectionPercent"), raw.max_ejection_percent, 50, 0..=50);
        OutlierDetection {
            consecutive_errors: u32::try_from(errors).unwrap_or(u32::MAX),
            base_ejection_time,
            max_ejection_time,
            max_ejection_percent: u32::try_from(percent).unwrap_or(0),
        }
    }

    fn duration(
        &mut self,
        path: &str,
        text: Option<String>,
        default: Duration,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Duration {
        let Some(text) = text else { return default };
        match duration::parse(&text) {
            Ok(duration) if range.contains(&duration) => return duration,
            Ok(_) => {
                self.error(path, format!("{text:?} is not between {:?} and {:?}", range.start(), range.end()));
            }
            Err(error) => self.error(path, format!("{text:?} is {error}")),
        }
        default
    }

    fn integer(&mut self, path: &str, value: Option<u64>, default: u64, range: std::ops::RangeInclusive<u64>) -> u64 {
        match value {
            None => default,
            Some(value) if range.contains(&value) => value,
            Some(value) => {
                self.error(path, format!("{value} is not between {} and {}", range.start(), range.end()));
                default
            }
        }
    }
}
