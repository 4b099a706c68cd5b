//! Triton Inference Server, with the TensorRT-LLM backend and with any other.
//!
//! A plain Triton exports no gauge of running requests. `nv_inference_exec_count`, which the Inference
//! Extension reads as one, counts executions since the start and only ever grows, so it is not used.

use super::{Capacity, Dialect, Selector};

const REQUESTS: &str = "nv_trt_llm_request_metrics";
const BLOCKS: &str = "nv_trt_llm_kv_cache_block_metrics";
const BLOCK_TYPE: &str = "kv_cache_block_type";

pub(super) fn tensorrt_llm_dialect() -> Dialect {
    let mut dialect = Dialect::gauges(
        vec![Selector::with(REQUESTS, "request_type", "waiting")],
        vec![Selector::with(REQUESTS, "request_type", "scheduled")],
        vec![Selector::with(BLOCKS, BLOCK_TYPE, "fraction")],
    );
    dialect.capacity =
        Capacity::Product(Selector::with(BLOCKS, BLOCK_TYPE, "tokens_per"), Selector::with(BLOCKS, BLOCK_TYPE, "max"));
    dialect
}

pub(super) fn dialect() -> Dialect {
    Dialect::gauges(vec![Selector::of("nv_inference_pending_request_count")], Vec::new(), Vec::new())
}
