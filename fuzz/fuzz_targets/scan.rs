//! A request's body: no panic, a prompt within its bounds, and a rewrite that can be read again.
#![no_main]
use inference_plugin::prompt::{MAX_BLOCKS, Prompt};
use inference_plugin::scan::{self, Model, Wanted};
use inference_plugin::shape::SHAPES;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((choice, body)) = input.split_first() else { return };
    let shape = &SHAPES[usize::from(*choice) % SHAPES.len()];
    let boundary = choice.is_power_of_two().then_some("b");
    let Ok(found) = scan::scan(body, shape, boundary, Wanted::All) else { return };
    for member in &found.members {
        assert!(body.get(member.span.clone()).is_some());
    }
    let prompt = Prompt::new("m", body, &found.prompt);
    assert!(prompt.blocks.len() <= MAX_BLOCKS && prompt.blocks.is_sorted_by_key(|block| block.tokens));
    if let Some(Model::Name { span, .. }) = found.model {
        let rewritten = scan::with_model(body, &span, "other", found.is_form);
        let again = scan::scan(&rewritten, shape, boundary, Wanted::All).expect("a rewrite keeps the structure");
        assert!(matches!(again.model, Some(Model::Name { name, .. }) if name == "other"));
    }
});
