//! One VM's view: what it makes of scrapes, of its own traffic, and of both together.

use super::*;
use crate::load::{Adapters, EndpointLoad, Snapshot};
use crate::scan::{Wanted, scan};
use crate::scheduling::Tier;
use crate::shape::Shape;
use crate::testing::test;

mod discovered;
mod waiting;

const START: u64 = 1_000_000;
const POOL: PoolId = PoolId(0);

struct Bench {
    gateway: Gateway,
    now: Timestamp,
    version: u32,
    loads: Vec<EndpointLoad>,
}

impl Bench {
    fn new(endpoints: usize) -> Bench {
        let addresses: Vec<String> =
            (0..endpoints).map(|index| format!("10.0.{}.{}:1", index / 250, index % 250 + 1)).collect();
        let json = format!(
            r#"{{"maxPrefixEntries": 4096, "pools": [{{"name": "p", "baseModel": "m", "adapters": ["x", "y", "z"],
                 "endpoints": {{"static": {addresses:?}}}}}]}}"#
        );
        let gateway = Gateway::new(crate::config::parse(json.as_bytes()).unwrap(), 1);
        let load = |address: String| EndpointLoad {
            address,
            health: Health::Up,
            waiting: Some(0),
            running: Some(0),
            kv_cache_usage: Some(0.0),
            cache_clock: Some(0),
            ..EndpointLoad::default()
        };
        let loads = addresses.into_iter().map(load).collect();
        let mut bench = Bench { gateway, now: Timestamp(START), version: 0, loads };
        bench.scrape();
        bench
    }

    /// Lets an answer begin well.
    fn begin_answer(&mut self, request: &mut InFlight, is_timed: bool) {
        self.gateway.handle_first_byte(request, self.now);
        self.gateway.handle_accepted(POOL, request, is_timed, self.now);
    }

    /// Publishes the loads as scraped now, and lets the VM read everything that is due.
    fn scrape(&mut self) {
        self.version += 1;
        for load in &mut self.loads {
            load.scraped_at = self.now;
        }
        self.publish();
    }

    fn publish(&mut self) {
        let snapshot =
            Snapshot { generation: u64::from(self.version), published_at: self.now, endpoints: self.loads.clone() };
        let stored = snapshot.encode();
        self.gateway.handle_read(Read::Load(POOL), Some((&stored, self.version)), self.now);
        self.gateway.inflight.handle_refreshed(self.now);
    }

    fn wait(&mut self, milliseconds: u64) {
        self.now = Timestamp(self.now.0 + milliseconds);
    }

    fn pick(&mut self, prompt: &Prompt, adapter: Option<&str>) -> (usize, Tier) {
        let request = PickRequest { adapter, ..PickRequest::of(prompt) };
        match self.gateway.pick(POOL, request, self.now).decision {
            Decision::Picked { endpoints, tier } => (endpoints[0], tier),
            Decision::NoOpinion(why) => panic!("{why:?}"),
        }
    }

    fn send(&mut self, at: usize, prompt: &Prompt, adapter: Option<&str>) -> InFlight {
        let request = PickRequest { adapter, ..PickRequest::of(prompt) };
        self.gateway.handle_sent(POOL, at, request, true, self.now).unwrap()
    }

    fn expected_ttft(&mut self, prompt: &Prompt) -> Vec<f32> {
        let request = PickRequest::of(prompt);
        self.gateway
            .candidates(POOL, request, prompt.opening, None, self.now)
            .iter()
            .map(|candidate| candidate.expected_ttft)
            .collect()
    }
}

