//! The pods of a namespace, by the Kubernetes API: listed in pages, and watched then.
//!
//! The host hands an answer over when it is complete, so a watch is asked to last a second, and the next one goes on where it
//! ended. Two take turns by half a second, which halves the time until a change is known; a third, longer one waits for a
//! bookmark. Pods come whole, since a table of them has neither their conditions nor their second address;
//! `docs/decisions/0002-pods-from-the-kubernetes-api.md` compares the ways.
//!
//! A watch tells what happens after a version, and is silent for ever when the API was restored from an older copy. So what is
//! known is checked: by a list after every watch that broke off, by the list's version every 15 seconds, and by a list when one is due for
//! what it weighs.

mod known;
mod pod;
mod pool;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::backoff::{Backoff, is_due, jitter};
use super::pages::Pages;
use super::{Answer, Failure, Outcome, Question};
use crate::config::Pods;
use crate::rng::SplitMix64;
use crate::time::Timestamp;

use known::{Applied, Known};
use pod::{Page, Pod, Version};
use pool::{PoolReader, Wanted};

/// What is asked. The kind of a question about pods also says since which list it is: see [`Kubernetes::kind`].
const POOL: u64 = 0;
const LIST: u64 = 1;
const WATCHES: [u64; 2] = [2, 3];
const LONG_WATCH: u64 = 4;
/// A page of one pod, without its specification, for the version of the list.
const PROBE: u64 = 5;
const KINDS: u64 = 6;

const JSON: &str = "application/json";
const METADATA: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";
/// How long a watch lasts, in seconds: the API takes no less.
const WATCH_SECONDS: u64 = 1;
/// A bookmark, which says that the API has got so far without a change, comes two seconds before a watch's end, so a third
/// watch lasts longer now and then. Without any, a pool that is quiet in a cluster that is not would begin where nothing is
/// kept any more; the API keeps what has happened for more than a minute.
const LONG_WATCH_SECONDS: u64 = 5;
const BOOKMARK_PERIOD: Duration = Duration::from_secs(30);
/// The time between the starts of two watches.
const WATCH_PERIOD: Duration = Duration::from_millis(500);
/// For an InferencePool and a page of pods.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What a watch may take beyond its time. An API server that vanished without a word is noticed so.
const WATCH_SLACK: Duration = Duration::from_secs(4);
/// How often to look whether the API's version went back. Two looks fit into half a minute, also when one fails.
const PROBE_PERIOD: Duration = Duration::from_secs(15);
/// A list is repeated so often that it weighs no more than this: 32 KiB each second for a pool and a gateway.
const LIST_BYTES_PER_SECOND: usize = 32 << 10;
const SHORTEST_LIST_PERIOD: Duration = Duration::from_secs(30);
const LONGEST_LIST_PERIOD: Duration = Duration::from_secs(900);
/// While no watch works, as without the right to, lists take its place: this often, or so often that they weigh eight times as much
/// as otherwise.
const SHORTEST_PAUSE: Duration = Duration::from_secs(3);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Follows the pods of one pool.
#[derive(Debug)]
pub(super) struct Kubernetes {
    namespace: String,
    /// The InferencePool that says which pods count; `None` where the configuration does.
    pool: Option<PoolReader>,
    wanted: Option<Wanted>,
    known: Known,
    /// The list that is under way or due.
    listing: Option<Listing>,
    pages: Pages,
    /// How many lists were begun.
    era: u64,
    /// When the last list was complete, and what it weighed.
    listed_at: Timestamp,
    list_bytes: usize,
    list_due_at: Timestamp,
    backoff: Backoff,
    /// With which version each kind of question began.
    since: [u64; KINDS as usize],
    /// Whether a watch was answered since the last list.
    has_watched: bool,
    watched_at: Timestamp,
    bookmark_at: Timestamp,
    probed_at: Timestamp,
    rng: SplitMix64,
}

/// A list that is under way.
#[derive(Debug)]
struct Listing {
    not_before: Timestamp,
    pods: BTreeMap<String, Pod>,
}

/// What of a source's questions fails or works together: both watches, and each other kind by itself.
pub(super) fn topic(kind: u64) -> u64 {
    match kind % KINDS {
        POOL => POOL,
        what if is_watch(what) => LONG_WATCH,
        what => what,
    }
}

fn is_watch(what: u64) -> bool {
    what == LONG_WATCH || WATCHES.contains(&what)
}

