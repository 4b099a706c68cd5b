//! (i) Endpoints that refuse what others accept: one everything, one what is beyond its room, one long prompts.
//!
//! A wrong API key, a limit of an engine's own, and an engine that was started with a shorter context than the others.
//! The last two refuse for as long as the run lasts. Each refusal comes at once, so the endpoint looks idle and fast.

use std::time::Duration;

use simulator::engine::EngineConfig;

use super::faults;
use crate::workload::{Demand, Fault, FaultKind, Saturation, Workload};

/// Longer than any run.
const ALWAYS: Duration = Duration::from_secs(100_000);

pub(super) fn workload() -> Workload {
    let fault = |kind, endpoint, from, lasts| Fault { kind, endpoint, from: Duration::from_secs(from), lasts };
    Workload {
        name: "refusals",
        about: "Chat on 6 H100 with a 32B model; one answers 401 for 60 s, one 429 beyond 12 requests, one 400 to prompts \
                of more than 1,500 tokens.",
        endpoints: vec![EngineConfig::h100_32b(); 6],
        gateways: 1,
        demand: Demand::Poisson(Saturation { conversations_per_endpoint: 48, endpoints: 6 }),
        faults: vec![
            fault(FaultKind::Refuses, 1, 50, Duration::from_secs(60)),
            fault(FaultKind::RoomFor(12), 3, 0, ALWAYS),
            fault(FaultKind::TakesUpTo(1500), 5, 0, ALWAYS),
        ],
        conversations: faults::conversations,
        warm_up: 200,
        measured: 1300,
    }
}
