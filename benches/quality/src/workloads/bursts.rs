//! (c) Nothing in common between prompts, lengths that vary widely, arrivals in bursts: only load counts.

use std::time::Duration;

use simulator::engine::EngineConfig;

use crate::random::Random;
use crate::workload::{Conversation, Demand, Saturation, Script, Workload};

pub(super) fn workload() -> Workload {
    Workload {
        name: "bursts",
        about: "Unrelated prompts of 2,000 tokens (log-normal), bursts of three times the rate for 2 s, 4 H100 with a 32B model.",
        endpoints: vec![EngineConfig::h100_32b(); 4],
        gateways: 1,
        demand: Demand::Bursts(Saturation { conversations_per_endpoint: 72, endpoints: 4 }),
        faults: Vec::new(),
        conversations,
        warm_up: 300,
        measured: 3000,
    }
}

fn conversations(random: &mut Random) -> Vec<Conversation> {
    let request = |_| {
        let mut script = Script::new(None);
        let (prompt, answer) = (random.length(2000.0, 0.8, 16, 24_000), random.length(250.0, 0.8, 4, 2000));
        script.turn(random, prompt, answer, Duration::ZERO);
        script.finish()
    };
    (0..3700).map(request).collect()
}
