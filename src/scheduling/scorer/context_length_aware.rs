//! `context-length-aware`: prompts go to the endpoints that are meant for their length.
//!
//! An endpoint's label `llm-d.ai/context-length-range` says `MIN-MAX` in tokens. Within it the score is
//! 0.3 + 0.7 * (0.7 / (1 + width / 10000) + 0.3 * headroom / width), so narrow ranges and room to grow are better;
//! 1 for a range of one length. Outside it is 0.3 / (1 + distance / 1000), and without a label 0.5.

use super::{Candidate, NEUTRAL, Request, Scorer};

/// The scorer's name.
pub const NAME: &str = "context-length-aware";

/// Prefers endpoints whose range holds the prompt.
#[derive(Debug)]
pub struct ContextLengthAware;

impl Scorer for ContextLengthAware {
    fn name(&self) -> &'static str {
        NAME
    }

    fn score(&self, request: &Request, candidates: &[&Candidate], scores: &mut [f32]) {
        for (candidate, score) in candidates.iter().zip(scores) {
            *score = candidate.traits.context_length.map_or(NEUTRAL, |range| fit(request.prompt_tokens, range));
        }
    }
}

fn fit(tokens: u32, (least, most): (u32, u32)) -> f32 {
    if !(least..=most).contains(&tokens) {
        let distance = if tokens < least { least - tokens } else { tokens - most };
        return 0.3 / (1.0 + distance as f32 / 1000.0);
    }
    let width = (most - least) as f32;
    if width == 0.0 {
        return 1.0;
    }
    let headroom = (most - tokens) as f32;
    0.3 + 0.7 * (0.7 / (1.0 + width / 10_000.0) + 0.3 * headroom / width)
}
