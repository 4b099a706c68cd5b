//! The workloads, one file each.

mod bursts;
mod chat;
mod faults;
mod fleet;
mod gateways;
mod lora;
mod mixed;
mod refusals;
mod retrieval;

use std::sync::Arc;
use std::time::Duration;

use crate::prompt::{Role, letters};
use crate::random::Random;
use crate::workload::{Script, Workload};

/// Every workload, in the order of the report.
pub fn all() -> Vec<Workload> {
    vec![
        chat::workload(),
        retrieval::workload(),
        bursts::workload(),
        lora::workload(),
        mixed::workload(),
        gateways::workload(),
        faults::workload(),
        refusals::workload(),
        fleet::workload(),
    ]
}

/// Chat in several turns under one of a few system prompts.
struct Chat {
    system_prompts: Vec<Arc<str>>,
    /// Fewest and most turns.
    turns: (usize, usize),
    user_tokens: f64,
    answer_tokens: f64,
    /// The mean pause before a turn.
    pause: Duration,
}

impl Chat {
    fn system_prompts(random: &mut Random, count: usize, tokens: usize) -> Vec<Arc<str>> {
        (0..count).map(|_| letters(random, tokens)).collect()
    }

    /// A conversation's beginning: its system prompt.
    fn begin(&self, random: &mut Random) -> Script {
        let mut script = Script::new(None);
        if let Some(system_prompt) = self.system_prompts.get(random.below(self.system_prompts.len())) {
            script.share(Role::System, system_prompt);
        }
        script
    }

    /// Adds all turns.
    fn go_on(&self, script: &mut Script, random: &mut Random) {
        for _ in 0..random.between(self.turns.0, self.turns.1) {
            let user = random.length(self.user_tokens, 0.6, 8, 2048);
            let answer = random.length(self.answer_tokens, 0.6, 4, 1024);
            let pause = random.time(self.pause, 0.8);
            script.turn(random, user, answer, pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Conversation;

    fn mean_prompt(conversations: &[Conversation]) -> f64 {
        let turns = conversations.iter().flat_map(|conversation| &conversation.turns);
        let (count, total) = turns.fold((0, 0), |(count, total), turn| (count + 1, total + turn.prompt_tokens));
        total as f64 / f64::from(count)
    }

    #[test]
    fn every_workload_has_the_conversations_that_it_measures() {
        for workload in all() {
            let conversations = (workload.conversations)(&mut Random::new(1));
            assert!(conversations.len() > workload.warm_up + workload.measured, "{}", workload.name);
            assert!(conversations.iter().all(|conversation| !conversation.turns.is_empty()));
            let largest = conversations.iter().flat_map(|conversation| conversation.turns.last());
            let largest = largest.map(|turn| turn.prompt_tokens + turn.output_tokens).max().unwrap();
            for endpoint in &workload.endpoints {
                assert!(largest < endpoint.kv_cache_blocks * endpoint.block_size, "{}: {largest}", workload.name);
            }
        }
    }

    #[test]
    fn chat_is_as_in_the_published_comparison() {
        let chat = &all()[0];
        let conversations = (chat.conversations)(&mut Random::new(1));
        let mean = mean_prompt(&conversations);
        assert!((mean / 1420.0 - 1.0).abs() < 0.1, "{mean}");
        let requests = |from: usize, count: usize| -> usize {
            conversations[from..from + count].iter().map(|conversation| conversation.turns.len()).sum()
        };
        assert!(requests(0, chat.warm_up).abs_diff(200) < 30);
        assert!(requests(chat.warm_up, chat.measured).abs_diff(1200) < 60);
    }

    #[test]
    fn the_documents_do_not_fit_one_cache() {
        let retrieval = &all()[1];
        let conversations = (retrieval.conversations)(&mut Random::new(1));
        let distinct: std::collections::BTreeSet<u64> =
            conversations.iter().flat_map(|conversation| conversation.blocks.iter().take(250).copied()).collect();
        assert!(distinct.len() > retrieval.endpoints[0].kv_cache_blocks);
    }
}
