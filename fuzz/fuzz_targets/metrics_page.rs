//! A metrics page: no panic, and no reading that makes no sense.
#![no_main]
use inference_plugin::config::raw::EngineName;
use inference_plugin::engine::Dialect;

libfuzzer_sys::fuzz_target!(|page: &[u8]| {
    for engine in [EngineName::Vllm, EngineName::Sglang, EngineName::TritonTensorrtLlm] {
        if let Ok(reading) = Dialect::of(engine).read(page) {
            assert!(reading.kv_cache_usage.is_none_or(|usage| (0.0..=1.0).contains(&usage)));
        }
    }
});
