//! The whole comparison: every workload at every load with every policy and seed, over all cores.
//!
//! Runs are independent. Threads take them in order from one counter, and the results go into their own places, so
//! neither the number of threads nor their timing shows in the figures.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use simulator::engine::Time;

use crate::policies::Entry;
use crate::policies::round_robin::RoundRobin;
use crate::policy::WORKERS;
use crate::random::Random;
use crate::statistics::{Summary, summarize};
use crate::workload::{Conversation, LOADS, Saturation, Workload};
use crate::world::{self, Answers, Demand, Measured, Plan};

/// What each policy came to at one load of a workload.
#[derive(Clone, Debug)]
pub struct Table {
    /// Percent of the capacity.
    pub load: u32,
    /// What that is: clients, or conversations a second.
    pub demand: String,
    /// Policies and their figures.
    pub rows: Vec<(&'static str, Summary)>,
}

/// Runs one workload.
pub fn run(workload: &Workload, policies: &[Entry], loads: &[u32], seeds: u64) -> Vec<Table> {
    let seeds: Vec<u64> = (1..=seeds).collect();
    let scripts = parallel(seeds.len(), |index| {
        seeds.get(index).map(|seed| (workload.conversations)(&mut Random::with_purpose(*seed, 2))).unwrap_or_default()
    });
    let capacity = capacity(workload, scripts.first().map(Vec::as_slice).unwrap_or_default());
    let cases: Vec<(u32, &Entry, usize)> = loads
        .iter()
        .flat_map(|load| policies.iter().map(move |policy| (*load, policy)))
        .flat_map(|(load, policy)| (0..seeds.len()).map(move |seed| (load, policy, seed)))
        .collect();
    let runs = parallel(cases.len(), |index| {
        let Some((load, policy, seed)) = cases.get(index).copied() else { return Measured::default() };
        let conversations = scripts.get(seed).map(Vec::as_slice).unwrap_or_default();
        let seed = seed as u64 + 1;
        let demand = demand(workload, capacity, load, conversations.len(), seed);
        let answers = Answers::Cached;
        world::run(&Plan { workload, conversations, demand: &demand, policy, workers: WORKERS, answers, seed })
    });
    let mut by_seed = runs.chunks(seeds.len().max(1));
    let table = |load: &u32| Table {
        load: *load,
        demand: describe(workload, capacity, *load),
        rows: policies.iter().zip(by_seed.by_ref()).map(|(policy, runs)| (policy.name, summarize(runs))).collect(),
    };
    loads.iter().map(table).collect()
}

/// Conversations a second that round robin sustains when saturated, in virtual time; 0 for closed loops.
///
/// As many conversations as fill the engines are always under way, without pauses. The rate is that of requests between a
/// third of the run and the moment when the last conversation begins, while the engines are saturated.
pub fn capacity(workload: &Workload, conversations: &[Conversation]) -> f64 {
    use crate::workload::Demand::{Bursts, Clients, Poisson};
    let Saturation { conversations_per_endpoint, endpoints } = match &workload.demand {
        Clients(_) => return 0.0,
        Poisson(saturation) | Bursts(saturation) => *saturation,
    };
    let part = Workload { endpoints: workload.endpoints.iter().take(endpoints).cloned().collect(), ..workload.clone() };
    let round_robin = Entry { name: "round-robin", build: |gateway| Box::new(RoundRobin::new(gateway)) };
    let demand = Demand::Saturating(conversations_per_endpoint * endpoints);
    let measured = world::run(&Plan {
        workload: &part,
        conversations,
        demand: &demand,
        policy: &round_robin,
        workers: WORKERS,
        answers: Answers::Cached,
        seed: 1,
    });
    let (from, to) = (measured.last_began / 3, measured.last_began);
    let ended = measured.ends.iter().filter(|end| (from..to).contains(end)).count();
    let turns: usize = conversations.iter().map(|conversation| conversation.turns.len()).sum();
    let requests_per_second = ended as f64 / (to - from).as_secs_f64().max(1e-9);
    let part_of_whole = endpoints as f64 / workload.endpoints.len().max(1) as f64;
    requests_per_second * conversations.len() as f64 / turns.max(1) as f64 / part_of_whole
}

fn clients(counts: [usize; 3], load: u32) -> usize {
    LOADS.iter().zip(counts).find(|(known, _)| **known == load).map_or(1, |(_, count)| count)
}

fn demand(workload: &Workload, capacity: f64, load: u32, conversations: usize, seed: u64) -> Demand {
    if let crate::workload::Demand::Clients(counts) = workload.demand {
        return Demand::Clients(clients(counts, load));
    }
    let mut random = Random::with_purpose(seed, 3);
    let starts: Vec<Time> = workload.starts(conversations, capacity * f64::from(load) / 100.0, &mut random);
    Demand::At(starts)
}

fn describe(workload: &Workload, capacity: f64, load: u32) -> String {
    if let crate::workload::Demand::Clients(counts) = workload.demand {
        return format!("{} clients", clients(counts, load));
    }
    format!("{:.1} conversations/s", capacity * f64::from(load) / 100.0)
}

/// Computes `count` results on all cores.
fn parallel<T: Send>(count: usize, compute: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::with_capacity(count));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    let result = compute(index);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order() {
        assert_eq!(parallel(100, |index| index * 2), (0..100).map(|index| index * 2).collect::<Vec<_>>());
    }
}
