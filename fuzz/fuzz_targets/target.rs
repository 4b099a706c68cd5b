//! A request's target: decoded as others decode it, and where all servers agree, what was found is there.
#![no_main]
use inference_plugin::shape::Call;
use inference_plugin::target;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let (path, _) = target::split(input);
    let decoded = target::decode(path);
    assert_eq!(decoded, percent_encoding::percent_decode(path).collect::<Vec<_>>());
    let loose = target::loosely(path);
    if let Call::One { shape, .. } = Call::read(b"POST", input) {
        assert!(decoded.strip_suffix(b"/").unwrap_or(&decoded).ends_with(shape.suffix.as_bytes()));
        assert!(loose.ends_with(shape.suffix.to_ascii_lowercase().as_bytes()) || target::is_plain(path));
    }
});
