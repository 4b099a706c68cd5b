//! Finds the endpoints of pools that are not written down, as a machine: told of ticks and answers, it says what to ask
//! and which endpoints there are.
//!
//! Whoever polls discovers. What was last found holds until something else is found: an API that cannot be reached
//! changes nothing. The filters hear of it by the load snapshots, whose list of endpoints is the pool's.

mod envoy_admin;
mod kubernetes;
pub mod resources;

use std::fmt;
use std::time::Duration;

use crate::config::raw::EngineName;
use crate::config::{self, Config, EndpointAddress, MAX_ENDPOINTS, PoolId};
use crate::scheduling::labels::Labels;
use crate::time::Timestamp;

use envoy_admin::EnvoyAdmin;
use kubernetes::Kubernetes;
use resources::Resources;

/// Answers above this length are not read: a page of pods has half a megabyte, a list of a thousand hosts some 750 KB.
pub const MAX_ANSWER_BYTES: usize = 8 << 20;

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

/// An endpoint that was found, and what its labels say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Its address.
    pub address: EndpointAddress,
    /// Its engine, where a label names one that is known.
    pub engine: Option<EngineName>,
    /// Those of its labels that the pool's filters and scorers look at.
    pub labels: Labels,
}

impl Found {
    /// One without labels.
    pub fn at(address: EndpointAddress) -> Found {
        Found { address, engine: None, labels: Labels::new() }
    }
}

/// Something that an operator wants to know, said once and not with every answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The pool's name.
    pub pool: String,
    /// What happened.
    pub what: Seen,
}

/// How discovery goes, after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It works, and has found so many endpoints.
    Found(usize),
    /// There are more than a pool may have: the others are left out.
    TooMany(usize),
    /// Nothing answers, or not in time.
    Unreachable,
    /// It was answered with this status.
    Status(u16),
    /// The answer cannot be read.
    Unreadable(String),
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
    name: String,
    cluster: String,
    what: What,
    /// Questions that were not answered, with their kinds and when they count as lost.
    open: Vec<(u64, u64, Timestamp)>,
    found: Option<Vec<Found>>,
    is_new: bool,
    seen: Option<Seen>,
    notice: Option<Seen>,
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
                    (cluster, What::EnvoyAdmin(EnvoyAdmin::new(&settings.cluster, *interval)))
                }
                config::Discovery::Kubernetes { cluster, namespace, pods } => {
                    let labels = settings.profile.wanted_labels();
                    (cluster, What::Kubernetes(Box::new(Kubernetes::new(namespace, pods, labels, owner))))
                }
            };
            Some(Source::new(Some(pool), &settings.name, cluster, what))
        };
        let mut sources: Vec<Source> = config.pools().filter_map(source).collect();
        if let Some(config::Resources { cluster, namespace }) = &config.resources {
            let what = What::Resources(Box::new(Resources::new(namespace, config)));
            sources.push(Source::new(None, "", cluster, what));
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
            source.found = None;
        }
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
            What::Resources(resources) => resources.handle_answer(kind, answer).map(|()| None),
        };
        match outcome {
            Ok(None) => {}
            Ok(Some(found)) => source.handle_found(found),
            Err(seen) => source.see(seen),
        }
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

    /// Why a resource was left out.
    pub fn poll_refused(&mut self) -> Option<String> {
        self.sources.iter_mut().find_map(|source| match &mut source.what {
            What::Resources(resources) => resources.poll_refused(),
            _ => None,
        })
    }

    /// The next thing to log.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        let source = self.sources.iter_mut().find(|source| source.notice.is_some())?;
        Some(Notice { pool: source.name.clone(), what: source.notice.take()? })
    }
}

impl Source {
    fn new(pool: Option<PoolId>, name: &str, cluster: &str, what: What) -> Source {
        Source {
            pool,
            name: name.to_owned(),
            cluster: cluster.to_owned(),
            what,
            open: Vec::new(),
            found: None,
            is_new: false,
            seen: None,
            notice: None,
        }
    }

    fn handle_found(&mut self, mut found: Vec<Found>) {
        found.sort();
        found.dedup_by(|a, b| a.address == b.address);
        let count = found.len();
        self.see(if count > MAX_ENDPOINTS { Seen::TooMany(count) } else { Seen::Found(count) });
        found.truncate(MAX_ENDPOINTS);
        if self.found.as_ref() != Some(&found) {
            self.found = Some(found);
            self.is_new = true;
        }
    }

    fn see(&mut self, seen: Seen) {
        // How many there are changes all the time; that they are found is news after they were not.
        let is_same = match (&self.seen, &seen) {
            (Some(Seen::Found(before)), Seen::Found(now)) => (*before == 0) == (*now == 0),
            (before, now) => before.as_ref() == Some(now),
        };
        if !is_same {
            self.notice = Some(seen.clone());
        }
        self.seen = Some(seen);
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Found(0) => f.write_str("there is no endpoint"),
            Seen::Found(count) => write!(f, "{count} endpoints"),
            Seen::TooMany(count) => write!(f, "{count} endpoints, of which {MAX_ENDPOINTS} are taken"),
            Seen::Unreachable => f.write_str("it cannot be reached; what was last known holds"),
            Seen::Status(status @ (401 | 403)) => {
                write!(
                    f,
                    "access is denied ({status}): see the service account's role and token, or the admin interface's allow_paths"
                )
            }
            Seen::Status(404) => f.write_str("the answer is 404: is the resource installed, and the name right?"),
            Seen::Status(status) => write!(f, "the answer is {status}; what was last known holds"),
            Seen::Unreadable(why) => write!(f, "the answer cannot be read: {why}"),
        }
    }
}
