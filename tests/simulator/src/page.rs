//! The metrics page, in vLLM's format with what makes it hard to read: families that begin alike, `_created`
//! gauges, label sets that never go away, and many lines that nobody wants.

use std::fmt::Write;

use crate::engine::{Engine, Time};
use crate::fault::FakeMetrics;
use crate::flags::Flags;

/// The start of virtual time as a Unix time, so that LoRA time stamps look like real ones.
const EPOCH: f64 = 1.7e9;

/// The figures that a page shows.
pub(crate) struct Gauges {
    waiting: usize,
    running: usize,
    kv_cache_usage: f64,
}

impl Gauges {
    pub(crate) fn of(engine: &Engine) -> Gauges {
        Gauges { waiting: engine.waiting(), running: engine.running(), kv_cache_usage: engine.kv_cache_usage() }
    }

    pub(crate) fn zero() -> Gauges {
        Gauges { waiting: 0, running: 0, kv_cache_usage: 0.0 }
    }

    /// The report in an answer's header, as vLLM 0.32 writes it.
    pub(crate) fn in_band(&self) -> String {
        format!(
            "TEXT named_metrics.num_requests_waiting={:?}, named_metrics.kv_cache_usage_perc={:?}",
            self.waiting as f64, self.kv_cache_usage
        )
    }

    pub(crate) fn fake(fake: FakeMetrics) -> Gauges {
        Gauges {
            waiting: fake.waiting_requests as usize,
            running: fake.running_requests as usize,
            kv_cache_usage: fake.kv_cache_usage,
        }
    }
}

pub(crate) fn render(flags: &Flags, engine: &Engine, gauges: &Gauges, started_at: Time) -> String {
    let mut page = String::new();
    let labels = format!("{{engine=\"0\",model_name=\"{}\"}}", flags.model);
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, f64)]| {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(page, "{name}{labels} {value:?}");
        }
    };
    let one = |value: f64| vec![(labels.clone(), value)];
    family(
        "python_gc_objects_collected_total",
        "counter",
        "Objects collected during gc",
        &[("{generation=\"0\"}".to_owned(), 13811.0), ("{generation=\"1\"}".to_owned(), 3068.0)],
    );
    family(
        "process_start_time_seconds",
        "gauge",
        "Start time of the process since unix epoch in seconds.",
        &[(String::new(), EPOCH + started_at.as_secs_f64())],
    );
    family(
        "vllm:num_requests_running",
        "gauge",
        "Number of requests in model execution batches.",
        &one(gauges.running as f64),
    );
    family(
        "vllm:num_requests_waiting",
        "gauge",
        "Number of requests waiting to be processed.",
        &one(gauges.waiting as f64),
    );
    let by_reason = |reason: &str, value: f64| {
        (format!("{{engine=\"0\",model_name=\"{}\",reason=\"{reason}\"}}", flags.model), value)
    };
    family(
        "vllm:num_requests_waiting_by_reason",
        "gauge",
        "Number of waiting requests by reason.",
        &[by_reason("capacity", gauges.waiting as f64), by_reason("deferred", 0.0)],
    );
    family(
        "vllm:kv_cache_usage_perc",
        "gauge",
        "KV-cache usage. 1 means 100 percent usage.",
        &one(gauges.kv_cache_usage),
    );
    let totals = engine.totals();
    for (name, help, value) in [
        (
            "vllm:prefix_cache_queries",
            "Prefix cache queries, in terms of number of queried tokens.",
            totals.prefix_cache_queries,
        ),
        ("vllm:prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens.", totals.prefix_cache_hits),
        ("vllm:num_preemptions", "Cumulative number of preemption from the engine.", totals.preemptions),
        ("vllm:prompt_tokens", "Number of prefill tokens processed.", totals.prompt_tokens),
        ("vllm:generation_tokens", "Number of generation tokens processed.", totals.generation_tokens),
        ("vllm:request_success", "Count of successfully processed requests.", totals.finished),
        ("vllm:admission_rejections", "Requests refused because the queue was full.", totals.rejected),
    ] {
        family(&format!("{name}_total"), "counter", help, &one(value as f64));
        family(&format!("{name}_created"), "gauge", help, &one(EPOCH));
    }
    let bucket = |bound: &str| format!("{{engine=\"0\",le=\"{bound}\",model_name=\"{}\"}}", flags.model);
    let bounds =
        ["0.001", "0.005", "0.01", "0.02", "0.04", "0.06", "0.08", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "+Inf"];
    for name in ["time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"] {
        let buckets: Vec<(String, f64)> = bounds.iter().map(|bound| (bucket(bound), totals.finished as f64)).collect();
        family(&format!("vllm:{name}_bucket"), "untyped", "A histogram.", &buckets);
    }
    let config = engine.config();
    family(
        "vllm:cache_config_info",
        "gauge",
        "Information of the LLMEngine CacheConfig",
        &[(
            format!(
                "{{block_size=\"{}\",cache_dtype=\"auto\",enable_prefix_caching=\"True\",engine=\"0\",num_gpu_blocks=\"{}\",sliding_window=\"None\"}}",
                config.block_size, config.kv_cache_blocks
            ),
            1.0,
        )],
    );
    let lora: Vec<(String, f64)> = engine
        .lora_series()
        .iter()
        .map(|series| {
            let running = &series.running;
            let labels = format!(
                "{{max_lora=\"{}\",running_lora_adapters=\"{running}\",waiting_lora_adapters=\"{running}\"}}",
                config.max_loras
            );
            (labels, EPOCH + series.at.as_secs_f64())
        })
        .collect();
    family("vllm:lora_requests_info", "gauge", "Running stats on lora requests.", &lora);
    page
}
