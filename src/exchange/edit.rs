//! What of a message is changed: the model in the body and in headers, and what no longer holds once the body is another.

use std::borrow::Cow;

use super::{Exchange, Header, Resolved};
use crate::config::PoolId;
use crate::gateway::Gateway;
use crate::headers;

/// A change to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Remove a request header.
    RemoveRequestHeader(&'static str),
    /// Set a request header, replacing all of its values.
    SetRequestHeader(Cow<'static, str>, String),
    /// Replace the request's body. A `content-length` follows.
    ReplaceBody(Vec<u8>),
    /// Remove a request trailer.
    RemoveRequestTrailer(&'static str),
    /// Remove a response header.
    RemoveResponseHeader(&'static str),
    /// Set a response header, replacing all of its values.
    SetResponseHeader(&'static str, String),
    /// Remove a response trailer.
    RemoveResponseTrailer(&'static str),
}

impl Exchange {
    /// Takes the request's trailers in, once it has been told of its end: what a header must not say, a trailer must not
    /// either.
    pub fn handle_request_trailers(&self, trailers: &[Header], edits: &mut Vec<Edit>) {
        for (name, value) in trailers {
            let digest = headers::digest(name, value).filter(|_| self.is_rewritten);
            edits.extend(headers::control(name).or(digest).map(Edit::RemoveRequestTrailer));
        }
    }

    /// Writes what doesn't depend on the endpoint.
    pub(super) fn edit(&mut self, gateway: &Gateway, pool: PoolId, resolved: &mut Resolved, edits: &mut Vec<Edit>) {
        if let Some(body) = resolved.rewritten.take() {
            let length = body.len().to_string();
            edits.push(Edit::ReplaceBody(body));
            edits.push(set("content-length", length));
            edits.extend(self.digests.drain(..).map(Edit::RemoveRequestHeader));
            self.is_rewritten = true;
        }
        resolved.edit_headers_for(gateway, pool, edits);
    }
}

impl Resolved {
    /// Writes the model, and what it asks of the engine.
    fn edit_headers_for(&mut self, gateway: &Gateway, pool: PoolId, edits: &mut Vec<Edit>) {
        if let (Some(target), Some(pool)) = (&self.target, gateway.config().pool(pool)) {
            edits.push(set(headers::MODEL, target.clone()));
            edits.push(set(headers::BASE_MODEL, pool.base_model.clone()));
            if gateway.config().poller.in_band {
                edits.push(set(headers::LOAD_METRICS_FORMAT, "TEXT".to_owned()));
            }
        }
        if self.client_model.is_some() {
            // A compressed answer could not be read.
            edits.push(Edit::RemoveRequestHeader("accept-encoding"));
        }
        self.edit_headers(edits);
    }

    /// Writes what a rule has set.
    pub(super) fn edit_headers(&mut self, edits: &mut Vec<Edit>) {
        for (name, value) in self.headers.drain(..) {
            edits.push(Edit::SetRequestHeader(Cow::Owned(name), value));
        }
    }
}

pub(super) fn set(name: &'static str, value: String) -> Edit {
    Edit::SetRequestHeader(Cow::Borrowed(name), value)
}
