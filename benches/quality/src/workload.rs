//! What a workload is: endpoints, gateways, conversations, and when they begin.
//!
//! Conversations are written before the run, so every policy gets the same ones: texts, lengths of answers, pauses.
//! A request that is no part of a conversation is a conversation of one turn.

use std::sync::Arc;
use std::time::Duration;

use simulator::engine::{EngineConfig, Time};

use crate::prompt::{Prompt, Role, block_hashes, letters};
use crate::random::Random;

/// How much is asked, in percent of what the workload can bear.
pub const LOADS: [u32; 3] = [50, 80, 95];

/// The name of the model that all engines serve.
pub const BASE_MODEL: &str = "base";

/// A workload.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Short, for options and file names.
    pub name: &'static str,
    /// A sentence for the report.
    pub about: &'static str,
    /// The engines.
    pub endpoints: Vec<EngineConfig>,
    /// How many gateways there are; each request reaches any of them.
    pub gateways: usize,
    /// When conversations begin.
    pub demand: Demand,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// Writes the conversations.
    pub conversations: fn(&mut Random) -> Vec<Conversation>,
    /// Conversations at the beginning that are not measured, while caches fill.
    pub warm_up: usize,
    /// Conversations after those that are measured; the rest keeps the load up until the last measured one is over.
    pub measured: usize,
}

/// When conversations begin.
#[derive(Clone, Debug)]
pub enum Demand {
    /// So many clients at each of [`LOADS`], each beginning a conversation when its last one is over.
    Clients([usize; 3]),
    /// Whenever Poisson says, at a share of the workload's capacity.
    Poisson(Saturation),
    /// Poisson with bursts: two seconds at three times the mean rate, then about ten at 0.6 of it.
    Bursts(Saturation),
}

/// How the capacity of an open workload is measured: round robin with so many conversations at once and no pauses, which
/// is enough to fill every engine's batch or KV cache.
#[derive(Clone, Copy, Debug)]
pub struct Saturation {
    /// Conversations in progress for each endpoint.
    pub conversations_per_endpoint: usize,
    /// How many of the endpoints to measure with; round robin treats all alike, so the rest follows.
    pub endpoints: usize,
}

/// Something goes wrong with an endpoint for a while.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// With which endpoint.
    pub endpoint: usize,
    /// From when.
    pub from: Time,
    /// How long.
    pub lasts: Duration,
}

/// In which way an endpoint fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Every new request gets a 500 within 2 ms; earlier ones go on. Pages are served, with gauges at zero.
    FailsFast,
    /// Nothing is answered. Pages are served, with gauges at zero and totals as they were. Then it goes on.
    Hangs,
    /// Requests break, connections are refused, as are scrapes. Then there is a new process with an empty cache.
    Restarts,
    /// Every new request gets a 401 within 2 ms; earlier ones go on. Gauges are the engine's own.
    Refuses,
    /// A new request beyond so many that it has gets a 429 within 2 ms.
    RoomFor(usize),
    /// A prompt of more tokens than these gets a 400 within 2 ms.
    TakesUpTo(usize),
}

/// Requests that follow on each other.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// The adapter, if one is asked for.
    pub adapter: Option<String>,
    /// In order; at least one.
    pub turns: Vec<Turn>,
    /// Chained hashes of all full blocks of all turns, for the engines.
    pub blocks: Vec<u64>,
}

/// A request of a conversation.
#[derive(Clone, Debug)]
pub struct Turn {
    /// The prompt, with all that went before.
    pub prompt: Prompt,
    /// Its length.
    pub prompt_tokens: usize,
    /// The answer's length.
    pub output_tokens: usize,
    /// The pause before the turn.
    pub pause: Duration,
}

impl Conversation {
    /// The model that the requests name.
    pub fn model(&self) -> &str {
        self.adapter.as_deref().unwrap_or(BASE_MODEL)
    }
}

/// Writes a conversation turn by turn.
#[derive(Debug, Default)]
pub struct Script {
    adapter: Option<String>,
    prompt: Prompt,
    turns: Vec<Turn>,
}

