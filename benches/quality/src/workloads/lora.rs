//! (d) Twelve adapters on engines that hold four at a time.

use std::sync::Arc;
use std::time::Duration;

use simulator::engine::EngineConfig;

use crate::prompt::{Role, letters};
use crate::random::{Random, Zipf};
use crate::workload::{Conversation, Demand, Saturation, Script, Workload};

const ADAPTERS: usize = 12;

pub(super) fn workload() -> Workload {
    Workload {
        name: "lora",
        about: "12 adapters (Zipf 0.8), 4 of them at a time on each of 6 A10 with an 8B model.",
        endpoints: vec![EngineConfig { max_loras: 4, ..EngineConfig::a10_8b() }; 6],
        gateways: 1,
        demand: Demand::Poisson(Saturation { conversations_per_endpoint: 48, endpoints: 6 }),
        faults: Vec::new(),
        conversations,
        warm_up: 400,
        measured: 3000,
    }
}

fn conversations(random: &mut Random) -> Vec<Conversation> {
    let adapters: Vec<(String, Arc<str>)> =
        (0..ADAPTERS).map(|index| (format!("adapter-{index}"), letters(random, 200))).collect();
    let popularity = Zipf::new(ADAPTERS, 0.8);
    let request = |_| {
        let adapter = adapters.get(popularity.draw(random));
        let mut script = Script::new(adapter.map(|(name, _)| name.clone()));
        if let Some((_, system_prompt)) = adapter {
            script.share(Role::System, system_prompt);
        }
        let (user, answer) = (random.length(400.0, 0.5, 16, 4000), random.length(100.0, 0.5, 4, 800));
        script.turn(random, user, answer, Duration::ZERO);
        script.finish()
    };
    (0..3900).map(request).collect()
}
