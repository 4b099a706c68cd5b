//! Reads an InferencePool, again and again: which pods of its namespace count, and which of their ports.
//!
//! It is `inference.networking.k8s.io/v1`. Guides of 2025 had `inference.networking.x-k8s.io/v1alpha2`, which is read where there is
//! none of the first.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::selector;
use crate::discovery::backoff::{Backoff, is_due};
use crate::discovery::{Answer, Failure};
use crate::rng::SplitMix64;
use crate::time::Timestamp;

/// How often it is read: it changes seldom.
const PERIOD: Duration = Duration::from_secs(5);

/// Which pods and ports count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// As the API takes it.
    pub(super) selector: String,
    pub(super) ports: Vec<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    V1,
    V1Alpha2,
}

/// Follows one InferencePool.
#[derive(Debug)]
pub(super) struct PoolReader {
    name: String,
    due_at: Timestamp,
    backoff: Backoff,
    /// Which one is asked for next.
    group: Group,
    /// Whether there was one of v1: then no other counts, also while it is deleted and made again.
    has_v1: bool,
    /// What was said when v1 was asked for and there was none.
    missing: Option<Failure>,
}

impl PoolReader {
    pub(super) fn new(name: &str) -> PoolReader {
        PoolReader {
            name: name.to_owned(),
            due_at: Timestamp::default(),
            backoff: Backoff::default(),
            group: Group::V1,
            has_v1: false,
            missing: None,
        }
    }

    pub(super) fn restart(&mut self) {
        (self.due_at, self.backoff) = (Timestamp::default(), Backoff::default());
        (self.group, self.has_v1) = (Group::V1, false);
    }

    /// The path to ask for, if it is time.
    pub(super) fn poll_path(&mut self, namespace: &str, now: Timestamp) -> Option<String> {
        if !is_due(self.due_at, now, PERIOD) || !self.backoff.is_over(now) {
            return None;
        }
        let group = match self.group {
            Group::V1 => "inference.networking.k8s.io/v1",
            Group::V1Alpha2 => "inference.networking.x-k8s.io/v1alpha2",
        };
        Some(format!("/apis/{group}/namespaces/{namespace}/inferencepools/{}", self.name))
    }

    /// What the pool says; `None` while the older kind is still to be asked for.
    pub(super) fn handle_answer(
        &mut self,
        answer: Answer<'_>,
        rng: &mut SplitMix64,
        now: Timestamp,
    ) -> Result<Option<Wanted>, Failure> {
        let wanted = self.wanted(answer);
        match &wanted {
            Ok(Some(_)) => {
                self.backoff.handle_success();
                self.due_at = now.after(PERIOD);
            }
            Ok(None) => self.due_at = now,
            Err(_) => {
                self.backoff.handle_failure(answer.retry_after(), rng, now);
                self.due_at = now;
            }
        }
        wanted
    }

    fn wanted(&mut self, answer: Answer<'_>) -> Result<Option<Wanted>, Failure> {
        let body = answer.body();
        match (std::mem::replace(&mut self.group, Group::V1), body) {
            (Group::V1, Ok(body)) => {
                self.has_v1 = true;
                read_v1(body).map(Some)
            }
            (Group::V1, Err(missing @ Failure::Status(404, _))) if !self.has_v1 => {
                self.missing = Some(missing);
                self.group = Group::V1Alpha2;
                Ok(None)
            }
            (Group::V1Alpha2, Ok(body)) => read_v1alpha2(body).map(Some),
            // There is none of either; a role from before this was asked for says so as well.
            (Group::V1Alpha2, Err(failure @ Failure::Status(403 | 404, _))) => {
                Err(self.missing.take().unwrap_or(failure))
            }
            (_, Err(failure)) => Err(failure),
        }
    }
}

fn read_v1(body: &[u8]) -> Result<Wanted, Failure> {
    let pool: Resource<V1> = serde_json::from_slice(body).map_err(|error| Failure::unreadable(&error))?;
    let ports = pool.spec.target_ports.into_iter().map(|port| port.number).collect();
    check(&pool.spec.selector.match_labels, ports)
}

fn read_v1alpha2(body: &[u8]) -> Result<Wanted, Failure> {
    let pool: Resource<V1Alpha2> = serde_json::from_slice(body).map_err(|error| Failure::unreadable(&error))?;
    check(&pool.spec.selector, vec![pool.spec.target_port_number])
}

fn check(labels: &BTreeMap<String, String>, ports: Vec<u16>) -> Result<Wanted, Failure> {
    let why = if labels.is_empty() {
        "the InferencePool's selector has no labels"
    } else if ports.is_empty() || ports.contains(&0) {
        "the InferencePool has no target port, or a target port 0"
    } else {
        return Ok(Wanted { selector: selector(labels.iter()), ports });
    };
    Err(Failure::Unreadable(why.to_owned()))
}

#[derive(Deserialize)]
struct Resource<T> {
    spec: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct V1 {
    #[serde(default)]
    selector: Selector,
    #[serde(default)]
    target_ports: Vec<TargetPort>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct TargetPort {
    number: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct V1Alpha2 {
    #[serde(default)]
    selector: BTreeMap<String, String>,
    #[serde(default)]
    target_port_number: u16,
}
