//! An engine's report in a header: no panic, and nothing that makes no sense.
#![no_main]
use inference_plugin::orca;
use inference_plugin::time::Timestamp;

libfuzzer_sys::fuzz_target!(|value: &[u8]| {
    if let Some(report) = orca::parse(value, Timestamp(1)) {
        assert!(report.kv_cache_usage.is_none_or(|usage| (0.0..=1.0).contains(&usage)));
    }
});
