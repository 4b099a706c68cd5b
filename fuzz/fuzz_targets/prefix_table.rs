//! Operations on a prefix table, four bytes each: it stays within its bound, and knows what it was just told.
#![no_main]
use inference_plugin::hash;
use inference_plugin::prefix::{Cache, PrefixTable};
use inference_plugin::prompt::Block;

libfuzzer_sys::fuzz_target!(|operations: &[u8]| {
    let mut table = PrefixTable::new(1 << 10);
    let mut caches = [1, 2, 3].map(|endpoint| Cache { endpoint: hash::mix(endpoint), epoch: 0, clock: 0, capacity: 4_096 });
    for &[operation, endpoint, prompt, count] in operations.as_chunks::<4>().0 {
        let cache = &mut caches[usize::from(endpoint) % 3];
        let block = |at: u8| Block { hash: hash::combine(u64::from(prompt), u64::from(at)), tokens: u32::from(at) * 64 };
        let blocks: Vec<Block> = (0..count % 16).map(block).collect();
        match operation % 4 {
            0 => cache.clock = cache.clock.wrapping_add(u64::from(prompt) * u64::from(count)),
            1 => cache.epoch = cache.epoch.wrapping_add(1),
            _ => table.insert(&blocks, *cache),
        }
        assert!(table.matched_blocks(&blocks, *cache) <= blocks.len());
        assert_eq!(table.capacity(), 1 << 10);
    }
});
