//! The pods of a namespace, by the Kubernetes API: listed in pages once, and watched then.
//!
//! The host hands an answer over when it is complete, so a watch is asked to last a second, and the next one goes on where it
//! ended. Two take turns by half a second, which halves the time until a change is known; a third, longer one waits for a
//! bookmark. Pods come as a table of a few cells and their metadata: a whole pod is ten times as long.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;

use super::{Answer, Found, Question, Seen};
use crate::config::raw::EngineName;
use crate::config::{EndpointAddress, Pods};
use crate::rng::{Rng, SplitMix64};
use crate::scheduling::labels::Labels;
use crate::time::Timestamp;

use table::{Columns, Event, Table};

/// What is asked. The kind of a question about pods also says since which list it is: see [`Kubernetes::kind`].
const POOL: u64 = 0;
const LIST: u64 = 1;
const WATCHES: [u64; 2] = [2, 3];
const LONG_WATCH: u64 = 4;
const KINDS: u64 = 5;

const JSON: &str = "application/json";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
/// Pods in a page: some 300 KB.
const PAGE: usize = 250;
/// How long a watch lasts, in seconds: the API takes no less.
const WATCH_SECONDS: u64 = 1;
/// A bookmark, which says that the API has got so far without a change, comes two seconds before a watch's end, so a third
/// watch lasts longer now and then. Without any, a pool that is quiet in a cluster that is not would begin where nothing is
/// kept any more; the API keeps what has happened for more than a minute.
const LONG_WATCH_SECONDS: u64 = 5;
const BOOKMARK_PERIOD: Duration = Duration::from_secs(30);
/// The time between the starts of two watches.
const WATCH_PERIOD: Duration = Duration::from_millis(500);
/// How often an InferencePool is read again: it changes seldom.
const POOL_PERIOD: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(10);
/// After a failure it is tried again after this time, which doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Follows the pods of one pool.
#[derive(Debug)]
pub(super) struct Kubernetes {
    namespace: String,
    /// The InferencePool that says which pods count; `None` where the configuration does.
    inference_pool: Option<String>,
    pool_due_at: Timestamp,
    wanted: Option<Wanted>,
    /// The labels that the pool's filters and scorers look at.
    labels: BTreeSet<String>,
    listing: Listing,
    /// How many lists were begun.
    era: u64,
    columns: Option<Columns>,
    pods: BTreeMap<String, Pod>,
    /// What happened until then is in `pods`.
    applied: u64,
    watched_at: Timestamp,
    bookmark_at: Timestamp,
    retry_at: Timestamp,
    failures: u32,
    rng: SplitMix64,
}

/// Which pods and ports count.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    /// As the API takes it.
    selector: String,
    ports: Vec<u16>,
}

/// How far listing has come.
#[derive(Debug, PartialEq)]
enum Listing {
    /// A page is to be asked for, from there on.
    Due {
        token: Option<String>,
        pods: BTreeMap<String, Pod>,
    },
    Done,
}

/// A pod that takes requests.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pod {
    address: IpAddr,
    /// Of the pool's ports only these, if it says so.
    active_ports: Option<Vec<u16>>,
    /// What runs in it, if it says so.
    engine: Option<EngineName>,
    labels: Labels,
}

impl Kubernetes {
    pub(super) fn new(namespace: &str, pods: &Pods, labels: BTreeSet<String>, owner: u64) -> Kubernetes {
        let (inference_pool, wanted) = match pods {
            Pods::InferencePool(name) => (Some(name.clone()), None),
            Pods::Selected { labels, ports } => {
                let selector = selector(labels.iter().map(|(name, value)| (name, value)));
                (None, Some(Wanted { selector, ports: ports.clone() }))
            }
        };
        Kubernetes {
            namespace: namespace.to_owned(),
            inference_pool,
            pool_due_at: Timestamp::default(),
            wanted,
            labels,
            listing: Listing::start(),
            era: 0,
            columns: None,
            pods: BTreeMap::new(),
            applied: 0,
            watched_at: Timestamp::default(),
            bookmark_at: Timestamp::default(),
            retry_at: Timestamp::default(),
            failures: 0,
            rng: SplitMix64::new(owner),
        }
    }

    pub(super) fn restart(&mut self) {
        self.list_anew();
        self.pool_due_at = Timestamp::default();
        (self.retry_at, self.failures) = (Timestamp::default(), 0);
    }

