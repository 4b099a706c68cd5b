//! llama.cpp's `llama-server`, started with `--metrics`. Its series have no labels; there is no
//! gauge of KV-cache use today, but older servers have one.

use super::{Dialect, Selector};

pub(super) fn dialect() -> Dialect {
    Dialect::gauges(
        vec![Selector::of("llamacpp:requests_deferred")],
        vec![Selector::of("llamacpp:requests_processing")],
        vec![Selector::of("llamacpp:kv_cache_usage_ratio")],
    )
    .finish()
}
