//! SGLang, started with `--enable-metrics`. `token_usage` is rounded to hundredths.
//!
//! Tensor- and pipeline-parallel ranks of one replica repeat its figures; `dp_rank` tells replicas apart.

use super::{Capacity, CounterNames, Dialect, Selector};

pub(super) fn dialect() -> Dialect {
    let mut dialect = Dialect::gauges(
        vec![Selector::of("sglang:num_queue_reqs")],
        vec![Selector::of("sglang:num_running_reqs")],
        vec![Selector::of("sglang:token_usage")],
    );
    dialect.capacity = Capacity::Tokens(vec![Selector::of("sglang:max_total_num_tokens")]);
    dialect.part_labels = &["tp_rank", "pp_rank", "moe_ep_rank"];
    dialect.counters = CounterNames {
        prompt_tokens: vec![Selector::of("sglang:prompt_tokens_total")],
        cached_tokens: vec![Selector::of("sglang:cached_tokens_total")],
        generated_tokens: vec![Selector::of("sglang:generation_tokens_total")],
        finished_requests: vec![Selector::of("sglang:num_requests_total")],
    };
    dialect
}
