//! What an operator wants to know of discovery: one line for each cause and pool, and one when it is over.

use std::fmt;

use super::Failure;
use crate::config::MAX_ENDPOINTS;

/// Something to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What it is about.
    pub about: About,
    /// What happened.
    pub what: Seen,
}

/// What a notice is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// The endpoints of the pool with this name.
    Pool(String),
    /// The resources about models in this namespace.
    Resources(String),
}

/// How discovery goes, after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It works, and has found so many endpoints, where it found none before or the other way around.
    Found(usize),
    /// There are more than a pool may have: the others are left out.
    TooMany(usize),
    /// What was said to fail works again; with the number of endpoints.
    Again(Option<usize>),
    /// A question has failed for some time.
    Failed(Failure),
    /// Something that was found cannot be used as it is.
    Odd(String),
}

impl Notice {
    /// Whether it is good news.
    pub fn is_good(&self) -> bool {
        matches!(self.what, Seen::Found(1..) | Seen::Again(_))
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.about {
            About::Pool(name) => write!(f, "pool={name} {}", self.what),
            About::Resources(namespace) => write!(f, "namespace={namespace} model resources: {}", self.what),
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Found(count) => f.write_str(&endpoints(*count)),
            Seen::TooMany(count) => write!(f, "{count} endpoints, of which {MAX_ENDPOINTS} are taken"),
            Seen::Again(Some(count)) => write!(f, "it works again: {}", endpoints(*count)),
            Seen::Again(None) => f.write_str("it works again"),
            Seen::Failed(failure) => failure.fmt(f),
            Seen::Odd(what) => f.write_str(what),
        }
    }
}

fn endpoints(count: usize) -> String {
    match count {
        0 => "there is no endpoint".to_owned(),
        1 => "1 endpoint".to_owned(),
        _ => format!("{count} endpoints"),
    }
}
