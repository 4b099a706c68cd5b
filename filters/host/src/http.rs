//! One request and response at the host: read, edit, answer.

use inference_plugin::exchange::{Edit, Header, ResponseHead};
use inference_plugin::headers;
use inference_plugin::refusal::Reply;
use inference_plugin::scheduling::Tier;
use proxy_wasm::types::{BufferType, MapType};

use crate::calls::{self, Refused};

/// The request's headers.
pub fn request_headers() -> Vec<Header> {
    calls::map(MapType::HttpRequestHeaders).unwrap_or_default()
}

/// The request's trailers; to be called while they pass.
pub fn request_trailers() -> Vec<Header> {
    calls::map(MapType::HttpRequestTrailers).unwrap_or_default()
}

/// The response's trailers; to be called while they pass.
pub fn response_trailers() -> Vec<Header> {
    calls::map(MapType::HttpResponseTrailers).unwrap_or_default()
}

/// The whole of the request's body that is buffered.
pub fn request_body() -> Vec<u8> {
    calls::buffer(BufferType::HttpRequestBody, usize::MAX).unwrap_or_default()
}

/// The cluster of the route that the request has taken so far.
pub fn route_cluster() -> Option<Vec<u8>> {
    calls::property(&["xds", "cluster_name"])
}

/// What the response's headers and Envoy say about where it comes from.
#[derive(Debug, Default)]
pub struct Response {
    status: u16,
    address: Option<Vec<u8>>,
    details: Option<Vec<u8>>,
    attempts: Option<u32>,
    load_metrics: Option<Vec<u8>>,
    content_type: Option<Vec<u8>>,
    content_encoding: Option<Vec<u8>>,
}

impl Response {
    /// Reads what is there of the response; `with_load_metrics` where engines report their load, `with_content` where
    /// the kind of its body matters.
    pub fn read(with_load_metrics: bool, with_content: bool) -> Response {
        let header = |name| calls::map_value(MapType::HttpResponseHeaders, name);
        let status = header(":status");
        let status = status.and_then(|status| std::str::from_utf8(&status).ok()?.parse().ok()).unwrap_or(0);
        // Only an error can be Envoy's own, and properties cost more than a header.
        let is_success = (200..300).contains(&status);
        Response {
            status,
            address: calls::property(&["upstream", "address"]),
            details: if is_success { None } else { code_details() },
            attempts: calls::property(&["upstream", "request_attempt_count"]).and_then(|count| small_number(&count)),
            load_metrics: if with_load_metrics { header(headers::LOAD_METRICS) } else { None },
            content_type: if with_content { header("content-type") } else { None },
            content_encoding: if with_content { header("content-encoding") } else { None },
        }
    }

    /// Lends it to the core.
    pub fn head(&self) -> ResponseHead<'_> {
        ResponseHead {
            status: self.status,
            address: self.address.as_deref(),
            details: self.details.as_deref(),
            attempts: self.attempts,
            load_metrics: self.load_metrics.as_deref(),
            content_type: self.content_type.as_deref(),
            content_encoding: self.content_encoding.as_deref(),
        }
    }
}

/// What Envoy says about how the answer came about, and how it ended.
pub fn code_details() -> Option<Vec<u8>> {
    calls::property(&["response", "code_details"])
}

/// A number as Envoy's properties have it: eight bytes, little-endian.
fn small_number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().and_then(|bytes| u32::try_from(u64::from_le_bytes(bytes)).ok())
}

/// Leaves a value for access logs and later filters, as the filter state `wasm.NAME`.
pub fn set_filter_state(name: &str, value: &str) {
    // An access log without this field is no reason to disturb the request.
    let _ = calls::set_property(name, value.as_bytes());
}

/// Leaves what a pick rests on for access logs.
pub fn set_tier(tier: Option<Tier>) {
    set_filter_state("inference_tier", tier.map_or("", |tier| tier.name()));
}

/// Applies edits in their order.
pub fn apply(edits: &mut Vec<Edit>) {
    for edit in edits.drain(..) {
        // What steers is overwritten by later edits or names no host of the cluster: the request is served, and the log says
        // that this host doesn't do what the plugin needs.
        if let Err(refused) = apply_one(edit) {
            log::error!("the host refuses to edit a message: {refused}");
        }
    }
}

fn apply_one(edit: Edit) -> Result<(), Refused> {
    match edit {
        Edit::RemoveRequestHeader(name) => calls::remove_map_value(MapType::HttpRequestHeaders, name),
        Edit::SetRequestHeader(name, value) => calls::replace_map_value(MapType::HttpRequestHeaders, &name, &value),
        Edit::ReplaceBody(body) => calls::replace_buffer(BufferType::HttpRequestBody, &body),
        Edit::RemoveRequestTrailer(name) => calls::remove_map_value(MapType::HttpRequestTrailers, name),
        Edit::RemoveResponseTrailer(name) => calls::remove_map_value(MapType::HttpResponseTrailers, name),
        Edit::RemoveResponseHeader(name) => calls::remove_map_value(MapType::HttpResponseHeaders, name),
        Edit::SetResponseHeader(name, value) => calls::replace_map_value(MapType::HttpResponseHeaders, name, &value),
    }
}

/// The part of the response's body that is passing.
pub fn response_part(size: usize) -> Vec<u8> {
    calls::buffer(BufferType::HttpResponseBody, size).unwrap_or_default()
}

/// Replaces the part of the response's body that is passing.
pub fn replace_response_part(part: &[u8]) {
    if let Err(refused) = calls::replace_buffer(BufferType::HttpResponseBody, part) {
        log::error!("the host refuses to replace a part of an answer: {refused}");
    }
}

/// Acts on the stream of another context than the one that Envoy is calling, which is `current`; `None` when that stream is gone.
pub fn in_context<T>(context: u32, current: u32, act: impl FnOnce() -> T) -> Option<T> {
    calls::set_effective_context(context).ok()?;
    let outcome = act();
    if let Err(refused) = calls::set_effective_context(current) {
        log::error!("the host refuses to go back to the context of its call: context={current} {refused}");
    }
    Some(outcome)
}

/// Lets a request go on that was held.
pub fn resume() {
    if let Err(refused) = calls::continue_request() {
        log::error!("a request that has waited cannot go on: {refused}");
    }
}

/// Answers the request.
pub fn answer(reply: &Reply) {
    let headers: Vec<_> = reply.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    if let Err(refused) = calls::send_local_response(u32::from(reply.status), &headers, reply.body.as_bytes()) {
        log::error!("the host refuses to answer a request: answer={} {refused}", reply.status);
    }
}
