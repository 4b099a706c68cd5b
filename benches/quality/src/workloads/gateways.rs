//! (f) Four gateways that know nothing of each other; each request of a conversation reaches any of them.

use std::sync::Arc;
use std::time::Duration;

use simulator::engine::EngineConfig;

use super::Chat;
use crate::prompt::{Role, letters};
use crate::random::{Random, Zipf};
use crate::workload::{Conversation, Demand, Saturation, Workload};

const DOCUMENTS: usize = 100;

pub(super) fn workload() -> Workload {
    Workload {
        name: "gateways",
        about: "Chat, half of it about shared documents, through 4 gateways to 16 H100 with a 32B model.",
        endpoints: vec![EngineConfig::h100_32b(); 16],
        gateways: 4,
        demand: Demand::Poisson(Saturation { conversations_per_endpoint: 48, endpoints: 4 }),
        faults: Vec::new(),
        conversations,
        warm_up: 350,
        measured: 900,
    }
}

fn conversations(random: &mut Random) -> Vec<Conversation> {
    let chat = Chat {
        system_prompts: Chat::system_prompts(random, 4, 500),
        turns: (3, 8),
        user_tokens: 250.0,
        answer_tokens: 150.0,
        pause: Duration::from_secs(1),
    };
    let documents: Vec<Arc<str>> = (0..DOCUMENTS)
        .map(|_| {
            let tokens = random.length(3000.0, 0.5, 500, 12_000);
            letters(random, tokens)
        })
        .collect();
    let popularity = Zipf::new(DOCUMENTS, 0.8);
    let conversation = |_| {
        let mut script = chat.begin(random);
        if let (Some(document), 0) = (documents.get(popularity.draw(random)), random.below(2)) {
            script.share(Role::User, document);
        }
        chat.go_on(&mut script, random);
        script.finish()
    };
    (0..1650).map(conversation).collect()
}
