//! What resources say, in shared data: written by the VM that polls, read by every other, and by the next one that polls.

use std::collections::BTreeSet;

use crate::config::{Addition, Additions};
use crate::wire::{Reader, Writer};

const MAGIC: &[u8; 4] = b"IPpl";
const VERSION: u8 = 1;

/// The shared-data key of what a namespace's resources say. VMs with different configurations may read the same resources, and each makes
/// of them what its own pools allow.
pub fn key(namespace: &str) -> String {
    format!("ip1/pools/{namespace}")
}

/// Adds what was published before, where nothing is known of a kind that it may be of.
pub(super) fn complete<R: Clone>(all: &mut Vec<Addition<R>>, before: &[Addition<R>], is_unknown: bool) {
    let known: BTreeSet<&str> = all.iter().map(|addition| addition.source.as_str()).collect();
    let is_missing = |addition: &&Addition<R>| is_unknown && !known.contains(addition.source.as_str());
    let missing: Vec<Addition<R>> = before.iter().filter(is_missing).cloned().collect();
    all.extend(missing);
}

/// What the resources say, from shared data.
pub fn decode(blob: &[u8]) -> Option<Additions> {
    let (reader, _generation) = Reader::new(blob, MAGIC, VERSION)?;
    let value: serde_json::Value = serde_json::from_slice(reader.rest()).ok()?;
    serde_path_to_error::deserialize(&value).ok()
}

pub(super) fn encode(generation: u64, json: &[u8]) -> Vec<u8> {
    let mut blob = Writer::new(MAGIC, VERSION, generation).finish();
    blob.extend_from_slice(json);
    blob
}
