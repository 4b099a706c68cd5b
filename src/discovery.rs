//! Finds the endpoints of pools that are not written down, as a machine: told of ticks and answers, it says what to ask
//! and which endpoints there are.
//!
//! Whoever polls discovers. What was last found holds until something else is found: an API that cannot be reached
//! changes nothing. The filters hear of it by the load snapshots, whose list of endpoints is the pool's.

mod backoff;
mod envoy_admin;
mod failure;
mod kubernetes;
mod notice;
mod pages;
pub mod resources;

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::raw::EngineName;
use crate::config::{self, Config, EndpointAddress, MAX_ENDPOINTS, PoolId};
use crate::poller::Hint;
use crate::scheduling::labels::Labels;
use crate::time::Timestamp;

use envoy_admin::EnvoyAdmin;
use failure::Troubles;
use kubernetes::Kubernetes;
use resources::Resources;

pub use failure::Failure;
pub use notice::{About, Notice, Seen};

/// Answers above this length are not read: a page of pods has a megabyte, a list of a thousand hosts some 750 KB.
pub const MAX_ANSWER_BYTES: usize = 8 << 20;
/// How often to look whether a question is due, however seldom metrics are read: it bounds what a first list and a retry wait.
pub const TICK_PERIOD: Duration = Duration::from_millis(100);

/// Names one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId {
    source: usize,
    sequence: u64,
}

/// A question to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Names it in the answer.
    pub id: CallId,
    /// The Envoy cluster.
    pub cluster: String,
    /// The path, with its query.
    pub path: String,
    /// What the answer shall be.
    pub accept: &'static str,
    /// When to give up.
    pub timeout: Duration,
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// It was answered.
    Answered {
        /// The status.
        status: u16,
        /// The value of `retry-after`; empty without one.
        retry_after: &'a [u8],
        /// The body.
        body: &'a [u8],
    },
    /// The answer is longer than [`MAX_ANSWER_BYTES`].
    TooLarge,
    /// It could not be sent, or the connection broke.
    Broken,
}

/// What one source wants to ask.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    /// What of a source's questions it is.
    kind: u64,
    path: String,
    accept: &'static str,
    timeout: Duration,
}

/// An endpoint that was found, and what its labels and annotations say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Its address.
    pub address: EndpointAddress,
    /// Its engine, where a label names one that is known.
    pub engine: Option<EngineName>,
    /// Where its annotations say that its metrics page is.
    pub page: Hint,
    /// Those of its labels that the pool's filters and scorers look at.
    pub labels: Labels,
}

impl Found {
    /// One without labels.
    pub fn at(address: EndpointAddress) -> Found {
        Found { address, engine: None, page: Hint::default(), labels: Labels::new() }
    }
}

/// What a source makes of an answer.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// It is about something that is asked for no more.
    Stale,
    /// It is good, and the endpoints are the same.
    Unchanged,
    /// These are the endpoints.
    Found(Vec<Found>),
}

/// Discovers the endpoints of every pool that asks for it.
#[derive(Debug)]
pub struct Discovery {
    sources: Vec<Source>,
    sequence: u64,
}

#[derive(Debug)]
struct Source {
    /// The pool, if it is one's endpoints that are looked for.
    pool: Option<PoolId>,
    about: About,
    cluster: String,
    what: What,
    /// Questions that were not answered, with their kinds and when they count as lost.
    open: Vec<(u64, u64, Timestamp)>,
    found: Option<Vec<Found>>,
    is_new: bool,
    /// Whether the endpoints that were last found were any; `None` before the first.
    any_found: Option<bool>,
    troubles: Troubles,
    notices: VecDeque<Seen>,
}

#[derive(Debug)]
enum What {
    EnvoyAdmin(EnvoyAdmin),
    Kubernetes(Box<Kubernetes>),
    Resources(Box<Resources>),
}

