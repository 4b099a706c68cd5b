//! Follows a redirect of a metrics page, as far as the endpoint itself leads.
//!
//! A redirect may name another path of the same host and port, as servers do that want `/metrics/` for `/metrics`. Anywhere else would
//! make an endpoint say which of the gateway's neighbours is asked, and whose load it is believed to have.

use std::fmt;
use std::net::SocketAddr;

use crate::shown;

/// The longest path that is asked for.
pub(super) const MAX_PATH: usize = 1024;

/// Why a redirect is not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It does not say where to, or not in a form that can be read.
    Nowhere,
    /// It leads to another host or port: to this one, as a text that is safe to show.
    Elsewhere(String),
    /// It leads to itself, or from one to the next without an end.
    Circle,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Nowhere => f.write_str("it redirects, and does not say where to"),
            Refused::Elsewhere(to) => write!(f, "it redirects to another host or port, which is not followed: {to}"),
            Refused::Circle => f.write_str("it redirects in a circle, or wants https"),
        }
    }
}

/// The path that a `location` leads to, for an endpoint at `address` that was asked for `path`.
pub(super) fn target(location: &[u8], address: &str, path: &str) -> Result<String, Refused> {
    let text = std::str::from_utf8(location.trim_ascii()).map_err(|_| Refused::Nowhere)?;
    let text = text.split('#').next().unwrap_or_default();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refused::Nowhere);
    }
    let elsewhere = || Refused::Elsewhere(shown::line(text));
    let target = match (scheme(text), text.strip_prefix("//")) {
        (Some(("http", rest)), _) => of_authority(rest.strip_prefix("//").ok_or_else(elsewhere)?, address, 80),
        (Some(("https", rest)), _) => of_authority(rest.strip_prefix("//").ok_or_else(elsewhere)?, address, 443),
        (Some(_), _) => None,
        (None, Some(rest)) => of_authority(rest, address, 80),
        (None, None) => Some(relative(text, path)),
    };
    let target = target.ok_or_else(elsewhere)?;
    if target.len() > MAX_PATH {
        return Err(Refused::Nowhere);
    }
    if target == path { Err(Refused::Circle) } else { Ok(target) }
}

/// A scheme in small letters, and what follows its colon.
fn scheme(text: &str) -> Option<(&'static str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let known = ["http", "https"].into_iter().find(|known| scheme.eq_ignore_ascii_case(known)).unwrap_or("");
    is_scheme.then_some((known, rest))
}

/// The path behind an authority, if that is the endpoint's own.
fn of_authority(rest: &str, address: &str, usual_port: u16) -> Option<String> {
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end)?;
    let own: SocketAddr = address.parse().ok()?;
    let named: SocketAddr = authority.parse().or_else(|_| format!("{authority}:{usual_port}").parse()).ok()?;
    (named == own).then(|| relative(if path.is_empty() { "/" } else { path }, "/"))
}

/// A reference without scheme and authority, relative to a path, as RFC 3986 resolves it (5.2).
fn relative(reference: &str, base: &str) -> String {
    let base_path = base.split('?').next().unwrap_or_default();
    let (path, query) = match reference.split_once('?') {
        Some((path, query)) => (path, format!("?{query}")),
        None => (reference, String::new()),
    };
    if path.is_empty() {
        return format!("{base_path}{query}");
    }
    let folder = base_path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let merged = if path.starts_with('/') { path.to_owned() } else { format!("{folder}/{path}") };
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_in_folder = false;
    for segment in merged.split('/').skip(1) {
        ends_in_folder = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    if ends_in_folder {
        segments.push("");
    }
    format!("/{}{query}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn check(location: &str, path: &str, expected: &str) {
        assert_eq!(target(location.as_bytes(), "10.0.0.1:8000", path).as_deref(), Ok(expected), "{location:?}");
    }

    #[test]
    fn within_the_endpoint() {
        for location in [
            "/metrics/",
            "metrics/",
            "./metrics/",
            "../metrics/",
            "../../metrics/",
            "//10.0.0.1:8000/metrics/",
            "http://10.0.0.1:8000/metrics/",
            "HTTP://10.0.0.1:8000/metrics/",
            "https://10.0.0.1:8000/metrics/",
            "http://10.0.0.1:8000/a/../metrics/#top",
        ] {
            check(location, "/metrics", "/metrics/");
        }
        check("?format=prometheus", "/metrics?a=b", "/metrics?format=prometheus");
        check("/m?x=/../y", "/metrics", "/m?x=/../y");
        check("b", "/a/metrics", "/a/b");
        check("..", "/a/b/metrics", "/a/");
        check(".", "/a/b/metrics", "/a/b/");
        check("http://10.0.0.1:8000", "/metrics", "/");
        check("http://10.0.0.1:8000?a", "/metrics", "/?a");
        assert_eq!(target(b"http://10.0.0.1/m", "10.0.0.1:80", "/metrics").as_deref(), Ok("/m"));
        assert_eq!(target(b"https://10.0.0.1/m", "10.0.0.1:443", "/metrics").as_deref(), Ok("/m"));
        for authority in ["[2001:db8::1]:80", "[2001:DB8:0::1]:80", "[2001:db8::1]"] {
            let location = format!("http://{authority}/m");
            assert_eq!(target(location.as_bytes(), "[2001:db8::1]:80", "/metrics").as_deref(), Ok("/m"));
        }
    }

    #[test]
    fn anywhere_else() {
        for location in [
            "http://10.0.0.2:8000/metrics",
            "http://10.0.0.1:9000/metrics",
            "http://10.0.0.1/metrics",
            "https://10.0.0.1/metrics",
            "//169.254.169.254/latest",
            "http://engine:8000/metrics",
            "http://user@10.0.0.1:8000/metrics",
            "http://10.0.0.1:8000@evil/metrics",
            "http://10.0.0.1:8000.evil/metrics",
            "http:/metrics/",
            "ftp://10.0.0.1:8000/metrics",
            "file:///etc/passwd",
            "http://",
        ] {
            let refused = target(location.as_bytes(), "10.0.0.1:8000", "/metrics").unwrap_err();
            assert_eq!(refused, Refused::Elsewhere(location.to_owned()));
        }
    }

    #[test]
    fn nowhere_and_in_a_circle() {
        for location in [&b""[..], b"#top", b"/a b", b"/\xff", b"/a\r\nb", "/é".as_bytes()] {
            assert_eq!(target(location, "10.0.0.1:8000", "/metrics"), Err(Refused::Nowhere), "{location:?}");
        }
        let long = format!("/{}", "x".repeat(MAX_PATH));
        assert_eq!(target(long.as_bytes(), "10.0.0.1:8000", "/metrics"), Err(Refused::Nowhere));
        for location in
            ["/metrics", "metrics", "http://10.0.0.1:8000/metrics", "https://10.0.0.1:8000/metrics", "/a/../metrics"]
        {
            assert_eq!(target(location.as_bytes(), "10.0.0.1:8000", "/metrics"), Err(Refused::Circle), "{location:?}");
        }
    }
}
