//! The way back: who answered, how, and when; what that says about the endpoints; and the end.

use super::{Edit, Exchange, Header, Phase, Restore};
use crate::config::PoolId;
use crate::gateway::{Gateway, InFlight, PickRequest};
use crate::headers;
use crate::orca;
use crate::prompt::Prompt;
use crate::restore::Restorer;
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
    streams: bool,
    in_flight: Option<InFlight>,
    sent_at: Timestamp,
    /// Whether its first byte tells how long the endpoint took.
    is_timed: bool,
    answer: Answer,
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
        streams: bool,
    ) -> Attempt {
        Attempt {
            pool,
            list,
            prompt,
            adapter,
            streams,
            in_flight: None,
            sent_at: Timestamp::default(),
            is_timed: streams,
            answer: Answer::Awaited,
        }
    }

    /// Counts the request at an endpoint, and no more where it was.
    pub(super) fn send_to(&mut self, gateway: &mut Gateway, endpoint: Option<usize>, now: Timestamp) {
        self.take_back(gateway);
        self.sent_at = now;
        let request =
            PickRequest { adapter: self.adapter.as_deref(), prompt: &self.prompt, ..PickRequest::of(&self.prompt) };
        self.in_flight = endpoint.and_then(|at| gateway.handle_sent(self.pool, at, request, self.streams, now));
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
            // The host retries what cannot be sent, and 503. A server with work may have said that it has too much.
            if !gateway.has_work(self.pool, *passed_over) {
                gateway.handle_error(self.pool, *passed_over, self.sent_at, now);
            }
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
        if outcome == Outcome::Answered && head.status < 400 {
            attempt.handle_begun(gateway, at, now);
        } else {
            attempt.handle_refused(gateway, at, head.is_from_endpoint(), outcome, now);
        }
        let report = head.load_metrics.filter(|_| gateway.config().poller.in_band);
        if let (Some(at), Some(report)) = (at, report.and_then(|report| orca::parse(report, now))) {
            gateway.handle_report(pool, at, report);
        }
    }

    /// Whether the headers of the response's body matter.
    pub fn wants_content(&self) -> bool {
        self.restorer.is_some()
    }

    /// Decides whether the client's name of the model gets back into the answer.
    fn handle_content(&mut self, head: &ResponseHead<'_>, edits: &mut Vec<Edit>) {
        let Some(Restore::Planned { engine, client }) = self.restorer.take() else { return };
        let media_type = head.content_type.unwrap_or_default();
        let media_type = media_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let is_event_stream = media_type.eq_ignore_ascii_case(b"text/event-stream");
        let is_json = media_type.eq_ignore_ascii_case(b"application/json");
        let is_plain = head.content_encoding.is_none_or(|coding| coding.eq_ignore_ascii_case(b"identity"));
        if (200..300).contains(&head.status) && is_plain && (is_event_stream || is_json) {
            // The length changes, and nobody knows it before the end.
            edits.push(Edit::RemoveResponseHeader("content-length"));
            let stale = headers::DIGESTS.into_iter().chain(headers::SIGNATURES).chain([headers::ETAG]);
            edits.extend(stale.map(Edit::RemoveResponseHeader));
            self.restorer = Some(Restore::Running(Restorer::new(&engine, &client, is_event_stream)));
        }
    }

    /// Whether the bytes of the response's body are to be given to [`Exchange::restore`].
    pub fn wants_response_bytes(&self) -> bool {
        self.restorer.is_some()
    }

    /// What to send instead of a part of the response's body; `None` to send it as it is.
    pub fn restore(&mut self, part: &[u8], end_of_stream: bool) -> Option<Vec<u8>> {
        match &mut self.restorer {
            Some(Restore::Running(restorer)) => restorer.feed(part, end_of_stream),
            _ => None,
        }
    }

    /// Takes the response's trailers in: digests don't hold for an answer that is another one than the engine's.
    pub fn handle_response_trailers(&self, trailers: &[Header], edits: &mut Vec<Edit>) {
        if self.wants_response_bytes() {
            let stale = trailers.iter().filter_map(|(name, value)| headers::digest(name, value));
            edits.extend(stale.map(Edit::RemoveResponseTrailer));
        }
    }

    /// Notes that a part of the response's body is there, or its end.
    pub fn handle_response_body(&mut self, gateway: &mut Gateway, bytes: usize, end_of_stream: bool, now: Timestamp) {
        let Some(attempt) = &mut self.attempt else { return };
        // An answer without a body has its end instead of a first byte.
        if attempt.answer == Answer::Begun && (bytes > 0 || end_of_stream) {
            attempt.answer = Answer::Flowing;
            if let Some(in_flight) = &mut attempt.in_flight {
                gateway.handle_first_byte(attempt.pool, in_flight, attempt.is_timed && bytes > 0, now);
            }
        }
        if attempt.answer == Answer::Flowing && end_of_stream {
            attempt.answer = Answer::Complete;
        }
    }

    /// Whether this part of the response's body tells anything: the first bytes and the end do.
    pub fn wants_response_body(&self, bytes: usize, end_of_stream: bool) -> bool {
        match self.attempt.as_ref().map(|attempt| attempt.answer) {
            Some(Answer::Begun) => bytes > 0 || end_of_stream,
            Some(Answer::Flowing) => end_of_stream,
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
