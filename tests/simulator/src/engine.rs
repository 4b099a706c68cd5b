//! An inference engine as a discrete-event machine: continuous batching on virtual time.
//!
//! Time goes in steps, as in vLLM. A step gives one token to every decoding sequence and spends what is
//! left of `max_num_batched_tokens` on prompts, in chunks, first come first served. Its duration follows
//! from what is in it. Sequences hold KV blocks; when none is left, the youngest is preempted and
//! recomputed. The machine is told of requests and of time, and says when its step ends.

mod config;
mod kv;
mod lora;
mod noise;

use std::collections::VecDeque;
use std::time::Duration;

pub use config::EngineConfig;
use kv::{BlockTable, KvCache};
pub use lora::LoraSeries;
use lora::LoraSlots;
use noise::Noise;

/// A point in virtual time, since the engine's start.
pub type Time = Duration;

/// A request to an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Names it in events; unique among the engine's living requests.
    pub id: u64,
    /// The length of the prompt, at least 1.
    pub prompt_tokens: usize,
    /// One chained hash for each full block of the prompt.
    pub prompt_blocks: Vec<u64>,
    /// How many tokens the answer will have, at least 1.
    pub output_tokens: usize,
    /// One chained hash for each further full block once the answer is there; empty when it is not known.
    pub answer_blocks: Vec<u64>,
    /// The adapter.
    pub lora: Option<String>,
}

/// Something that a step brought about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A token of a request is there; the first one says how much of the prompt came from the cache.
    Token {
        /// The request.
        id: u64,
        /// Prompt tokens that were not computed.
        cached_tokens: usize,
    },
    /// A request has got its last token.
    Finished {
        /// The request.
        id: u64,
    },
}

/// The waiting queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Prompt tokens of scheduled requests, cached ones included.
    pub prompt_tokens: u64,
    /// Generated tokens.
    pub generation_tokens: u64,
    /// Prompt tokens that were looked up in the prefix cache.
    pub prefix_cache_queries: u64,
    /// Prompt tokens that were found there.
    pub prefix_cache_hits: u64,
    /// Sequences that lost their blocks.
    pub preemptions: u64,
    /// Requests that got all their tokens.
    pub finished: u64,
    /// Requests refused for a full queue.
    pub rejected: u64,
}

/// The machine.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    kv: KvCache,
    loras: LoraSlots,
    step: Option<Step>,
    totals: Totals,
    noise: Noise,
}

#[derive(Debug)]
struct Sequence {
    request: Request,
    blocks: BlockTable,
    /// Prompt tokens (and, after a preemption, earlier output) whose KV entries exist.
    computed: usize,
    generated: usize,
    cached_tokens: usize,
}

/// A step under way: when it ends, and who takes part.
#[derive(Debug)]
struct Step {
    ends_at: Time,
    work: Vec<Work>,
}

/// A sequence's part in a step.
#[derive(Debug)]
struct Work {
    id: u64,
    /// Where it was in the batch when the step began; aborts can only have moved it forward since.
    index: usize,
    tokens: usize,
}

impl Sequence {
    /// What must be computed before the next token can come.
    fn context(&self) -> usize {
        self.request.prompt_tokens + self.generated
    }

    fn is_decoding(&self) -> bool {
        self.generated > 0 && self.computed + 1 >= self.context()
    }
}

