//! Fixtures for the policies' tests.

use super::Gateway;
use crate::policy::{Arrival, Scraped};
use crate::prompt::{Prompt, Role};

/// A gateway with four workers.
pub(crate) fn gateway(endpoints: usize) -> Gateway {
    Gateway { endpoints, workers: 4, index: 0, gateways: 1, seed: 7 }
}

/// A prompt of user messages.
pub(crate) fn chat(texts: &[&str]) -> Prompt {
    let mut prompt = Prompt::default();
    for text in texts {
        prompt.push(Role::User, (*text).into());
    }
    prompt
}

/// A request for the base model at the first worker.
pub(crate) fn arrival(prompt: &Prompt) -> Arrival<'_> {
    Arrival { id: 1, worker: 0, model: "m", adapter: None, prompt, max_tokens: 100 }
}

/// A page with these gauges, of an engine with 1,000 blocks.
pub(crate) fn page(waiting: usize, running: usize, kv_cache_usage: f64) -> Scraped {
    Scraped { waiting, running, kv_cache_usage, block_size: 16, blocks: 1000, ..Scraped::default() }
}
