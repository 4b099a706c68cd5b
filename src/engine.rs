//! What each engine's metrics page means: engine dialects, each one file of data, and one reader for all.
//!
//! A dialect names where waiting requests, running requests, KV-cache use, cache capacity and LoRA activity
//! stand. Metrics get renamed, so each signal has a list of names and the first one on the page wins. A
//! signal that isn't there is missing, never zero: an endpoint must not look idle because its page is odd.

mod llamacpp;
mod selector;
mod sglang;
mod triton;
mod trtllm;
mod vllm;

use std::fmt;

use crate::config::raw::EngineName;
use crate::exposition::{PageError, Sample, Samples};
use crate::load::Adapters;
use crate::scheduling::scorer::Signal;

pub use selector::{Selector, SelectorError};

/// How to read one engine's metrics page.
#[derive(Clone, Debug)]
pub struct Dialect {
    /// Requests that wait for a place in the batch; summed over series.
    waiting: Vec<Selector>,
    /// Requests in the batch; summed over series.
    running: Vec<Selector>,
    /// The used share of the KV cache; averaged over series.
    kv_cache_usage: Vec<Selector>,
    capacity: Capacity,
    /// The gauge whose labels list the active LoRA adapters.
    lora_info: Option<&'static str>,
    counters: CounterNames,
    /// Labels that tell apart the workers that hold parts of one replica. Each of these repeats the
    /// replica's figures, so only series in which they are "0" count.
    part_labels: &'static [&'static str],
    /// Every family name above.
    families: Vec<String>,
}

/// Where an engine counts its work; each is summed over series.
#[derive(Clone, Debug, Default)]
struct CounterNames {
    /// Prompt tokens.
    prompt_tokens: Vec<Selector>,
    /// Those of them that were found in the prefix cache; none where prompt tokens are counted without them.
    cached_tokens: Vec<Selector>,
    generated_tokens: Vec<Selector>,
    finished_requests: Vec<Selector>,
}

/// When the process started, where the engine's Prometheus client says so.
const START_TIME: Selector = Selector::of("process_start_time_seconds");

/// How an engine says how many tokens its KV cache holds.
#[derive(Clone, Debug)]
enum Capacity {
    Unknown,
    /// The product of two labels of an info metric: tokens in a block, and blocks.
    InfoLabels {
        family: &'static str,
        block_size: &'static str,
        blocks: &'static str,
    },
    /// One gauge.
    Tokens(Selector),
    /// The product of two gauges: tokens in a block, and blocks.
    Product(Selector, Selector),
}

/// What one page says. A signal that is not on it, or makes no sense, is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Requests that wait.
    pub waiting: Option<u32>,
    /// Requests that run.
    pub running: Option<u32>,
    /// The used share of the KV cache, from 0 to 1.
    pub kv_cache_usage: Option<f32>,
    /// How many tokens the KV cache holds; zero when prefix caching is off.
    pub capacity_tokens: Option<u64>,
    /// LoRA activity.
    pub adapters: Option<Adapters>,
    /// Its work since its start.
    pub counters: Counters,
}

/// An engine's work since its start. What it doesn't count is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Prompt tokens, those from the prefix cache included where `cached_tokens` is there.
    pub prompt_tokens: Option<u64>,
    /// Prompt tokens that were found in the prefix cache.
    pub cached_tokens: Option<u64>,
    /// Generated tokens.
    pub generated_tokens: Option<u64>,
    /// Finished requests.
    pub finished_requests: Option<u64>,
    /// When the process started, in seconds since the Unix epoch.
    pub started_at: Option<u64>,
}

impl Counters {
    /// Prompt tokens that were computed.
    pub fn prefilled_tokens(&self) -> Option<u64> {
        Some(self.prompt_tokens?.saturating_sub(self.cached_tokens.unwrap_or(0)))
    }

    /// Tokens that have gone into the KV cache: how far its least recently used entries have moved on.
    pub fn cache_clock(&self) -> Option<u64> {
        Some(self.prefilled_tokens()?.saturating_add(self.generated_tokens.unwrap_or(0)))
    }

