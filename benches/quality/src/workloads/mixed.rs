//! (e) Fast and slow endpoints in one pool, chat and unrelated requests.

use std::time::Duration;

use simulator::engine::EngineConfig;

use super::Chat;
use crate::random::Random;
use crate::workload::{Conversation, Demand, Saturation, Script, Workload};

pub(super) fn workload() -> Workload {
    let fast = EngineConfig::h100_32b();
    let slow = EngineConfig::a10_8b();
    Workload {
        name: "mixed-fleet",
        about: "Chat and unrelated requests, 2 fast endpoints (timed as an H100) and 4 slow ones (timed as an A10).",
        endpoints: vec![fast.clone(), slow.clone(), slow.clone(), fast, slow.clone(), slow],
        gateways: 1,
        demand: Demand::Poisson(Saturation { conversations_per_endpoint: 40, endpoints: 6 }),
        faults: Vec::new(),
        conversations,
        warm_up: 300,
        measured: 1500,
    }
}

fn conversations(random: &mut Random) -> Vec<Conversation> {
    let chat = Chat {
        system_prompts: Chat::system_prompts(random, 4, 300),
        turns: (3, 6),
        user_tokens: 150.0,
        answer_tokens: 120.0,
        pause: Duration::from_secs(1),
    };
    let conversation = |_| {
        // One in three conversations has several turns, so that chat makes up two thirds of the requests.
        if random.below(3) == 0 {
            let mut script = chat.begin(random);
            chat.go_on(&mut script, random);
            return script.finish();
        }
        let mut script = Script::new(None);
        let (prompt, answer) = (random.length(1200.0, 0.7, 16, 8000), random.length(150.0, 0.6, 4, 1000));
        script.turn(random, prompt, answer, Duration::ZERO);
        script.finish()
    };
    (0..2100).map(conversation).collect()
}