impl Discovery {
    /// For the pools of the configuration. `owner` tells VMs apart, so that their retries differ.
    pub fn new(config: &Config, owner: u64) -> Discovery {
        let source = |(pool, settings): (PoolId, &config::Pool)| {
            let (cluster, what) = match settings.discovery.as_ref()? {
                config::Discovery::EnvoyAdmin { cluster, interval } => {
                    (cluster, What::EnvoyAdmin(EnvoyAdmin::new(&settings.cluster, *interval, owner)))
                }
                config::Discovery::Kubernetes { cluster, namespace, pods } => {
                    let labels = settings.profile.wanted_labels();
                    (cluster, What::Kubernetes(Box::new(Kubernetes::new(namespace, pods, labels, owner))))
                }
            };
            Some(Source::new(Some(pool), About::Pool(settings.name.clone()), cluster, what))
        };
        let mut sources: Vec<Source> = config.pools().filter_map(source).collect();
        if let Some(config::Resources { cluster, namespace }) = &config.resources {
            let what = What::Resources(Box::new(Resources::new(namespace, config, owner)));
            sources.push(Source::new(None, About::Resources(namespace.clone()), cluster, what));
        }
        Discovery { sources, sequence: 0 }
    }

    /// Starts over: after a time in which another VM has asked, what is known is old.
    pub fn restart(&mut self) {
        for source in &mut self.sources {
            match &mut source.what {
                What::EnvoyAdmin(admin) => admin.restart(),
                What::Kubernetes(kubernetes) => kubernetes.restart(),
                What::Resources(resources) => resources.restart(),
            }
            source.open.clear();
            source.troubles = Troubles::default();
            (source.found, source.any_found) = (None, None);
        }
    }

    /// How often to look whether a question is due; `None` when nothing is ever asked.
    pub fn tick_period(&self) -> Option<Duration> {
        (!self.sources.is_empty()).then_some(TICK_PERIOD)
    }

    /// The next question to send.
    pub fn poll_call(&mut self, now: Timestamp) -> Option<Call> {
        for (index, source) in self.sources.iter_mut().enumerate() {
            // A host that never answers at all must not end discovery.
            source.open.retain(|(_, _, lost_at)| *lost_at > now);
            let open: Vec<u64> = source.open.iter().map(|(_, kind, _)| *kind).collect();
            let question = match &mut source.what {
                What::EnvoyAdmin(admin) => admin.poll_question(&open, now),
                What::Kubernetes(kubernetes) => kubernetes.poll_question(&open, now),
                What::Resources(resources) => resources.poll_question(&open, now),
            };
            let Some(question) = question else { continue };
            self.sequence += 1;
            source.open.push((self.sequence, question.kind, now.after(question.timeout * 2)));
            return Some(Call {
                id: CallId { source: index, sequence: self.sequence },
                cluster: source.cluster.clone(),
                path: question.path,
                accept: question.accept,
                timeout: question.timeout,
            });
        }
        None
    }

    /// Takes an answer in, or the lack of one.
    pub fn handle_answer(&mut self, id: CallId, answer: Answer<'_>, now: Timestamp) {
        let Some(source) = self.sources.get_mut(id.source) else { return };
        let Some(at) = source.open.iter().position(|(sequence, _, _)| *sequence == id.sequence) else { return };
        let (_, kind, _) = source.open.swap_remove(at);
        let outcome = match &mut source.what {
            What::EnvoyAdmin(admin) => admin.handle_answer(answer, now),
            What::Kubernetes(kubernetes) => kubernetes.handle_answer(kind, answer, now),
            What::Resources(resources) => resources.handle_answer(kind, answer, now),
        };
        let topic = match &source.what {
            What::EnvoyAdmin(_) => 0,
            What::Kubernetes(_) => kubernetes::topic(kind),
            What::Resources(_) => kind,
        };
        source.handle_outcome(topic, outcome, now);
    }

