//! A request between its arrival at the gateway and its end, over all its attempts.

use std::collections::VecDeque;

use simulator::engine::{Request, Time};

use super::{PATIENCE, Sample};
use crate::policy::{Arrival, Outcome};
use crate::prompt::BLOCK_TOKENS;
use crate::workload::{Conversation, Turn};

/// How often a request is tried again.
const RETRIES: u32 = 2;
/// Conversations have fewer turns.
const MAX_TURNS: u64 = 64;

/// The state of a request.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) gateway: usize,
    /// Counts from 1; messages about earlier ones are late.
    pub(super) attempt: u32,
    /// Where the attempt went.
    pub(super) endpoint: usize,
    /// What the policy named and was not tried yet.
    pub(super) candidates: VecDeque<usize>,
    /// Whether the endpoint has sent a token.
    pub(super) has_begun: bool,
    /// When the gateway had one.
    pub(super) first_token_at: Option<Time>,
    worker: usize,
    arrived: Time,
}

/// What follows from an attempt's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Done,
    Retry,
    Failed,
}

/// A request's name: its conversation and its turn.
pub(super) fn request_id(conversation: usize, turn: usize) -> u64 {
    conversation as u64 * MAX_TURNS + turn as u64
}

/// The conversation and the turn.
pub(super) fn split_id(request: u64) -> (usize, usize) {
    ((request / MAX_TURNS) as usize, (request % MAX_TURNS) as usize)
}

fn find(request: u64, conversations: &[Conversation]) -> Option<(&Conversation, &Turn)> {
    let (conversation, turn) = split_id(request);
    let conversation = conversations.get(conversation)?;
    Some((conversation, conversation.turns.get(turn)?))
}

/// The request as the engine takes it.
pub(super) fn engine_request(id: u64, conversations: &[Conversation]) -> Option<Request> {
    let (conversation, turn) = find(id, conversations)?;
    let prompt_blocks = turn.prompt_tokens / BLOCK_TOKENS;
    let all_blocks = (turn.prompt_tokens + turn.output_tokens) / BLOCK_TOKENS;
    let blocks = |from: usize, to: usize| conversation.blocks.get(from..to).unwrap_or_default().to_vec();
    Some(Request {
        id,
        prompt_tokens: turn.prompt_tokens,
        prompt_blocks: blocks(0, prompt_blocks),
        output_tokens: turn.output_tokens,
        answer_blocks: blocks(prompt_blocks, all_blocks),
        lora: conversation.adapter.clone(),
    })
}

impl Exchange {
    pub(super) fn new(arrived: Time, gateway: usize, worker: usize) -> Exchange {
        Exchange {
            gateway,
            attempt: 0,
            endpoint: 0,
            candidates: VecDeque::new(),
            has_begun: false,
            first_token_at: None,
            worker,
            arrived,
        }
    }

    /// The request as a policy sees it.
    pub(super) fn arrival<'a>(&self, id: u64, conversations: &'a [Conversation]) -> Option<Arrival<'a>> {
        let (conversation, turn) = find(id, conversations)?;
        Some(Arrival {
            id,
            worker: self.worker,
            model: conversation.model(),
            adapter: conversation.adapter.as_deref(),
            prompt: &turn.prompt,
            // Clients set a limit well above what they get, so it says nothing about the answer's length.
            max_tokens: 2048,
        })
    }

    /// Turns to the next candidate; one that does not exist counts as the first endpoint.
    pub(super) fn next_attempt(&mut self, endpoints: usize) -> usize {
        self.attempt += 1;
        self.has_begun = false;
        self.endpoint = self.candidates.pop_front().filter(|endpoint| *endpoint < endpoints).unwrap_or_default();
        self.endpoint
    }

    /// `retries_on` says of which further statuses the policy wants a retry.
    pub(super) fn verdict(&self, outcome: Outcome, retries_on: impl Fn(u16) -> bool) -> Verdict {
        let is_retried = match outcome {
            Outcome::Refused | Outcome::Status(500 | 503) => true,
            Outcome::Status(status) => retries_on(status),
            _ => false,
        };
        match outcome {
            Outcome::Finished => Verdict::Done,
            _ if is_retried && self.first_token_at.is_none() && self.attempt <= RETRIES => Verdict::Retry,
            _ => Verdict::Failed,
        }
    }

    pub(super) fn sample(&self, now: Time, failed: bool) -> Sample {
        let elapsed = now.saturating_sub(self.arrived);
        if failed {
            return Sample { first_token: PATIENCE, end_to_end: elapsed.max(PATIENCE), failed };
        }
        let first_token = self.first_token_at.unwrap_or(now).saturating_sub(self.arrived);
        Sample { first_token, end_to_end: elapsed, failed }
    }
}
