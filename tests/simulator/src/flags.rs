//! The simulator's flags. Names and meanings follow llm-d-inference-sim where the two overlap.

use std::time::Duration;

use clap::Parser;

use crate::engine::EngineConfig;
use crate::fault::FakeMetrics;

/// An OpenAI-compatible model server that generates nothing but time.
#[derive(Clone, Debug, Parser)]
#[command(name = "simulator", version)]
pub struct Flags {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 for any free one.
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// Port of the metrics page, where it is not the one that serves; 0 for any free one.
    #[arg(long)]
    pub metrics_port: Option<u16>,
    /// The base model's name.
    #[arg(long)]
    pub model: String,
    /// LoRA adapters: names, or vLLM's JSON objects with a "name".
    #[arg(long, num_args = 0.., value_parser = lora_name)]
    pub lora_modules: Vec<String>,
    /// Adapters in a batch.
    #[arg(long, default_value_t = 1)]
    pub max_loras: usize,
    /// Sequences in a batch.
    #[arg(long, default_value_t = 5)]
    pub max_num_seqs: usize,
    /// Tokens in a step.
    #[arg(long, default_value_t = 2048)]
    pub max_num_batched_tokens: usize,
    /// Requests that may wait; more are refused with 503.
    #[arg(long, default_value_t = 1000)]
    pub max_waiting_queue_length: usize,
    /// Tokens of prompt and answer together.
    #[arg(long, default_value_t = 131_072)]
    pub max_model_len: usize,
    /// Tokens in a KV block.
    #[arg(long, default_value_t = 16)]
    pub block_size: usize,
    /// KV blocks.
    #[arg(long, default_value_t = 1024)]
    pub kv_cache_size: usize,
    /// Time that each step with a prompt in it takes besides its tokens, as 5ms or 1s.
    #[arg(long, default_value = "5ms", value_parser = duration)]
    pub prefill_overhead: Duration,
    /// Time for one uncached prompt token, as 100us or 1ms.
    #[arg(long, default_value = "100us", value_parser = duration)]
    pub prefill_time_per_token: Duration,
    /// Time between two tokens of one sequence.
    #[arg(long, default_value = "10ms", value_parser = duration)]
    pub inter_token_latency: Duration,
    /// The standard deviation of that time; at most 30 % of it counts.
    #[arg(long, default_value = "0ms", value_parser = duration)]
    pub inter_token_latency_std_dev: Duration,
    /// How much slower a full batch decodes than one sequence.
    #[arg(long, default_value_t = 1.0)]
    pub time_factor_under_load: f64,
    /// Time to load an adapter.
    #[arg(long, default_value = "100ms", value_parser = duration)]
    pub lora_load_time: Duration,
    /// Requests of its own that the server keeps in its batch, as if other clients sent them.
    #[arg(long, default_value_t = 0)]
    pub background_requests: usize,
    /// Seed of everything that is random.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Gauges to report instead of the engine's: {"waiting-requests": 1, "running-requests": 2, "kv-cache-usage": 0.5}.
    #[arg(long, value_parser = fake_metrics)]
    pub fake_metrics: Option<FakeMetrics>,
}

impl Flags {
    /// The flags of a server for `model` on any free port, everything else at its default.
    pub fn for_model(model: &str) -> Flags {
        let mut flags = Flags::parse_from(["simulator", "--model", "m", "--port", "0"]);
        flags.model = model.to_owned();
        flags
    }

    /// What the engine needs to know.
    pub fn engine(&self) -> EngineConfig {
        EngineConfig {
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            max_waiting_queue_length: Some(self.max_waiting_queue_length),
            block_size: self.block_size,
            kv_cache_blocks: self.kv_cache_size,
            max_loras: self.max_loras,
            lora_load_time: self.lora_load_time,
            prefill_overhead: self.prefill_overhead,
            prefill_time_per_token: self.prefill_time_per_token,
            inter_token_latency: self.inter_token_latency,
            inter_token_latency_std_dev: self.inter_token_latency_std_dev,
            seed: self.seed,
            time_factor_under_load: self.time_factor_under_load,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a duration such as 100us, 5ms or 1s"))?;
    match unit {
        "us" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        _ => Err(format!("{text:?} has no unit: us, ms or s")),
    }
}

fn lora_name(text: &str) -> Result<String, String> {
    if !text.starts_with('{') {
        return Ok(text.to_owned());
    }
    let object: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    object.get("name").and_then(|name| name.as_str()).map(str::to_owned).ok_or_else(|| "no \"name\"".to_owned())
}

fn fake_metrics(text: &str) -> Result<FakeMetrics, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}
