//! (a) Multi-turn chat on three A10s, after the published comparison of Higress' picker with EPP and round robin.
//!
//! 40 clients, 1,200 requests, prompts of 1,420 tokens on average; the rest of that setup (turns, system prompts, answers)
//! is not published and chosen here.

use std::time::Duration;

use simulator::engine::EngineConfig;

use super::Chat;
use crate::random::Random;
use crate::workload::{Conversation, Demand, Workload};

pub(super) fn workload() -> Workload {
    Workload {
        name: "chat",
        about: "Multi-turn chat, 3 A10 with an 8B model, a closed loop of 25, 40 and 48 clients.",
        endpoints: vec![EngineConfig::a10_8b(); 3],
        gateways: 1,
        demand: Demand::Clients([25, 40, 48]),
        faults: Vec::new(),
        conversations,
        warm_up: 36,
        measured: 218,
    }
}

fn conversations(random: &mut Random) -> Vec<Conversation> {
    let chat = Chat {
        system_prompts: Chat::system_prompts(random, 4, 400),
        turns: (3, 8),
        // 400 + 3.5 * 204 + 2.5 * 120 is 1,420: the mean prompt has three and a half messages and two and a half answers.
        user_tokens: 204.0,
        answer_tokens: 120.0,
        pause: Duration::from_millis(500),
    };
    let conversation = |_| {
        let mut script = chat.begin(random);
        chat.go_on(&mut script, random);
        script.finish()
    };
    (0..310).map(conversation).collect()
}
