//! Shared data: bytes under a key, with a version, common to every VM of the process with our `vm_id`.

use inference_plugin::wire::CREATE;

use crate::calls;

/// What is stored under `key`, and its version; `None` when nothing is.
pub fn get(key: &str) -> Option<(Vec<u8>, u32)> {
    calls::shared_data(key)
}

/// Stores `value`, whatever is there.
pub fn set(key: &str, value: &[u8]) {
    if let Err(refused) = calls::set_shared_data(key, value, 0) {
        log::warn!("the host refuses to store shared data: key={key} {refused}");
    }
}

/// Stores `value` if the version is still `cas`, and says whether it did.
pub fn set_if(key: &str, value: &[u8], cas: u32) -> bool {
    calls::set_shared_data(key, value, cas).is_ok()
}

/// A number that no other VM of the process has been given, however many start in one instant.
pub fn next_id() -> u64 {
    const KEY: &str = "ip1/next-id";
    // A worker loses the race at most once for each VM that starts beside it.
    for _ in 0..1024 {
        let stored = get(KEY);
        let last =
            stored.as_ref().and_then(|(value, _)| value.as_slice().try_into().ok()).map_or(0, u64::from_le_bytes);
        let cas = stored.map_or(CREATE, |(_, version)| version);
        if set_if(KEY, &(last + 1).to_le_bytes(), cas) {
            return last + 1;
        }
    }
    0
}

/// Lends a stored value to the core.
pub fn lend(stored: &Option<(Vec<u8>, u32)>) -> Option<(&[u8], u32)> {
    stored.as_ref().map(|(value, version)| (value.as_slice(), *version))
}
