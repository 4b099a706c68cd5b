//! Restoring a model's name: the chunks don't matter, and nothing but the name changes.
#![no_main]
use inference_plugin::restore::Restorer;

libfuzzer_sys::fuzz_target!(|input: (bool, u8, Vec<u8>)| {
    let (is_event_stream, size, answer) = input;
    let restored = |size: usize| {
        let mut restorer = Restorer::new("m", "client", is_event_stream);
        let mut out = Vec::new();
        let mut chunks = answer.chunks(size).peekable();
        while let Some(chunk) = chunks.next() {
            let end = chunks.peek().is_none();
            match restorer.feed(chunk, end) {
                Some(changed) => out.extend(changed),
                None => out.extend_from_slice(chunk),
            }
        }
        out
    };
    let whole = restored(answer.len().max(1));
    assert_eq!(restored(usize::from(size).max(1)), whole);
    if let (false, Ok(before)) = (is_event_stream, serde_json::from_slice::<serde_json::Value>(&answer)) {
        let after: serde_json::Value = serde_json::from_slice(&whole).expect("JSON stays JSON");
        if before != after {
            assert!(answer.windows(3).any(|window| window == b"\"m\"") || answer.contains(&b'\\'));
        }
    }
});
