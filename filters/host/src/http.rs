//! One request and response at the host: read, edit, answer.

use inference_plugin::exchange::{Edit, Header};
use inference_plugin::refusal::Reply;
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType};

/// The request's headers.
pub fn request_headers() -> Vec<Header> {
    hostcalls::get_map_bytes(MapType::HttpRequestHeaders).unwrap_or_default()
}

/// The whole of the request's body that is buffered.
pub fn request_body() -> Vec<u8> {
    hostcalls::get_buffer(BufferType::HttpRequestBody, 0, usize::MAX).ok().flatten().unwrap_or_default()
}

/// The cluster of the route that the request has taken so far.
pub fn route_cluster() -> Option<Vec<u8>> {
    hostcalls::get_property(vec!["xds", "cluster_name"]).ok().flatten()
}

/// The address of the endpoint that answers; `None` for an answer of Envoy's own, which after a failed
/// attempt would still have the endpoint's address.
pub fn upstream_address() -> Option<Vec<u8>> {
    // Only an error can be Envoy's own, and properties cost more than a header.
    let status = hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, ":status").ok().flatten()?;
    if !status.starts_with(b"2") {
        let details = hostcalls::get_property(vec!["response", "code_details"]).ok().flatten()?;
        if details != b"via_upstream" {
            return None;
        }
    }
    hostcalls::get_property(vec!["upstream", "address"]).ok().flatten()
}

/// Leaves a value for access logs and later filters, as the filter state `wasm.NAME`.
pub fn set_filter_state(name: &str, value: &str) {
    // An access log without this field is no reason to disturb the request.
    let _ = hostcalls::set_property(vec![name], Some(value.as_bytes()));
}

/// Applies edits in their order.
pub fn apply(edits: &mut Vec<Edit>) {
    for edit in edits.drain(..) {
        // The SDK panics on what the host does not allow, so an error here cannot be mended by anything.
        let _ = match edit {
            Edit::RemoveRequestHeader(name) => hostcalls::remove_map_value(MapType::HttpRequestHeaders, name),
            Edit::SetRequestHeader(name, value) => {
                hostcalls::set_map_value(MapType::HttpRequestHeaders, name, Some(&value))
            }
            Edit::ReplaceBody(body) => hostcalls::set_buffer(BufferType::HttpRequestBody, 0, usize::MAX, &body),
            Edit::RemoveResponseHeader(name) => hostcalls::remove_map_value(MapType::HttpResponseHeaders, name),
            Edit::SetResponseHeader(name, value) => {
                hostcalls::set_map_value(MapType::HttpResponseHeaders, name, Some(&value))
            }
        };
    }
}

/// Answers the request.
pub fn answer(reply: &Reply) {
    let sent =
        hostcalls::send_http_response(u32::from(reply.status), reply.headers.clone(), Some(reply.body.as_bytes()));
    if sent.is_err() {
        log::error!("a refusal cannot be sent: status={}", reply.status);
    }
}
