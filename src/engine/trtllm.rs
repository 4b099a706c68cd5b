//! `trtllm-serve`, TensorRT-LLM's own OpenAI server. Its page is there only with `return_perf_metrics: true`, and its gauges of the queue
//! and the KV cache with `enable_iter_perf_stats: true`; `/metrics` gives the statistics of each iteration as JSON.

use super::{Capacity, Dialect, Selector};

pub(super) fn dialect() -> Dialect {
    let mut dialect = Dialect::gauges(
        vec![Selector::of("trtllm_num_requests_waiting")],
        vec![Selector::of("trtllm_num_requests_running")],
        vec![Selector::of("trtllm_kv_cache_utilization")],
    );
    dialect.capacity =
        Capacity::Product(Selector::of("trtllm_kv_cache_tokens_per_block"), Selector::of("trtllm_kv_cache_max_blocks"));
    dialect
}
