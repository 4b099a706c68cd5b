//! The way back: who answered, how, and when; what that says about the endpoints; and the end.

use super::retry;
use super::watch::Watch;
use super::{Edit, Exchange, Phase};
use crate::acceptance::{About, Demand, Refused, SECONDS_IF_FAILED, SECONDS_IF_RETRIED};
use crate::config::PoolId;
use crate::gateway::{Gateway, InFlight, PickRequest};
use crate::headers;
use crate::orca;
use crate::prompt::Prompt;
use crate::time::Timestamp;

/// What a response's headers and the host say about where it comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseHead<'h> {
    /// The status code.
    pub status: u16,
    /// The address of the endpoint that it is about: who sent it, or, for an answer of the host's own, the last one
    /// that was tried.
    pub address: Option<&'h [u8]>,
    /// What the host says about how the answer came about; needed unless the status is 2xx.
    pub details: Option<&'h [u8]>,
    /// How often the host has tried, if it says so.
    pub attempts: Option<u32>,
    /// The endpoint's report of its load.
    pub load_metrics: Option<&'h [u8]>,
    /// The media type of the body; needed while [`Exchange::wants_content`].
    pub content_type: Option<&'h [u8]>,
    /// The coding of the body; needed while [`Exchange::wants_content`].
    pub content_encoding: Option<&'h [u8]>,
}

/// How a request has ended, as far as its endpoint is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It has answered, or the client was at fault.
    Answered,
    /// It has no room at the moment.
    Busy,
    /// It is broken.
    Failed,
    /// The host has answered, for a reason of its own.
    NotAsked,
}

impl ResponseHead<'_> {
    /// Whether an answer begins as one that was asked for: a redirect or a page for people, such as a proxy's for signing in,
    /// is none.
    fn is_as_asked(&self) -> bool {
        let is_for_people = [&b"text/html"[..], b"application/xhtml+xml", b"application/problem+json"]
            .iter()
            .any(|odd| self.media_type().eq_ignore_ascii_case(odd));
        self.status < 300 && !is_for_people
    }

    /// The type of the body, without parameters.
    pub(super) fn media_type(&self) -> &[u8] {
        let media_type = self.content_type.unwrap_or_default();
        media_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
    }

    fn is_from_endpoint(&self) -> bool {
        (200..300).contains(&self.status) || self.details == Some(b"via_upstream")
    }

    fn outcome(&self) -> Outcome {
        if self.is_from_endpoint() {
            return match self.status {
                429 | 503 => Outcome::Busy,
                500.. => Outcome::Failed,
                _ => Outcome::Answered,
            };
        }
        let details = self.details.unwrap_or_default();
        let timeouts = [&b"upstream_response_timeout"[..], b"upstream_per_try", b"stream_idle_timeout"];
        let is_timeout = timeouts.iter().any(|timeout| details.starts_with(timeout));
        // A circuit breaker of the host's says nothing about the endpoint.
        let is_reset = details.starts_with(b"upstream_reset_before_response_started")
            && !details.windows(8).any(|window| window == b"overflow");
        if is_timeout || is_reset { Outcome::Failed } else { Outcome::NotAsked }
    }
}

/// A request on its way: what was picked for it, and where it is counted.
#[derive(Debug)]
pub(super) struct Attempt {
    pool: PoolId,
    /// Best first.
    list: Vec<usize>,
    prompt: Prompt,
    adapter: Option<String>,
    demand: Demand,
    streams: bool,
    in_flight: Option<InFlight>,
    /// What was tried by sending it to the first of the list.
    trial: Option<About>,
    sent_at: Timestamp,
    /// Whether its first byte tells how long the endpoint took.
    is_timed: bool,
    answer: Answer,
    /// Whether the answer is as asked, as far as its beginning tells.
    is_accepted: bool,
}

/// How far an answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Nothing of it is there.
    Awaited,
    /// It is not what was asked for, whoever has sent it; what follows tells nothing.
    Refused,
    /// An endpoint has begun it with good headers.
    Begun,
    /// A byte of its body is there.
    Flowing,
    /// All of it is there.
    Complete,
}

impl Attempt {
    pub(super) fn new(
        pool: PoolId,
        list: Vec<usize>,
        prompt: Prompt,
        adapter: Option<String>,
        (asked, credentials): (Option<u64>, u64),
        streams: bool,
    ) -> Attempt {
        Attempt {
            pool,
            list,
            demand: Demand { asked, tokens: prompt.tokens, credentials },
            prompt,
            adapter,
            streams,
            in_flight: None,
            trial: None,
            sent_at: Timestamp::default(),
            is_timed: streams,
            answer: Answer::Awaited,
            is_accepted: false,
        }
    }

    /// Counts the request at an endpoint, and no more where it was.
    pub(super) fn send_to(&mut self, gateway: &mut Gateway, endpoint: Option<usize>, now: Timestamp) {
        self.take_back(gateway);
        self.sent_at = now;
        let request = PickRequest {
            adapter: self.adapter.as_deref(),
            asked: self.demand.asked,
            credentials: self.demand.credentials,
            ..PickRequest::of(&self.prompt)
        };
        self.in_flight = endpoint.and_then(|at| gateway.handle_sent(self.pool, at, request, self.streams, now));
        self.trial = self.in_flight.as_ref().and_then(|in_flight| in_flight.trial);
    }

