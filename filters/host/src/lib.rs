//! The one crate that names proxy-wasm's hostcalls.
//!
//! It translates and decides nothing. Two rules of the host shape it: a hostcall with an unexpected status
//! panics in the SDK, which takes the VM down, so only calls that are allowed at the moment are made; and
//! header values are bytes, since clients send what they like.

pub mod http;
pub mod metrics;
pub mod polling;
pub mod shared;

use inference_plugin::config::{self, Config};
use inference_plugin::hash;
use inference_plugin::time::Timestamp;
use proxy_wasm::hostcalls;
use proxy_wasm::types::BufferType;

/// The wall clock in nanoseconds since the Unix epoch.
pub fn nanoseconds() -> u64 {
    let now = hostcalls::get_current_time().ok();
    let since_epoch = now.and_then(|now| now.duration_since(std::time::UNIX_EPOCH).ok());
    since_epoch.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// The wall clock as the core counts it.
pub fn now() -> Timestamp {
    timestamp(nanoseconds())
}

/// A wall-clock time in nanoseconds, as the core counts it.
pub fn timestamp(nanoseconds: u64) -> Timestamp {
    Timestamp(nanoseconds / 1_000_000)
}

/// An id of this VM that no other has, for leases, slots and the seed of its random choices.
pub fn vm_id(nanoseconds: u64) -> u64 {
    hash::combine(nanoseconds, shared::next_id())
}

/// Reads and checks the plugin configuration; logs every mistake in it.
pub fn configuration() -> Option<Config> {
    let text = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, usize::MAX).ok().flatten().unwrap_or_default();
    match config::parse(&text) {
        Ok(config) => Some(config),
        Err(errors) => {
            for error in errors.iter() {
                log::error!("plugin configuration: {error}");
            }
            None
        }
    }
}

/// Calls [`proxy_wasm::traits::RootContext::on_tick`] every `period` from now on.
pub fn tick_every(period: std::time::Duration) {
    if hostcalls::set_tick_period(period).is_err() {
        log::error!("the host refuses to tick: metrics stay unread");
    }
}