impl Engine {
    /// An idle engine.
    pub fn new(config: EngineConfig) -> Engine {
        let kv = KvCache::new(config.kv_cache_blocks, config.block_size);
        let loras = LoraSlots::new(config.max_loras);
        let noise = Noise::new(config.seed);
        Engine {
            noise,
            config,
            waiting: VecDeque::new(),
            running: Vec::new(),
            kv,
            loras,
            step: None,
            totals: Totals::default(),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Requests in the queue.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Requests in the batch.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// The share of KV blocks that sequences hold.
    pub fn kv_cache_usage(&self) -> f64 {
        self.kv.usage()
    }

    /// Totals since the start.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The LoRA gauge's series, oldest label set first.
    pub fn lora_series(&self) -> &[LoraSeries] {
        self.loras.series()
    }

    /// Takes a request in.
    pub fn handle_request(&mut self, now: Time, request: Request) -> Result<(), QueueFull> {
        let is_full = self.config.max_waiting_queue_length.is_some_and(|limit| self.waiting.len() >= limit);
        if is_full && self.running.len() >= self.config.max_num_seqs {
            self.totals.rejected += 1;
            return Err(QueueFull);
        }
        self.waiting.push_back(Sequence {
            request,
            blocks: BlockTable::default(),
            computed: 0,
            generated: 0,
            cached_tokens: 0,
        });
        if self.step.is_none() {
            self.start_step(now);
        }
        Ok(())
    }

    /// Forgets a request whose client is gone.
    pub fn handle_abort(&mut self, id: u64) {
        self.waiting.retain(|sequence| sequence.request.id != id);
        if let Some(index) = self.running.iter().position(|sequence| sequence.request.id == id) {
            let sequence = self.running.remove(index);
            self.kv.release(sequence.blocks);
        }
    }

    /// When the step under way ends.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.step.as_ref().map(|step| step.ends_at)
    }

    /// Ends the step under way, if its time has come, and starts the next one.
    pub fn handle_timeout(&mut self, now: Time) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(step) = self.step.take_if(|step| step.ends_at <= now) {
            self.end_step(&step, &mut events);
            self.start_step(step.ends_at);
        }
        events
    }

    fn end_step(&mut self, step: &Step, events: &mut Vec<Event>) {
        for work in &step.work {
            let upto = self.running.len().min(work.index + 1);
            let mut candidates = self.running.iter_mut().take(upto).rev();
            let Some(sequence) = candidates.find(|sequence| sequence.request.id == work.id) else { continue };
            sequence.computed += work.tokens;
            if sequence.computed < sequence.context() {
                continue;
            }
            if sequence.generated == 0 {
                self.kv.remember(&mut sequence.blocks, &sequence.request.prompt_blocks);
            }
            sequence.generated += 1;
            self.totals.generation_tokens += 1;
            events.push(Event::Token { id: work.id, cached_tokens: sequence.cached_tokens });
            if sequence.generated >= sequence.request.output_tokens {
                events.push(Event::Finished { id: work.id });
            }
        }
        let is_finished = |sequence: &mut Sequence| sequence.generated >= sequence.request.output_tokens;
        for sequence in self.running.extract_if(.., is_finished) {
            let Request { prompt_blocks, answer_blocks, .. } = &sequence.request;
            // The last token was never an input, so it has no KV entry.
            let full = sequence.computed / self.config.block_size;
            let hashes = prompt_blocks.iter().chain(answer_blocks).take(full);
            self.kv.finish(sequence.blocks, hashes.copied());
            self.totals.finished += 1;
        }
    }

    fn start_step(&mut self, now: Time) {
        let mut budget = self.config.max_num_batched_tokens;
        let mut work = Vec::new();
        let decoding = self.schedule_decodes(&mut budget, &mut work);
        let mut prefilled = self.schedule_running_prefills(&mut budget, &mut work);
        let mut loads = 0;
        self.admit(&mut budget, &mut work, &mut prefilled, &mut loads);
        self.loras.note(now, self.running.iter().filter_map(|sequence| sequence.request.lora.as_deref()));
        if work.is_empty() {
            return;
        }
        let ends_at = now + self.duration(decoding, prefilled, loads);
        self.step = Some(Step { ends_at, work });
    }

    /// One token for every decoding sequence; the youngest give way when blocks run out.
    fn schedule_decodes(&mut self, budget: &mut usize, work: &mut Vec<Work>) -> usize {
        let mut index = 0;
        let mut decoding = 0;
        loop {
            let alone = self.running.len() == 1;
            let Some(sequence) = self.running.get_mut(index) else { return decoding };
            if !sequence.is_decoding() || *budget == 0 {
                index += 1;
                continue;
            }
            let needed = sequence.context() + 1;
            // The last sequence may be larger than the whole cache: let it finish rather than never.
            if self.kv.grow(&mut sequence.blocks, needed) || alone {
                work.push(Work { id: sequence.request.id, index, tokens: 1 });
                *budget -= 1;
                decoding += 1;
                index += 1;
            } else {
                self.preempt_youngest();
            }
        }
    }

