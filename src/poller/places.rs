//! Where an endpoint's metrics page is: the places where it may be, tried one after the other until one has it.
//!
//! Nearly all engines have it at `/metrics` of the port that serves, `trtllm-serve` has JSON there, Triton and others have a port for it.
//! What the configuration says comes first and is the only place of its kind; then what the pod's annotations say, and then the other
//! path that is known. The first round tries all places at once; after that there is one scrape in each `poller.interval`. A place that
//! had the page is left only after several answers that were not a metrics page: an engine that starts anew says odd things for a moment.

use std::fmt;
use std::net::SocketAddr;

use super::redirect::{self, Refused};
use crate::engine::{OTHER_PATH, USUAL_PATH};

/// So many answers in a row that are not a metrics page, two seconds of them by default, and the page is looked for elsewhere.
const LOST_AFTER: u32 = 10;
/// How often one scrape may be redirected. Servers add a slash, and perhaps a prefix.
const MAX_REDIRECTS: u32 = 3;

/// A place where a metrics page may be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// A port other than the one that serves.
    pub port: Option<u16>,
    /// The path, with a query if it has one.
    pub path: String,
}

/// What pods' annotations say of their page, or what the configuration does.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hint {
    /// The port.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, ":{port}{}", self.path),
            None => f.write_str(&self.path),
        }
    }
}

/// Whether a text is a path as a request has it, perhaps with a query.
pub fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.len() <= redirect::MAX_PATH && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// When to ask again after an answer that was not a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// At once, at another place.
    Now,
    /// With the next interval.
    Later,
}

/// The places of one endpoint.
#[derive(Debug)]
pub(super) struct Places {
    /// At least one; those that are more likely come first.
    all: Vec<Place>,
    at: usize,
    /// Where redirects have led from there.
    redirected: Option<String>,
    redirects: u32,
    has_page: bool,
    /// Answers in a row that were not a page.
    misses: u32,
    /// Whether every place was tried once.
    is_first_round: bool,
}

impl Places {
    /// For an endpoint that serves on `own_port`, whose engine has its page at `path`, by what the configuration and its annotations
    /// say.
    pub(super) fn new(own_port: Option<u16>, path: &str, configured: &Hint, annotated: &Hint) -> Places {
        let other = |port: Option<u16>| port.filter(|port| Some(*port) != own_port);
        let port = other(configured.port);
        let usual = || configured.path.clone().unwrap_or_else(|| path.to_owned());
        let mut all = vec![Place { port, path: usual() }];
        if *annotated != Hint::default() {
            let port = annotated.port.map_or(port, |port| other(Some(port)));
            all.push(Place { port, path: annotated.path.clone().unwrap_or_else(usual) });
        }
        if configured.path.is_none() {
            let path = if path == USUAL_PATH { OTHER_PATH } else { USUAL_PATH };
            all.push(Place { port, path: path.to_owned() });
        }
        let mut known: Vec<Place> = Vec::new();
        all.retain(|place| {
            !known.contains(place) && {
                known.push(place.clone());
                true
            }
        });
        Places { all, at: 0, redirected: None, redirects: 0, has_page: false, misses: 0, is_first_round: true }
    }

    /// Whether these are the same places.
    pub(super) fn are(&self, other: &Places) -> bool {
        self.all == other.all
    }

    /// Which of the places is asked, and its number.
    pub(super) fn current(&self) -> (usize, Place) {
        let mut place = self.all.get(self.at).cloned().unwrap_or(Place { port: None, path: USUAL_PATH.to_owned() });
        if let Some(path) = &self.redirected {
            place.path.clone_from(path);
        }
        (self.at, place)
    }

    /// Whether the page is on a port that does not serve. What happens there says nothing of the one that does.
    pub(super) fn is_on_another_port(&self) -> bool {
        self.all.get(self.at).is_some_and(|place| place.port.is_some())
    }

    /// Takes in that the page was there.
    pub(super) fn handle_page(&mut self) {
        (self.has_page, self.misses, self.redirects, self.is_first_round) = (true, 0, 0, false);
    }

    /// Takes in that the endpoint did not answer. Where its page was found it is waited for. Until then a port of its own is tried as well: the
    /// one that serves may speak gRPC or TLS alone, and break off each scrape.
    pub(super) fn handle_silence(&mut self) -> Next {
        (self.redirected, self.redirects) = (None, 0);
        if self.has_page || self.all.iter().all(|place| place.port.is_none()) { Next::Later } else { self.advance() }
    }

    /// Takes in an answer that was not a page. A redirect that was followed is forgotten: it may lead elsewhere by now.
    pub(super) fn handle_miss(&mut self) -> Next {
        (self.redirected, self.redirects) = (None, 0);
        self.misses += 1;
        if self.has_page && self.misses < LOST_AFTER {
            return Next::Later;
        }
        (self.has_page, self.misses) = (false, 0);
        self.advance()
    }

    fn advance(&mut self) -> Next {
        self.at = if self.at + 1 < self.all.len() { self.at + 1 } else { 0 };
        self.is_first_round &= self.at != 0;
        if self.is_first_round { Next::Now } else { Next::Later }
    }

