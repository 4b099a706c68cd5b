//! The demo's requests: planned once, sent twice, at the same times.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use inference_plugin::config::Config;
use inference_plugin::rng::{Rng, SplitMix64};
use serde_json::json;

use crate::client::{self, Answer};
use crate::render::Filter;

/// The plan is the same on every machine and in every run.
const SEED: u64 = 2026;

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) at: Duration,
    pub(super) kind: Kind,
    pub(super) base_model: String,
    path: &'static str,
    body: String,
}

/// What a request is there to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An ordinary one.
    Good,
    /// One that must be refused, in these words.
    Bad(&'static str),
}

/// What became of a request.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Answered(Answer),
    Failed(String),
}

/// Requests for every model and adapter, plain and streamed, and now and then one that cannot be served.
pub(super) fn plan(config: &Config, count: usize, rate: f64) -> Vec<Planned> {
    let mut rng = SplitMix64::new(SEED);
    let models: Vec<(&str, &str)> = config
        .pools
        .iter()
        .flat_map(|pool| {
            let names = std::iter::once(&pool.base_model).chain(&pool.adapters);
            names.map(|name| (name.as_str(), pool.base_model.as_str()))
        })
        .collect();
    let mut at = Duration::ZERO;
    let mut requests = Vec::new();
    for index in 0..count {
        // Exponential gaps: arrivals of many independent clients.
        let even = (rng.below(1 << 30) as f64 + 1.0) / (1u64 << 30) as f64;
        at += Duration::from_secs_f64(-even.ln() / rate);
        let (model, base_model) = models.get(rng.below(models.len())).copied().unwrap_or_default();
        let words = "What would you do with a long weekend? ".repeat(10 + rng.below(60));
        let body = json!({
            "model": model, "stream": rng.below(2) == 0, "max_tokens": 8 + rng.below(48),
            "messages": [{"role": "system", "content": format!("You are number {}.", rng.below(20))}, {"role": "user", "content": words}],
        });
        let mut planned = Planned {
            at,
            kind: Kind::Good,
            base_model: base_model.to_owned(),
            path: "/v1/chat/completions",
            body: body.to_string(),
        };
        match index % 40 {
            10 => {
                planned.kind = Kind::Bad("an unknown model");
                planned.body = json!({"model": "gpt-nobody-serves", "messages": []}).to_string();
            }
            20 => {
                planned.kind = Kind::Bad("a malformed body");
                planned.body.truncate(planned.body.len() / 2);
            }
            30 => {
                planned.kind = Kind::Bad("no model at all");
                planned.body = json!({"messages": [{"role": "user", "content": "hi"}]}).to_string();
            }
            _ => {}
        }
        requests.push(planned);
    }
    requests
}

/// Sends every request at its time and waits for all answers.
pub(super) async fn send(envoy: SocketAddr, config: &Config, requests: &[Planned], filter: Filter) -> Vec<Outcome> {
    let label = match filter {
        Filter::Plugin => "with the plugin",
        Filter::NativeBuffer => "round robin",
    };
    let bar = ProgressBar::new(requests.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{msg:>16} {wide_bar} {pos}/{len} requests {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(label);
    let started = Instant::now();
    let mut tasks = Vec::new();
    for request in requests.iter().cloned() {
        // Round robin knows nothing of models: its Envoy is told the route by the header that the plugin would set.
        let knows = config.pools.iter().any(|pool| pool.base_model == request.base_model);
        let base_model =
            if filter == Filter::NativeBuffer && knows { request.base_model.clone() } else { String::new() };
        let bar = bar.clone();
        tasks.push(tokio::spawn(async move {
            tokio::time::sleep_until((started + request.at).into()).await;
            let mut headers = Vec::new();
            if !base_model.is_empty() {
                headers.push(("x-gateway-base-model-name", base_model.as_str()));
            }
            let answer = match client::post(request.path, &headers, request.body) {
                Ok(request) => client::send(envoy, request).await,
                Err(error) => Err(error),
            };
            bar.inc(1);
            match answer {
                Ok(answer) => Outcome::Answered(answer),
                Err(error) => Outcome::Failed(error.to_string()),
            }
        }));
    }
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.unwrap_or_else(|error| Outcome::Failed(error.to_string())));
    }
    bar.finish_and_clear();
    let answered = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Answered(_))).count();
    println!(
        "{label:>16}: {answered} of {} requests answered in {:.1} s",
        requests.len(),
        started.elapsed().as_secs_f64()
    );
    outcomes
}
