//! A plugin JSON document: taken, or refused with at least one reason.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    match inference_plugin::config::parse(text) {
        Ok(config) => assert!(!config.pools.is_empty()),
        Err(errors) => assert!(!errors.is_empty()),
    }
});
