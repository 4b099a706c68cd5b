//! The pods that take requests, by a list and the events after it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use serde::Deserialize;

use super::pod::{ActivePorts, Event, EventType, Object, Pod};
use crate::config::EndpointAddress;
use crate::discovery::failure::{Status, one_line};
use crate::discovery::{Failure, Found};

/// Remarks about pods that wait to be logged. A thousand pods with one mistake need no thousand lines.
const MAX_REMARKS: usize = 20;

/// What is known of a pool's pods.
#[derive(Debug)]
pub(super) struct Known {
    /// The labels that the pool's filters and scorers look at.
    labels: BTreeSet<String>,
    pods: BTreeMap<String, Pod>,
    /// What happened until then is in `pods`.
    version: u64,
    /// Pods whose annotations were remarked upon, with what was said.
    remarked: BTreeMap<String, Vec<String>>,
    remarks: VecDeque<String>,
}

/// What became of the events of a watch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// The pods are the same.
    Nothing,
    /// They are others.
    Changes,
    /// The events are older than what the watch began with.
    WentBack,
}

impl Known {
    pub(super) fn new(labels: BTreeSet<String>) -> Known {
        Known { labels, pods: BTreeMap::new(), version: 0, remarked: BTreeMap::new(), remarks: VecDeque::new() }
    }

    pub(super) fn restart(&mut self) {
        self.remarked.clear();
    }

    pub(super) fn labels(&self) -> &BTreeSet<String> {
        &self.labels
    }

    /// The version of the API's data that this is.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Why a pod is not used as it says, once for each.
    pub(super) fn poll_remark(&mut self) -> Option<String> {
        self.remarks.pop_front()
    }

    /// Takes a complete list in, also one that is older than what was known.
    pub(super) fn replace(&mut self, pods: BTreeMap<String, Pod>, version: u64) {
        (self.pods, self.version) = (pods, version);
    }

    /// Takes the events of a watch in that began with a version.
    pub(super) fn apply(&mut self, since: u64, body: &[u8]) -> Result<Applied, Failure> {
        let before = self.pods.clone();
        for line in body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            let kind: EventType<'_> = read(line)?;
            if kind.name == "ERROR" {
                let Event { object } = read::<Event<Status>>(line)?;
                return Err(Failure::Status(object.code, one_line(&object.message)));
            }
            // Of other types it is unknown what they say; the next list has it.
            if !matches!(&*kind.name, "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK") {
                continue;
            }
            let Event { object } = read::<Event<Object>>(line)?;
            let is_bookmark = kind.name == "BOOKMARK";
            match object.version() {
                // After a version comes a later one, and a bookmark may say the same again.
                Some(version) if version < since || (version == since && !is_bookmark && since > 0) => {
                    return Ok(Applied::WentBack);
                }
                // The other watch was quicker.
                Some(version) if version <= self.version => continue,
                version => self.version = version.unwrap_or(self.version),
            }
            match object.pod(&self.labels).filter(|_| kind.name != "DELETED") {
                _ if is_bookmark => {}
                Some(pod) => {
                    self.pods.insert(object.name().to_owned(), pod);
                }
                None => {
                    self.pods.remove(object.name());
                }
            }
        }
        Ok(if self.pods == before { Applied::Nothing } else { Applied::Changes })
    }

    /// Each pod with each of these ports.
    pub(super) fn endpoints(&mut self, ports: &[u16]) -> Vec<Found> {
        self.remark(ports);
        let of_pod = |pod: &Pod| {
            let is_active = |port: &&u16| pod.active_ports.as_ref().is_none_or(|active| active.ports.contains(port));
            let endpoint = |port: &u16| Found {
                address: EndpointAddress::new(SocketAddr::new(pod.address, *port)),
                engine: pod.engine,
                page: pod.page.clone(),
                labels: pod.labels.clone(),
            };
            ports.iter().filter(is_active).map(endpoint).collect::<Vec<_>>()
        };
        self.pods.values().flat_map(of_pod).collect()
    }

    /// Says of pods whose annotations leave them without a port, or have something in them that cannot be used, that they do.
    fn remark(&mut self, ports: &[u16]) {
        self.remarked.retain(|name, _| self.pods.contains_key(name));
        for (name, pod) in &self.pods {
            let active = pod.active_ports.as_ref().and_then(|active| active.remark(ports));
            let remarks: Vec<String> = active.into_iter().chain(pod.odd.clone()).collect();
            if remarks.is_empty() || self.remarked.get(name) == Some(&remarks) {
                continue;
            }
            for remark in &remarks {
                if self.remarks.len() < MAX_REMARKS {
                    self.remarks.push_back(format!("pod {}: {remark}", one_line(name)));
                }
            }
            self.remarked.insert(name.clone(), remarks);
        }
    }
}

impl ActivePorts {
    fn remark(&self, ports: &[u16]) -> Option<String> {
        let is_any = ports.iter().any(|port| self.ports.contains(port));
        let consequence = match (is_any, self.is_sound) {
            (true, true) => return None,
            (true, false) => "has an element that is not a port; the others count",
            (false, _) => "names none of the pool's ports, so it gets no request; write ports with commas between",
        };
        Some(format!("the annotation {} {:?} {consequence}", self.annotation, one_line(&self.value)))
    }
}

fn read<'l, T: Deserialize<'l>>(line: &'l [u8]) -> Result<T, Failure> {
    serde_json::from_slice(line).map_err(|error| Failure::unreadable(&error))
}
