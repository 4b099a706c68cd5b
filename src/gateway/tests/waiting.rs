//! Who may go now: saturation, and requests that wait for room.

use super::*;
use crate::gateway::{Admission, Applicant};
use crate::testing::test;

fn bench(flow_control: &str, endpoints: usize) -> Bench {
    let addresses: Vec<String> = (1..=endpoints).map(|index| format!("10.0.0.{index}:1")).collect();
    let json = format!(
        r#"{{"pools": [{{"name": "p", "baseModel": "m", "endpoints": {{"static": {addresses:?}}} {flow_control}}}]}}"#
    );
    let gateway = Gateway::new(crate::config::parse(json.as_bytes()).unwrap(), 1);
    let load = |address| EndpointLoad {
        address,
        health: Health::Up,
        waiting: Some(0),
        running: Some(0),
        kv_cache_usage: Some(0.0),
        ..EndpointLoad::default()
    };
    let mut bench =
        Bench { gateway, now: Timestamp(START), version: 0, loads: addresses.into_iter().map(load).collect() };
    bench.scrape();
    bench
}

fn admit(bench: &mut Bench, priority: i32) -> Admission {
    let applicant = Applicant { priority, flow: 0, bytes: 10, ttl: None, slo_ttft: None };
    bench.gateway.admit(POOL, &applicant, bench.now)
}

/// Lets everybody go who may, each of them to the first endpoint.
fn release(bench: &mut Bench) -> usize {
    let mut released = 0;
    while bench.gateway.poll_release(POOL, bench.now).is_some() {
        released += 1;
        // Its end doesn't matter here.
        let _in_flight = bench.send(0, &prompt("a", 1), None);
    }
    released
}

fn set(bench: &mut Bench, waiting: u32, running: u32) {
    bench.wait(200);
    for load in &mut bench.loads {
        (load.waiting, load.running) = (Some(waiting), Some(running));
    }
    bench.scrape();
}

#[test]
fn what_others_keep_waiting_holds_nobody_back_below_the_ceiling() {
    let mut bench = bench(r#", "flowControl": {}"#, 1);
    set(&mut bench, 10, 16);
    assert!(matches!(admit(&mut bench, 0), Admission::Wait(_)));
    set(&mut bench, 1, 16);
    assert_eq!(bench.gateway.saturation(POOL, bench.now), 0.2);
    assert_eq!(release(&mut bench), 1);
}

#[test]
fn a_pool_of_which_nothing_is_known_any_more_holds_nobody_back() {
    for health in [Health::Silent, Health::Unreachable] {
        let mut bench = bench(r#", "flowControl": {}"#, 2);
        set(&mut bench, 10, 16);
        assert!(matches!(admit(&mut bench, 0), Admission::Wait(_)));
        bench.loads[0].health = Health::Unreachable;
        bench.loads[1].health = health;
        bench.wait(3_000);
        bench.publish();
        bench.wait(5_000);
        assert_eq!(bench.gateway.poll_refusal(POOL, bench.now), None);
        assert_eq!(release(&mut bench), 1, "{health:?}: the failure mode decides then");
        assert_eq!(admit(&mut bench, 0), Admission::Go);
    }
}

#[test]
fn what_was_sent_since_the_scrape_counts_whether_or_not_there_were_picks_before() {
    let mut bench = bench("", 1);
    let mut gone = 0;
    for _ in 0..500 {
        if admit(&mut bench, -1) == Admission::Go {
            gone += 1;
            let _in_flight = bench.send(0, &prompt("a", 1), None);
        }
    }
    assert!((16..=24).contains(&gone), "sixteen fit and some wait, until the next scrape says more: {gone}");
}

#[test]
fn a_moments_room_lets_in_as_many_as_fit() {
    let mut bench = bench(r#", "saturation": {"maxConcurrency": 8}, "flowControl": {}"#, 2);
    let mut open: Vec<InFlight> = (0..16).map(|number| bench.send(number % 2, &prompt("a", 1), None)).collect();
    for request in &mut open {
        bench.begin_answer(request, false);
    }
    let waits = (0..10).filter(|_| matches!(admit(&mut bench, 0), Admission::Wait(_))).count();
    assert_eq!(waits, 10);
    assert_eq!(release(&mut bench), 0);
    for request in open.drain(..3) {
        bench.gateway.handle_end(POOL, request);
    }
    let mut released = 0;
    // Prompts go one after the other; the places that are free are three.
    for _ in 0..50 {
        bench.wait(30);
        released += release(&mut bench);
    }
    assert_eq!(released, 3);
}

#[test]
fn an_idle_engines_cache_saturates_nobody() {
    let mut bench = bench("", 1);
    bench.loads[0].kv_cache_usage = Some(0.97);
    set(&mut bench, 0, 0);
    assert_eq!(bench.gateway.saturation(POOL, bench.now), 0.0);
    set(&mut bench, 0, 1);
    assert!(bench.gateway.saturation(POOL, bench.now) > 1.0);
}

#[test]
fn a_higher_priority_on_another_worker_goes_first() {
    let mut bench = bench(r#", "flowControl": {}"#, 1);
    set(&mut bench, 10, 16);
    assert!(matches!(admit(&mut bench, 0), Admission::Wait(_)));
    let mut other = Gateway::new(
        crate::config::parse(
            br#"{"pools": [{"name": "p", "baseModel": "m", "endpoints": {"static": ["10.0.0.1:1"]}, "flowControl": {}}]}"#,
        )
        .unwrap(),
        2,
    );
    let snapshot = Snapshot { generation: 1, published_at: bench.now, endpoints: bench.loads.clone() };
    other.handle_read(Read::Load(POOL), Some((&snapshot.encode(), 1)), bench.now);
    let critical = Applicant { priority: 5, flow: 0, bytes: 10, ttl: None, slo_ttft: None };
    assert!(matches!(other.admit(POOL, &critical, bench.now), Admission::Wait(_)));
    let blob =
        std::iter::from_fn(|| other.poll_write(bench.now)).find(|write| write.what == Read::Queue(POOL)).unwrap().blob;
    bench.gateway.handle_read(Read::Queue(POOL), Some((&blob, 1)), bench.now);
    set(&mut bench, 0, 1);
    assert_eq!(release(&mut bench), 0, "the other worker's goes first");
    bench.wait(4_000);
    bench.scrape();
    assert_eq!(release(&mut bench), 1, "unless that worker is gone");
}