impl Kubernetes {
    pub(super) fn new(namespace: &str, pods: &Pods, labels: BTreeSet<String>, owner: u64) -> Kubernetes {
        let (pool, wanted) = match pods {
            Pods::InferencePool(name) => (Some(PoolReader::new(name)), None),
            Pods::Selected { labels, ports } => {
                let selector = selector(labels.iter().map(|(name, value)| (name, value)));
                (None, Some(Wanted { selector, ports: ports.clone() }))
            }
        };
        Kubernetes {
            namespace: namespace.to_owned(),
            pool,
            wanted,
            known: Known::new(labels),
            listing: Some(Listing::from(Timestamp::default())),
            pages: Pages::default(),
            era: 0,
            listed_at: Timestamp::default(),
            list_bytes: 0,
            list_due_at: Timestamp::default(),
            backoff: Backoff::default(),
            since: [0; KINDS as usize],
            has_watched: false,
            watched_at: Timestamp::default(),
            bookmark_at: Timestamp::default(),
            probed_at: Timestamp::default(),
            rng: SplitMix64::new(owner),
        }
    }

    pub(super) fn restart(&mut self) {
        self.list_anew(Timestamp::default());
        if let Some(pool) = &mut self.pool {
            pool.restart();
        }
        self.backoff = Backoff::default();
        self.known.restart();
    }

    /// Why a pod is not used as it says, once for each.
    pub(super) fn poll_remark(&mut self) -> Option<String> {
        self.known.poll_remark()
    }

    /// Starts listing. What was asked before is about another selector, or older than the list will be.
    fn list_anew(&mut self, not_before: Timestamp) {
        self.listing = Some(Listing::from(not_before));
        self.pages.restart();
        self.era += 1;
    }

    /// The kind of a question about pods, which differs from list to list.
    fn kind(&self, what: u64) -> u64 {
        self.era * KINDS + what
    }

    pub(super) fn poll_question(&mut self, open: &[u64], now: Timestamp) -> Option<Question> {
        if let Some(pool) = self.pool.as_mut().filter(|_| !open.contains(&POOL))
            && let Some(path) = pool.poll_path(&self.namespace, now)
        {
            return Some(Question { kind: POOL, path, accept: JSON, timeout: TIMEOUT });
        }
        let selector = encode(&self.wanted.as_ref()?.selector);
        let pods = format!("/api/v1/namespaces/{}/pods?labelSelector={selector}", self.namespace);
        if self.listing.is_none() && is_due(self.list_due_at, now, LONGEST_LIST_PERIOD * 2) {
            self.list_anew(now);
        }
        match &self.listing {
            Some(listing) => {
                let kind = self.kind(LIST);
                let is_time = is_due(listing.not_before, now, LONGEST_PAUSE) && self.backoff.is_over(now);
                let path = format!("{pods}&{}", self.pages.query());
                (is_time && !open.contains(&kind)).then_some(Question { kind, path, accept: JSON, timeout: TIMEOUT })
            }
            None => self.poll_watch(&pods, open, now),
        }
    }

    fn poll_watch(&mut self, pods: &str, open: &[u64], now: Timestamp) -> Option<Question> {
        let free = |what: &u64| !open.contains(&self.kind(*what));
        let (what, seconds) = if now.is_due(self.watched_at, WATCH_PERIOD)
            && let Some(what) = WATCHES.into_iter().find(free)
        {
            self.watched_at = now;
            (what, WATCH_SECONDS)
        } else if now.is_due(self.bookmark_at, BOOKMARK_PERIOD) && free(&LONG_WATCH) {
            self.bookmark_at = now;
            (LONG_WATCH, LONG_WATCH_SECONDS)
        } else if now.is_due(self.probed_at, PROBE_PERIOD) && free(&PROBE) {
            self.probed_at = now;
            self.note_since(PROBE);
            let path = format!("{pods}&limit=1");
            return Some(Question { kind: self.kind(PROBE), path, accept: METADATA, timeout: TIMEOUT });
        } else {
            return None;
        };
        self.note_since(what);
        let path = format!(
            "{pods}&watch=1&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={}",
            self.known.version()
        );
        let timeout = Duration::from_secs(seconds) + WATCH_SLACK;
        Some(Question { kind: self.kind(what), path, accept: JSON, timeout })
    }

    fn note_since(&mut self, what: u64) {
        if let Some(since) = usize::try_from(what).ok().and_then(|at| self.since.get_mut(at)) {
            *since = self.known.version();
        }
    }

    fn since(&self, what: u64) -> u64 {
        usize::try_from(what).ok().and_then(|at| self.since.get(at)).copied().unwrap_or(0)
    }

    pub(super) fn handle_answer(&mut self, kind: u64, answer: Answer<'_>, now: Timestamp) -> Result<Outcome, Failure> {
        let what = kind % KINDS;
        if what != POOL && kind != self.kind(what) {
            return Ok(Outcome::Stale);
        }
        match what {
            POOL => self.handle_pool(answer, now),
            LIST => self.handle_list(answer, now),
            PROBE => Ok(self.handle_probe(answer, now)),
            _ => self.handle_watch(what, answer, now),
        }
    }

