//! The answers that the gateway gives itself: OpenAI-shaped errors that say whose fault it is.

use std::time::Duration;

use serde_json::json;

use crate::headers;
use crate::scan::{ScanError, ScanErrorKind};
use crate::shown;

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
    /// The path is one that servers read differently.
    UnclearPath {
        /// The end of the path that it may be.
        path: &'static str,
    },
    /// The path names a model, and the body another one.
    TwoModels {
        /// That of the path.
        path: String,
        /// That of the body.
        body: String,
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
    /// The pool has enough to do, and the request may be dropped.
    Saturated {
        /// The pool.
        pool: String,
        /// How long it needs for what waits.
        retry_after: Duration,
    },
    /// As many requests of its priority wait as may.
    QueueFull {
        /// The pool.
        pool: String,
        /// How long it needs for what waits.
        retry_after: Duration,
    },
    /// It has waited long enough.
    Expired {
        /// The pool.
        pool: String,
        /// Whether no endpoint can be reached.
        is_empty: bool,
        /// How long it has waited.
        waited: Duration,
        /// How long the pool needs for what waits.
        retry_after: Duration,
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
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

impl Refusal {
    /// Why, as a stable word for metrics and for the `x-llm-d-request-dropped-reason` header.
    pub fn reason(&self) -> Reason {
        match self {
            Refusal::InvalidBody(_)
            | Refusal::EncodedBody { .. }
            | Refusal::UnclearPath { .. }
            | Refusal::TwoModels { .. }
            | Refusal::NoModel
            | Refusal::ModelIsNoString => Reason::InvalidBody,
            Refusal::UnknownModel { .. } => Reason::UnknownModel,
            Refusal::TooLarge { .. } => Reason::TooLarge,
            Refusal::NoEndpoint { .. } => Reason::NoEndpoints,
            Refusal::Saturated { .. } | Refusal::QueueFull { .. } => Reason::Saturated,
            Refusal::Expired { .. } => Reason::TtlExpired,
        }
    }

    /// The model that nobody serves, in a form that is safe to log.
    pub fn unknown_model(&self) -> Option<String> {
        match self {
            Refusal::UnknownModel { model } => Some(shown::token(model)),
            _ => None,
        }
    }

    /// When to try again, in whole seconds.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Refusal::Saturated { retry_after, .. }
            | Refusal::QueueFull { retry_after, .. }
            | Refusal::Expired { retry_after, .. } => Some(retry_after.as_secs_f32().ceil() as u64),
            _ => None,
        }
    }

    /// The answer to the client.
    pub fn reply(&self) -> Reply {
        let (status, param, code) = self.fault();
        let kind = match status {
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let body = json!({"error": {"message": self.message(), "type": kind, "param": param, "code": code}});
        let mut headers = vec![
            ("content-type", "application/json".to_owned()),
            (headers::DROPPED_REASON, self.reason().name().to_owned()),
        ];
        headers.extend(self.retry_after().map(|seconds| (headers::RETRY_AFTER, seconds.to_string())));
        Reply { status, headers, body: body.to_string() }
    }

    /// The status, the member that is at fault, and the error's code.
    fn fault(&self) -> (u16, Option<&'static str>, &'static str) {
        match self {
            Refusal::InvalidBody(error) if matches!(error.kind, ScanErrorKind::Form(_)) => (400, None, "invalid_form"),
            Refusal::InvalidBody(_) => (400, None, "invalid_json"),
            Refusal::UnclearPath { .. } => (400, None, "unclear_path"),
            Refusal::TwoModels { .. } => (400, Some("model"), "two_models"),
            Refusal::EncodedBody { .. } => (400, None, "unsupported_content_encoding"),
            Refusal::NoModel => (400, Some("model"), "missing_model"),
            Refusal::ModelIsNoString => (400, Some("model"), "invalid_model"),
            Refusal::UnknownModel { .. } => (404, Some("model"), "model_not_found"),
            Refusal::TooLarge { .. } => (413, None, "request_too_large"),
            Refusal::Saturated { .. } => (429, None, "saturated"),
            Refusal::QueueFull { .. } => (429, None, "queue_full"),
            Refusal::Expired { is_empty, .. } => (if *is_empty { 503 } else { 429 }, None, "wait_expired"),
            Refusal::NoEndpoint { .. } => (503, None, "no_endpoint"),
        }
    }

    fn message(&self) -> String {
        match self {
            Refusal::InvalidBody(error) => format!("the request cannot be read: {error}"),
            Refusal::UnclearPath { path } => format!(
                "servers read this path differently: if it is to end in {path}, write it so, in this case, without empty \
                 segments, dots, semicolons or double encoding"
            ),
            Refusal::TwoModels { path, body } => format!(
                "the path names the model \"{}\", and the body \"{}\": name one",
                shown::token(path),
                shown::token(body)
            ),
            Refusal::EncodedBody { coding } => {
                format!("the request body is encoded as \"{}\": send it without content-encoding", shown::token(coding))
            }
            Refusal::NoModel => "the request names no model: set the field \"model\"".to_owned(),
            Refusal::ModelIsNoString => "the field \"model\" must be a string, in UTF-8".to_owned(),
            Refusal::UnknownModel { model } => {
                format!("the model \"{}\" does not exist at this gateway", shown::token(model))
            }
            Refusal::TooLarge { limit } => {
                format!("the request body is larger than the gateway's limit of {limit} bytes")
            }
            Refusal::Saturated { pool, .. } => {
                format!("the pool {pool:?} is saturated, and requests of this priority are dropped then")
            }
            Refusal::QueueFull { pool, .. } => {
                format!("too many requests of this priority wait for the pool {pool:?} already")
            }
            Refusal::Expired { pool, waited, .. } => {
                format!("the request has waited for the pool {pool:?} for {:.1} s", waited.as_secs_f32())
            }
            Refusal::NoEndpoint { pool } => {
                format!("no model server of the pool {pool:?} can be reached; try again later")
            }
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
    /// 429.
    Saturated,
    /// 429, or 503 where no endpoint can be reached.
    TtlExpired,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 6] = [
        Reason::InvalidBody,
        Reason::UnknownModel,
        Reason::TooLarge,
        Reason::NoEndpoints,
        Reason::Saturated,
        Reason::TtlExpired,
    ];

    /// The reason's name.
    pub fn name(self) -> &'static str {
        match self {
            Reason::InvalidBody => "rejected-invalid-body",
            Reason::UnknownModel => "rejected-unknown-model",
            Reason::TooLarge => "rejected-too-large",
            Reason::NoEndpoints => "rejected-no-endpoints",
            Reason::Saturated => "rejected-saturated",
            Reason::TtlExpired => "rejected-ttl-expired",
        }
    }
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

    #[test]
    fn a_clients_text_forges_nothing() {
        for hostile in
            ["x\n200 model=y", "\u{1b}[2J", "a\u{2028}b", "\u{202e}drow", "\"},{\"", &"\u{7}".repeat(1 << 20)]
        {
            let unknown = Refusal::UnknownModel { model: hostile.to_owned() };
            let encoded = Refusal::EncodedBody { coding: hostile.to_owned() };
            let logged = unknown.unknown_model().unwrap();
            for text in [logged, unknown.reply().body, encoded.reply().body] {
                assert!(!text.chars().any(shown::is_hidden), "{text:?}");
                assert!(text.len() < 400, "{text:?}");
            }
            for refusal in [unknown, encoded] {
                let body: serde_json::Value = serde_json::from_str(&refusal.reply().body).unwrap();
                let message = body["error"]["message"].as_str().unwrap();
                assert_eq!(message.matches('"').count(), 2, "the name ends where its quotes do: {message}");
            }
        }
    }
}