    /// Takes in a redirect. The place is then where it leads, also for later scrapes, which ask once and not twice.
    pub(super) fn handle_redirect(&mut self, location: &[u8], address: &str) -> Result<(), Refused> {
        if self.redirects == MAX_REDIRECTS {
            return Err(Refused::Circle);
        }
        let (_, place) = self.current();
        let target = redirect::target(location, address, &place.path)?;
        self.redirected = Some(target);
        self.redirects += 1;
        Ok(())
    }
}

/// An endpoint's address, with the place's port.
pub(super) fn address(endpoint: &str, place: &Place) -> String {
    match (place.port, endpoint.parse::<SocketAddr>()) {
        (Some(port), Ok(address)) => SocketAddr::new(address.ip(), port).to_string(),
        _ => endpoint.to_owned(),
    }
}

/// The port of an address.
pub(super) fn port(endpoint: &str) -> Option<u16> {
    endpoint.parse::<SocketAddr>().ok().map(|address| address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn hint(port: Option<u16>, path: Option<&str>) -> Hint {
        Hint { port, path: path.map(str::to_owned) }
    }

    fn all(path: &str, configured: Hint, annotated: Hint) -> Vec<String> {
        Places::new(Some(8000), path, &configured, &annotated).all.iter().map(Place::to_string).collect()
    }

    #[test]
    fn what_is_likely_comes_first() {
        let none = || hint(None, None);
        assert_eq!(all("/metrics", none(), none()), ["/metrics", "/prometheus/metrics"]);
        assert_eq!(all("/prometheus/metrics", none(), none()), ["/prometheus/metrics", "/metrics"]);
        assert_eq!(all("/metrics", hint(None, Some("/m")), none()), ["/m"]);
        assert_eq!(all("/metrics", hint(Some(8002), None), none()), [":8002/metrics", ":8002/prometheus/metrics"]);
        assert_eq!(all("/metrics", hint(Some(8002), Some("/m")), none()), [":8002/m"]);
        assert_eq!(all("/metrics", hint(Some(8000), None), none()), ["/metrics", "/prometheus/metrics"]);
        let annotated = [
            (hint(Some(8002), None), vec!["/metrics", ":8002/metrics", "/prometheus/metrics"]),
            (hint(Some(8002), Some("/m")), vec!["/metrics", ":8002/m", "/prometheus/metrics"]),
            (hint(None, Some("/m")), vec!["/metrics", "/m", "/prometheus/metrics"]),
            (hint(Some(8000), Some("/metrics")), vec!["/metrics", "/prometheus/metrics"]),
            (hint(Some(8000), Some("/prometheus/metrics")), vec!["/metrics", "/prometheus/metrics"]),
        ];
        for (annotated, expected) in annotated {
            assert_eq!(all("/metrics", none(), annotated), expected);
        }
        assert_eq!(all("/metrics", hint(Some(8002), None), hint(Some(8000), None))[1], "/metrics");
        assert_eq!(all("/metrics", hint(None, Some("/x")), hint(Some(8002), None)), ["/x", ":8002/x"]);
    }

    #[test]
    fn the_first_round_is_over_at_once_and_the_next_ones_are_not() {
        let mut places = Places::new(Some(8000), "/metrics", &Hint::default(), &hint(Some(8002), None));
        let nexts: Vec<Next> = (0..7).map(|_| places.handle_miss()).collect();
        use Next::{Later, Now};
        assert_eq!(nexts, [Now, Now, Later, Later, Later, Later, Later]);
    }

    #[test]
    fn a_place_that_had_the_page_is_not_left_lightly() {
        let mut places = Places::new(Some(8000), "/metrics", &Hint::default(), &Hint::default());
        assert_eq!(places.handle_miss(), Next::Now);
        assert_eq!(places.current().1.path, "/prometheus/metrics");
        places.handle_page();
        for _ in 0..3 {
            for _ in 0..9 {
                assert_eq!(places.handle_miss(), Next::Later);
                places.handle_silence();
            }
            assert_eq!(places.current().0, 1);
            places.handle_page();
        }
        for _ in 0..10 {
            assert_eq!(places.handle_miss(), Next::Later);
        }
        assert_eq!(places.current().0, 0);
    }

    #[test]
    fn a_redirect_is_remembered_until_it_fails_and_does_not_go_on_for_ever() {
        let mut places = Places::new(Some(8000), "/metrics", &Hint::default(), &Hint::default());
        let address = "10.0.0.1:8000";
        for _ in 0..10 {
            assert_eq!(places.handle_redirect(b"/metrics/", address), Ok(()));
            places.handle_page();
            assert_eq!(places.current().1.path, "/metrics/");
            assert_eq!(places.handle_miss(), Next::Later);
            assert_eq!(places.current().1.path, "/metrics");
        }
        places.handle_page();
        for path in ["/1", "/2", "/3"] {
            assert_eq!(places.handle_redirect(path.as_bytes(), address), Ok(()));
        }
        assert_eq!(places.handle_redirect(b"/4", address), Err(Refused::Circle));
    }

    #[test]
    fn a_port_of_its_own() {
        let place = Place { port: Some(8002), path: "/metrics".to_owned() };
        assert_eq!(address("10.0.0.1:8000", &place), "10.0.0.1:8002");
        assert_eq!(address("[2001:db8::1]:8000", &place), "[2001:db8::1]:8002");
        assert_eq!(port("[2001:db8::1]:8000"), Some(8000));
    }
}
