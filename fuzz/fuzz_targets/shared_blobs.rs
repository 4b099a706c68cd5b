//! Blobs from shared data, as another version of the plugin might write them.
#![no_main]
use inference_plugin::acceptance::{Acceptance, Demand, Standing};
use inference_plugin::ejection::{Ejections, OutlierDetection};
use inference_plugin::flow::table::Table;
use inference_plugin::inflight::Inflight;
use inference_plugin::load::Snapshot;
use inference_plugin::prefix::log::PrefixLog;
use inference_plugin::room::Room;
use inference_plugin::time::Timestamp;

libfuzzer_sys::fuzz_target!(|blob: &[u8]| {
    if let Some(snapshot) = Snapshot::decode(blob) {
        assert_eq!(Snapshot::decode(&snapshot.encode()).map(|again| again.endpoints.len()), Some(snapshot.endpoints.len()));
    }
    let mut inflight = Inflight::default();
    inflight.handle_slot(1, Some((blob, 1)));
    inflight.handle_refreshed(Timestamp(1));
    PrefixLog::default().handle_slot(1, blob, 1);
    let _ = Room::default().look(1, None, 1, Some((blob, 1)), |_| false, Timestamp(1));
    Table::default().handle_stored(1, Some((blob, 1)));
    let mut acceptance = Acceptance::default();
    acceptance.handle_slot(1, Some((blob, 1)));
    let expected = acceptance.expect(Standing { pool: 1, endpoint: 2, in_flight: 3 }, Demand::default(), Timestamp(1));
    assert!((0.0..=1.0).contains(&expected.probability) && expected.seconds >= 0.0);
    Ejections::new(OutlierDetection::default(), vec![1, 2, 3, 4]).handle_stored(Some((blob, 1)), Timestamp(1));
});
