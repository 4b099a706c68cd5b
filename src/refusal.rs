//! The answers that the gateway gives itself: OpenAI-shaped errors that say whose fault it is.

use serde_json::json;

use crate::headers;
use crate::scan::ScanError;

/// A refused model name is repeated to the client up to this length.
const MAX_ECHO: usize = 128;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The body cannot be read.
    InvalidBody(ScanError),
    /// The body is compressed.
    EncodedBody {
        /// The content coding.
        coding: String,
    },
    /// The body names no model.
    NoModel,
    /// The body's model is not a string.
    ModelIsNoString,
    /// No pool serves the model.
    UnknownModel {
        /// What was asked for.
        model: String,
    },
    /// The body is longer than `maxBodyBytes`.
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// No endpoint can be picked, and the pool is `FailClose`.
    NoEndpoint {
        /// The pool.
        pool: String,
    },
}

/// An answer, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: Vec<(&'static str, &'static str)>,
    /// The body.
    pub body: String,
}

impl Refusal {
    /// Why, as a stable word for metrics and for the `x-llm-d-request-dropped-reason` header.
    pub fn reason(&self) -> Reason {
        match self {
            Refusal::InvalidBody(_) | Refusal::EncodedBody { .. } | Refusal::NoModel | Refusal::ModelIsNoString => {
                Reason::InvalidBody
            }
            Refusal::UnknownModel { .. } => Reason::UnknownModel,
            Refusal::TooLarge { .. } => Reason::TooLarge,
            Refusal::NoEndpoint { .. } => Reason::NoEndpoints,
        }
    }

    /// The model that nobody serves, as far as it is worth logging.
    pub fn unknown_model(&self) -> Option<&str> {
        match self {
            Refusal::UnknownModel { model } => Some(echo(model)),
            _ => None,
        }
    }

    /// The answer to the client.
    pub fn reply(&self) -> Reply {
        let (status, kind, param, code, message) = match self {
            Refusal::InvalidBody(error) => {
                (400, "invalid_request_error", None, "invalid_json", format!("the request cannot be read: {error}"))
            }
            Refusal::EncodedBody { coding } => (
                400,
                "invalid_request_error",
                None,
                "unsupported_content_encoding",
                format!("the request body is encoded as {:?}: send it without content-encoding", echo(coding)),
            ),
            Refusal::NoModel => (
                400,
                "invalid_request_error",
                Some("model"),
                "missing_model",
                "the request names no model: set the field \"model\"".to_owned(),
            ),
            Refusal::ModelIsNoString => (
                400,
                "invalid_request_error",
                Some("model"),
                "invalid_model",
                "the field \"model\" must be a string, in UTF-8".to_owned(),
            ),
            Refusal::UnknownModel { model } => (
                404,
                "invalid_request_error",
                Some("model"),
                "model_not_found",
                format!("the model {:?} does not exist at this gateway", echo(model)),
            ),
            Refusal::TooLarge { limit } => (
                413,
                "invalid_request_error",
                None,
                "request_too_large",
                format!("the request body is larger than the gateway's limit of {limit} bytes"),
            ),
            Refusal::NoEndpoint { pool } => (
                503,
                "server_error",
                None,
                "no_endpoint",
                format!("no model server of the pool {pool:?} can be reached; try again later"),
            ),
        };
        let body = json!({"error": {"message": message, "type": kind, "param": param, "code": code}});
        Reply {
            status,
            headers: vec![("content-type", "application/json"), (headers::DROPPED_REASON, self.reason().name())],
            body: body.to_string(),
        }
    }
}

/// Why requests are refused, coarsely: one metric each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// 400.
    InvalidBody,
    /// 404.
    UnknownModel,
    /// 413.
    TooLarge,
    /// 503.
    NoEndpoints,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 4] = [Reason::InvalidBody, Reason::UnknownModel, Reason::TooLarge, Reason::NoEndpoints];

    /// The reason's name.
    pub fn name(self) -> &'static str {
        match self {
            Reason::InvalidBody => "rejected-invalid-body",
            Reason::UnknownModel => "rejected-unknown-model",
            Reason::TooLarge => "rejected-too-large",
            Reason::NoEndpoints => "rejected-no-endpoints",
        }
    }
}

fn echo(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_ECHO)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn the_body_is_json_whatever_the_client_sent() {
        let hostile = format!("\"}}\u{1}\n{}", "é".repeat(5_000));
        let reply = Refusal::UnknownModel { model: hostile }.reply();
        let body: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!((reply.status, &body["error"]["code"]), (404, &json!("model_not_found")));
        assert!(reply.body.len() < 1_000, "the echo is bounded");
    }
}
