//! `trtllm-serve`, TensorRT-LLM's own OpenAI server.

use super::{Capacity, Dialect, Selector};

pub(super) fn dialect() -> Dialect {
    let mut dialect = Dialect::gauges(
        vec![Selector::of("trtllm_num_requests_waiting")],
        vec![Selector::of("trtllm_num_requests_running")],
        vec![Selector::of("trtllm_kv_cache_utilization")],
    );
    dialect.capacity =
        Capacity::Product(Selector::of("trtllm_kv_cache_tokens_per_block"), Selector::of("trtllm_kv_cache_max_blocks"));
    dialect.finish()
}