impl Script {
    /// An empty conversation with the base model or an adapter.
    pub fn new(adapter: Option<String>) -> Script {
        Script { adapter, ..Script::default() }
    }

    /// Adds text that is shared with others.
    pub fn share(&mut self, role: Role, text: &Arc<str>) {
        self.prompt.push(role, Arc::clone(text));
    }

    /// Adds a turn: what the user says, and an answer, which becomes part of what follows.
    pub fn turn(&mut self, random: &mut Random, user_tokens: usize, output_tokens: usize, pause: Duration) {
        self.prompt.push(Role::User, letters(random, user_tokens));
        let prompt = self.prompt.clone();
        self.turns.push(Turn { prompt_tokens: prompt.tokens(), prompt, output_tokens, pause });
        self.prompt.push(Role::Assistant, letters(random, output_tokens));
    }

    /// The conversation.
    pub fn finish(self) -> Conversation {
        let model = self.adapter.as_deref().unwrap_or(BASE_MODEL);
        let blocks = block_hashes(model, &self.prompt.text());
        Conversation { adapter: self.adapter, turns: self.turns, blocks }
    }
}

impl Workload {
    /// When each conversation begins, for open demand at a rate of conversations a second.
    pub fn starts(&self, count: usize, rate: f64, random: &mut Random) -> Vec<Time> {
        let bursts = matches!(self.demand, Demand::Bursts(_));
        // A stream of their own, so that the bursts of a seed are the same at every rate.
        let mut phases = Random::new(random.bits());
        let (mut at, mut phase_ends, mut is_burst) = (0.0, 0.0, true);
        let mut starts = Vec::with_capacity(count);
        while starts.len() < count {
            let factor = match (bursts, is_burst) {
                (false, _) => 1.0,
                (true, true) => BURST_FACTOR,
                (true, false) => CALM_FACTOR,
            };
            let next = at + random.exponential(1.0 / (rate * factor));
            if bursts && next > phase_ends {
                at = phase_ends;
                is_burst = !is_burst;
                phase_ends += if is_burst {
                    BURST_SECONDS
                } else {
                    CALM_SECONDS.0 + (CALM_SECONDS.1 - CALM_SECONDS.0) * phases.even()
                };
                continue;
            }
            at = next;
            starts.push(Time::from_secs_f64(at));
        }
        starts
    }
}

/// A burst's rate, in mean rates.
const BURST_FACTOR: f64 = 3.0;
/// The rate between bursts: with a sixth of the time in bursts, the mean is 3/6 + 0.6 * 5/6 = 1.
const CALM_FACTOR: f64 = 0.6;
/// A burst's length.
const BURST_SECONDS: f64 = 2.0;
/// Bounds of the time between bursts, whose mean of 10 s makes a sixth of the time bursts. Evenly spread, since with
/// exponential times the number of bursts, and so the load, would differ by a quarter from seed to seed.
const CALM_SECONDS: (f64, f64) = (5.0, 15.0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_begins_with_all_that_went_before() {
        let mut random = Random::new(1);
        let mut script = Script::new(None);
        script.share(Role::System, &letters(&mut Random::new(2), 32));
        script.turn(&mut random, 10, 20, Duration::ZERO);
        script.turn(&mut random, 5, 7, Duration::from_secs(1));
        let conversation = script.finish();
        let [first, second] = &conversation.turns[..] else { panic!("two turns") };
        assert_eq!((first.prompt_tokens, second.prompt_tokens), (42, 67));
        assert!(second.prompt.text().starts_with(&first.prompt.text()));
        assert_eq!(conversation.blocks.len(), 74 / 16);
        assert_eq!(block_hashes("base", &first.prompt.text()), conversation.blocks[..2]);
    }

    #[test]
    fn bursts_keep_the_mean_rate() {
        let demand = Demand::Bursts(Saturation { conversations_per_endpoint: 1, endpoints: 1 });
        let workload = Workload { demand, ..crate::workloads::all()[2].clone() };
        let starts = workload.starts(100_000, 50.0, &mut Random::new(1));
        let rate = 100_000.0 / starts.last().unwrap().as_secs_f64();
        assert!((rate - 50.0).abs() < 3.0, "{rate}");
    }
}
