//! What a picking policy is told and asked: the one interface between the world and the policies.
//!
//! One instance is one gateway. A gateway has [`WORKERS`] workers, over which connections are spread; a policy whose
//! original keeps its state in each worker does so here too.

use std::time::Duration;

use simulator::engine::{Engine, Time};

use crate::prompt::Prompt;

/// Workers of a gateway: Envoy starts one for each core, and four cores are a small gateway.
pub const WORKERS: usize = 4;

/// Picks endpoints at one gateway.
pub trait Policy {
    /// Chooses endpoints for a request, best first; at least one. Called at the moment the gateway has the whole request.
    fn pick(&mut self, now: Time, request: &Arrival<'_>) -> Vec<usize>;

    /// How often this gateway scrapes each endpoint; None for a policy that reads no metrics.
    fn scrape_interval(&self) -> Option<Duration> {
        None
    }

    /// The outcome of a scrape: None when refused or timed out.
    fn handle_scrape(&mut self, _now: Time, _endpoint: usize, _page: Option<&Scraped>) {}

    /// The attempt at `endpoint` was sent (also for retries).
    fn handle_sent(&mut self, _now: Time, _request: u64, _endpoint: usize) {}

    /// The first token of the attempt's answer has reached the gateway.
    fn handle_first_token(&mut self, _now: Time, _request: u64, _endpoint: usize) {}

    /// Whether the host may send a request on to the next endpoint when one refuses it with this status, besides what it
    /// retries anyway: a connection that cannot be made, 500 and 503. Hosts are told to retry 429 as a rule.
    fn retries_on(&self, _request: u64, status: u16) -> bool {
        status == 429
    }

    /// The attempt ended: Finished, or failed with a status / timeout / reset.
    fn handle_end(&mut self, _now: Time, _request: u64, _endpoint: usize, _outcome: Outcome) {}
}

/// A request as the gateway sees it.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Unique in the run; the same for each of its attempts.
    pub id: u64,
    /// Which of the gateway's workers handles it.
    pub worker: usize,
    /// Base model or adapter, as the request names it.
    pub model: &'a str,
    /// The adapter, when the model is one.
    pub adapter: Option<&'a str>,
    /// The messages.
    pub prompt: &'a Prompt,
    /// The limit that the client sets on the answer.
    pub max_tokens: usize,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With its last token.
    Finished,
    /// With an error status in place of an answer.
    Status(u16),
    /// The connection was refused.
    Refused,
    /// The connection broke before the last token.
    Reset,
    /// The client gave up waiting for the first token.
    Timeout,
}

/// What a page of vLLM's metrics says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scraped {
    /// `vllm:num_requests_waiting`
    pub waiting: usize,
    /// `vllm:num_requests_running`
    pub running: usize,
    /// `vllm:kv_cache_usage_perc`
    pub kv_cache_usage: f64,
    /// `block_size` of `vllm:cache_config_info`
    pub block_size: usize,
    /// `num_gpu_blocks` of `vllm:cache_config_info`
    pub blocks: usize,
    /// `vllm:prompt_tokens_total`
    pub prompt_tokens: u64,
    /// `vllm:generation_tokens_total`
    pub generation_tokens: u64,
    /// `vllm:prefix_cache_queries_total`
    pub prefix_cache_queries: u64,
    /// `vllm:prefix_cache_hits_total`
    pub prefix_cache_hits: u64,
    /// `vllm:request_success_total`
    pub finished: u64,
    /// `process_start_time_seconds`, in virtual time.
    pub started_at: Time,
    /// `vllm:lora_requests_info`; None before the first request for an adapter.
    pub lora: Option<LoraInfo>,
}

/// The newest series of `vllm:lora_requests_info`; vLLM's waiting label is a copy of the running one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoraInfo {
    /// `max_lora`
    pub max: usize,
    /// `running_lora_adapters`
    pub running: Vec<String>,
}

impl Scraped {
    /// What an engine's page says.
    pub fn of(engine: &Engine, started_at: Time) -> Scraped {
        let (config, totals) = (engine.config(), engine.totals());
        let newest = engine.lora_series().iter().max_by_key(|series| series.at);
        let lora = newest.map(|series| LoraInfo {
            max: config.max_loras,
            running: series.running.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        });
        Scraped {
            waiting: engine.waiting(),
            running: engine.running(),
            kv_cache_usage: engine.kv_cache_usage(),
            block_size: config.block_size,
            blocks: config.kv_cache_blocks,
            prompt_tokens: totals.prompt_tokens,
            generation_tokens: totals.generation_tokens,
            prefix_cache_queries: totals.prefix_cache_queries,
            prefix_cache_hits: totals.prefix_cache_hits,
            finished: totals.finished,
            started_at,
            lora,
        }
    }

    /// The same page with its gauges at zero, as a server shows that has stopped scheduling.
    pub fn with_zero_gauges(self) -> Scraped {
        Scraped { waiting: 0, running: 0, kv_cache_usage: 0.0, ..self }
    }
}