    fn preempt_youngest(&mut self) {
        if let Some(mut sequence) = self.running.pop() {
            self.kv.release(std::mem::take(&mut sequence.blocks));
            sequence.computed = 0;
            self.totals.preemptions += 1;
            self.waiting.push_front(sequence);
        }
    }

    fn schedule_running_prefills(&mut self, budget: &mut usize, work: &mut Vec<Work>) -> usize {
        let mut prefilled = 0;
        for (index, sequence) in self.running.iter().enumerate() {
            if sequence.is_decoding() {
                continue;
            }
            let chunk = (sequence.context() - sequence.computed).min(*budget);
            if chunk > 0 {
                work.push(Work { id: sequence.request.id, index, tokens: chunk });
                *budget -= chunk;
                prefilled += chunk;
            }
        }
        prefilled
    }

    /// Takes waiting requests in, first come first served; one whose adapter finds no place lets others pass.
    fn admit(&mut self, budget: &mut usize, work: &mut Vec<Work>, prefilled: &mut usize, loads: &mut u32) {
        let mut index = 0;
        while *budget > 0 && self.running.len() < self.config.max_num_seqs {
            let Some(sequence) = self.waiting.get(index) else { return };
            if let Some(lora) = &sequence.request.lora {
                let active: Vec<&str> =
                    self.running.iter().filter_map(|running| running.request.lora.as_deref()).collect();
                if !self.loras.has_room_for(lora, &active) {
                    index += 1;
                    continue;
                }
            }
            let Some(blocks) = self.kv.admit(&sequence.request.prompt_blocks, sequence.context()) else { return };
            let Some(mut sequence) = self.waiting.remove(index) else { return };
            if let Some(lora) = &sequence.request.lora {
                let active: Vec<&str> =
                    self.running.iter().filter_map(|running| running.request.lora.as_deref()).collect();
                *loads += u32::from(self.loras.load(lora, &active));
            }
            // The last prompt token is always computed, since its output is the first token.
            let cached = (blocks.cached() * self.config.block_size).min(sequence.context() - 1);
            sequence.blocks = blocks;
            sequence.computed = cached;
            if sequence.generated == 0 {
                sequence.cached_tokens = cached;
                self.totals.prompt_tokens += sequence.request.prompt_tokens as u64;
                self.totals.prefix_cache_queries += sequence.request.prompt_tokens as u64;
                self.totals.prefix_cache_hits += cached as u64;
            }
            let chunk = (sequence.context() - sequence.computed).min(*budget);
            work.push(Work { id: sequence.request.id, index: self.running.len(), tokens: chunk });
            *budget -= chunk;
            *prefilled += chunk;
            self.running.push(sequence);
        }
    }

