//! Checks where a pool's endpoints are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::Checker;
use crate::config::checked::{Discovery, EndpointAddress, MAX_ENDPOINTS, Pods, Resources};
use crate::config::raw;
use crate::poller::is_path;
use crate::scheduling::labels::Labels;

/// Where a pool's endpoints are.
pub(super) struct Found {
    pub(super) endpoints: Vec<EndpointAddress>,
    /// Of each that is listed.
    pub(super) labels: Vec<Labels>,
    /// Of each that is listed.
    pub(super) metrics_ports: Vec<Option<u16>>,
    pub(super) discovery: Option<Discovery>,
}

impl Found {
    fn discovered(discovery: Discovery) -> Found {
        Found { endpoints: Vec::new(), labels: Vec::new(), metrics_ports: Vec::new(), discovery: Some(discovery) }
    }
}

impl Checker<'_> {
    /// Where a pool's endpoints are: their list, or where they are discovered.
    pub(super) fn endpoints(&mut self, path: &str, raw: Option<raw::Endpoints>) -> Option<Found> {
        let Some(raw) = raw else {
            self.error(path, "is required");
            return None;
        };
        let written_or_null = raw.static_.is_some();
        match (written_or_null, raw.envoy_admin, raw.kubernetes) {
            (true, None, None) => self.static_endpoints(path, raw.static_),
            (false, Some(admin), None) => {
                let path = format!("{path}.envoyAdmin");
                let (least, most) = (Duration::from_millis(500), Duration::from_secs(60));
                let usual = Duration::from_secs(2);
                let interval = self.duration(&format!("{path}.interval"), admin.interval, usual, least..=most);
                let cluster = admin.cluster.unwrap_or_else(|| "envoy-admin".to_owned());
                Some(Found::discovered(Discovery::EnvoyAdmin { cluster, interval }))
            }
            (false, None, Some(kubernetes)) => {
                self.kubernetes(&format!("{path}.kubernetes"), kubernetes).map(Found::discovered)
            }
            _ => {
                self.error(path, "needs exactly one of static, envoyAdmin and kubernetes");
                None
            }
        }
    }

    fn kubernetes(&mut self, path: &str, raw: raw::Kubernetes) -> Option<Discovery> {
        let namespace = self.resource_name(&format!("{path}.namespace"), raw.namespace);
        let pods = match (raw.inference_pool, raw.selector) {
            (Some(name), None) => {
                if raw.target_ports.is_some() {
                    self.error(&format!("{path}.targetPorts"), "are the InferencePool's to say");
                }
                self.resource_name(&format!("{path}.inferencePool"), Some(name)).map(Pods::InferencePool)
            }
            (None, Some(selector)) => {
                let ports = self.ports(&format!("{path}.targetPorts"), raw.target_ports.unwrap_or_default());
                self.selector(&format!("{path}.selector"), selector).map(|labels| Pods::Selected { labels, ports })
            }
            _ => {
                self.error(path, "needs exactly one of inferencePool and selector");
                None
            }
        };
        let cluster = raw.cluster.unwrap_or_else(|| "kube-apiserver".to_owned());
        Some(Discovery::Kubernetes { cluster, namespace: namespace?, pods: pods? })
    }

    pub(super) fn resources(&mut self, path: &str, raw: raw::KubernetesResources) -> Option<Resources> {
        let namespace = self.resource_name(&format!("{path}.namespace"), raw.namespace)?;
        Some(Resources { cluster: raw.cluster.unwrap_or_else(|| "kube-apiserver".to_owned()), namespace })
    }

    fn ports(&mut self, path: &str, ports: Vec<u64>) -> Vec<u16> {
        if ports.is_empty() || ports.len() > 8 {
            self.error(path, format!("{} ports, but 1 to 8 are needed", ports.len()));
        }
        let mut checked: Vec<u16> = Vec::new();
        for (index, port) in ports.into_iter().enumerate() {
            match u16::try_from(port) {
                Ok(port) if port != 0 && !checked.contains(&port) => checked.push(port),
                _ => self.error(&format!("{path}[{index}]"), format!("{port} is not a port, or is there twice")),
            }
        }
        checked
    }

    fn selector(&mut self, path: &str, selector: BTreeMap<String, String>) -> Option<Vec<(String, String)>> {
        if selector.is_empty() {
            self.error(path, "names no label");
            return None;
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        for (name, value) in &selector {
            if name.is_empty() || !name.bytes().all(allowed) || !value.bytes().all(allowed) {
                self.error(path, format!("{name:?}: {value:?} is not a label"));
            }
        }
        Some(selector.into_iter().collect())
    }

    /// A name as Kubernetes has it: it becomes part of a path.
    fn resource_name(&mut self, path: &str, name: Option<String>) -> Option<String> {
        let Some(name) = name else {
            self.error(path, "is required");
            return None;
        };
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        if name.is_empty() || name.len() > 253 || !name.bytes().all(allowed) || name.starts_with(['-', '.']) {
            self.error(path, format!("{name:?} is not a name of a Kubernetes resource"));
            return None;
        }
        Some(name)
    }

    fn static_endpoints(&mut self, path: &str, raw: Option<Vec<Option<raw::StaticEndpoint>>>) -> Option<Found> {
        let path = format!("{path}.static");
        let addresses = self.elements(&path, raw);
        if addresses.is_empty() || addresses.len() > MAX_ENDPOINTS {
            self.error(&path, format!("{} endpoints, but 1 to {MAX_ENDPOINTS} are needed", addresses.len()));
            return None;
        }
        let mut endpoints: Vec<EndpointAddress> = Vec::new();
        let mut all_labels: Vec<Labels> = Vec::new();
        let mut metrics_ports: Vec<Option<u16>> = Vec::new();
        let mut complete = true;
        for (path, endpoint) in addresses {
            let (path, text, labels, metrics_port) = match endpoint {
                raw::StaticEndpoint::Address(address) => (path, address, Labels::new(), None),
                raw::StaticEndpoint::Labelled(endpoint) => {
                    let metrics_port = self.metrics_port(&format!("{path}.metricsPort"), endpoint.metrics_port);
                    let path = format!("{path}.address");
                    let Some(address) = endpoint.address else {
                        self.error(&path, "is required");
                        complete = false;
                        continue;
                    };
                    (path, address, endpoint.labels, metrics_port)
                }
            };
            all_labels.push(labels);
            metrics_ports.push(metrics_port);
            match self.endpoint(&path, &text) {
                Some(address) if endpoints.contains(&address) => {
                    self.error(&path, format!("{text:?} is listed twice"));
                    complete = false;
                }
                Some(address) => endpoints.push(address),
                None => complete = false,
            }
        }
        complete.then_some(Found { endpoints, labels: all_labels, metrics_ports, discovery: None })
    }

    /// The path of a metrics page.
    pub(super) fn metrics_path(&mut self, path: &str, raw: Option<String>) -> Option<String> {
        let metrics_path = raw?;
        if !is_path(&metrics_path) {
            self.error(path, format!("{metrics_path:?} must start with / and hold no spaces"));
        }
        Some(metrics_path)
    }

    /// The port of a metrics page.
    pub(super) fn metrics_port(&mut self, path: &str, raw: Option<u64>) -> Option<u16> {
        let port = u16::try_from(raw?).ok().filter(|port| *port != 0);
        if port.is_none() {
            self.error(path, format!("{} is not a port", raw.unwrap_or_default()));
        }
        port
    }

    fn endpoint(&mut self, path: &str, text: &str) -> Option<EndpointAddress> {
        let address: Result<SocketAddr, _> = text.parse();
        match address {
            Ok(address) if address.port() != 0 => Some(EndpointAddress::new(address)),
            Ok(_) => {
                self.error(path, format!("{text:?} has port 0"));
                None
            }
            Err(_) if text.parse::<std::net::IpAddr>().is_ok() => {
                self.error(path, format!("{text:?} has no port"));
                None
            }
            Err(_) => {
                self.error(
                    path,
                    format!("{text:?} is not an address: write ip:port or [ipv6]:port; host names are not resolved"),
                );
                None
            }
        }
    }
}