    /// The statuses on which the host may send it on to the next endpoint.
    pub(super) fn retriable(&self, gateway: &Gateway, now: Timestamp) -> Option<String> {
        retry::statuses(gateway, self.pool, &self.list, self.trial, self.demand, now)
    }

    fn take_back(&mut self, gateway: &mut Gateway) {
        if let Some(in_flight) = self.in_flight.take() {
            gateway.handle_end(self.pool, in_flight);
        }
    }

    /// Learns from who has answered, and after how many attempts, that those before it in the list have not.
    fn handle_passed_over(&self, gateway: &mut Gateway, served: Option<usize>, attempts: Option<u32>, now: Timestamp) {
        let position = served.and_then(|served| self.list.iter().position(|picked| *picked == served));
        let failed = match attempts {
            Some(attempts) => usize::try_from(attempts).unwrap_or(usize::MAX).saturating_sub(1),
            None => position.unwrap_or(0),
        };
        for passed_over in self.list.iter().take(failed).filter(|passed_over| Some(**passed_over) != served) {
            // The host retries what cannot be sent, and some refusals. Who answers the poller has refused it.
            if !gateway.is_up(self.pool, *passed_over, now) {
                gateway.handle_error(self.pool, *passed_over, self.sent_at, now);
                continue;
            }
            let trial = self.trial.filter(|_| self.list.first() == Some(passed_over));
            let about = trial.unwrap_or(About::Room);
            // What is retried in a trial only, clients see fail.
            let seconds = if about == About::Room { SECONDS_IF_RETRIED } else { SECONDS_IF_FAILED };
            gateway.note_refusal(self.pool, *passed_over, &Refused { demand: self.demand, about, seconds }, now);
        }
    }

    /// Notes that the endpoint at `served` has begun to answer as asked; the request is counted there from now on.
    fn handle_begun(&mut self, gateway: &mut Gateway, served: Option<usize>, now: Timestamp) {
        self.answer = Answer::Begun;
        if self.in_flight.is_none() {
            self.send_to(gateway, served, now);
            // When it was really sent there nobody says.
            self.is_timed = false;
        }
        // A long answer is no reason to keep what only a pick needs.
        self.prompt = Prompt::default();
    }

    /// Notes that the request is not answered as asked.
    fn handle_refused(
        &mut self,
        gateway: &mut Gateway,
        at: Option<usize>,
        by_endpoint: bool,
        outcome: Outcome,
        status: u16,
        now: Timestamp,
    ) {
        self.answer = Answer::Refused;
        if let (Outcome::Failed, Some(at)) = (outcome, at) {
            gateway.handle_error(self.pool, at, self.sent_at, now);
        }
        match self.in_flight.take() {
            Some(in_flight) if by_endpoint => {
                gateway.handle_refused(self.pool, in_flight, outcome == Outcome::Answered, now);
            }
            Some(in_flight) => gateway.handle_end(self.pool, in_flight),
            None => {}
        }
        if let Some(at) = at.filter(|_| by_endpoint && matches!(outcome, Outcome::Answered | Outcome::Busy)) {
            self.note_refusal(gateway, at, About::of(status), now);
        }
    }

    /// Notes that an answer of status 2xx is an error.
    pub(super) fn handle_error_event(&mut self, gateway: &mut Gateway, about: About, now: Timestamp) {
        self.answer = Answer::Refused;
        let Some(in_flight) = self.in_flight.take() else { return };
        let at = in_flight.endpoint;
        gateway.handle_refused(self.pool, in_flight, false, now);
        self.note_refusal(gateway, at, about, now);
    }

    /// Counts what an endpoint has refused. Of a request without a model nobody knows what it should have been answered.
    fn note_refusal(&self, gateway: &mut Gateway, at: usize, about: About, now: Timestamp) {
        if self.demand.asked.is_none() {
            return;
        }
        let refused = Refused { demand: self.demand, about, seconds: SECONDS_IF_FAILED };
        gateway.note_refusal(self.pool, at, &refused, now);
    }

    /// Whether its endpoint has given it nothing but headers at most.
    fn had_nothing(&self) -> bool {
        matches!(self.answer, Answer::Awaited | Answer::Begun)
    }
}