fn prompt(text: &str, kilobytes: usize) -> Prompt {
    let body = format!(r#"{{"prompt":"{}"}}"#, text.repeat(kilobytes * 1024 / text.len()));
    let shape = Shape::of(b"POST", b"/v1/completions").unwrap();
    Prompt::new("m", body.as_bytes(), &scan(body.as_bytes(), shape, None, Wanted::Named(&[])).unwrap().prompt)
}

#[test]
fn work_in_tokens_decides_and_not_the_number_of_requests() {
    let mut bench = Bench::new(2);
    let _long = bench.send(0, &prompt("long", 64), None);
    let _short = [bench.send(1, &prompt("a", 1), None), bench.send(1, &prompt("b", 1), None)];
    assert_eq!(bench.pick(&prompt("c", 1), None).0, 1);
}

#[test]
fn a_prompt_that_is_done_weighs_no_more() {
    let mut bench = Bench::new(2);
    let mut sent = bench.send(0, &prompt("long", 64), None);
    let before = bench.expected_ttft(&prompt("c", 1));
    bench.wait(500);
    let meanwhile = bench.expected_ttft(&prompt("c", 1));
    assert!(meanwhile[0] < before[0], "it works on it: {before:?} {meanwhile:?}");
    bench.begin_answer(&mut sent, true);
    let after = bench.expected_ttft(&prompt("c", 1));
    assert!(after[0] < after[1] + 0.1 && after[0] < meanwhile[0], "{after:?}");
}

#[test]
fn one_pause_does_not_starve_an_endpoint() {
    let mut bench = Bench::new(3);
    let mut number = 0;
    let mut picked_in = |bench: &mut Bench, seconds: u64| {
        let mut picked = std::collections::BTreeSet::new();
        for _ in 0..seconds {
            bench.wait(900);
            number += 1;
            let at = bench.pick(&prompt(&number.to_string(), 1), None).0;
            let mut sent = bench.send(at, &prompt(&number.to_string(), 1), None);
            bench.wait(100);
            bench.begin_answer(&mut sent, true);
            bench.gateway.handle_end(POOL, sent);
            bench.scrape();
            picked.insert(at);
        }
        picked.len()
    };
    assert_eq!(picked_in(&mut bench, 30), 3);
    let mut paused = bench.send(1, &prompt("paused", 1), None);
    bench.wait(10_000);
    bench.begin_answer(&mut paused, true);
    bench.gateway.handle_end(POOL, paused);
    assert!(picked_in(&mut bench, 30) < 3, "it may be slow");
    assert_eq!(picked_in(&mut bench, 1500), 3, "it has had its chance");
}

#[test]
fn what_the_engine_counts_beyond_our_own_is_other_gateways() {
    let mut bench = Bench::new(2);
    let _ours = [bench.send(0, &prompt("a", 1), None), bench.send(0, &prompt("b", 1), None)];
    bench.wait(50);
    bench.pick(&prompt("c", 1), None);
    bench.wait(150);
    bench.loads[0].running = Some(2);
    bench.loads[1].running = Some(6);
    for _ in 0..8 {
        bench.wait(200);
        bench.scrape();
        bench.pick(&prompt("c", 1), None);
    }
    let others: Vec<f32> = bench.gateway.pools[0].endpoints.iter().map(|endpoint| endpoint.others.requests).collect();
    assert!(others[0] < 0.1 && (others[1] - 6.0).abs() < 0.1, "{others:?}");
}

#[test]
fn an_engine_that_starts_anew_has_no_prompt() {
    for restart in
        [|load: &mut EndpointLoad| load.started_at = Some(2), |load: &mut EndpointLoad| load.cache_clock = Some(0)]
    {
        let mut bench = Bench::new(2);
        for load in &mut bench.loads {
            (load.started_at, load.cache_clock) = (Some(1), Some(100_000));
        }
        bench.scrape();
        let long = prompt("conversation", 32);
        let _in_flight = bench.send(0, &long, None);
        let cached = bench.expected_ttft(&long);
        assert!(cached[0] < cached[1]);
        bench.wait(200);
        restart(&mut bench.loads[0]);
        bench.scrape();
        let fresh = bench.expected_ttft(&long);
        assert!(fresh[0] > fresh[1], "its request in flight is all that is left: {fresh:?}");
    }
}

#[test]
fn old_metrics_leave_what_this_gateway_knows() {
    let mut bench = Bench::new(3);
    let long = prompt("conversation", 32);
    let mut sent = bench.send(2, &long, None);
    bench.begin_answer(&mut sent, true);
    bench.gateway.handle_end(POOL, sent);
    bench.wait(60_000);
    bench.gateway.inflight.handle_refreshed(bench.now);
    assert_eq!(bench.pick(&long, None), (2, Tier::InFlight));
    let _busy = bench.send(2, &prompt("other", 256), None);
    assert_ne!(bench.pick(&long, None).0, 2, "no cache is worth that queue");
}

#[test]
fn a_hung_engine_contradicts_itself() {
    let stalled = |running: u32, answered: bool, elapsed: u64| {
        let mut bench = Bench::new(4);
        bench.wait(10);
        let sent = bench.send(0, &prompt("a", 1), None);
        if answered {
            bench.wait(1);
            let mut other = bench.send(0, &prompt("b", 1), None);
            bench.wait(1);
            bench.begin_answer(&mut other, true);
            bench.gateway.handle_end(POOL, other);
        }
        bench.wait(elapsed);
        bench.loads[0].running = Some(running);
        bench.scrape();
        bench.gateway.handle_end(POOL, sent);
        bench.gateway.pools[0].ejections.is_ejected(bench.gateway.pools[0].endpoints[0].key, bench.now)
    };
    assert!(stalled(0, false, 3_200), "it says that it is idle, and has had a request for three seconds");
    assert!(!stalled(0, false, 2_500), "it may not have noticed yet");
    assert!(!stalled(1, false, 5_000), "it works on something");
    assert!(!stalled(0, true, 5_000), "it has answered another request since");
    assert!(stalled(1, false, 20_000), "nothing has moved for long");
}

#[test]
fn adapters_are_loaded_where_there_is_room_and_stay_there() {
    let mut bench = Bench::new(3);
    for (load, running) in bench.loads.iter_mut().zip([vec!["y", "z"], vec!["y"], vec!["x"]]) {
        let running = running.into_iter().map(str::to_owned).collect();
        load.adapters = Some(Adapters::new(2, running, Vec::new()));
    }
    bench.wait(200);
    bench.scrape();
    let short = prompt("a", 1);
    assert_eq!(bench.pick(&short, Some("x")).0, 2, "it is loaded there");
    bench.loads[2].waiting = Some(60);
    bench.wait(200);
    bench.scrape();
    assert_eq!(bench.pick(&short, Some("x")).0, 1, "there is room, and nobody waits");
    // The engine names an adapter only once it runs: what was sent counts.
    let _sent = bench.send(1, &short, Some("x"));
    let state = |bench: &mut Bench, adapter: &str| {
        let request = PickRequest { adapter: Some(adapter), ..PickRequest::of(&short) };
        bench.gateway.candidates(POOL, request, short.opening, None, bench.now)[1].adapter
    };
    use crate::scheduling::AdapterState::{Full, Running};
    assert_eq!((state(&mut bench, "x"), state(&mut bench, "z")), (Some(Running), Some(Full)));
}

#[test]
fn new_conversations_go_home_where_other_gateways_are_at_work() {
    let mut alone = Bench::new(8);
    let mut among_others = Bench::new(8);
    for load in &mut among_others.loads {
        load.running = Some(10);
    }
    for _ in 0..400 {
        among_others.wait(200);
        among_others.scrape();
        among_others.pick(&prompt("warm", 1), None);
    }
    let long = prompt("conversation", 32);
    let (here, there) = (alone.expected_ttft(&long), among_others.expected_ttft(&long));
    let spread = |costs: &[f32]| costs.iter().cloned().fold(0.0, f32::max) - costs.iter().cloned().fold(9.0, f32::min);
    assert!(spread(&here) < 0.001, "{here:?}");
    assert!(spread(&there) > 0.5, "one of them is home: {there:?}");
}

#[test]
fn a_large_pool_is_sampled_and_its_cache_found() {
    let mut bench = Bench::new(1_000);
    let long = prompt("conversation", 32);
    let holders = [17, 503, 999];
    for at in holders {
        let mut sent = bench.send(at, &long, None);
        bench.begin_answer(&mut sent, false);
        bench.gateway.handle_end(POOL, sent);
        for _ in 0..20 {
            let picked = bench.pick(&long, None).0;
            assert!(holders.contains(&picked), "whoever got it last is always looked at, and not {picked}");
        }
    }
    let mut picked = std::collections::BTreeSet::new();
    let mut sent = Vec::new();
    for number in 0..500 {
        let short = prompt(&format!("{number} "), 1);
        let (at, _) = bench.pick(&short, None);
        picked.insert(at);
        sent.push(bench.send(at, &short, None));
    }
    assert!(picked.len() > 350, "500 requests went to {} endpoints", picked.len());
    sent.into_iter().for_each(|sent| bench.gateway.handle_end(POOL, sent));
}
