//! What the headers of a request say.

use std::time::Duration;

use crate::config::{self, SessionKey};
use crate::hash;
use crate::headers;
use crate::scan::Format;
use crate::scheduling::Slo;

use super::Header;

/// What of a request's headers matters at once.
#[derive(Default)]
pub(super) struct Head<'h> {
    pub(super) method: &'h [u8],
    pub(super) path: &'h [u8],
    pub(super) content_length: Option<u64>,
    content_encoding: &'h [u8],
    content_types: Vec<&'h [u8]>,
    /// The control headers that are there.
    pub(super) controls: Vec<&'static str>,
    /// Those of them that are believed, and that engines may see as well.
    passed_on: Vec<&'static str>,
    /// The headers that hold for the exact bytes of the body.
    pub(super) digests: Vec<&'static str>,
    pub(super) wishes: Wishes,
}

/// What a request asks for in its headers, besides a model.
#[derive(Clone, Debug, Default)]
pub(super) struct Wishes {
    /// The endpoints that an earlier filter allows.
    pub(super) subset: Option<Vec<u8>>,
    /// A hash of the session that the client names, and which of the session keys has it.
    pub(super) session: Option<(usize, u64)>,
    /// The objective's name.
    pub(super) objective: Option<String>,
    /// A hash of the flow's name; one without a name is a flow as well.
    pub(super) flow: u64,
    /// How long it will wait.
    pub(super) ttl: Option<Duration>,
    pub(super) slo: Slo,
    /// A hash of what the client shows to be let in; 0 without any.
    pub(super) credentials: u64,
}

impl<'h> Head<'h> {
    /// Of the control headers only the `trusted` ones say anything.
    pub(super) fn read(request: &'h [Header], session_keys: &[SessionKey], trusted: &[&'static str]) -> Head<'h> {
        let mut head = Head::default();
        let mut first = First::default();
        for (name, value) in request {
            for (index, key) in session_keys.iter().enumerate() {
                let is_earlier = head.wishes.session.is_none_or(|(other, _)| index < other);
                let session = match key {
                    SessionKey::Header(header) if header == name => Some(value.as_slice()),
                    SessionKey::Cookie(cookie) if name == "cookie" => cookie_value(value, cookie),
                    _ => None,
                };
                if let Some(session) = session.filter(|session| is_earlier && !session.is_empty()) {
                    head.wishes.session = Some((index, hash::bytes(session)));
                }
            }
            if let Some(control) = headers::control(name) {
                if trusted.contains(&control) {
                    head.wish(control, value, &mut first);
                }
                if !head.controls.contains(&control) {
                    head.controls.push(control);
                }
                continue;
            }
            if let Some(digest) = headers::digest(name, value) {
                head.digests.push(digest);
                continue;
            }
            match name.as_str() {
                ":method" => head.method = value,
                ":path" => head.path = value,
                "content-encoding" => head.content_encoding = value,
                "content-type" => head.content_types.push(value),
                "content-length" => head.content_length = ascii(value).and_then(|text| text.parse().ok()),
                "authorization" | "x-api-key" | "api-key" | "x-goog-api-key" => {
                    head.wishes.credentials = hash::combine(head.wishes.credentials, hash::bytes(value));
                }
                "signature-input" if headers::covers_body(value) => head.digests.extend(headers::SIGNATURES),
                _ => {}
            }
        }
        head
    }

    /// The control headers that go no further.
    pub(super) fn removed(&self) -> impl Iterator<Item = &'static str> {
        self.controls.iter().copied().filter(|control| !self.passed_on.contains(control))
    }

    /// Notes what a believed header says. Of two names of one thing the endpoint picker's present one counts, but for the
    /// subset, whose name in the protocol does.
    fn wish(&mut self, control: &'static str, value: &[u8], first: &mut First) {
        let wishes = &mut self.wishes;
        match control {
            headers::SUBSET => wishes.subset = Some(value.to_vec()),
            headers::SUBSET_TWIN if wishes.subset.is_none() => wishes.subset = Some(value.to_vec()),
            headers::OBJECTIVE if !first.objective => wishes.objective = ascii(value).map(str::to_owned),
            headers::OBJECTIVE_TWIN => {
                first.objective = true;
                wishes.objective = ascii(value).map(str::to_owned);
            }
            headers::FAIRNESS_ID if !first.flow => wishes.flow = hash::bytes(value),
            headers::FAIRNESS_ID_TWIN => {
                first.flow = true;
                wishes.flow = hash::bytes(value);
            }
            headers::SLO_TTFT if seconds(value).is_some() => {
                first.ttft = true;
                wishes.slo.ttft = seconds(value);
            }
            headers::SLO_TPOT if seconds(value).is_some() => {
                first.tpot = true;
                wishes.slo.tpot = seconds(value);
            }
            headers::SLO_TTFT_TWIN | headers::SLO_TPOT_TWIN => {
                self.passed_on.push(control);
                match control {
                    headers::SLO_TTFT_TWIN if !first.ttft => wishes.slo.ttft = seconds(value),
                    headers::SLO_TPOT_TWIN if !first.tpot => wishes.slo.tpot = seconds(value),
                    _ => {}
                }
            }
            headers::TTL => wishes.ttl = ascii(value).and_then(|text| config::parse_duration(text).ok()),
            _ => {}
        }
    }

    /// The coding that hides the body, if there is one.
    pub(super) fn coding(&self) -> Option<String> {
        let coding = self.content_encoding.trim_ascii();
        let plain = coding.is_empty() || coding.eq_ignore_ascii_case(b"identity");
        (!plain).then(|| String::from_utf8_lossy(coding).into_owned())
    }

    /// What the body is.
    pub(super) fn format(&self) -> Format {
        match self.content_types.as_slice() {
            [only] => Format::of(only),
            several => Format::of(&several.join(&b", "[..])),
        }
    }
}

