//! What an operator hears of an endpoint's metrics page.

use std::fmt;

use super::MAX_PAGE_BYTES;
use crate::engine::Unreadable;

/// Something that an operator wants to know, said once and not with every scrape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The pool's name.
    pub pool: String,
    /// The endpoint.
    pub address: String,
    /// What happened.
    pub what: Seen,
}

/// How an endpoint's scrapes turned out, after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Its metrics are read.
    Ok,
    /// It refuses connections, or answers 503.
    Unreachable,
    /// Another host has answered, since Envoy's cluster does not have it.
    Elsewhere,
    /// It does not answer in time.
    Timeout,
    /// It answered with this status.
    Status(u16),
    /// Its page says nothing that can be used.
    Unreadable(Unreadable),
    /// Its page is longer than [`MAX_PAGE_BYTES`].
    TooLarge,
    /// The connection broke, or the answer was larger than Envoy takes (32 MiB).
    Broken,
    /// Envoy has no such cluster, or the cluster has no endpoint.
    NoCluster,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Ok => f.write_str("metrics are read"),
            Seen::Unreachable => f.write_str("it refuses connections or answers 503"),
            Seen::Elsewhere => f.write_str("another host has answered: it is not in Envoy's cluster"),
            Seen::Timeout => f.write_str("it does not answer in time"),
            Seen::Status(status) => write!(f, "it answered {status}"),
            Seen::Unreadable(why) => why.fmt(f),
            Seen::TooLarge => write!(f, "its metrics page is longer than {MAX_PAGE_BYTES} bytes"),
            Seen::Broken => f.write_str("the connection broke, or the page is longer than Envoy takes"),
            Seen::NoCluster => f.write_str("Envoy has no such cluster, or no endpoint in it"),
        }
    }
}
