//! Pools whose endpoints come and go, and the labels that tell endpoints apart.

use super::*;
use crate::testing::test;

#[test]
fn labels_that_are_written_down_count() {
    let json = r#"{"pools": [{"name": "p", "baseModel": "m",
        "endpoints": {"static": [{"address": "10.0.0.1:1", "labels": {"llm-d.ai/context-length-range": "0-1000"}}, "10.0.0.2:1",
            {"address": "10.0.0.3:1", "labels": {"tier": "gold", "llm-d.ai/context-length-range": "1001-100000"}}]},
        "scheduling": {"scorers": [{"type": "context-length-aware"}]}}]}"#;
    let best = |json: &str, blocks: usize| {
        let mut gateway = Gateway::new(crate::config::parse(json.as_bytes()).unwrap(), 1);
        let prompt = prompt("a", blocks);
        match gateway.pick(POOL, PickRequest::of(&prompt), Timestamp(START)).decision {
            Decision::Picked { endpoints, .. } => endpoints,
            Decision::NoOpinion(_) => Vec::new(),
        }
    };
    assert_eq!((best(json, 1)[0], best(json, 16)[0]), (0, 2));
    let filters =
        r#""filters": [{"type": "label-selector-filter", "parameters": {"matchLabels": {"tier": "gold"}}}], "scorers""#;
    assert_eq!(best(&json.replace(r#""scorers""#, filters), 1), [2]);
}

#[test]
fn labels_of_discovered_endpoints_count() {
    let json = r#"{"pools": [{"name": "p", "baseModel": "m",
        "endpoints": {"kubernetes": {"namespace": "ns", "inferencePool": "p"}},
        "scheduling": {"filters": [{"type": "label-selector-filter", "parameters": {"matchLabels": {"tier": "gold"}}}]}}]}"#;
    let gateway = Gateway::new(crate::config::parse(json.as_bytes()).unwrap(), 1);
    let mut bench = Bench { gateway, now: Timestamp(START), version: 0, loads: Vec::new() };
    let set = |bench: &mut Bench, tiers: &[&str]| {
        bench.wait(100);
        let load = |(index, tier): (usize, &&str)| EndpointLoad {
            address: format!("10.0.0.1:{index}"),
            labels: [("tier".to_owned(), (*tier).to_owned())].into(),
            health: Health::Up,
            ..EndpointLoad::default()
        };
        bench.loads = tiers.iter().enumerate().map(load).collect();
        bench.scrape();
    };
    let gold = |bench: &mut Bench| match bench.gateway.pick(POOL, PickRequest::of(&prompt("a", 1)), bench.now).decision
    {
        Decision::Picked { endpoints, .. } => endpoints,
        Decision::NoOpinion(_) => Vec::new(),
    };
    set(&mut bench, &["gold", "silver"]);
    assert_eq!(gold(&mut bench), [0]);
    set(&mut bench, &["silver", "gold"]);
    assert_eq!(gold(&mut bench), [1], "a label may change");
    set(&mut bench, &["silver", "silver"]);
    assert_eq!(gold(&mut bench), [0usize; 0]);
}

