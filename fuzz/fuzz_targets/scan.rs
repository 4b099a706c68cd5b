//! A request's body: no panic, and a rewrite that can be read again.
#![no_main]
use inference_plugin::scan::{self, Model};

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    let Ok(found) = scan::scan(body) else { return };
    if let Some(Model::Name { span, .. }) = found.model {
        let rewritten = scan::with_model(body, &span, "other");
        let again = scan::scan(&rewritten).expect("a rewrite keeps the structure");
        assert!(matches!(again.model, Some(Model::Name { name, .. }) if name == "other"));
    }
});
