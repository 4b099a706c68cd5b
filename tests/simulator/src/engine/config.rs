//! What a simulated engine can do and how long it takes.

use std::time::Duration;

/// What an engine can do and how long it takes.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Sequences in a batch.
    pub max_num_seqs: usize,
    /// Tokens in a step.
    pub max_num_batched_tokens: usize,
    /// Requests that may wait; `None` for no limit.
    pub max_waiting_queue_length: Option<usize>,
    /// Tokens in a KV block.
    pub block_size: usize,
    /// KV blocks.
    pub kv_cache_blocks: usize,
    /// Adapters in a batch.
    pub max_loras: usize,
    /// Time to load an adapter; the whole engine waits.
    pub lora_load_time: Duration,
    /// Time that each step with a prompt in it takes besides its tokens.
    pub prefill_overhead: Duration,
    /// Time for one uncached prompt token.
    pub prefill_time_per_token: Duration,
    /// Time of a step that decodes, with one sequence.
    pub inter_token_latency: Duration,
    /// The standard deviation of that time from step to step; at most 30 % of it counts.
    pub inter_token_latency_std_dev: Duration,
    /// How much slower decoding is with a full batch than with one sequence; 1 for not at all.
    pub time_factor_under_load: f64,
    /// Seeds what is random.
    pub seed: u64,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            max_num_seqs: 8,
            max_num_batched_tokens: 2048,
            max_waiting_queue_length: None,
            block_size: 16,
            kv_cache_blocks: 4096,
            max_loras: 1,
            lora_load_time: Duration::from_millis(100),
            prefill_overhead: Duration::from_millis(5),
            prefill_time_per_token: Duration::from_micros(100),
            inter_token_latency: Duration::from_millis(10),
            inter_token_latency_std_dev: Duration::ZERO,
            time_factor_under_load: 1.0,
            seed: 1,
        }
    }
}
