//! What each engine's metrics page means: engine dialects, each one file of data, and one reader for all.
//!
//! A dialect names where waiting requests, running requests, KV-cache use, cache capacity and LoRA activity
//! stand. Metrics get renamed, so each signal has a list of names and the first one on the page wins. A
//! signal that isn't there is missing, never zero: an endpoint must not look idle because its page is odd.

mod llamacpp;
mod selector;
mod series;
mod sglang;
mod triton;
mod trtllm;
mod vllm;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error;

use crate::config::raw::EngineName;
use crate::exposition::{Sample, Samples};
use crate::load::Adapters;
use crate::page::{Page, Unreadable};
use crate::scheduling::scorer::Signal;

pub use selector::{Selector, SelectorError};

/// How to read one engine's metrics page.
#[derive(Clone, Debug)]
pub struct Dialect {
    /// Requests that wait for a place in the batch; summed over series, as `series.rs` counts them.
    waiting: Vec<Selector>,
    /// Requests in the batch; summed over series.
    running: Vec<Selector>,
    /// The used share of the KV cache; averaged over series.
    kv_cache_usage: Vec<Selector>,
    capacity: Capacity,
    /// The gauge whose labels list the active LoRA adapters.
    lora_info: Vec<Selector>,
    counters: CounterNames,
    /// Labels that tell apart the workers that hold parts of one replica. Each of these repeats the
    /// replica's figures, so only series in which they are "0" count.
    part_labels: &'static [&'static str],
    /// Where its server has the page.
    path: &'static str,
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

/// Where nearly every engine has its page.
pub const USUAL_PATH: &str = "/metrics";
/// Where a server has it that gives JSON at [`USUAL_PATH`].
pub const OTHER_PATH: &str = "/prometheus/metrics";

/// The label that names an endpoint's engine, and what it was called before.
const ENGINE_TYPE: [&str; 2] = ["llm-d.ai/engine-type", "inference.networking.k8s.io/engine-type"];

/// The engine that an endpoint's labels name, if it is a known one.
pub fn named_by(labels: &BTreeMap<String, String>) -> Option<EngineName> {
    let name = ENGINE_TYPE.iter().find_map(|label| labels.get(*label))?;
    EngineName::deserialize(IntoDeserializer::<Error>::into_deserializer(name.as_str())).ok()
}

/// When the process started, where the engine's Prometheus client says so.
const START_TIME: Selector = Selector::of("process_start_time_seconds");

/// How an engine says how many tokens its KV cache holds.
#[derive(Clone, Debug)]
enum Capacity {
    Unknown,
    /// The product of two labels of an info metric: tokens in a block, and blocks.
    InfoLabels {
        family: Vec<Selector>,
        block_size: &'static str,
        blocks: &'static str,
    },
    /// One gauge.
    Tokens(Vec<Selector>),
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

impl Dialect {
    /// The dialect of a known engine.
    pub fn of(engine: EngineName) -> Dialect {
        let mut dialect = match engine {
            EngineName::Vllm => vllm::dialect(),
            EngineName::Sglang => sglang::dialect(),
            EngineName::TrtllmServe => trtllm::dialect(),
            EngineName::TritonTensorrtLlm => triton::tensorrt_llm_dialect(),
            EngineName::Triton => triton::dialect(),
            EngineName::Llamacpp => llamacpp::dialect(),
        };
        dialect.path = Dialect::path_of(engine);
        dialect.with_underscores().finish()
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
            lora_info: Vec::new(),
            counters: CounterNames::default(),
            part_labels: &[],
            path: USUAL_PATH,
            families: Vec::new(),
        }
    }

    /// Adds to each name with a colon the one without it: OpenTelemetry's collector, Ray and routers that show the metrics of their workers
    /// write `vllm_num_requests_waiting`. The engine's own name comes first, where a page has both.
    fn with_underscores(mut self) -> Dialect {
        let CounterNames { prompt_tokens, cached_tokens, generated_tokens, finished_requests } = &mut self.counters;
        let mut names = vec![&mut self.waiting, &mut self.running, &mut self.kv_cache_usage, &mut self.lora_info];
        names.extend([prompt_tokens, cached_tokens, generated_tokens, finished_requests]);
        match &mut self.capacity {
            Capacity::InfoLabels { family, .. } => names.push(family),
            Capacity::Tokens(tokens) => names.push(tokens),
            Capacity::Unknown | Capacity::Product(..) => {}
        }
        for names in names {
            let others: Vec<Selector> = names.iter().filter_map(Selector::underscored).collect();
            names.extend(others);
        }
        self
    }