    /// Whether these are of another process than `before`: it started at another time, or a counter went back.
    pub fn is_restart_of(&self, before: &Counters) -> bool {
        let went_back =
            |now: Option<u64>, before: Option<u64>| matches!((now, before), (Some(now), Some(before)) if now < before);
        let moved = matches!((self.started_at, before.started_at), (Some(now), Some(before)) if now != before);
        moved
            || went_back(self.prompt_tokens, before.prompt_tokens)
            || went_back(self.generated_tokens, before.generated_tokens)
            || went_back(self.finished_requests, before.finished_requests)
    }
}

/// Why a page gives no reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// The page as a whole is broken.
    Page(PageError),
    /// None of the engine's load signals is on it: most likely the pool's `engine` is wrong.
    NoKnownMetric,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unreadable::Page(PageError::Truncated) => "the metrics page is cut off",
            Unreadable::Page(PageError::Empty) => "the metrics page is empty",
            Unreadable::NoKnownMetric => "none of the engine's metrics is on the page; check the pool's engine",
        })
    }
}

impl std::error::Error for Unreadable {}

impl Dialect {
    /// The dialect of a known engine.
    pub fn of(engine: EngineName) -> Dialect {
        match engine {
            EngineName::Vllm => vllm::dialect(),
            EngineName::Sglang => sglang::dialect(),
            EngineName::TrtllmServe => trtllm::dialect(),
            EngineName::TritonTensorrtLlm => triton::tensorrt_llm_dialect(),
            EngineName::Triton => triton::dialect(),
            EngineName::Llamacpp => llamacpp::dialect(),
        }
    }

    /// A dialect of the user's own.
    pub fn custom(waiting: Option<Selector>, running: Option<Selector>, kv_cache_usage: Option<Selector>) -> Dialect {
        Dialect::gauges(Vec::from_iter(waiting), Vec::from_iter(running), Vec::from_iter(kv_cache_usage)).finish()
    }

    fn gauges(waiting: Vec<Selector>, running: Vec<Selector>, kv_cache_usage: Vec<Selector>) -> Dialect {
        Dialect {
            waiting,
            running,
            kv_cache_usage,
            capacity: Capacity::Unknown,
            lora_info: None,
            counters: CounterNames::default(),
            part_labels: &[],
            families: Vec::new(),
        }
    }

    /// Lists the families, once all that names one is set.
    fn finish(mut self) -> Dialect {
        let CounterNames { prompt_tokens, cached_tokens, generated_tokens, finished_requests } = &self.counters;
        let counters = [prompt_tokens, cached_tokens, generated_tokens, finished_requests];
        let selectors = [&self.waiting, &self.running, &self.kv_cache_usage].into_iter().chain(counters).flatten();
        let mut families: Vec<String> = selectors.chain([&START_TIME]).map(|s| s.name().to_owned()).collect();
        match &self.capacity {
            Capacity::Unknown => {}
            Capacity::InfoLabels { family, .. } => families.push((*family).to_owned()),
            Capacity::Tokens(tokens) => families.push(tokens.name().to_owned()),
            Capacity::Product(size, blocks) => {
                families.extend([size.name().to_owned(), blocks.name().to_owned()]);
            }
        }
        families.extend(self.lora_info.map(str::to_owned));
        families.sort();
        families.dedup();
        self.families = families;
        self
    }

    /// Whether the engine's page can hold this signal.
    pub fn supplies(&self, signal: Signal) -> bool {
        match signal {
            Signal::Waiting => !self.waiting.is_empty(),
            Signal::Running => !self.running.is_empty(),
            Signal::KvCacheUsage => !self.kv_cache_usage.is_empty(),
        }
    }

    /// Reads a metrics page.
    pub fn read(&self, page: &[u8]) -> Result<Reading, Unreadable> {
        let wanted: Vec<&str> = self.families.iter().map(String::as_str).collect();
        let samples = Samples::new(page, &wanted).map_err(Unreadable::Page)?;
        let samples: Vec<Sample<'_>> = samples.filter(|sample| self.counts(sample)).collect();
        let waiting = first_of(&self.waiting, &samples).and_then(|values| count(values.sum));
        let running = first_of(&self.running, &samples).and_then(|values| count(values.sum));
        let kv_cache_usage = first_of(&self.kv_cache_usage, &samples).and_then(|values| share(values.mean()));
        if waiting.is_none() && running.is_none() && kv_cache_usage.is_none() {
            return Err(Unreadable::NoKnownMetric);
        }
        Ok(Reading {
            waiting,
            running,
            kv_cache_usage,
            capacity_tokens: self.capacity.read(&samples),
            adapters: self.lora_info.and_then(|family| adapters(family, &samples)),
            counters: self.counters.read(&samples),
        })
    }