/// Whether the name that counts first was there.
#[derive(Default)]
struct First {
    objective: bool,
    flow: bool,
    ttft: bool,
    tpot: bool,
}

fn ascii(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().map(str::trim)
}

/// Milliseconds as seconds; nonsense is no wish.
fn seconds(value: &[u8]) -> Option<f32> {
    let milliseconds: f32 = ascii(value)?.parse().ok()?;
    (milliseconds > 0.0 && milliseconds.is_finite()).then_some(milliseconds / 1000.0)
}

/// A cookie's value in a `cookie` header.
fn cookie_value<'v>(header: &'v [u8], wanted: &str) -> Option<&'v [u8]> {
    header.split(|byte| *byte == b';').find_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (pair.get(..at)?, pair.get(at + 1..)?);
        let value = value.trim_ascii();
        let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        (name.trim_ascii() == wanted.as_bytes()).then_some(bare)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn read(request: &[(&str, &str)], keys: &[SessionKey]) -> Wishes {
        let request: Vec<Header> =
            request.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        Head::read(&request, keys, &headers::TRUSTABLE).wishes
    }

    #[test]
    fn the_first_session_key_that_is_there_counts() {
        let keys = [
            SessionKey::BodyField("user".to_owned()),
            SessionKey::Cookie("sid".to_owned()),
            SessionKey::Header("x-session-id".to_owned()),
        ];
        let session = |request: &[(&str, &str)]| read(request, &keys).session;
        assert_eq!(session(&[("x-session-id", "a")]), Some((2, hash::bytes(b"a"))));
        let both = [("cookie", "a=1; sid=\"b\"; c"), ("x-session-id", "a")];
        assert_eq!(session(&both), Some((1, hash::bytes(b"b"))));
        assert_eq!(session(&[("cookie", "xsid=b"), ("x-session-id", "")]), None);
    }

    #[test]
    fn of_two_names_the_present_one_counts_wherever_it_stands() {
        let names = [("x-llm-d-inference-objective", "new"), ("x-gateway-inference-objective", "old")];
        let mut turned = names;
        turned.reverse();
        for request in [&names, &turned] {
            assert_eq!(read(request, &[]).objective.as_deref(), Some("new"));
        }
        assert_eq!(read(&[("x-gateway-inference-objective", "old")], &[]).objective.as_deref(), Some("old"));
    }

    #[test]
    fn a_name_is_trusted_and_not_its_twin() {
        let request: Vec<Header> = headers::CONTROL.iter().map(|name| ((*name).to_owned(), b"100".to_vec())).collect();
        for trusted in headers::TRUSTABLE {
            let head = Head::read(&request, &[], &[trusted]);
            let says = [
                head.wishes.subset.is_some(),
                head.wishes.objective.is_some(),
                head.wishes.flow != 0,
                head.wishes.ttl.is_some(),
                head.wishes.slo.ttft.is_some(),
                head.wishes.slo.tpot.is_some(),
            ];
            // "100" is not a duration, so this one says nothing here.
            let wanted = usize::from(trusted != headers::TTL);
            assert_eq!(says.iter().filter(|says| **says).count(), wanted, "{trusted}");
            let kept = headers::CONTROL.len() - head.removed().count();
            assert_eq!(kept, usize::from(trusted.starts_with("x-slo-")), "{trusted}");
        }
        let head = Head::read(&request, &[], &[]);
        assert_eq!((head.wishes.flow, head.wishes.subset.as_deref()), (0, None));
        assert_eq!(head.removed().collect::<Vec<_>>(), headers::CONTROL);
    }

    #[test]
    fn nonsense_is_no_wish() {
        for value in ["", "x", "-5", "0", "NaN", "inf"] {
            assert_eq!(read(&[("x-slo-ttft-ms", value)], &[]).slo, Slo::default(), "{value:?}");
        }
        let wishes = read(&[("x-slo-ttft-ms", "250"), ("x-llm-d-slo-tpot-ms", " 20.5 "), (headers::TTL, "2s")], &[]);
        assert_eq!(wishes.slo, Slo { ttft: Some(0.25), tpot: Some(0.0205) });
        assert_eq!(wishes.ttl, Some(Duration::from_secs(2)));
        assert_eq!(read(&[(headers::TTL, "soon")], &[]).ttl, None);
    }
}
