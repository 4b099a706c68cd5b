//! The hostcalls of proxy-wasm's ABI 0.2.1, none of which traps.
//!
//! The SDK's own wrappers panic on every status that they don't expect, and a panic takes the VM and all of its requests
//! down. A host may refuse any call: a map that is gone by this callback, a stream that has ended, a limit. Here a refusal is an
//! `Err` or a `None`. One call is left to the SDK, [`dispatch_http_call`](proxy_wasm::hostcalls::dispatch_http_call): it keeps the
//! list of callouts by which it finds the context of an answer, and takes both statuses with which Envoy refuses one.
#![expect(unsafe_code, reason = "hostcalls are foreign functions")]

use std::ptr::null_mut;

use proxy_wasm::types::{BufferType, LogLevel, MapType, MetricType, StreamType};

/// The host has refused a call, with this status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused(u32);

impl std::fmt::Display for Refused {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "status={}", self.0)
    }
}

type Done = Result<(), Refused>;

// A status is a plain number here: one that the SDK's enum doesn't have must not become a value of it.
#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: LogLevel, text: *const u8, text_size: usize) -> u32;
    fn proxy_get_current_time_nanoseconds(out: *mut u64) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
    fn proxy_continue_stream(stream: StreamType) -> u32;
    fn proxy_get_buffer_bytes(
        buffer: BufferType,
        start: usize,
        max_size: usize,
        out: *mut *mut u8,
        out_size: *mut usize,
    ) -> u32;
    fn proxy_set_buffer_bytes(
        buffer: BufferType,
        start: usize,
        size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(map: MapType, out: *mut *mut u8, out_size: *mut usize) -> u32;
    fn proxy_get_header_map_value(
        map: MapType,
        name: *const u8,
        name_size: usize,
        out: *mut *mut u8,
        out_size: *mut usize,
    ) -> u32;
    fn proxy_replace_header_map_value(
        map: MapType,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: MapType, name: *const u8, name_size: usize) -> u32;
    fn proxy_get_property(path: *const u8, path_size: usize, out: *mut *mut u8, out_size: *mut usize) -> u32;
    fn proxy_set_property(path: *const u8, path_size: usize, value: *const u8, value_size: usize) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        out: *mut *mut u8,
        out_size: *mut usize,
        out_version: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(key: *const u8, key_size: usize, value: *const u8, value_size: usize, version: u32)
    -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_define_metric(kind: MetricType, name: *const u8, name_size: usize, out: *mut u32) -> u32;
    fn proxy_increment_metric(metric: u32, offset: i64) -> u32;
    fn proxy_record_metric(metric: u32, value: u64) -> u32;
}

/// Bytes that the host hands over, in memory that it has had allocated.
struct Given {
    start: *mut u8,
    size: usize,
}

impl Given {
    fn new() -> Given {
        Given { start: null_mut(), size: 0 }
    }

    /// The bytes, if the call that filled this in was granted.
    fn bytes(self, status: u32) -> Option<Vec<u8>> {
        done(status).ok()?;
        if self.start.is_null() {
            return Some(Vec::new());
        }
        // SAFETY: the host has got this memory from the SDK's `proxy_on_memory_allocate`, a boxed slice of exactly this
        // size, and gives it away.
        Some(unsafe { Vec::from_raw_parts(self.start, self.size, self.size) })
    }
}

fn done(status: u32) -> Done {
    if status == 0 { Ok(()) } else { Err(Refused(status)) }
}

/// Writes a line to Envoy's log.
pub(crate) fn log(level: LogLevel, text: &str) {
    // SAFETY: the host reads the text within the call. There is nowhere to say that it cannot be logged.
    let _ = done(unsafe { proxy_log(level, text.as_ptr(), text.len()) });
}

/// The wall clock, in nanoseconds since the Unix epoch.
pub(crate) fn current_time() -> Option<u64> {
    let mut now = 0;
    // SAFETY: the host writes eight bytes.
    done(unsafe { proxy_get_current_time_nanoseconds(&raw mut now) }).ok()?;
    Some(now)
}

/// Ticks every so many milliseconds from now on.
pub(crate) fn set_tick_period(milliseconds: u32) -> Done {
    // SAFETY: only numbers.
    done(unsafe { proxy_set_tick_period_milliseconds(milliseconds) })
}

/// Makes the calls that follow act on this context.
pub(crate) fn set_effective_context(context: u32) -> Done {
    // SAFETY: only numbers.
    done(unsafe { proxy_set_effective_context(context) })
}

/// Lets a request go on that was held.
pub(crate) fn continue_request() -> Done {
    // SAFETY: only numbers.
    done(unsafe { proxy_continue_stream(StreamType::HttpRequest) })
}