#[test]
fn discovered_endpoints_follow_the_snapshot() {
    let mut bench = discovered();
    let short = prompt("a", 1);
    let decide = |bench: &mut Bench| {
        let picked = bench.gateway.pick(POOL, PickRequest::of(&prompt("a", 1)), bench.now).decision;
        match picked {
            Decision::Picked { endpoints, .. } => {
                let mut addresses: Vec<String> =
                    endpoints.iter().map(|at| bench.gateway.address(POOL, *at).unwrap().to_owned()).collect();
                addresses.sort();
                addresses
            }
            Decision::NoOpinion(_) => Vec::new(),
        }
    };
    assert_eq!(decide(&mut bench), [""; 0], "nothing is known");
    let load = |port: u16| EndpointLoad {
        address: format!("10.0.0.1:{port}"),
        health: Health::Up,
        waiting: Some(0),
        running: Some(0),
        ..EndpointLoad::default()
    };
    let set = |bench: &mut Bench, ports: &[u16]| {
        bench.wait(100);
        bench.loads = ports.iter().map(|port| load(*port)).collect();
        bench.scrape();
    };
    set(&mut bench, &[1, 2]);
    assert_eq!(decide(&mut bench), ["10.0.0.1:1", "10.0.0.1:2"]);
    let sent = bench.send(0, &short, None);
    set(&mut bench, &[2, 3]);
    assert_eq!(decide(&mut bench), ["10.0.0.1:2", "10.0.0.1:3"], "who is gone gets nothing new");
    assert_eq!(bench.gateway.endpoint_at(POOL, b"10.0.0.1:1"), Some(0), "and its answers are still its own");
    bench.gateway.handle_end(POOL, sent);
    set(&mut bench, &[1, 2, 3]);
    assert_eq!(decide(&mut bench).len(), 3, "it is back, in its place");
    assert_eq!(bench.gateway.pools[0].endpoints.len(), 3);
    // Places are taken again after a while, and never more than there are.
    for round in 1..=20u16 {
        bench.wait(300_000);
        let ports: Vec<u16> = (0..200).map(|port| round * 1000 + port).collect();
        set(&mut bench, &ports);
        assert_eq!(decide(&mut bench).len(), 3);
    }
    let places = bench.gateway.pools[0].endpoints.len();
    assert!(places <= 403 && bench.gateway.pools[0].positions.len() == places, "{places}");
    let present = bench.gateway.pools[0].endpoints.iter().filter(|endpoint| endpoint.gone_at.is_none()).count();
    assert_eq!(present, 200);
}

/// A gateway before a pool that is discovered.
fn discovered() -> Bench {
    let json = r#"{"pools": [{"name": "p", "baseModel": "m", "endpoints": {"envoyAdmin": {}}}]}"#;
    let gateway = Gateway::new(crate::config::parse(json.as_bytes()).unwrap(), 1);
    Bench { gateway, now: Timestamp(START), version: 0, loads: Vec::new() }
}

/// Makes the pool's endpoints so many, each with so many requests of other gateways.
fn discover(bench: &mut Bench, count: usize, others: u32) {
    let load = |at: usize| EndpointLoad {
        address: format!("10.0.0.{}:{}", at / 60_000, at % 60_000 + 1),
        health: Health::Up,
        waiting: Some(0),
        running: Some(others),
        ..EndpointLoad::default()
    };
    bench.wait(100);
    bench.loads = (0..count).map(load).collect();
    bench.scrape();
}

#[test]
fn a_pool_that_has_shrunk_is_picked_from_all_the_same() {
    let mut bench = discovered();
    for (most, left) in [(1000, 10), (300, 1), (700, 260)] {
        discover(&mut bench, most, 0);
        discover(&mut bench, left, 0);
        for number in 0..200 {
            let prompt = prompt(&number.to_string(), 1);
            let decision = bench.gateway.pick(POOL, PickRequest::of(&prompt), bench.now).decision;
            let Decision::Picked { endpoints, .. } = decision else { panic!("{most} to {left}: nobody is picked") };
            let view = &bench.gateway.pools[0];
            assert!(endpoints.iter().all(|at| view.endpoints[*at].gone_at.is_none()), "{most} to {left}");
        }
    }
}

#[test]
fn what_an_endpoint_that_is_gone_had_says_nothing_of_other_gateways() {
    let mut bench = discovered();
    let look = |bench: &mut Bench, count, others| {
        for _ in 0..1500 {
            discover(bench, count, others);
            bench.pick(&prompt("a", 1), None);
        }
        bench.gateway.pools[0].others_share
    };
    assert!(look(&mut bench, 10, 50) > 0.9);
    let _own = bench.send(0, &prompt("a", 1), None);
    assert!(look(&mut bench, 2, 0) < 0.1);
}
