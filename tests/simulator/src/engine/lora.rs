//! LoRA slots, and vLLM's gauge of them as vLLM 0.32 really emits it.
//!
//! The gauge's value is the time of its last change. Each set of labels that ever was stays on the page,
//! the waiting label is a copy of the running one, and before the first adapter request there is no series.

use super::Time;

/// One series of the LoRA gauge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoraSeries {
    /// The running adapters, in the order of the batch.
    pub running: String,
    /// When this set was last the current one.
    pub at: Time,
}

#[derive(Debug)]
pub(super) struct LoraSlots {
    max: usize,
    /// Loaded adapters, least recently used first.
    loaded: Vec<String>,
    series: Vec<LoraSeries>,
}

impl LoraSlots {
    pub(super) fn new(max: usize) -> LoraSlots {
        LoraSlots { max: max.max(1), loaded: Vec::new(), series: Vec::new() }
    }

    pub(super) fn series(&self) -> &[LoraSeries] {
        &self.series
    }

    /// Whether `lora` is active, or a slot is empty or idle.
    pub(super) fn has_room_for(&self, lora: &str, active: &[&str]) -> bool {
        let mut distinct: Vec<&str> = active.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        distinct.contains(&lora) || distinct.len() < self.max
    }

    /// Makes `lora` the most recently used one; true when it had to be loaded.
    pub(super) fn load(&mut self, lora: &str, active: &[&str]) -> bool {
        if let Some(index) = self.loaded.iter().position(|loaded| loaded == lora) {
            let name = self.loaded.remove(index);
            self.loaded.push(name);
            return false;
        }
        if self.loaded.len() >= self.max
            && let Some(index) = self.loaded.iter().position(|loaded| !active.contains(&loaded.as_str()))
        {
            self.loaded.remove(index);
        }
        self.loaded.push(lora.to_owned());
        true
    }

    /// Notes which adapters the batch holds.
    pub(super) fn note<'s>(&mut self, now: Time, batch: impl Iterator<Item = &'s str>) {
        let mut names: Vec<&str> = Vec::new();
        for name in batch {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let running = names.join(",");
        if running.is_empty() && self.series.is_empty() {
            return;
        }
        match self.series.iter_mut().find(|series| series.running == running) {
            Some(series) => series.at = now,
            None => self.series.push(LoraSeries { running, at: now }),
        }
    }
}
