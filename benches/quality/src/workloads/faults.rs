//! (g) Endpoints that fail, one after the other: one fails fast, one hangs, one restarts.
//!
//! The faults are those that real engines showed: a draining vLLM that answers 500 at once while its gauges read zero, a
//! stopped worker whose gauges stay at zero while nothing is answered, and a process that ends and comes back empty. At
//! each load they fall into the measured part of the run.

use std::time::Duration;

use simulator::engine::EngineConfig;

use super::Chat;
use crate::random::Random;
use crate::workload::{Conversation, Demand, Fault, FaultKind, Saturation, Workload};

pub(super) fn workload() -> Workload {
    let fault = |kind, endpoint, from, lasts| Fault {
        kind,
        endpoint,
        from: Duration::from_secs(from),
        lasts: Duration::from_secs(lasts),
    };
    Workload {
        name: "faults",
        about: "Chat on 6 H100 with a 32B model; one fails fast for 20 s, one hangs for 20 s, one restarts within 10 s.",
        endpoints: vec![EngineConfig::h100_32b(); 6],
        gateways: 1,
        demand: Demand::Poisson(Saturation { conversations_per_endpoint: 48, endpoints: 6 }),
        faults: vec![
            fault(FaultKind::FailsFast, 1, 50, 20),
            fault(FaultKind::Hangs, 3, 85, 20),
            fault(FaultKind::Restarts, 5, 115, 10),
        ],
        conversations,
        warm_up: 200,
        measured: 1300,
    }
}

pub(super) fn conversations(random: &mut Random) -> Vec<Conversation> {
    let chat = Chat {
        system_prompts: Chat::system_prompts(random, 4, 500),
        turns: (2, 5),
        user_tokens: 500.0,
        answer_tokens: 150.0,
        pause: Duration::from_secs(1),
    };
    let conversation = |_| {
        let mut script = chat.begin(random);
        chat.go_on(&mut script, random);
        script.finish()
    };
    (0..1800).map(conversation).collect()
}