    /// A pool's endpoints, if they have changed.
    pub fn poll_endpoints(&mut self) -> Option<(PoolId, &[Found])> {
        let source = self.sources.iter_mut().find(|source| source.is_new)?;
        source.is_new = false;
        Some((source.pool?, source.found.as_deref().unwrap_or_default()))
    }

    /// What the resources say, if it has changed, and the key to store it under.
    pub fn poll_resources(&mut self) -> Option<(String, Vec<u8>)> {
        self.sources.iter_mut().find_map(|source| match &mut source.what {
            What::Resources(resources) => resources.poll_publication(),
            _ => None,
        })
    }

    /// The shared-data key of what the resources say, which is read when this VM begins to poll.
    pub fn resources_key(&self) -> Option<String> {
        self.sources.iter().find_map(|source| match &source.what {
            What::Resources(resources) => Some(resources.key()),
            _ => None,
        })
    }

    /// Takes in what another VM has published there: it holds for kinds of resources of which nothing is known yet.
    pub fn handle_published(&mut self, blob: &[u8]) {
        for source in &mut self.sources {
            if let What::Resources(resources) = &mut source.what {
                resources.handle_published(blob);
            }
        }
    }

    /// Why a resource was left out.
    pub fn poll_refused(&mut self) -> Option<String> {
        self.sources.iter_mut().find_map(|source| match &mut source.what {
            What::Resources(resources) => resources.poll_refused(),
            _ => None,
        })
    }

    /// The next thing to log.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.sources.iter_mut().find_map(|source| {
            if let What::Kubernetes(kubernetes) = &mut source.what
                && let Some(remark) = kubernetes.poll_remark()
            {
                return Some(Notice { about: source.about.clone(), what: Seen::Odd(remark) });
            }
            Some(Notice { about: source.about.clone(), what: source.notices.pop_front()? })
        })
    }
}

impl Source {
    fn new(pool: Option<PoolId>, about: About, cluster: &str, what: What) -> Source {
        Source {
            pool,
            about,
            cluster: cluster.to_owned(),
            what,
            open: Vec::new(),
            found: None,
            is_new: false,
            any_found: None,
            troubles: Troubles::default(),
            notices: VecDeque::new(),
        }
    }

    fn handle_outcome(&mut self, topic: u64, outcome: Result<Outcome, Failure>, now: Timestamp) {
        let is_said = match outcome {
            Ok(Outcome::Stale) => return,
            Ok(Outcome::Unchanged) => false,
            Ok(Outcome::Found(found)) => self.handle_found(found),
            Err(failure) => {
                if self.troubles.handle_failure(topic, &failure, now) {
                    self.notices.push_back(Seen::Failed(failure));
                }
                return;
            }
        };
        // That endpoints were found says as well that it works.
        if self.troubles.handle_success(topic) && !is_said {
            self.notices.push_back(Seen::Again(self.found.as_ref().map(Vec::len)));
        }
    }

    /// Takes endpoints in, and says whether that was worth a notice.
    fn handle_found(&mut self, mut found: Vec<Found>) -> bool {
        found.sort();
        // Pods on the network of one host have one address: it is an endpoint while any of them is there.
        found.dedup_by(|a, b| a.address == b.address);
        let count = found.len();
        found.truncate(MAX_ENDPOINTS);
        let before = self.found.as_ref().map_or(0, Vec::len);
        // How many there are changes all the time; that there are any, and that some are left out, is news.
        let is_news = self.any_found != Some(count > 0) || (count > MAX_ENDPOINTS && before < MAX_ENDPOINTS);
        if is_news {
            self.notices.push_back(if count > MAX_ENDPOINTS { Seen::TooMany(count) } else { Seen::Found(count) });
        }
        self.any_found = Some(count > 0);
        if self.found.as_ref() != Some(&found) {
            self.found = Some(found);
            self.is_new = true;
        }
        is_news
    }
}

#[cfg(test)]
mod tests;
