//! The world, on workloads small enough to follow by hand.

use simulator::engine::EngineConfig;

use super::*;
use crate::policies;
use crate::policy::{Arrival, WORKERS};
use crate::workload::{Fault, FaultKind, Script};

/// Always names these endpoints.
struct Fixed(Vec<usize>);

impl Policy for Fixed {
    fn pick(&mut self, _now: Time, _request: &Arrival<'_>) -> Vec<usize> {
        self.0.clone()
    }
}

fn conversations(random: &mut Random) -> Vec<Conversation> {
    let mut script = Script::new(None);
    script.turn(random, 100, 3, Duration::ZERO);
    script.turn(random, 57, 1, Duration::from_secs(1));
    vec![script.finish()]
}

fn workload(faults: Vec<Fault>) -> Workload {
    Workload {
        name: "test",
        about: "",
        endpoints: vec![EngineConfig::default(); 2],
        gateways: 1,
        demand: crate::workload::Demand::Clients([1, 1, 1]),
        faults,
        conversations,
        warm_up: 0,
        measured: 1,
    }
}

fn run_at(at: Time, faults: Vec<Fault>, policy: Entry) -> Measured {
    let workload = workload(faults);
    let conversations = conversations(&mut Random::new(1));
    let demand = Demand::At(vec![at]);
    run(&Plan {
        workload: &workload,
        conversations: &conversations,
        demand: &demand,
        policy: &policy,
        workers: WORKERS,
        answers: Answers::Cached,
        seed: 1,
    })
}

fn fixed(build: fn(&Gateway) -> Box<dyn Policy>) -> Entry {
    Entry { name: "fixed", build }
}

fn fault(kind: FaultKind, from: u64, lasts: u64) -> Vec<Fault> {
    vec![Fault { kind, endpoint: 0, from: Duration::from_secs(from), lasts: Duration::from_secs(lasts) }]
}

fn micros(measured: &Measured) -> Vec<(u128, u128, bool)> {
    let row = |sample: &Sample| (sample.first_token.as_micros(), sample.end_to_end.as_micros(), sample.failed);
    measured.samples.iter().map(row).collect()
}

#[test]
fn a_request_takes_two_hops_and_its_engine_s_time() {
    let measured = run_at(Time::ZERO, Vec::new(), fixed(|_| Box::new(Fixed(vec![0]))));
    // 5 ms + 100 * 0.1 ms, then two tokens of 10 ms. The second turn has 160 tokens. Of the first turn's 103, the last has
    // no entry, so 6 blocks are there and 64 tokens are not.
    assert_eq!(micros(&measured), [(16_000, 36_000, false), (12_400, 12_400, false)]);
    assert_eq!(measured.work[0].0.prefix_cache_hits, 96);
    assert_eq!(measured.work[1].0.finished, 0);
}

#[test]
fn engines_forget_answers_when_told_to() {
    let mut script = Script::new(None);
    script.turn(&mut Random::new(1), 100, 30, Duration::ZERO);
    script.turn(&mut Random::new(2), 57, 1, Duration::from_secs(1));
    let (workload, conversations) = (workload(Vec::new()), [script.finish()]);
    let hits = |answers| {
        let measured = run(&Plan {
            workload: &workload,
            conversations: &conversations,
            demand: &Demand::Clients(1),
            policy: &fixed(|_| Box::new(Fixed(vec![0]))),
            workers: WORKERS,
            answers,
            seed: 1,
        });
        measured.work[0].0.prefix_cache_hits
    };
    // 129 tokens with their entries are 8 blocks; the prompt alone has 6.
    assert_eq!((hits(Answers::Cached), hits(Answers::Forgotten)), (128, 96));
}

#[test]
fn what_fails_fast_goes_to_the_next_endpoint() {
    let measured = run_at(Time::ZERO, fault(FaultKind::FailsFast, 0, 60), fixed(|_| Box::new(Fixed(vec![0, 1]))));
    // Half a millisecond there, 2 ms to fail, half a millisecond back.
    assert_eq!(micros(&measured), [(19_000, 39_000, false), (15_400, 15_400, false)]);
}

