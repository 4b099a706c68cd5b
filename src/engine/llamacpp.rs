//! llama.cpp's `llama-server`, started with `--metrics`. Its series have no labels; there is no
//! gauge of KV-cache use today, but older servers have one.

use super::{CounterNames, Dialect, Selector};

pub(super) fn dialect() -> Dialect {
    let mut dialect = Dialect::gauges(
        vec![Selector::of("llamacpp:requests_deferred")],
        vec![Selector::of("llamacpp:requests_processing")],
        vec![Selector::of("llamacpp:kv_cache_usage_ratio")],
    );
    dialect.counters = CounterNames {
        prompt_tokens: vec![Selector::of("llamacpp:prompt_tokens_total")],
        // It counts only the prompt tokens that it computes.
        cached_tokens: Vec::new(),
        generated_tokens: vec![Selector::of("llamacpp:tokens_predicted_total")],
        finished_requests: Vec::new(),
    };
    dialect
}