impl Exchange {
    /// Takes the response's headers in.
    pub fn handle_response_headers(
        &mut self,
        gateway: &mut Gateway,
        head: &ResponseHead<'_>,
        now: Timestamp,
        edits: &mut Vec<Edit>,
    ) {
        let address = head.address.and_then(|address| std::str::from_utf8(address).ok());
        let served = address.filter(|address| head.is_from_endpoint() && !address.is_empty());
        edits.push(match served.filter(|_| gateway.config().exposes_endpoint) {
            Some(address) => Edit::SetResponseHeader(headers::SERVED, address.to_owned()),
            None => Edit::RemoveResponseHeader(headers::SERVED),
        });
        if gateway.config().poller.in_band && head.load_metrics.is_some() {
            edits.push(Edit::RemoveResponseHeader(headers::LOAD_METRICS));
        }
        self.handle_content(head, edits);
        let Some(attempt) = &mut self.attempt else { return };
        let pool = attempt.pool;
        let at = address.and_then(|address| gateway.endpoint_at(pool, address.as_bytes()));
        if served.is_some() && !attempt.list.is_empty() && at.is_none_or(|at| !attempt.list.contains(&at)) {
            gateway.stats.override_missed(pool);
        }
        // Where it is counted says nothing of its load any more.
        if at != attempt.in_flight.as_ref().map(|in_flight| in_flight.endpoint) {
            attempt.take_back(gateway);
        }
        attempt.handle_passed_over(gateway, at, head.attempts, now);
        let outcome = head.outcome();
        let is_as_asked = if attempt.demand.asked.is_some() { head.is_as_asked() } else { head.status < 400 };
        if outcome == Outcome::Answered && is_as_asked {
            attempt.handle_begun(gateway, at, now);
        } else {
            attempt.handle_refused(gateway, at, head.is_from_endpoint(), outcome, head.status, now);
        }
        let report = head.load_metrics.filter(|_| gateway.config().poller.in_band);
        if let (Some(at), Some(report)) = (at, report.and_then(|report| orca::parse(report, now))) {
            gateway.handle_report(pool, at, report);
        }
    }

    /// Notes that a part of the response's body is there, or its end.
    pub fn handle_response_body(&mut self, gateway: &mut Gateway, bytes: usize, end_of_stream: bool, now: Timestamp) {
        let Some(attempt) = &mut self.attempt else { return };
        // An answer without a body has its end instead of a first byte.
        if attempt.answer == Answer::Begun && (bytes > 0 || end_of_stream) {
            attempt.answer = Answer::Flowing;
            attempt.is_timed &= bytes > 0;
            if let Some(in_flight) = &mut attempt.in_flight {
                gateway.handle_first_byte(in_flight, now);
            }
        }
        let is_empty = end_of_stream && self.watch.as_ref().is_some_and(|watch| !watch.has_content());
        if is_empty && matches!(attempt.answer, Answer::Begun | Answer::Flowing) && attempt.streams {
            attempt.handle_error_event(gateway, About::Endpoint, now);
            return;
        }
        let is_convinced = end_of_stream || self.watch.as_ref().is_none_or(Watch::is_convinced);
        if attempt.answer == Answer::Flowing && !attempt.is_accepted && is_convinced {
            attempt.is_accepted = true;
            if let Some(in_flight) = &mut attempt.in_flight {
                gateway.handle_accepted(attempt.pool, in_flight, attempt.is_timed, now);
            }
        }
        if attempt.answer == Answer::Flowing && end_of_stream {
            attempt.answer = Answer::Complete;
        }
        if self.watch.as_ref().is_some_and(|watch| !watch.goes_on()) {
            self.watch = None;
        }
    }

    /// Whether this part of the response's body tells anything: the first bytes and the end do, and what follows until the
    /// answer is known to be as asked.
    pub fn wants_response_body(&self, bytes: usize, end_of_stream: bool) -> bool {
        match self.attempt.as_ref() {
            Some(Attempt { answer: Answer::Begun, .. }) => bytes > 0 || end_of_stream,
            Some(Attempt { answer: Answer::Flowing, is_accepted, .. }) => end_of_stream || !is_accepted,
            _ => false,
        }
    }

    /// Whether a good answer is under way: if the stream is gone now, it matters who broke it off.
    pub fn is_under_way(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| matches!(attempt.answer, Answer::Begun | Answer::Flowing))
    }

    /// The pool whose load tells whose fault it is that a request ends without an answer; it is to be read before
    /// [`Exchange::handle_end`], since nobody may have picked in the pool since the request came.
    pub fn load_to_judge_by(&self) -> Option<PoolId> {
        self.attempt.as_ref().filter(|attempt| attempt.had_nothing()).map(|attempt| attempt.pool)
    }

    /// Notes that the response is complete, or that the stream is gone; may be called more than once. `details` are
    /// what the host says about an answer that was [under way](Exchange::is_under_way).
    pub fn handle_end(&mut self, gateway: &mut Gateway, details: Option<&[u8]>, now: Timestamp) {
        if let Phase::Waiting(pool, _, id) = std::mem::replace(&mut self.phase, Phase::Done) {
            gateway.handle_left(pool, id, now);
        }
        let was_under_way = self.is_under_way();
        let Some(mut attempt) = self.attempt.take() else { return };
        let was_broken_off =
            details.is_some_and(|details| details.starts_with(b"upstream_reset_after_response_started"));
        if let Some(in_flight) = &attempt.in_flight {
            if attempt.had_nothing() && gateway.was_kept_waiting(attempt.pool, in_flight, now) {
                gateway.handle_stalled(attempt.pool, in_flight.endpoint, now);
            } else if was_under_way && was_broken_off {
                gateway.handle_error(attempt.pool, in_flight.endpoint, attempt.sent_at, now);
            }
        }
        attempt.take_back(gateway);
    }
}
