//! Blobs from shared data, as another version of the plugin might write them.
#![no_main]
use inference_plugin::inflight::Inflight;
use inference_plugin::load::Snapshot;
use inference_plugin::time::Timestamp;

libfuzzer_sys::fuzz_target!(|blob: &[u8]| {
    if let Some(snapshot) = Snapshot::decode(blob) {
        assert_eq!(Snapshot::decode(&snapshot.encode()).map(|again| again.endpoints.len()), Some(snapshot.endpoints.len()));
    }
    let mut inflight = Inflight::default();
    inflight.handle_slot(1, Some((blob, 1)));
    let _ = inflight.work(7, Timestamp(1));
});
