//! Checks where a pool's endpoints are.

use std::net::SocketAddr;

use super::{Checker, Labels};
use crate::config::checked::EndpointAddress;
use crate::config::raw;

/// A pool's load blob is read for each request; at a thousand endpoints that is some 80 KB.
const MAX_ENDPOINTS: usize = 1024;

impl Checker<'_> {
    pub(super) fn endpoints(
        &mut self,
        path: &str,
        raw: Option<raw::Endpoints>,
    ) -> Option<(Vec<EndpointAddress>, Vec<Labels>)> {
        if raw.is_none() {
            self.error(path, "is required");
            return None;
        }
        let path = format!("{path}.static");
        let addresses = self.elements(&path, raw.unwrap_or_default().static_);
        if addresses.is_empty() || addresses.len() > MAX_ENDPOINTS {
            self.error(&path, format!("{} endpoints, but 1 to {MAX_ENDPOINTS} are needed", addresses.len()));
            return None;
        }
        let mut endpoints: Vec<EndpointAddress> = Vec::new();
        let mut all_labels: Vec<Labels> = Vec::new();
        let mut complete = true;
        for (path, endpoint) in addresses {
            let (path, text, labels) = match endpoint {
                raw::StaticEndpoint::Address(address) => (path, address, Labels::new()),
                raw::StaticEndpoint::Labelled(endpoint) => {
                    let path = format!("{path}.address");
                    let Some(address) = endpoint.address else {
                        self.error(&path, "is required");
                        complete = false;
                        continue;
                    };
                    (path, address, endpoint.labels)
                }
            };
            all_labels.push(labels);
            match self.endpoint(&path, &text) {
                Some(address) if endpoints.contains(&address) => {
                    self.error(&path, format!("{text:?} is listed twice"));
                    complete = false;
                }
                Some(address) => endpoints.push(address),
                None => complete = false,
            }
        }
        complete.then_some((endpoints, all_labels))
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
                    format!("{text:?} is no address: write ip:port or [ipv6]:port; host names are not resolved"),
                );
                None
            }
        }
    }
}
