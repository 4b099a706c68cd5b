//! vLLM, old and new: `gpu_cache_usage_perc` is the older name of `kv_cache_usage_perc`.
//!
//! The label `engine` tells data-parallel ranks apart, each with a batch and a cache of its own. The LoRA
//! gauge's waiting label repeats the running one (seen on 0.32), so the two are read as one set.

use super::{Capacity, CounterNames, Dialect, Selector};

pub(super) fn dialect() -> Dialect {
    let mut dialect = Dialect::gauges(
        vec![Selector::of("vllm:num_requests_waiting")],
        vec![Selector::of("vllm:num_requests_running")],
        vec![Selector::of("vllm:kv_cache_usage_perc"), Selector::of("vllm:gpu_cache_usage_perc")],
    );
    dialect.capacity = Capacity::InfoLabels {
        family: vec![Selector::of("vllm:cache_config_info")],
        block_size: "block_size",
        blocks: "num_gpu_blocks",
    };
    dialect.lora_info = vec![Selector::of("vllm:lora_requests_info")];
    dialect.counters = CounterNames {
        prompt_tokens: vec![Selector::of("vllm:prompt_tokens_total")],
        cached_tokens: vec![
            Selector::of("vllm:prefix_cache_hits_total"),
            Selector::of("vllm:gpu_prefix_cache_hits_total"),
        ],
        generated_tokens: vec![Selector::of("vllm:generation_tokens_total")],
        finished_requests: vec![Selector::of("vllm:request_success_total")],
    };
    dialect
}