    /// Starts listing. What was asked before is about another selector, or older than the list will be.
    fn list_anew(&mut self) {
        self.listing = Listing::start();
        self.era += 1;
    }

    /// The kind of a question about pods, which differs from list to list.
    fn kind(&self, what: u64) -> u64 {
        self.era * KINDS + what
    }

    pub(super) fn poll_question(&mut self, open: &[u64], now: Timestamp) -> Option<Question> {
        // A time that is far ahead is from before the clock went back.
        if self.retry_at > now && self.retry_at.since(now) <= LAST_RETRY * 2 {
            return None;
        }
        if let Some(name) = &self.inference_pool
            && !open.contains(&POOL)
            && (self.pool_due_at <= now || self.pool_due_at.since(now) > POOL_PERIOD)
        {
            self.pool_due_at = now.after(POOL_PERIOD);
            let path =
                format!("/apis/inference.networking.k8s.io/v1/namespaces/{}/inferencepools/{name}", self.namespace);
            return Some(Question { kind: POOL, path, accept: JSON, timeout: TIMEOUT });
        }
        let wanted = self.wanted.as_ref()?;
        let pods = format!("/api/v1/namespaces/{}/pods?labelSelector={}", self.namespace, encode(&wanted.selector));
        if let Listing::Due { token, .. } = &self.listing {
            let kind = self.kind(LIST);
            if open.contains(&kind) {
                return None;
            }
            let token = token.as_ref().map_or_else(String::new, |token| format!("&continue={}", encode(token)));
            let path = format!("{pods}&limit={PAGE}{token}");
            return Some(Question { kind, path, accept: TABLE, timeout: TIMEOUT });
        }
        let free = |what: &u64| !open.contains(&self.kind(*what));
        let (what, seconds) = if now.is_due(self.watched_at, WATCH_PERIOD)
            && let Some(what) = WATCHES.into_iter().find(free)
        {
            self.watched_at = now;
            (what, WATCH_SECONDS)
        } else if now.is_due(self.bookmark_at, BOOKMARK_PERIOD) && free(&LONG_WATCH) {
            self.bookmark_at = now;
            (LONG_WATCH, LONG_WATCH_SECONDS)
        } else {
            return None;
        };
        let path = format!(
            "{pods}&watch=1&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={}",
            self.applied
        );
        let timeout = Duration::from_secs(seconds) + TIMEOUT;
        Some(Question { kind: self.kind(what), path, accept: TABLE, timeout })
    }

    pub(super) fn handle_answer(
        &mut self,
        kind: u64,
        answer: Answer<'_>,
        now: Timestamp,
    ) -> Result<Option<Vec<Found>>, Seen> {
        let what = kind % KINDS;
        if what != POOL && kind != self.kind(what) {
            return Ok(None);
        }
        let outcome = match answer {
            Answer::Answered { status: 200, body } => match what {
                POOL => self.handle_pool(body),
                LIST => self.handle_page(body),
                _ => self.handle_events(body),
            },
            Answer::Answered { status: 410, .. } if what != POOL => self.expired(410),
            Answer::Answered { status: 503 | 504, .. } | Answer::Broken => Err(Seen::Unreachable),
            Answer::Answered { status, .. } => Err(Seen::Status(status)),
            Answer::TooLarge => Err(Seen::Unreadable("it is too long".to_owned())),
        };
        match &outcome {
            Ok(_) => self.failures = 0,
            // It happens, and is no news.
            Err(Seen::Status(410)) if what != POOL => {
                self.fail(now);
                return Ok(None);
            }
            Err(_) => self.fail(now),
        }
        outcome
    }

    /// What a list or a watch began with is no longer kept.
    fn expired(&mut self, status: u16) -> Result<Option<Vec<Found>>, Seen> {
        self.list_anew();
        Err(Seen::Status(status))
    }

    /// Puts the next question off.
    fn fail(&mut self, now: Timestamp) {
        let delay = FIRST_RETRY.saturating_mul(1 << self.failures.min(10)).min(LAST_RETRY);
        self.failures += 1;
        // Gateways that lost the API at one moment must not all come back at one.
        let share = 80 + self.rng.below(41) as u32;
        self.retry_at = now.after(delay * share / 100);
    }

