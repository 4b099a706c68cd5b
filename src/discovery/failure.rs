//! Why a question was not answered, and when that is worth a line in the log.
//!
//! An API server that restarts refuses connections, then answers 503, 429 and 403 for a second or two, and Envoy's cluster for
//! it is not ready in the first tenths of a second. All of that ends by itself. So a failure is said once it has lasted, once
//! for each cause, and once more when it is over.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::Answer;
use crate::time::Timestamp;

/// How long a cause lasts before it is said. A server's restart has phases of up to two seconds each.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long causes may alternate before one of them is said.
const LONG_PATIENCE: Duration = Duration::from_secs(30);
/// What is kept of a message, in characters: the API's own are shorter, unless a name in them is long.
const MESSAGE_CHARS: usize = 300;

/// Why a question was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing answers, or not in time.
    Unreachable,
    /// The answer has this status, and says this; the text is of one line and bounded.
    Status(u16, String),
    /// The answer cannot be read.
    Unreadable(String),
}

/// What makes two failures the same one.
type Cause = (u8, u16);

impl Failure {
    fn cause(&self) -> Cause {
        match self {
            Failure::Unreachable => (0, 0),
            Failure::Status(status, _) => (1, *status),
            Failure::Unreadable(_) => (2, 0),
        }
    }

    /// An answer that is JSON, and not what it should be.
    pub(super) fn unreadable(error: &serde_json::Error) -> Failure {
        Failure::Unreadable(one_line(&error.to_string()))
    }
}

/// What the Kubernetes API says instead of an answer.
#[derive(Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) message: String,
    #[serde(default)]
    pub(super) code: u16,
}

impl<'a> Answer<'a> {
    /// The body of a good answer.
    pub(super) fn body(self) -> Result<&'a [u8], Failure> {
        match self {
            Answer::Answered { status: 200, body, .. } => Ok(body),
            Answer::Answered { status, body, .. } => Err(refusal(status, body)),
            Answer::TooLarge => Err(Failure::Unreadable("it is too long".to_owned())),
            Answer::Broken => Err(Failure::Unreachable),
        }
    }

    /// How long the server asks to be left alone.
    pub(super) fn retry_after(self) -> Option<Duration> {
        let Answer::Answered { retry_after, .. } = self else { return None };
        std::str::from_utf8(retry_after).ok()?.trim().parse().ok().map(Duration::from_secs)
    }
}

fn refusal(status: u16, body: &[u8]) -> Failure {
    match serde_json::from_slice::<Status>(body) {
        Ok(said) if said.kind == "Status" => Failure::Status(status, one_line(&said.message)),
        // Envoy itself answers so when it finds no host, or none in time.
        _ if matches!(status, 502..=504) => Failure::Unreachable,
        _ => Failure::Status(status, one_line(&String::from_utf8_lossy(body.get(..1024).unwrap_or(body)))),
    }
}

/// A text that others wrote, as part of a line.
pub(super) fn one_line(text: &str) -> String {
    let text = text.trim();
    let mut line: String =
        text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(MESSAGE_CHARS).collect();
    if text.chars().nth(MESSAGE_CHARS).is_some() {
        line.push('…');
    }
    line
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (status, said) = match self {
            Failure::Unreachable => return f.write_str("it cannot be reached; what was last known holds"),
            Failure::Unreadable(why) => return write!(f, "the answer cannot be read: {why}"),
            Failure::Status(status, said) => (*status, said.as_str()),
        };
        let advice = match status {
            401 => "is the service account's token mounted and valid?",
            403 => "see the service account's role, or the admin interface's allow_paths",
            404 => "is the resource installed, and the name right?",
            _ => "what was last known holds",
        };
        let denied = if matches!(status, 401 | 403) { "access is denied: " } else { "" };
        write!(f, "{denied}the answer is {status}; {advice}")?;
        if said.is_empty() { Ok(()) } else { write!(f, " [{said}]") }
    }
}

/// What goes wrong with one source, by its kinds of questions.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    lasting: BTreeMap<u64, Trouble>,
    /// The causes that were said and are not over.
    said: Vec<Cause>,
}

#[derive(Debug)]
struct Trouble {
    cause: Cause,
    /// Since when there was no good answer.
    since: Timestamp,
    /// Since when it has been this cause.
    same_since: Timestamp,
}

impl Troubles {
    /// Whether to say a failure of a kind of question.
    pub(super) fn handle_failure(&mut self, kind: u64, failure: &Failure, now: Timestamp) -> bool {
        let cause = failure.cause();
        let first = Trouble { cause, since: now, same_since: now };
        let trouble = self.lasting.entry(kind).or_insert(first);
        if trouble.cause != cause {
            (trouble.cause, trouble.same_since) = (cause, now);
        }
        let has_lasted = now.is_due(trouble.same_since, PATIENCE)
            || (self.said.is_empty() && now.is_due(trouble.since, LONG_PATIENCE));
        let is_news = has_lasted && !self.said.contains(&cause);
        if is_news {
            self.said.push(cause);
        }
        is_news
    }

