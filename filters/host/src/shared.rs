//! Shared data: bytes under a key, with a version, common to every VM of the process with our `vm_id`.

use proxy_wasm::hostcalls;

/// What is stored under `key`, and its version; `None` when nothing is.
pub fn get(key: &str) -> Option<(Vec<u8>, u32)> {
    let (value, version) = hostcalls::get_shared_data(key).ok()?;
    Some((value?, version?))
}

/// Stores `value`, whatever is there.
pub fn set(key: &str, value: &[u8]) {
    if hostcalls::set_shared_data(key, Some(value), None).is_err() {
        log::warn!("shared data cannot be written: key={key}");
    }
}

/// Stores `value` if the version is still `cas`, and says whether it did.
pub fn set_if(key: &str, value: &[u8], cas: u32) -> bool {
    hostcalls::set_shared_data(key, Some(value), Some(cas)).is_ok()
}

/// Lends a stored value to the core.
pub fn lend(stored: &Option<(Vec<u8>, u32)>) -> Option<(&[u8], u32)> {
    stored.as_ref().map(|(value, version)| (value.as_slice(), *version))
}
