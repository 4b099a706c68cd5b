//! The one crate that names proxy-wasm's hostcalls.
//!
//! It translates and decides nothing. Two rules of the host shape it: any call may be refused, which must not trap
//! (`calls`); and header values are bytes, since clients send what they like.

mod calls;
pub mod http;
pub mod logging;
pub mod metrics;
mod pairs;
pub mod polling;
pub mod shared;

use inference_plugin::config::{self, Config};
use inference_plugin::hash;
use inference_plugin::time::Timestamp;
use proxy_wasm::types::BufferType;

/// The wall clock in nanoseconds since the Unix epoch.
pub fn nanoseconds() -> u64 {
    calls::current_time().unwrap_or(0)
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
    let text = calls::buffer(BufferType::PluginConfiguration, usize::MAX).unwrap_or_default();
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
    let milliseconds = u32::try_from(period.as_millis()).unwrap_or(u32::MAX);
    if let Err(refused) = calls::set_tick_period(milliseconds) {
        log::error!("the host refuses to tick, so metrics stay unread: {refused}");
    }
}
