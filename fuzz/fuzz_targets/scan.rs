//! A request's body: no panic, a prompt within its bounds, and a rewrite that can be read again.
#![no_main]
use inference_plugin::prompt::{MAX_BLOCKS, Prompt};
use inference_plugin::scan::{self, Model};

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    let Ok(found) = scan::scan(body) else { return };
    let prompt = Prompt::new("m", body, &found.prompt);
    assert!(prompt.blocks.len() <= MAX_BLOCKS && prompt.blocks.is_sorted_by_key(|block| block.tokens));
    if let Some(Model::Name { span, .. }) = found.model {
        let rewritten = scan::with_model(body, &span, "other");
        let again = scan::scan(&rewritten).expect("a rewrite keeps the structure");
        assert!(matches!(again.model, Some(Model::Name { name, .. }) if name == "other"));
    }
});
