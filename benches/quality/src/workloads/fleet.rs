//! (h) Two hundred endpoints: what grows with their number.

use std::time::Duration;

use simulator::engine::EngineConfig;

use super::Chat;
use crate::random::Random;
use crate::workload::{Conversation, Demand, Saturation, Workload};

pub(super) fn workload() -> Workload {
    Workload {
        name: "fleet",
        about: "Multi-turn chat with shared system prompts on 200 H100 with a 32B model.",
        endpoints: vec![EngineConfig::h100_32b(); 200],
        gateways: 1,
        demand: Demand::Poisson(Saturation { conversations_per_endpoint: 48, endpoints: 10 }),
        faults: Vec::new(),
        conversations,
        warm_up: 4300,
        measured: 5700,
    }
}

fn conversations(random: &mut Random) -> Vec<Conversation> {
    let chat = Chat {
        system_prompts: Chat::system_prompts(random, 8, 1000),
        turns: (2, 5),
        user_tokens: 500.0,
        answer_tokens: 60.0,
        pause: Duration::from_millis(500),
    };
    let conversation = |_| {
        let mut script = chat.begin(random);
        chat.go_on(&mut script, random);
        script.finish()
    };
    (0..14_300).map(conversation).collect()
}