/// The first `max_size` bytes of a buffer.
pub(crate) fn buffer(buffer: BufferType, max_size: usize) -> Option<Vec<u8>> {
    let mut given = Given::new();
    // SAFETY: the host writes an address and a size.
    let status = unsafe { proxy_get_buffer_bytes(buffer, 0, max_size, &raw mut given.start, &raw mut given.size) };
    given.bytes(status)
}

/// Replaces the whole of a buffer.
pub(crate) fn replace_buffer(buffer: BufferType, value: &[u8]) -> Done {
    // SAFETY: the host reads the value within the call.
    done(unsafe { proxy_set_buffer_bytes(buffer, 0, usize::MAX, value.as_ptr(), value.len()) })
}

/// All names and values of a map.
pub(crate) fn map(map: MapType) -> Option<Vec<(String, Vec<u8>)>> {
    let mut given = Given::new();
    // SAFETY: the host writes an address and a size.
    let status = unsafe { proxy_get_header_map_pairs(map, &raw mut given.start, &raw mut given.size) };
    crate::pairs::parse(&given.bytes(status)?)
}

/// The value of a name in a map; several values come as one, with commas.
pub(crate) fn map_value(map: MapType, name: &str) -> Option<Vec<u8>> {
    let mut given = Given::new();
    // SAFETY: the host reads the name within the call, and writes an address and a size.
    let status = unsafe {
        proxy_get_header_map_value(map, name.as_ptr(), name.len(), &raw mut given.start, &raw mut given.size)
    };
    given.bytes(status)
}

/// Sets a name's value in a map, in place of all that it has.
pub(crate) fn replace_map_value(map: MapType, name: &str, value: &str) -> Done {
    // SAFETY: the host reads both within the call.
    done(unsafe { proxy_replace_header_map_value(map, name.as_ptr(), name.len(), value.as_ptr(), value.len()) })
}

/// Removes all values of a name from a map.
pub(crate) fn remove_map_value(map: MapType, name: &str) -> Done {
    // SAFETY: the host reads the name within the call.
    done(unsafe { proxy_remove_header_map_value(map, name.as_ptr(), name.len()) })
}

/// A property; `None` where there is none.
pub(crate) fn property(path: &[&str]) -> Option<Vec<u8>> {
    let path = path.join("\0");
    let mut given = Given::new();
    // SAFETY: the host reads the path within the call, and writes an address and a size.
    let status = unsafe { proxy_get_property(path.as_ptr(), path.len(), &raw mut given.start, &raw mut given.size) };
    given.bytes(status).filter(|value| !value.is_empty())
}

/// Sets a property of this plugin's own.
pub(crate) fn set_property(name: &str, value: &[u8]) -> Done {
    // SAFETY: the host reads both within the call.
    done(unsafe { proxy_set_property(name.as_ptr(), name.len(), value.as_ptr(), value.len()) })
}

/// What is stored under a key, and its version; `None` when nothing is.
pub(crate) fn shared_data(key: &str) -> Option<(Vec<u8>, u32)> {
    let (mut given, mut version) = (Given::new(), 0);
    // SAFETY: the host reads the key within the call, and writes an address, a size and a version.
    let status = unsafe {
        proxy_get_shared_data(key.as_ptr(), key.len(), &raw mut given.start, &raw mut given.size, &raw mut version)
    };
    Some((given.bytes(status)?, version))
}

/// Stores a value under a key: if its version is still `version`, or whatever is there where that is 0.
pub(crate) fn set_shared_data(key: &str, value: &[u8], version: u32) -> Done {
    // SAFETY: the host reads both within the call.
    done(unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), version) })
}

/// Answers the request in whose context this is.
pub(crate) fn send_local_response(status: u32, headers: &[(&str, &str)], body: &[u8]) -> Done {
    let headers = crate::pairs::serialize(headers);
    let (details, not_grpc) = ("", -1);
    // SAFETY: the host reads all of them within the call.
    done(unsafe {
        proxy_send_local_response(
            status,
            details.as_ptr(),
            details.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            not_grpc,
        )
    })
}

/// Defines a metric; gives the host's number for it.
pub(crate) fn define_metric(kind: MetricType, name: &str) -> Option<u32> {
    let mut metric = 0;
    // SAFETY: the host reads the name within the call, and writes a number.
    done(unsafe { proxy_define_metric(kind, name.as_ptr(), name.len(), &raw mut metric) }).ok()?;
    Some(metric)
}

/// Adds to a counter.
pub(crate) fn increment_metric(metric: u32, offset: i64) -> Done {
    // SAFETY: only numbers.
    done(unsafe { proxy_increment_metric(metric, offset) })
}

/// Sets a gauge, or adds an observation to a histogram.
pub(crate) fn record_metric(metric: u32, value: u64) -> Done {
    // SAFETY: only numbers.
    done(unsafe { proxy_record_metric(metric, value) })
}
