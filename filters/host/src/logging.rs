//! The `log` crate's lines, and a panic's message, into Envoy's log.

use proxy_wasm::types::LogLevel;

use crate::calls;

struct Logger;

/// Sends what is logged, from the level info on, to Envoy's log. To be called once, when a VM starts.
pub fn start() {
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
    std::panic::set_hook(Box::new(|panic| calls::log(LogLevel::Critical, &panic.to_string())));
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            log::Level::Trace => LogLevel::Trace,
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        calls::log(level, &record.args().to_string());
    }

    fn flush(&self) {}
}