    fn handle_pool(&mut self, answer: Answer<'_>, now: Timestamp) -> Result<Outcome, Failure> {
        let Some(pool) = &mut self.pool else { return Ok(Outcome::Stale) };
        let Some(wanted) = pool.handle_answer(answer, &mut self.rng, now)? else { return Ok(Outcome::Stale) };
        if self.wanted.as_ref() == Some(&wanted) {
            return Ok(Outcome::Unchanged);
        }
        let is_same_selector = self.wanted.as_ref().is_some_and(|before| before.selector == wanted.selector);
        self.wanted = Some(wanted);
        if is_same_selector && self.listing.is_none() {
            return Ok(self.found());
        }
        if !is_same_selector {
            self.list_anew(now);
        }
        Ok(Outcome::Unchanged)
    }

    fn handle_list(&mut self, answer: Answer<'_>, now: Timestamp) -> Result<Outcome, Failure> {
        let read = answer.body().and_then(|body| {
            let page: Page = serde_json::from_slice(body).map_err(|error| Failure::unreadable(&error))?;
            Ok((page, body.len()))
        });
        let (page, bytes) = match read {
            Ok(read) => read,
            Err(failure) => {
                let is_halved = matches!(answer, Answer::TooLarge | Answer::Broken) && self.pages.handle_too_long();
                if is_halved && answer == Answer::TooLarge {
                    return Ok(Outcome::Stale);
                }
                // The token is of a list that is no longer kept.
                if matches!(failure, Failure::Status(410, _)) {
                    self.list_anew(now);
                }
                self.backoff.handle_failure(answer.retry_after(), &mut self.rng, now);
                return Err(failure);
            }
        };
        self.backoff.handle_success();
        Ok(self.handle_page(page, bytes, now))
    }

    fn handle_page(&mut self, page: Page, bytes: usize, now: Timestamp) -> Outcome {
        let Some(listing) = &mut self.listing else { return Outcome::Stale };
        let items = page.items.unwrap_or_default();
        for object in &items {
            if let Some(pod) = object.pod(self.known.labels()) {
                listing.pods.insert(object.name().to_owned(), pod);
            }
        }
        let version = page.metadata.version();
        if self.pages.handle_page(items.len(), bytes, page.metadata.continue_) {
            return Outcome::Unchanged;
        }
        self.known.replace(std::mem::take(&mut listing.pods), version.unwrap_or(0));
        self.listing = None;
        self.has_watched = false;
        (self.listed_at, self.probed_at, self.list_bytes) = (now, now, self.pages.bytes());
        self.list_due_at = now.after(jitter(self.list_period(), &mut self.rng));
        self.found()
    }

    fn list_period(&self) -> Duration {
        seconds(self.list_bytes / LIST_BYTES_PER_SECOND).clamp(SHORTEST_LIST_PERIOD, LONGEST_LIST_PERIOD)
    }

    /// When to list after a watch that failed: at once if watches work, and else with a pause.
    fn after_failed_watch(&self, now: Timestamp) -> Timestamp {
        let pause = seconds(self.list_bytes / (LIST_BYTES_PER_SECOND * 8)).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        if self.has_watched { now } else { self.listed_at.after(pause) }
    }

    /// A version that went back is of an API that was restored from an older copy: what is known may never have been.
    fn handle_probe(&mut self, answer: Answer<'_>, now: Timestamp) -> Outcome {
        let list = answer.body().ok().and_then(|body| serde_json::from_slice::<Version>(body).ok());
        if list.and_then(|list| list.metadata.version()).is_some_and(|version| version < self.since(PROBE)) {
            self.list_anew(now);
        }
        Outcome::Stale
    }

    fn handle_watch(&mut self, what: u64, answer: Answer<'_>, now: Timestamp) -> Result<Outcome, Failure> {
        let since = self.since(what);
        match answer.body().and_then(|body| self.known.apply(since, body)) {
            Ok(Applied::Nothing) => {
                self.has_watched = true;
                Ok(Outcome::Unchanged)
            }
            Ok(Applied::Changes) => {
                self.has_watched = true;
                Ok(self.found())
            }
            Ok(Applied::WentBack) => {
                self.list_anew(self.after_failed_watch(now));
                Ok(Outcome::Stale)
            }
            // Something may have been lost, or the API was away: who knows what it is now.
            Err(failure) => {
                self.backoff.handle_failure(answer.retry_after(), &mut self.rng, now);
                self.list_anew(self.after_failed_watch(now));
                Err(failure)
            }
        }
    }

    fn found(&mut self) -> Outcome {
        let ports = self.wanted.as_ref().map_or(&[][..], |wanted| &wanted.ports);
        Outcome::Found(self.known.endpoints(ports))
    }
}

impl Listing {
    fn from(not_before: Timestamp) -> Listing {
        Listing { not_before, pods: BTreeMap::new() }
    }
}

fn seconds(count: usize) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(u64::MAX))
}

fn selector<'l>(labels: impl Iterator<Item = (&'l String, &'l String)>) -> String {
    labels.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[cfg(test)]
mod tests;
