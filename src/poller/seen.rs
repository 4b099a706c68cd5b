//! What an operator hears of an endpoint's metrics page.

use std::fmt;

use super::places::Place;
use super::redirect::Refused;
use crate::page::Unreadable;

/// Something that an operator wants to know, said once and not with every scrape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The pool's name.
    pub pool: String,
    /// The endpoint.
    pub address: String,
    /// What happened.
    pub what: News,
}

/// How an endpoint's scrapes turn out, after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Its metrics are read, at this place.
    Read(Place),
    /// They are not, for what was last seen at each place where the page may be.
    Failed(Vec<(Place, Seen)>),
}

/// How a scrape failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The endpoint refuses connections, or answers 503.
    Unreachable,
    /// Another host has answered, since Envoy's cluster does not have the endpoint.
    Elsewhere,
    /// It does not answer in time.
    Timeout,
    /// It answered with this status.
    Status(u16),
    /// It redirects where it is not followed.
    Redirect(Refused),
    /// Its page says nothing that can be used.
    Unreadable(Unreadable),
    /// The connection broke, or the answer was larger than Envoy takes (32 MiB).
    Broken,
    /// Envoy has no cluster of this name, or the cluster has no endpoint.
    NoCluster(String),
}

impl Seen {
    /// Whether the endpoint has not answered at all.
    pub(super) fn is_away(&self) -> bool {
        match self {
            Seen::Unreachable | Seen::Elsewhere | Seen::Timeout | Seen::Broken | Seen::NoCluster(_) => true,
            Seen::Status(_) | Seen::Redirect(_) | Seen::Unreadable(_) => false,
        }
    }
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            News::Read(place) => write!(f, "metrics are read: page={place}"),
            News::Failed(places) => {
                f.write_str("metrics are not read:")?;
                for (index, (place, seen)) in places.iter().enumerate() {
                    write!(f, "{} page={place} {seen}", if index == 0 { "" } else { ";" })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Unreachable => f.write_str("it refuses connections or answers 503"),
            Seen::Elsewhere => f.write_str("another host has answered: it is not in Envoy's cluster"),
            Seen::Timeout => f.write_str("it does not answer in time"),
            Seen::Status(status @ (401 | 403)) => {
                write!(f, "it answered {status}: the page must be open to the gateway, which has no credentials for it")
            }
            Seen::Status(404) => f.write_str(
                "it answered 404: are its metrics on, and at this path and port? (metricsPath, metricsPort)",
            ),
            Seen::Status(status) => write!(f, "it answered {status}"),
            Seen::Redirect(why) => why.fmt(f),
            Seen::Unreadable(why) => why.fmt(f),
            Seen::Broken => f.write_str("the connection broke, or the page is longer than Envoy takes"),
            Seen::NoCluster(cluster) => write!(f, "Envoy has no cluster {cluster:?}, or no endpoint in it"),
        }
    }
}
