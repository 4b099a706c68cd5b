//! One request and response at the host: read, edit, answer.

use inference_plugin::exchange::{Edit, Header, ResponseHead};
use inference_plugin::headers;
use inference_plugin::refusal::Reply;
use inference_plugin::scheduling::Tier;
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType};

/// The request's headers.
pub fn request_headers() -> Vec<Header> {
    hostcalls::get_map_bytes(MapType::HttpRequestHeaders).unwrap_or_default()
}

/// The request's trailers; to be called while they pass.
pub fn request_trailers() -> Vec<Header> {
    hostcalls::get_map_bytes(MapType::HttpRequestTrailers).unwrap_or_default()
}

/// The response's trailers; to be called while they pass.
pub fn response_trailers() -> Vec<Header> {
    hostcalls::get_map_bytes(MapType::HttpResponseTrailers).unwrap_or_default()
}

/// The whole of the request's body that is buffered.
pub fn request_body() -> Vec<u8> {
    hostcalls::get_buffer(BufferType::HttpRequestBody, 0, usize::MAX).ok().flatten().unwrap_or_default()
}

/// The cluster of the route that the request has taken so far.
pub fn route_cluster() -> Option<Vec<u8>> {
    hostcalls::get_property(vec!["xds", "cluster_name"]).ok().flatten()
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
        let header = |name| hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, name).ok().flatten();
        let status = header(":status");
        let status = status.and_then(|status| std::str::from_utf8(&status).ok()?.parse().ok()).unwrap_or(0);
        // Only an error can be Envoy's own, and properties cost more than a header.
        let is_success = (200..300).contains(&status);
        let property = |path| hostcalls::get_property(path).ok().flatten();
        Response {
            status,
            address: property(vec!["upstream", "address"]),
            details: if is_success { None } else { code_details() },
            attempts: property(vec!["upstream", "request_attempt_count"]).and_then(|count| small_number(&count)),
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
    hostcalls::get_property(vec!["response", "code_details"]).ok().flatten()
}

/// A number as Envoy's properties have it: eight bytes, little-endian.
fn small_number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().and_then(|bytes| u32::try_from(u64::from_le_bytes(bytes)).ok())
}

/// Leaves a value for access logs and later filters, as the filter state `wasm.NAME`.
pub fn set_filter_state(name: &str, value: &str) {
    // An access log without this field is no reason to disturb the request.
    let _ = hostcalls::set_property(vec![name], Some(value.as_bytes()));
}

/// Leaves what a pick rests on for access logs.
pub fn set_tier(tier: Option<Tier>) {
    set_filter_state("inference_tier", tier.map_or("", |tier| tier.name()));
}

/// Applies edits in their order.
pub fn apply(edits: &mut Vec<Edit>) {
    for edit in edits.drain(..) {
        // The SDK panics on what the host does not allow, so an error here cannot be mended by anything.
        let _ = match edit {
            Edit::RemoveRequestHeader(name) => hostcalls::remove_map_value(MapType::HttpRequestHeaders, name),
            Edit::SetRequestHeader(name, value) => {
                hostcalls::set_map_value(MapType::HttpRequestHeaders, &name, Some(&value))
            }
            Edit::ReplaceBody(body) => hostcalls::set_buffer(BufferType::HttpRequestBody, 0, usize::MAX, &body),
            Edit::RemoveRequestTrailer(name) => hostcalls::remove_map_value(MapType::HttpRequestTrailers, name),
            Edit::RemoveResponseTrailer(name) => hostcalls::remove_map_value(MapType::HttpResponseTrailers, name),
            Edit::RemoveResponseHeader(name) => hostcalls::remove_map_value(MapType::HttpResponseHeaders, name),
            Edit::SetResponseHeader(name, value) => {
                hostcalls::set_map_value(MapType::HttpResponseHeaders, name, Some(&value))
            }
        };
    }
}

/// The part of the response's body that is passing.
pub fn response_part(size: usize) -> Vec<u8> {
    hostcalls::get_buffer(BufferType::HttpResponseBody, 0, size).ok().flatten().unwrap_or_default()
}

/// Replaces the part of the response's body that is passing.
pub fn replace_response_part(part: &[u8]) {
    // There is such a part, or this wouldn't be called.
    let _ = hostcalls::set_buffer(BufferType::HttpResponseBody, 0, usize::MAX, part);
}

/// Acts on the stream of another context than the one that Envoy is calling, which is `current`.
pub fn in_context<T>(context: u32, current: u32, act: impl FnOnce() -> T) -> Option<T> {
    hostcalls::set_effective_context(context).ok()?;
    let outcome = act();
    if hostcalls::set_effective_context(current).is_err() {
        log::error!("the context cannot be left: context={current}");
    }
    Some(outcome)
}

/// Lets a request go on that was held.
pub fn resume() {
    if hostcalls::resume_http_request().is_err() {
        log::error!("a request that has waited cannot go on");
    }
}

/// Answers the request.
pub fn answer(reply: &Reply) {
    let headers = reply.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let sent = hostcalls::send_http_response(u32::from(reply.status), headers, Some(reply.body.as_bytes()));
    if sent.is_err() {
        log::error!("a refusal cannot be sent: status={}", reply.status);
    }
}