#[test]
fn three_attempts_are_all() {
    let measured = run_at(Time::ZERO, fault(FaultKind::FailsFast, 0, 60), fixed(|_| Box::new(Fixed(vec![0]))));
    assert_eq!(micros(&measured), [(30_000_000, 30_000_000, true); 2]);
}

#[test]
fn a_hung_endpoint_goes_on_where_it_was() {
    // The fault begins at 1 s; the request arrives 10 ms before and is in its prefill.
    let at = Duration::from_millis(990);
    let measured = run_at(at, fault(FaultKind::Hangs, 1, 5), fixed(|_| Box::new(Fixed(vec![0]))));
    assert_eq!(micros(&measured), [(5_016_000, 5_036_000, false), (12_400, 12_400, false)]);
}

#[test]
fn a_client_has_patience_for_thirty_seconds() {
    let measured = run_at(Time::ZERO, fault(FaultKind::Hangs, 0, 35), fixed(|_| Box::new(Fixed(vec![0]))));
    // The second turn comes at 31 s, finds nothing cached and waits until 35 s: half a millisecond is in the waiting.
    assert_eq!(micros(&measured), [(30_000_000, 30_000_000, true), (4_021_500, 4_021_500, false)]);
}

#[test]
fn a_restart_breaks_streams_and_empties_the_cache() {
    // At 1 s the first token of the request is there, but not the last.
    let at = Duration::from_millis(980);
    let measured = run_at(at, fault(FaultKind::Restarts, 1, 10), fixed(|_| Box::new(Fixed(vec![0, 1]))));
    // The second turn is refused at the first endpoint: 3 ms, then 5 ms + 160 * 0.1 ms at the other one.
    assert_eq!(micros(&measured), [(30_000_000, 30_000_000, true), (25_000, 25_000, false)]);
    // A request without a token is tried again.
    let at = Duration::from_millis(990);
    let measured = run_at(at, fault(FaultKind::Restarts, 1, 10), fixed(|_| Box::new(Fixed(vec![0, 1]))));
    assert_eq!(micros(&measured)[0], (10_500 + 16_000, 46_500, false));
}

#[test]
fn pages_show_what_failing_servers_show() {
    let mut site = Site::new(EngineConfig::default());
    let conversations = conversations(&mut Random::new(1));
    let request = exchange::engine_request(0, &conversations).unwrap();
    assert_eq!(site.handle_request(Time::ZERO, request), Delivery::Accepted);
    let gauges = |site: &Site| site.page().map(|page| (page.running, page.prompt_tokens, page.started_at));
    assert_eq!(gauges(&site), Some((1, 100, Time::ZERO)));
    for kind in [FaultKind::FailsFast, FaultKind::Hangs] {
        assert!(site.handle_fault(Time::ZERO, Some(kind)).is_empty());
        assert_eq!(gauges(&site), Some((0, 100, Time::ZERO)), "gauges are zero, totals stay");
        site.handle_fault(Time::ZERO, None);
        assert_eq!(gauges(&site), Some((1, 100, Time::ZERO)));
    }
    let broken = site.handle_fault(Duration::from_secs(1), Some(FaultKind::Restarts));
    assert_eq!((broken, gauges(&site)), (vec![0], None));
    site.handle_fault(Duration::from_secs(11), None);
    assert_eq!(gauges(&site), Some((0, 0, Duration::from_secs(11))));
    assert_eq!(site.totals().prompt_tokens, 100, "the report counts all processes");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let workload = Workload { warm_up: 5, measured: 20, ..crate::workloads::all().remove(0) };
    let conversations = (workload.conversations)(&mut Random::new(3));
    for policy in policies::all() {
        let once = || {
            let demand = Demand::Clients(10);
            run(&Plan {
                workload: &workload,
                conversations: &conversations,
                demand: &demand,
                policy: &policy,
                workers: WORKERS,
                answers: Answers::Cached,
                seed: 3,
            })
        };
        let (first, second) = (once(), once());
        assert!(first.samples == second.samples, "{} is not deterministic", policy.name);
        assert!(first.samples.len() > 50 && first.samples.iter().all(|sample| !sample.failed), "{}", policy.name);
    }
}