    /// Lists the families, once all that names one is set.
    fn finish(mut self) -> Dialect {
        let CounterNames { prompt_tokens, cached_tokens, generated_tokens, finished_requests } = &self.counters;
        let counters = [prompt_tokens, cached_tokens, generated_tokens, finished_requests];
        let gauges = [&self.waiting, &self.running, &self.kv_cache_usage, &self.lora_info];
        let selectors = gauges.into_iter().chain(counters).flatten();
        let capacity: Vec<&Selector> = match &self.capacity {
            Capacity::Unknown => Vec::new(),
            Capacity::InfoLabels { family: names, .. } | Capacity::Tokens(names) => names.iter().collect(),
            Capacity::Product(size, blocks) => vec![size, blocks],
        };
        let mut families: Vec<String> =
            selectors.chain(capacity).chain([&START_TIME]).map(|s| s.name().to_owned()).collect();
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

    /// The path of a known engine's metrics page, as its server has it.
    pub fn path_of(engine: EngineName) -> &'static str {
        if engine == EngineName::TrtllmServe { OTHER_PATH } else { USUAL_PATH }
    }

    /// The path of the engine's metrics page.
    pub fn path(&self) -> &'static str {
        self.path
    }

    /// Reads a metrics page.
    pub fn read(&self, page: &Page<'_>) -> Result<Reading, Unreadable> {
        let wanted: Vec<&str> = self.families.iter().map(String::as_str).collect();
        let samples = Samples::new(page.complete()?, &wanted);
        let samples: Vec<Sample<'_>> = samples.filter(|sample| self.counts(sample)).collect();
        let waiting = series::gauge(&self.waiting, &samples).and_then(|values| count(values.sum));
        let running = series::gauge(&self.running, &samples).and_then(|values| count(values.sum));
        let kv_cache_usage = series::gauge(&self.kv_cache_usage, &samples).and_then(|values| share(values.mean()));
        if waiting.is_none() && running.is_none() && kv_cache_usage.is_none() {
            return Err(page.without_metrics());
        }
        Ok(Reading {
            waiting,
            running,
            kv_cache_usage,
            capacity_tokens: self.capacity.read(&samples),
            adapters: self.lora_info.iter().find_map(|family| adapters(family, &samples)),
            counters: self.counters.read(&samples),
        })
    }

    fn counts(&self, sample: &Sample<'_>) -> bool {
        self.part_labels.iter().all(|label| sample.labels.value(label).is_none_or(|rank| rank == "0"))
    }
}

impl CounterNames {
    fn read(&self, samples: &[Sample<'_>]) -> Counters {
        let total =
            |selectors: &[Selector]| series::counter(selectors, samples).and_then(|values| total_number(values.sum));
        Counters {
            prompt_tokens: total(&self.prompt_tokens),
            cached_tokens: total(&self.cached_tokens),
            generated_tokens: total(&self.generated_tokens),
            finished_requests: total(&self.finished_requests),
            started_at: series::start(&START_TIME, samples).and_then(|values| total_number(values.mean())),
        }
    }
}

impl Capacity {
    fn read(&self, samples: &[Sample<'_>]) -> Option<u64> {
        let whole = |selectors: &[Selector]| series::gauge(selectors, samples).and_then(|values| tokens(values.sum));
        match self {
            Capacity::Unknown => None,
            Capacity::Tokens(selectors) => whole(selectors),
            Capacity::Product(size, blocks) => {
                whole(std::slice::from_ref(size))?.checked_mul(whole(std::slice::from_ref(blocks))?)
            }
            Capacity::InfoLabels { family, block_size, blocks } => {
                let mut total = None;
                // One series for each data-parallel rank, each with a cache of its own.
                for sample in series::distinct(family, samples) {
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
fn adapters(family: &Selector, samples: &[Sample<'_>]) -> Option<Adapters> {
    let newest = samples
        .iter()
        .filter(|sample| family.matches(sample) && sample.value.is_finite())
        .max_by(|a, b| a.value.total_cmp(&b.value))?;
    let list = |label: &str| -> Vec<String> {
        let text = newest.labels.value(label).unwrap_or_default();
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    let max = newest.labels.value("max_lora")?.parse().ok()?;
    Some(Adapters::new(max, list("running_lora_adapters"), list("waiting_lora_adapters")))
}

#[cfg(test)]
mod tests;
