//! The body of an answer: it is watched for errors, and the client's name of the model gets back into it.

use super::answer::ResponseHead;
use super::watch::{WATCHED_BYTES, Watch};
use super::{Edit, Exchange, Header, Restore};
use crate::gateway::Gateway;
use crate::headers;
use crate::restore::Restorer;
use crate::time::Timestamp;

impl Exchange {
    /// Whether the headers of the response's body matter.
    pub fn wants_content(&self) -> bool {
        self.attempt.is_some()
    }

    /// Decides whether the body is looked at, and whether the client's name of the model gets back into it.
    pub(super) fn handle_content(&mut self, head: &ResponseHead<'_>, edits: &mut Vec<Edit>) {
        let media_type = head.media_type();
        let is_event_stream = media_type.eq_ignore_ascii_case(b"text/event-stream");
        let is_json = media_type.eq_ignore_ascii_case(b"application/json");
        let is_plain = head.content_encoding.is_none_or(|coding| coding.eq_ignore_ascii_case(b"identity"));
        let is_readable = (200..300).contains(&head.status) && is_plain && (is_event_stream || is_json);
        let is_text = media_type.get(..5).is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/"));
        let is_any_json = media_type.windows(4).any(|word| word.eq_ignore_ascii_case(b"json"));
        let is_watched = (200..300).contains(&head.status) && is_plain && (is_text || is_any_json);
        self.watch = is_watched.then(|| Watch::new(is_event_stream));
        let Some(Restore::Planned { engine, client }) = self.restorer.take() else { return };
        if is_readable {
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

    /// Whether the first [`WATCHED_BYTES`](super::WATCHED_BYTES) of each part of the response's body are to be given to
    /// [`Exchange::watch`].
    pub fn wants_to_watch(&self) -> bool {
        self.watch.is_some()
    }

    /// Takes in the beginning of a part of the response's body, which is `size` bytes long, before
    /// [`Exchange::handle_response_body`] is told of it.
    pub fn watch(&mut self, gateway: &mut Gateway, part: &[u8], size: usize, end_of_stream: bool, now: Timestamp) {
        let Some(watch) = &mut self.watch else { return };
        let found = watch.feed(part.get(..WATCHED_BYTES).unwrap_or(part), size, end_of_stream);
        if let (Some(about), Some(attempt)) = (found, &mut self.attempt) {
            attempt.handle_error_event(gateway, about, now);
            self.watch = None;
        }
    }
}