    fn duration(&mut self, decoding: usize, prefilled: usize, loads: u32) -> Duration {
        let mut total = self.config.lora_load_time * loads;
        if prefilled > 0 {
            total += self.config.prefill_overhead;
            total += self.config.prefill_time_per_token * u32::try_from(prefilled).unwrap_or(u32::MAX);
        }
        if decoding > 0 {
            // llm-d-inference-sim's formula: linear from 1 with one sequence to the factor with a full batch.
            let full = self.config.max_num_seqs.saturating_sub(1).max(1) as f64;
            let load = 1.0 + (self.config.time_factor_under_load - 1.0) * (decoding - 1) as f64 / full;
            let mean = self.config.inter_token_latency;
            let deviation = self.config.inter_token_latency_std_dev.min(mean.mul_f64(0.3)).as_secs_f64();
            let jittered = mean.as_secs_f64() + deviation * self.noise.normal();
            // As in llm-d-inference-sim, no step is more than 70 % off.
            let bounded = jittered.clamp(mean.as_secs_f64() * 0.3, mean.as_secs_f64() * 1.7);
            total += Duration::from_secs_f64(bounded * load);
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: u64, prompt_tokens: usize, output_tokens: usize) -> Request {
        let prompt_blocks = (0..prompt_tokens / 16).map(|block| id * 1000 + block as u64).collect();
        Request { id, prompt_tokens, prompt_blocks, output_tokens, answer_blocks: Vec::new(), lora: None }
    }

    /// Runs until nothing is left to do; gives the time of each event.
    fn run(engine: &mut Engine) -> Vec<(Time, Event)> {
        let mut log = Vec::new();
        while let Some(at) = engine.poll_timeout() {
            log.extend(engine.handle_timeout(at).into_iter().map(|event| (at, event)));
            assert!(log.len() < 100_000, "the engine never comes to rest");
        }
        log
    }

    fn first_token(log: &[(Time, Event)], wanted: u64) -> Time {
        log.iter().find(|(_, event)| matches!(event, Event::Token { id, .. } if *id == wanted)).unwrap().0
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn one_request_takes_its_prefill_and_its_tokens() {
        let mut engine = Engine::new(EngineConfig::default());
        engine.handle_request(Time::ZERO, request(1, 100, 3)).unwrap();
        let log = run(&mut engine);
        let times: Vec<Time> = log.iter().map(|(at, _)| *at).collect();
        // 5 ms + 100 tokens * 0.1 ms, then 10 ms for each further token.
        assert_eq!(times, [millis(15), millis(25), millis(35), millis(35)]);
        assert_eq!(log.last().unwrap().1, Event::Finished { id: 1 });
        assert_eq!((engine.running(), engine.waiting()), (0, 0));
        assert_eq!(engine.kv_cache_usage(), 0.0);
    }

    #[test]
    fn jitter_follows_the_seed_and_stays_near_the_mean() {
        let run_with = |seed| {
            let jitter = Duration::from_millis(3);
            let mut engine =
                Engine::new(EngineConfig { inter_token_latency_std_dev: jitter, seed, ..EngineConfig::default() });
            engine.handle_request(Time::ZERO, request(1, 10, 1001)).unwrap();
            run(&mut engine).last().unwrap().0
        };
        assert_eq!(run_with(1), run_with(1));
        assert_ne!(run_with(1), run_with(2));
        // 1000 tokens of 10 ms; 4.5 standard errors are 0.43 s.
        assert!(run_with(1).abs_diff(millis(10_006)) < millis(430), "{:?}", run_with(1));
    }

    #[test]
    fn a_long_prompt_is_computed_in_chunks() {
        let mut engine = Engine::new(EngineConfig::default());
        engine.handle_request(Time::ZERO, request(1, 5000, 1)).unwrap();
        let log = run(&mut engine);
        assert_eq!(log[0].0, millis(3 * 5 + 500), "three steps of at most 2048 tokens");
    }

    #[test]
    fn a_shared_prefix_is_computed_once() {
        let mut engine = Engine::new(EngineConfig::default());
        let mut same = request(1, 160, 1);
        engine.handle_request(Time::ZERO, same.clone()).unwrap();
        run(&mut engine);
        same.id = 2;
        engine.handle_request(millis(1000), same).unwrap();
        let log = run(&mut engine);
        assert_eq!(log[0].1, Event::Token { id: 2, cached_tokens: 159 });
        assert_eq!(log[0].0, millis(1000) + millis(5) + Duration::from_micros(100));
        assert_eq!((engine.totals().prefix_cache_queries, engine.totals().prefix_cache_hits), (320, 159));
    }

    #[test]
    fn a_second_turn_finds_the_first_and_its_answer() {
        let mut engine = Engine::new(EngineConfig::default());
        let history: Vec<u64> = (100..110).collect();
        // 40 tokens and 41 of answer: 2 blocks of prompt and, without the last token, 3 of answer.
        let first = Request {
            prompt_blocks: history[..2].to_vec(),
            answer_blocks: history[2..5].to_vec(),
            ..request(1, 40, 41)
        };
        engine.handle_request(Time::ZERO, first).unwrap();
        run(&mut engine);
        let second = Request { prompt_blocks: history.clone(), ..request(2, 160, 1) };
        engine.handle_request(millis(1000), second).unwrap();
        assert_eq!(run(&mut engine)[0].1, Event::Token { id: 2, cached_tokens: 80 });
        assert_eq!(engine.kv_cache_usage(), 0.0);
    }

    #[test]
    fn a_block_whose_last_token_has_no_entry_is_not_cached() {
        let mut engine = Engine::new(EngineConfig::default());
        let first = Request { prompt_blocks: vec![1], answer_blocks: vec![2], ..request(1, 16, 16) };
        engine.handle_request(Time::ZERO, first).unwrap();
        run(&mut engine);
        engine.handle_request(millis(1000), Request { prompt_blocks: vec![1, 2, 3], ..request(2, 48, 1) }).unwrap();
        assert_eq!(run(&mut engine)[0].1, Event::Token { id: 2, cached_tokens: 16 });
    }

    #[test]
    fn what_finds_no_place_in_the_batch_waits() {
        let mut engine = Engine::new(EngineConfig { max_num_seqs: 1, ..EngineConfig::default() });
        engine.handle_request(Time::ZERO, request(1, 10, 5)).unwrap();
        engine.handle_request(Time::ZERO, request(2, 10, 1)).unwrap();
        assert_eq!((engine.running(), engine.waiting()), (1, 1));
        let log = run(&mut engine);
        assert!(first_token(&log, 2) > millis(46));
    }

    #[test]
    fn a_full_queue_refuses() {
        let config = EngineConfig { max_num_seqs: 1, max_waiting_queue_length: Some(1), ..EngineConfig::default() };
        let mut engine = Engine::new(config);
        for id in 0..2 {
            engine.handle_request(Time::ZERO, request(id, 10, 5)).unwrap();
        }
        assert_eq!(engine.handle_request(Time::ZERO, request(2, 10, 5)), Err(QueueFull));
        assert_eq!(engine.totals().rejected, 1);
    }

    #[test]
    fn without_blocks_the_youngest_is_preempted_and_still_finishes() {
        let config = EngineConfig { kv_cache_blocks: 8, ..EngineConfig::default() };
        let mut engine = Engine::new(config);
        for id in 1..=2 {
            engine.handle_request(Time::ZERO, request(id, 48, 40)).unwrap();
        }
        let log = run(&mut engine);
        let finished = log.iter().filter(|(_, event)| matches!(event, Event::Finished { .. })).count();
        let tokens = log.iter().filter(|(_, event)| matches!(event, Event::Token { .. })).count();
        assert_eq!((finished, tokens), (2, 80));
        assert!(engine.totals().preemptions > 0);
        assert_eq!(engine.kv_cache_usage(), 0.0);
    }

    #[test]
    fn loading_an_adapter_takes_its_time_once() {
        let mut engine = Engine::new(EngineConfig::default());
        let with_lora = |id| Request { lora: Some("a".to_owned()), ..request(id, 10, 1) };
        engine.handle_request(Time::ZERO, with_lora(1)).unwrap();
        assert_eq!(run(&mut engine)[0].0, millis(100 + 5 + 1));
        engine.handle_request(millis(200), with_lora(2)).unwrap();
        assert_eq!(run(&mut engine)[0].0, millis(206));
    }

    #[test]
    fn an_adapter_without_a_place_lets_others_pass() {
        let mut engine = Engine::new(EngineConfig::default());
        let with = |id, lora: &str| Request { lora: Some(lora.to_owned()), ..request(id, 10, 20) };
        engine.handle_request(Time::ZERO, with(1, "a")).unwrap();
        engine.handle_request(Time::ZERO, with(2, "b")).unwrap();
        engine.handle_request(Time::ZERO, request(3, 10, 1)).unwrap();
        let log = run(&mut engine);
        assert!(first_token(&log, 3) < first_token(&log, 2));
    }

    #[test]
    fn an_aborted_request_leaves_nothing_behind() {
        let mut engine = Engine::new(EngineConfig { max_num_seqs: 1, ..EngineConfig::default() });
        engine.handle_request(Time::ZERO, request(1, 100, 1000)).unwrap();
        engine.handle_request(Time::ZERO, request(2, 100, 2)).unwrap();
        engine.handle_abort(1);
        let log = run(&mut engine);
        assert!(log.iter().all(|(_, event)| !matches!(event, Event::Token { id: 1, .. })));
        assert_eq!((engine.kv_cache_usage(), engine.totals().finished), (0.0, 1));
    }
}
