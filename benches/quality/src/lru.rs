//! A least-recently-used set of hashes with weights and a ceiling on their sum.
//!
//! What the rivals' prefix indices remember of each endpoint. Memory is bounded by the capacity, since no weight is
//! below one.

use std::collections::{BTreeMap, HashMap};

/// The set.
#[derive(Clone, Debug)]
pub struct Lru {
    capacity: usize,
    weight: usize,
    clock: u64,
    /// Of each hash, the time of its last use and its weight.
    entries: HashMap<u64, (u64, usize)>,
    by_use: BTreeMap<u64, u64>,
}

impl Lru {
    /// An empty set for entries of this weight in all.
    pub fn new(capacity: usize) -> Lru {
        Lru { capacity, weight: 0, clock: 0, entries: HashMap::new(), by_use: BTreeMap::new() }
    }

    /// Sets the ceiling; it takes effect with the next insertion.
    pub fn limit(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// The sum of weights.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Whether a hash is in the set; that is no use of it.
    pub fn contains(&self, hash: u64) -> bool {
        self.entries.contains_key(&hash)
    }

    /// Makes a hash the most recently used one; passes each evicted hash on.
    pub fn insert(&mut self, hash: u64, weight: usize, mut evicted: impl FnMut(u64)) {
        self.clock += 1;
        let weight = weight.max(1);
        if let Some((used, old)) = self.entries.insert(hash, (self.clock, weight)) {
            self.by_use.remove(&used);
            self.weight -= old;
        }
        self.by_use.insert(self.clock, hash);
        self.weight += weight;
        while self.weight > self.capacity {
            let Some((_, oldest)) = self.by_use.pop_first() else { return };
            if let Some((_, weight)) = self.entries.remove(&oldest) {
                self.weight -= weight;
            }
            evicted(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_go_until_the_rest_fits() {
        let mut lru = Lru::new(10);
        let mut gone = Vec::new();
        for hash in [1, 2, 1] {
            lru.insert(hash, 4, |hash| gone.push(hash));
        }
        lru.insert(3, 5, |hash| gone.push(hash));
        assert_eq!(gone, [2]);
        assert_eq!((lru.weight(), lru.contains(1), lru.contains(2), lru.contains(3)), (9, true, false, true));
    }
}
