//! (b) Retrieval: questions about shared documents, more of them than one cache holds.

use std::sync::Arc;
use std::time::Duration;

use simulator::engine::EngineConfig;

use crate::prompt::{Role, letters};
use crate::random::{Random, Zipf};
use crate::workload::{Conversation, Demand, Saturation, Script, Workload};

const DOCUMENTS: usize = 400;

pub(super) fn workload() -> Workload {
    Workload {
        name: "retrieval",
        about: "Questions about 400 documents of about 4,000 tokens (Zipf 1.0), 8 H100 with a 32B model.",
        endpoints: vec![EngineConfig::h100_32b(); 8],
        gateways: 1,
        demand: Demand::Poisson(Saturation { conversations_per_endpoint: 48, endpoints: 8 }),
        faults: Vec::new(),
        conversations,
        warm_up: 600,
        measured: 3000,
    }
}

fn conversations(random: &mut Random) -> Vec<Conversation> {
    let system_prompt = letters(random, 200);
    let documents: Vec<Arc<str>> = (0..DOCUMENTS)
        .map(|_| {
            let tokens = random.length(4000.0, 0.5, 500, 16_000);
            letters(random, tokens)
        })
        .collect();
    let popularity = Zipf::new(DOCUMENTS, 1.0);
    let question = |_| {
        let mut script = Script::new(None);
        script.share(Role::System, &system_prompt);
        if let Some(document) = documents.get(popularity.draw(random)) {
            script.share(Role::User, document);
        }
        let (question, answer) = (random.length(60.0, 0.4, 10, 300), random.length(150.0, 0.5, 10, 1000));
        script.turn(random, question, answer, Duration::ZERO);
        script.finish()
    };
    (0..4000).map(question).collect()
}