    fn counts(&self, sample: &Sample<'_>) -> bool {
        self.part_labels.iter().all(|label| sample.labels.value(label).is_none_or(|rank| rank == "0"))
    }
}

impl CounterNames {
    fn read(&self, samples: &[Sample<'_>]) -> Counters {
        let total = |selectors: &[Selector]| first_of(selectors, samples).and_then(|values| total_number(values.sum));
        Counters {
            prompt_tokens: total(&self.prompt_tokens),
            cached_tokens: total(&self.cached_tokens),
            generated_tokens: total(&self.generated_tokens),
            finished_requests: total(&self.finished_requests),
            started_at: values_of(&START_TIME, samples).and_then(|values| total_number(values.mean())),
        }
    }
}

impl Capacity {
    fn read(&self, samples: &[Sample<'_>]) -> Option<u64> {
        let whole = |selector: &Selector| values_of(selector, samples).and_then(|values| tokens(values.sum));
        match self {
            Capacity::Unknown => None,
            Capacity::Tokens(selector) => whole(selector),
            Capacity::Product(size, blocks) => whole(size)?.checked_mul(whole(blocks)?),
            Capacity::InfoLabels { family, block_size, blocks } => {
                let mut total = None;
                // One series for each data-parallel rank, each with a cache of its own.
                for sample in samples.iter().filter(|sample| sample.name == *family) {
                    if sample.labels.value("enable_prefix_caching").as_deref() == Some("False") {
                        return Some(0);
                    }
                    let label = |name: &str| sample.labels.value(name)?.parse::<u64>().ok();
                    if let (Some(size), Some(blocks)) = (label(block_size), label(blocks)) {
                        total = Some(size.checked_mul(blocks)?.checked_add(total.unwrap_or(0))?);
                    }
                }
                total
            }
        }
    }
}

struct Values {
    sum: f64,
    series: u32,
}

impl Values {
    fn mean(&self) -> f64 {
        self.sum / f64::from(self.series)
    }
}

fn first_of(selectors: &[Selector], samples: &[Sample<'_>]) -> Option<Values> {
    selectors.iter().find_map(|selector| values_of(selector, samples))
}

/// The sum over a selector's series; `None` when there are none.
fn values_of(selector: &Selector, samples: &[Sample<'_>]) -> Option<Values> {
    let mut values = Values { sum: 0.0, series: 0 };
    for sample in samples.iter().filter(|sample| selector.matches(sample)) {
        values.sum += sample.value;
        values.series += 1;
    }
    (values.series > 0).then_some(values)
}

/// A number of requests; NaN, infinities and negative numbers are none.
fn count(value: f64) -> Option<u32> {
    (0.0..=f64::from(u32::MAX)).contains(&value).then_some(value as u32)
}

/// A counter's value; beyond 2^53 a float counts no more.
fn total_number(value: f64) -> Option<u64> {
    (0.0..=9.0e15).contains(&value).then_some(value as u64)
}

fn tokens(value: f64) -> Option<u64> {
    (1.0..=1e15).contains(&value).then_some(value as u64)
}

/// A share from 0 to 1. Rounding may push a full cache a little over 1; NaN and negative numbers are none.
fn share(value: f64) -> Option<f32> {
    (value >= 0.0).then_some(value.min(1.0) as f32)
}

/// The newest series of the LoRA gauge, whose value is the time of its last change: vLLM keeps every label
/// set that it ever used, so only the newest speaks of now.
fn adapters(family: &str, samples: &[Sample<'_>]) -> Option<Adapters> {
    let newest = samples
        .iter()
        .filter(|sample| sample.name == family && sample.value.is_finite())
        .max_by(|a, b| a.value.total_cmp(&b.value))?;
    let list = |label: &str| -> Vec<String> {
        let text = newest.labels.value(label).unwrap_or_default();
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    let max = newest.labels.value("max_lora")?.parse().ok()?;
    Some(Adapters::new(max, list("running_lora_adapters"), list("waiting_lora_adapters")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;
    use expect_test::{Expect, expect};

    fn check(engine: EngineName, page: &str, expected: Expect) {
        expected.assert_eq(&format!("{:?}", Dialect::of(engine).read(page.as_bytes())));
    }

    const VLLM_BUSY: &str = include_str!("../tests/engines/vllm-0.32-busy-lora.prom");
    const VLLM_IDLE: &str = include_str!("../tests/engines/vllm-0.32-idle.prom");
    const SGLANG: &str = include_str!("../tests/engines/sglang-0.5.23-busy.prom");
    const LLAMACPP: &str = include_str!("../tests/engines/llama-server-busy.prom");

    #[test]
    fn reads_real_pages() {
        check(
            EngineName::Vllm,
            VLLM_BUSY,
            expect![[
                r#"Ok(Reading { waiting: Some(16), running: Some(4), kv_cache_usage: Some(0.14117648), capacity_tokens: Some(8192), adapters: Some(Adapters { max: 2, running: ["lora-c"], waiting: [] }), counters: Counters { prompt_tokens: Some(1079), cached_tokens: Some(0), generated_tokens: Some(5593), finished_requests: Some(12), started_at: Some(1795182528) } })"#
            ]],
        );
        check(
            EngineName::Vllm,
            VLLM_IDLE,
            expect![
                "Ok(Reading { waiting: Some(0), running: Some(0), kv_cache_usage: Some(0.0), capacity_tokens: Some(2097152), adapters: None, counters: Counters { prompt_tokens: Some(0), cached_tokens: Some(0), generated_tokens: Some(0), finished_requests: Some(0), started_at: Some(1795182156) } })"
            ],
        );
        check(
            EngineName::Sglang,
            SGLANG,
            expect![
                "Ok(Reading { waiting: Some(4), running: Some(4), kv_cache_usage: Some(0.11), capacity_tokens: Some(8192), adapters: None, counters: Counters { prompt_tokens: Some(2212), cached_tokens: Some(476), generated_tokens: Some(10431), finished_requests: Some(230), started_at: None } })"
            ],
        );
        check(
            EngineName::Llamacpp,
            LLAMACPP,
            expect![
                "Ok(Reading { waiting: Some(8), running: Some(4), kv_cache_usage: None, capacity_tokens: None, adapters: None, counters: Counters { prompt_tokens: Some(18114), cached_tokens: None, generated_tokens: Some(45623), finished_requests: None, started_at: None } })"
            ],
        );
    }

    #[test]
    fn a_wrong_engine_is_said_to_be_wrong() {
        check(EngineName::Sglang, VLLM_BUSY, expect![["Err(NoKnownMetric)"]]);
        check(EngineName::Vllm, "<html>\n", expect![["Err(NoKnownMetric)"]]);
        check(EngineName::Vllm, VLLM_BUSY.trim_end(), expect![["Err(Page(Truncated))"]]);
    }

    #[test]
    fn old_vllm_names_are_read_too() {
        check(
            EngineName::Vllm,
            "vllm:num_requests_waiting{model_name=\"m\"} 3.0\nvllm:gpu_cache_usage_perc{model_name=\"m\"} 0.25\n",
            expect![
                "Ok(Reading { waiting: Some(3), running: None, kv_cache_usage: Some(0.25), capacity_tokens: None, adapters: None, counters: Counters { prompt_tokens: None, cached_tokens: None, generated_tokens: None, finished_requests: None, started_at: None } })"
            ],
        );
    }

    #[test]
    fn data_parallel_ranks_add_up_and_parts_of_one_replica_do_not() {
        check(
            EngineName::Vllm,
            "vllm:num_requests_waiting{engine=\"0\"} 3\nvllm:num_requests_waiting{engine=\"1\"} 4\n\
             vllm:kv_cache_usage_perc{engine=\"0\"} 0.2\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.4\n",
            expect![
                "Ok(Reading { waiting: Some(7), running: None, kv_cache_usage: Some(0.3), capacity_tokens: None, adapters: None, counters: Counters { prompt_tokens: None, cached_tokens: None, generated_tokens: None, finished_requests: None, started_at: None } })"
            ],
        );
        check(
            EngineName::Sglang,
            "sglang:num_queue_reqs{tp_rank=\"0\",dp_rank=\"0\"} 3\nsglang:num_queue_reqs{tp_rank=\"1\",dp_rank=\"0\"} 3\n\
             sglang:num_queue_reqs{tp_rank=\"0\",dp_rank=\"1\"} 5\n",
            expect![
                "Ok(Reading { waiting: Some(8), running: None, kv_cache_usage: None, capacity_tokens: None, adapters: None, counters: Counters { prompt_tokens: None, cached_tokens: None, generated_tokens: None, finished_requests: None, started_at: None } })"
            ],
        );
    }

    #[test]
    fn the_newest_lora_series_counts() {
        check(
            EngineName::Vllm,
            "vllm:num_requests_waiting 0\n\
             vllm:lora_requests_info{max_lora=\"2\",running_lora_adapters=\"a,b\",waiting_lora_adapters=\"c\"} 1.7e9\n\
             vllm:lora_requests_info{max_lora=\"2\",running_lora_adapters=\"\",waiting_lora_adapters=\"\"} 1.8e9\n",
            expect![
                "Ok(Reading { waiting: Some(0), running: None, kv_cache_usage: None, capacity_tokens: None, adapters: Some(Adapters { max: 2, running: [], waiting: [] }), counters: Counters { prompt_tokens: None, cached_tokens: None, generated_tokens: None, finished_requests: None, started_at: None } })"
            ],
        );
    }

    #[test]
    fn values_that_make_no_sense_are_missing_and_not_zero() {
        check(
            EngineName::Vllm,
            "vllm:num_requests_waiting NaN\nvllm:num_requests_running -1\nvllm:kv_cache_usage_perc 1.02\n",
            expect![
                "Ok(Reading { waiting: None, running: None, kv_cache_usage: Some(1.0), capacity_tokens: None, adapters: None, counters: Counters { prompt_tokens: None, cached_tokens: None, generated_tokens: None, finished_requests: None, started_at: None } })"
            ],
        );
    }

    #[test]
    fn the_three_tensorrt_llm_forms() {
        check(
            EngineName::TrtllmServe,
            "trtllm_num_requests_waiting 1\ntrtllm_num_requests_running 2\ntrtllm_kv_cache_utilization 0.5\n\
             trtllm_kv_cache_tokens_per_block 32\ntrtllm_kv_cache_max_blocks 100\n",
            expect![
                "Ok(Reading { waiting: Some(1), running: Some(2), kv_cache_usage: Some(0.5), capacity_tokens: Some(3200), adapters: None, counters: Counters { prompt_tokens: None, cached_tokens: None, generated_tokens: None, finished_requests: None, started_at: None } })"
            ],
        );
        check(
            EngineName::TritonTensorrtLlm,
            "nv_trt_llm_request_metrics{model=\"m\",request_type=\"waiting\",version=\"1\"} 4\n\
             nv_trt_llm_request_metrics{model=\"m\",request_type=\"scheduled\",version=\"1\"} 5\n\
             nv_trt_llm_request_metrics{model=\"m\",request_type=\"max\",version=\"1\"} 512\n\
             nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"fraction\",model=\"m\"} 0.75\n\
             nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"tokens_per\",model=\"m\"} 64\n\
             nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"max\",model=\"m\"} 10\n",
            expect![
                "Ok(Reading { waiting: Some(4), running: Some(5), kv_cache_usage: Some(0.75), capacity_tokens: Some(640), adapters: None, counters: Counters { prompt_tokens: None, cached_tokens: None, generated_tokens: None, finished_requests: None, started_at: None } })"
            ],
        );
        check(
            EngineName::Triton,
            "nv_inference_pending_request_count{model=\"a\"} 1\nnv_inference_pending_request_count{model=\"b\"} 2\n\
             nv_inference_exec_count{model=\"a\"} 12345\n",
            expect![
                "Ok(Reading { waiting: Some(3), running: None, kv_cache_usage: None, capacity_tokens: None, adapters: None, counters: Counters { prompt_tokens: None, cached_tokens: None, generated_tokens: None, finished_requests: None, started_at: None } })"
            ],
        );
    }

    #[test]
    fn a_custom_mapping_selects_by_name_and_label() {
        let selector = |text: &str| Some(Selector::parse(text).unwrap());
        let dialect = Dialect::custom(selector("queue{state=wait}"), selector("queue{state=\"run\"}"), None);
        let page = "queue{state=\"wait\"} 7\nqueue{state=\"run\"} 8\n";
        let reading = dialect.read(page.as_bytes()).unwrap();
        assert_eq!((reading.waiting, reading.running, reading.kv_cache_usage), (Some(7), Some(8), None));
    }
}