    fn handle_pool(&mut self, body: &[u8]) -> Result<Option<Vec<Found>>, Seen> {
        let pool: InferencePool = serde_json::from_slice(body).map_err(unreadable)?;
        let labels = pool.spec.selector.match_labels;
        let ports: Vec<u16> = pool.spec.target_ports.into_iter().map(|port| port.number).collect();
        if labels.is_empty() || ports.is_empty() {
            return Err(Seen::Unreadable("the InferencePool has no selector or no target ports".to_owned()));
        }
        let wanted = Wanted { selector: selector(labels.iter()), ports };
        if self.wanted.as_ref() == Some(&wanted) {
            return Ok(None);
        }
        let is_same_selector = self.wanted.as_ref().is_some_and(|before| before.selector == wanted.selector);
        self.wanted = Some(wanted);
        if is_same_selector && self.listing == Listing::Done {
            return Ok(Some(self.endpoints()));
        }
        self.list_anew();
        Ok(None)
    }

    fn handle_page(&mut self, body: &[u8]) -> Result<Option<Vec<Found>>, Seen> {
        let table: Table = serde_json::from_slice(body).map_err(unreadable)?;
        let Listing::Due { mut pods, .. } = std::mem::replace(&mut self.listing, Listing::start()) else {
            return Ok(None);
        };
        if let Some(columns) = table.columns() {
            self.columns = Some(columns);
        }
        let columns = self.columns.ok_or_else(|| Seen::Unreadable("it is no table of pods".to_owned()))?;
        for row in &table.rows {
            if let Some(pod) = row.pod(columns, &self.labels) {
                pods.insert(row.name().to_owned(), pod);
            }
        }
        if !table.metadata.continue_.is_empty() {
            self.listing = Listing::Due { token: Some(table.metadata.continue_), pods };
            return Ok(None);
        }
        self.applied = table.version().unwrap_or(0);
        (self.pods, self.listing) = (pods, Listing::Done);
        Ok(Some(self.endpoints()))
    }

    fn handle_events(&mut self, body: &[u8]) -> Result<Option<Vec<Found>>, Seen> {
        if self.listing != Listing::Done {
            return Ok(None);
        }
        let before = self.pods.clone();
        for line in body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            let event: Event = match serde_json::from_slice(line) {
                Ok(event) => event,
                // What came before it is taken in already, and what it said is lost.
                Err(error) => {
                    self.list_anew();
                    return Err(unreadable(error));
                }
            };
            if event.kind == "ERROR" {
                return self.expired(event.object.code);
            }
            if let Some(columns) = event.object.columns() {
                self.columns = Some(columns);
            }
            if event.kind == "BOOKMARK" {
                let version = event.object.version().or_else(|| event.object.rows.first()?.version());
                self.applied = self.applied.max(version.unwrap_or(0));
                continue;
            }
            for row in &event.object.rows {
                // The other watch was quicker.
                if row.version().is_some_and(|version| version <= self.applied) {
                    continue;
                }
                self.applied = row.version().unwrap_or(self.applied);
                match (event.kind.as_str(), self.columns.and_then(|columns| row.pod(columns, &self.labels))) {
                    ("ADDED" | "MODIFIED", Some(pod)) => {
                        self.pods.insert(row.name().to_owned(), pod);
                    }
                    _ => {
                        self.pods.remove(row.name());
                    }
                }
            }
        }
        Ok((self.pods != before).then(|| self.endpoints()))
    }

    fn endpoints(&self) -> Vec<Found> {
        let ports = self.wanted.as_ref().map_or(&[][..], |wanted| &wanted.ports);
        let of_pod = |pod: &Pod| {
            let is_active = |port: &&u16| pod.active_ports.as_ref().is_none_or(|active| active.contains(port));
            let endpoint = |port: &u16| Found {
                address: EndpointAddress::new(SocketAddr::new(pod.address, *port)),
                engine: pod.engine,
                labels: pod.labels.clone(),
            };
            ports.iter().filter(is_active).map(endpoint).collect::<Vec<_>>()
        };
        self.pods.values().flat_map(of_pod).collect()
    }
}

impl Listing {
    fn start() -> Listing {
        Listing::Due { token: None, pods: BTreeMap::new() }
    }
}

fn selector<'l>(labels: impl Iterator<Item = (&'l String, &'l String)>) -> String {
    labels.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn unreadable(error: serde_json::Error) -> Seen {
    Seen::Unreadable(error.to_string())
}

#[derive(Deserialize)]
struct InferencePool {
    spec: InferencePoolSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InferencePoolSpec {
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

#[cfg(test)]
mod tests;