    /// Whether to say that something is over, after a good answer.
    pub(super) fn handle_success(&mut self, kind: u64) -> bool {
        self.lasting.remove(&kind);
        let before = self.said.len();
        let lasting = &self.lasting;
        self.said.retain(|cause| lasting.values().any(|trouble| trouble.cause == *cause));
        self.said.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    const START: Timestamp = Timestamp(1_000_000);

    fn at(millis: u64) -> Timestamp {
        START.after(Duration::from_millis(millis))
    }

    fn status(status: u16) -> Failure {
        Failure::Status(status, String::new())
    }

    #[test]
    fn a_cause_is_said_once_when_it_lasts_and_once_when_it_is_over() {
        let mut troubles = Troubles::default();
        assert!(!troubles.handle_failure(0, &status(403), at(0)));
        assert!(!troubles.handle_failure(0, &status(403), at(4_900)));
        assert!(troubles.handle_failure(0, &status(403), at(5_000)));
        // Another kind of question has the same cause.
        assert!(!troubles.handle_failure(1, &status(403), at(5_000)));
        assert!(!troubles.handle_failure(1, &status(403), at(60_000)));
        assert!(!troubles.handle_success(1), "one of them goes on");
        assert!(troubles.handle_success(0));
        assert!(!troubles.handle_success(0));
    }

    #[test]
    fn the_phases_of_a_restart_are_no_news() {
        let mut troubles = Troubles::default();
        for (millis, failure) in [
            (0, Failure::Unreachable),
            (4_000, Failure::Unreachable),
            (4_500, status(503)),
            (6_000, status(429)),
            (7_000, status(403)),
            (8_500, status(403)),
        ] {
            assert!(!troubles.handle_failure(0, &failure, at(millis)), "{failure}");
        }
        assert!(!troubles.handle_success(0), "nobody has heard of it");
    }

    #[test]
    fn after_an_outage_that_was_said_a_short_refusal_is_not() {
        let mut troubles = Troubles::default();
        troubles.handle_failure(0, &Failure::Unreachable, at(0));
        assert!(troubles.handle_failure(0, &Failure::Unreachable, at(30_000)));
        assert!(!troubles.handle_failure(0, &status(403), at(40_000)));
        assert!(!troubles.handle_failure(0, &Failure::Unreachable, at(41_000)));
        assert!(!troubles.handle_failure(0, &status(403), at(42_000)));
        assert!(troubles.handle_success(0));
    }

    #[test]
    fn causes_that_alternate_for_long_are_said_once() {
        let mut troubles = Troubles::default();
        let mut said = 0;
        for second in 0..120 {
            let failure = status(if second % 2 == 0 { 500 } else { 503 });
            said += usize::from(troubles.handle_failure(0, &failure, at(second * 1_000)));
        }
        assert_eq!(said, 1);
        assert!(troubles.handle_success(0));
        // One of two servers is bad: no question fails for long.
        for second in 0..120 {
            assert!(!troubles.handle_failure(0, &status(500), at(second * 1_000)));
            assert!(!troubles.handle_success(0));
        }
    }

    #[test]
    fn another_cause_that_lasts_hides_no_end() {
        let mut troubles = Troubles::default();
        troubles.handle_failure(4, &status(403), at(0));
        assert!(troubles.handle_failure(4, &status(403), at(5_000)), "a right is missing, and stays so");
        troubles.handle_failure(0, &Failure::Unreachable, at(6_000));
        troubles.handle_failure(4, &Failure::Unreachable, at(6_000));
        assert!(troubles.handle_failure(0, &Failure::Unreachable, at(11_000)));
        troubles.handle_failure(4, &status(403), at(12_000));
        assert!(troubles.handle_success(0));
    }

    #[test]
    fn a_refusal_has_the_apis_own_words() {
        let answered =
            |status, body: &'static str| Answer::Answered { status, retry_after: b"", body: body.as_bytes() };
        for (answer, said) in [
            (Answer::Broken, "it cannot be reached; what was last known holds"),
            (answered(503, "no healthy upstream"), "it cannot be reached; what was last known holds"),
            (
                answered(503, r#"{"kind":"Status","message":"apiserver not ready","code":503}"#),
                "the answer is 503; what was last known holds [apiserver not ready]",
            ),
            (
                answered(403, r#"{"kind":"Status","message":"pods is forbidden: User \"a\"\ncannot list","code":403}"#),
                "access is denied: the answer is 403; see the service account's role, or the admin interface's allow_paths [pods is forbidden: User \"a\" cannot list]",
            ),
            (
                answered(401, ""),
                "access is denied: the answer is 401; is the service account's token mounted and valid?",
            ),
            (
                answered(404, "404 page not found\n"),
                "the answer is 404; is the resource installed, and the name right? [404 page not found]",
            ),
            (Answer::TooLarge, "the answer cannot be read: it is too long"),
        ] {
            assert_eq!(answer.body().unwrap_err().to_string(), said);
        }
        let long = format!(r#"{{"kind":"Status","message":"{}\u001b[2J"}}"#, "é".repeat(5_000));
        let Failure::Status(_, message) = refusal(403, long.as_bytes()) else { panic!("no status") };
        assert_eq!(message.chars().count(), MESSAGE_CHARS + 1);
        assert_eq!(one_line("a\u{1b}[2J\r\nb"), "a [2J  b");
    }

    #[test]
    fn a_wait_is_in_seconds() {
        let answer = |retry_after: &'static [u8]| Answer::Answered { status: 429, retry_after, body: b"" };
        assert_eq!(answer(b"5").retry_after(), Some(Duration::from_secs(5)));
        for none in [&b""[..], b"Wed, 21 Oct 2026 07:28:00 GMT", b"-1", b"\xff"] {
            assert_eq!(answer(none).retry_after(), None);
        }
    }
}
