//! A metrics page, packed or not: no panic, no more text than is allowed, and no reading that makes no sense.
#![no_main]
use inference_plugin::config::raw::EngineName;
use inference_plugin::engine::Dialect;
use inference_plugin::page::Page;

libfuzzer_sys::fuzz_target!(|page: (bool, Option<&[u8]>, &[u8])| {
    let (is_whole, encoding, body) = page;
    let Ok(page) = Page::of(body, encoding, is_whole) else { return };
    for engine in [EngineName::Vllm, EngineName::Sglang, EngineName::TritonTensorrtLlm] {
        if let Ok(reading) = Dialect::of(engine).read(&page) {
            assert!(reading.kv_cache_usage.is_none_or(|usage| (0.0..=1.0).contains(&usage)));
        }
    }
});
