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

impl EngineConfig {
    /// One A10 (24 GB, 125 TFLOPS dense fp16, 600 GB/s) with Llama-3-8B in fp16 under vLLM, `--max-num-seqs 32`.
    ///
    /// - KV: 32 layers * 8 KV heads * 128 * 2 (K and V) * 2 bytes = 131 KB a token. 24 GB * 0.9 less 16 GB of weights
    ///   and 0.6 GB of activations leave 5.0 GB: 38,144 tokens, 2,384 blocks of 16.
    /// - Prompts: 2 * 8 G parameters = 16 GFLOP a token; half of 125 TFLOPS gives 3,906 tokens/s, 256 us each. A step
    ///   with prompts costs 5 ms besides: launches, scheduling, tokenizing. A step takes 2,048 tokens, vLLM's default for
    ///   an API server on such a card.
    /// - Decoding: 16 GB of weights at 600 GB/s are 26.7 ms, with sampling and scheduling 30 ms. A full batch reads the
    ///   whole KV cache too: 5.0 GB are 8.3 ms, and samples 32 times: a factor of 1.3.
    /// - Adapters: about 0.3 s, a rank-16 adapter of 80-160 MB read, converted and copied.
    pub fn a10_8b() -> EngineConfig {
        EngineConfig {
            max_num_seqs: 32,
            max_num_batched_tokens: 2048,
            kv_cache_blocks: 2384,
            lora_load_time: Duration::from_millis(300),
            prefill_overhead: Duration::from_millis(5),
            prefill_time_per_token: Duration::from_micros(256),
            inter_token_latency: Duration::from_millis(30),
            inter_token_latency_std_dev: Duration::from_millis(1),
            time_factor_under_load: 1.3,
            ..EngineConfig::default()
        }
    }

    /// One H100 (80 GB, 1,979 TFLOPS dense fp8, 3.35 TB/s) with a model of 32B parameters in fp8 under vLLM.
    ///
    /// - KV: 64 layers * 8 KV heads * 128 * 2 (K and V) * 2 bytes = 262 KB a token. 80 GB * 0.9 less 32 GB of weights and
    ///   1 GB of activations leave 39 GB: 148,800 tokens, 9,300 blocks of 16.
    /// - Prompts: 2 * 32 G parameters = 64 GFLOP a token; 39 % of 1,979 TFLOPS gives 12,000 tokens/s, 83 us each. A step
    ///   with prompts costs 3 ms besides. A step takes 8,192 tokens, vLLM's default for an API server on such a card.
    /// - Decoding: 32 GB of weights at three quarters of 3.35 TB/s are 12.7 ms, with sampling and scheduling 14 ms. A full
    ///   batch of 256, vLLM's default, reads the whole KV cache too (39 GB, 15.5 ms) and multiplies for 256 tokens
    ///   (16 TFLOP, 21 ms, most of it behind the weights' 12.7 ms): about 36 ms, a factor of 2.6.
    /// - Adapters: about 0.3 s.
    pub fn h100_32b() -> EngineConfig {
        EngineConfig {
            max_num_seqs: 256,
            max_num_batched_tokens: 8192,
            kv_cache_blocks: 9300,
            lora_load_time: Duration::from_millis(300),
            prefill_overhead: Duration::from_millis(3),
            prefill_time_per_token: Duration::from_micros(83),
            inter_token_latency: Duration::from_millis(14),
            inter_token_latency_std_dev: Duration::from_micros(500),
            time_factor_under_load: 2.6,
            ..EngineConfig::default()
        }
    }
}
