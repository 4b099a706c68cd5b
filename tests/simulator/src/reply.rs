//! HTTP answers, put together.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::{Response, StatusCode};
use serde_json::Value;

use crate::api::ApiError;

/// An answer's body, at once or in pieces.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

pub(crate) fn text(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed_unsync());
    *response.status_mut() = status;
    set(&mut response, "server", "uvicorn");
    response
}

pub(crate) fn json_answer(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = text(status, body.to_string());
    set(&mut response, "content-type", "application/json");
    response
}

pub(crate) fn error_answer(error: &ApiError) -> Response<Body> {
    json_answer(StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &error.body)
}

/// An answer that begins well and is an error, as vLLM and SGLang write it once the status is sent: a stream with
/// `first_chunk`, else a JSON body.
pub(crate) fn broken_answer(first_chunk: Option<String>, error: &ApiError) -> Response<Body> {
    let Some(first_chunk) = first_chunk else { return json_answer(StatusCode::OK, &error.body) };
    let mut response = text(StatusCode::OK, format!("{first_chunk}data: {}\n\ndata: [DONE]\n\n", error.body));
    set(&mut response, "content-type", "text/event-stream; charset=utf-8");
    response
}

pub(crate) fn set(response: &mut Response<Body>, name: &'static str, value: &str) {
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(name, value);
    }
}
