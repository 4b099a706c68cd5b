//! The poller's story: what is scraped, published and said.

use super::*;
use crate::config::EndpointAddress;
use crate::testing::test;

const PAGE: &[u8] = b"vllm:num_requests_waiting 3\nvllm:num_requests_running 1\nvllm:kv_cache_usage_perc 0.5\n";

struct Bench {
    poller: Poller,
    now: Timestamp,
}

impl Bench {
    fn new(endpoints: &str) -> Bench {
        let json =
            format!(r#"{{"pools": [{{"name": "a", "baseModel": "m", "endpoints": {{"static": {endpoints}}}}}]}}"#);
        let config = crate::config::parse(json.as_bytes()).unwrap();
        Bench { poller: Poller::new(&config), now: Timestamp(10_000) }
    }

    /// Lets time pass and gives the scrapes that become due.
    fn after(&mut self, millis: u64) -> Vec<Scrape> {
        self.now = Timestamp(self.now.0 + millis);
        self.poller.handle_tick(self.now);
        std::iter::from_fn(|| self.poller.poll_scrape(self.now)).collect()
    }

    fn answer(&mut self, id: ScrapeId, status: u16, page: &[u8]) {
        let answer = Answer { status, body: Some(page), ..Answer::default() };
        self.give(id, answer);
        // Wherever else the page is looked for, the answer is the same.
        while let Some(scrape) = self.poller.poll_scrape(self.now) {
            self.give(scrape.id, answer);
        }
    }

    fn give(&mut self, id: ScrapeId, answer: Answer<'_>) {
        self.poller.handle_response(id, &answer, self.now);
    }

    /// What an answer leads to at once.
    fn at_once(&mut self) -> Vec<Scrape> {
        std::iter::from_fn(|| self.poller.poll_scrape(self.now)).collect()
    }

    fn said(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.poller.poll_notice()).map(|notice| notice.what.to_string()).collect()
    }

    fn published(&mut self) -> Option<Snapshot> {
        self.poller.poll_publication(self.now).map(|publication| {
            assert_eq!(publication.key.split('#').next(), Some("ip1/load/a"));
            Snapshot::decode(&publication.blob).unwrap()
        })
    }
}

fn found(port: u16) -> Found {
    Found::at(EndpointAddress::new(([10, 0, 0, 1], port).into()))
}

#[test]
fn every_endpoint_is_scraped_side_by_side_and_again_after_the_interval() {
    let mut bench = Bench::new(r#"["10.0.0.1:1", "10.0.0.2:1"]"#);
    let scrapes = bench.after(0);
    assert_eq!(scrapes.iter().map(|scrape| scrape.address.as_str()).collect::<Vec<_>>(), ["10.0.0.1:1", "10.0.0.2:1"]);
    assert!(bench.after(100).is_empty(), "both are outstanding");
    bench.answer(scrapes[0].id, 200, PAGE);
    assert!(bench.after(50).is_empty(), "not due yet");
    assert_eq!(bench.after(50).len(), 1, "the slow one holds up nobody");
}

#[test]
fn a_snapshot_is_published_once_all_were_heard_of() {
    let mut bench = Bench::new(r#"["10.0.0.1:1", "10.0.0.2:1"]"#);
    let scrapes = bench.after(0);
    bench.answer(scrapes[0].id, 200, PAGE);
    assert_eq!(bench.published(), None);
    bench.answer(scrapes[1].id, 500, b"");
    let snapshot = bench.published().unwrap();
    assert_eq!((snapshot.endpoints[0].waiting, snapshot.endpoints[0].health), (Some(3), Health::Up));
    assert_eq!((snapshot.endpoints[1].waiting, snapshot.endpoints[1].health), (None, Health::Unknown));
    assert_eq!(bench.published(), None, "nothing changed");
}

#[test]
fn a_silent_endpoint_does_not_hold_back_the_first_snapshot_for_ever() {
    let mut bench = Bench::new(r#"["10.0.0.1:1", "10.0.0.2:1"]"#);
    let scrapes = bench.after(0);
    bench.answer(scrapes[0].id, 200, PAGE);
    assert_eq!(bench.published(), None);
    bench.after(400);
    let snapshot = bench.published().unwrap();
    assert_eq!((snapshot.endpoints[0].waiting, snapshot.endpoints[1].waiting), (Some(3), None));
}

#[test]
fn a_snapshot_waits_for_the_round_or_for_a_tick() {
    let mut bench = Bench::new(r#"["10.0.0.1:1", "10.0.0.2:1"]"#);
    for scrape in bench.after(0) {
        bench.answer(scrape.id, 200, PAGE);
    }
    assert!(bench.published().is_some());
    let scrapes = bench.after(200);
    bench.answer(scrapes[0].id, 200, PAGE);
    assert_eq!(bench.published(), None, "one more is to come");
    bench.after(50);
    assert!(bench.published().is_some(), "but it is not waited for longer than a tick");
}

#[test]
fn a_failure_keeps_the_load_and_its_time() {
    let mut bench = Bench::new(r#"["10.0.0.1:1"]"#);
    let scrape = bench.after(0).remove(0);
    bench.give(scrape.id, Answer { served: Some(b"10.0.0.1:1"), status: 200, body: Some(PAGE), ..Answer::default() });
    let good = bench.published().unwrap();
    let status = |status, body: &'static [u8]| Answer { status, body: Some(body), ..Answer::default() };
    let failures = [
        Some(status(503, b"upstream connect error")),
        Some(status(504, b"")),
        Some(Answer { served: Some(b"10.0.0.2:1"), ..status(200, PAGE) }),
        Some(status(200, b"half a page")),
        Some(status(200, b"\xff\xfe\n")),
        Some(status(404, PAGE)),
        Some(status(204, b"")),
        Some(Answer { location: Some(b"http://10.0.0.2:1/metrics"), ..status(302, PAGE) }),
        Some(Answer { body: None, ..status(200, b"") }),
        None,
    ];
    for failure in failures {
        let scrape = bench.after(200).remove(0);
        match failure {
            Some(answer) => bench.give(scrape.id, answer),
            None => bench.poller.handle_broken(scrape.id, bench.now),
        }
        let scrape = bench.after(200).remove(0);
        bench.poller.handle_not_sent(&scrape, bench.now);
        let after = bench.published().unwrap();
        assert_eq!(after.endpoints[0].waiting, Some(3));
        assert_eq!(after.endpoints[0].scraped_at, good.endpoints[0].scraped_at);
        assert!(matches!(after.endpoints[0].health, Health::Unknown | Health::Silent));
    }
}

#[test]
fn refused_twice_is_unreachable_and_one_answer_brings_it_back() {
    let mut bench = Bench::new(r#"["10.0.0.1:1"]"#);
    let mut health = Vec::new();
    for answer in [503, 503, 503, 504, 503, 200, 503] {
        let scrape = bench.after(200).remove(0);
        bench.answer(scrape.id, answer, PAGE);
        health.push(bench.published().unwrap().endpoints[0].health);
    }
    use Health::{Silent, Unknown, Unreachable, Up};
    assert_eq!(health, [Unknown, Unreachable, Unreachable, Silent, Unknown, Up, Unknown]);
}

#[test]
fn an_answer_that_never_comes_is_given_up_and_a_late_one_is_ignored() {
    let mut bench = Bench::new(r#"["10.0.0.1:1"]"#);
    let lost = bench.after(0).remove(0);
    assert!(bench.after(1_999).is_empty());
    assert!(bench.after(1).is_empty(), "given up in this tick, due in the next");
    assert_eq!(bench.after(50).len(), 1);
    bench.answer(lost.id, 200, PAGE);
    assert_eq!(bench.published().unwrap().endpoints[0].waiting, None);
}

#[test]
fn a_clock_that_goes_back_does_not_stop_polling() {
    let mut bench = Bench::new(r#"["10.0.0.1:1"]"#);
    let scrape = bench.after(0).remove(0);
    bench.answer(scrape.id, 200, PAGE);
    bench.now = Timestamp(1);
    assert_eq!(bench.after(0).len(), 1);
}

#[test]
fn discovered_endpoints_come_and_go() {
    let json = r#"{"pools": [{"name": "a", "baseModel": "m", "endpoints": {"envoyAdmin": {}}}]}"#;
    let config = crate::config::parse(json.as_bytes()).unwrap();
    let mut bench = Bench { poller: Poller::new(&config), now: Timestamp(10_000) };
    assert!(bench.after(0).is_empty() && bench.published().is_none(), "nothing is known, and nothing is said");
    let found = |ports: &[u16]| ports.iter().map(|port| found(*port)).collect::<Vec<_>>();
    let scraped = |scrapes: &[Scrape]| scrapes.iter().map(|scrape| scrape.address.clone()).collect::<Vec<_>>();
    let published = |bench: &mut Bench| {
        let snapshot = bench.published()?;
        Some(snapshot.endpoints.iter().map(|load| (load.address.clone(), load.health)).collect::<Vec<_>>())
    };
    let at = |port: u16| format!("10.0.0.1:{port}");
    bench.poller.set_endpoints(PoolId(0), &found(&[1, 2]));
    let scrapes = bench.after(50);
    assert_eq!(scraped(&scrapes), [at(1), at(2)]);
    scrapes.iter().for_each(|scrape| bench.answer(scrape.id, 200, PAGE));
    assert_eq!(published(&mut bench), Some(vec![(at(1), Health::Up), (at(2), Health::Up)]));
    let scrapes = bench.after(200);
    assert_eq!(scrapes.len(), 2);
    // One goes while its scrape is under way, and another one takes its place.
    bench.poller.set_endpoints(PoolId(0), &found(&[2, 3]));
    let late = bench.after(500);
    assert_eq!(scraped(&late), [at(3)]);
    assert_eq!(published(&mut bench), Some(vec![(at(3), Health::Unknown), (at(2), Health::Up)]), "at once");
    bench.answer(scrapes[0].id, 200, PAGE);
    bench.answer(scrapes[1].id, 200, PAGE);
    bench.answer(late[0].id, 200, PAGE);
    assert_eq!(published(&mut bench), Some(vec![(at(3), Health::Up), (at(2), Health::Up)]));
    bench.poller.set_endpoints(PoolId(0), &[]);
    bench.after(50);
    assert_eq!(published(&mut bench), Some(Vec::new()), "none is an answer too");
    // Another VM has polled: what there is must be found again before anything is said.
    bench.poller.set_endpoints(PoolId(0), &found(&[1]));
    let late = bench.after(50).remove(0);
    bench.poller.restart();
    bench.answer(late.id, 200, PAGE);
    assert!(bench.after(60_000).is_empty() && bench.published().is_none());
    bench.poller.set_endpoints(PoolId(0), &found(&[4]));
    assert_eq!(scraped(&bench.after(50)), [at(4)]);
}

#[test]
fn a_discovered_pool_is_shared_by_those_that_look_for_the_same() {
    let key = |endpoints: &str, more: &str| {
        let json = format!(r#"{{"pools": [{{"name": "a", "baseModel": "m", "endpoints": {endpoints}{more}}}]}}"#);
        crate::config::parse(json.as_bytes()).unwrap().pools[0].load_key()
    };
    let pods = |name: &str| format!(r#"{{"kubernetes": {{"namespace": "ns", "inferencePool": "{name}"}}}}"#);
    let labels = r#", "scheduling": {"filters": [{"type": "label-selector-filter", "parameters": {"matchLabels": {"t": "x"}}}]}"#;
    assert_eq!(key(r#"{"static": ["10.0.0.1:1"]}"#, ""), "ip1/load/a");
    assert_eq!(key(&pods("p"), ""), key(&pods("p"), r#", "failureMode": "FailClose""#));
    let keys = [key(&pods("p"), ""), key(&pods("q"), ""), key(&pods("p"), labels), key(r#"{"envoyAdmin": {}}"#, "")];
    assert_eq!(keys.iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "{keys:?}");
}

#[test]
fn a_pods_labels_say_what_runs_there() {
    let sglang = include_bytes!("../../tests/engines/sglang-0.5.23-busy.prom");
    for (engine, follows) in [("\"vllm\"", true), (r#"{"waiting": "vllm:num_requests_waiting"}"#, false)] {
        let json = format!(
            r#"{{"pools": [{{"name": "a", "baseModel": "m", "engine": {engine}, "endpoints": {{"envoyAdmin": {{}}}}}}]}}"#
        );
        let config = crate::config::parse(json.as_bytes()).unwrap();
        let mut bench = Bench { poller: Poller::new(&config), now: Timestamp(10_000) };
        let labels = |tier: &str| [("tier".to_owned(), tier.to_owned())].into();
        let other = Found { engine: Some(EngineName::Sglang), labels: labels("gold"), ..found(2) };
        bench.poller.set_endpoints(PoolId(0), &[found(1), other.clone()]);
        let scrapes = bench.after(50);
        bench.answer(scrapes[0].id, 200, PAGE);
        bench.answer(scrapes[1].id, 200, sglang);
        let endpoints = bench.published().unwrap().endpoints;
        assert_eq!((endpoints[0].waiting, endpoints[0].labels.len()), (Some(3), 0));
        assert_eq!((endpoints[1].running.is_some(), &endpoints[1].labels), (follows, &labels("gold")));
        bench.poller.set_endpoints(PoolId(0), &[found(1), Found { labels: labels("silver"), ..other }]);
        bench.after(50);
        assert_eq!(bench.published().unwrap().endpoints[1].labels, labels("silver"), "at once");
    }
}

fn configured(pool: &str) -> Bench {
    let json = format!(r#"{{"pools": [{{"name": "a", "baseModel": "m", {pool}}}]}}"#);
    Bench { poller: Poller::new(&crate::config::parse(json.as_bytes()).unwrap()), now: Timestamp(1_000_000) }
}

/// Runs a server that answers by its path and port for some intervals of 200 ms; gives what was asked, with the time.
fn run(
    bench: &mut Bench,
    intervals: usize,
    server: impl Fn(&Scrape) -> (u16, &'static [u8], Option<&'static [u8]>),
) -> Vec<(u64, String)> {
    let mut asked = Vec::new();
    let start = bench.now;
    for _ in 0..intervals {
        let mut open: VecDeque<Scrape> = bench.after(200).into();
        while let Some(scrape) = open.pop_front() {
            asked.push((bench.now.since(start).as_millis() as u64, format!("{}{}", scrape.address, scrape.path)));
            let (status, body, location) = server(&scrape);
            bench.give(scrape.id, Answer { status, body: Some(body), location, ..Answer::default() });
            open.extend(bench.at_once());
        }
    }
    asked
}

const TRTLLM: &[u8] =
    b"trtllm_num_requests_waiting 3.0\ntrtllm_num_requests_running 2\ntrtllm_kv_cache_utilization 0.5\n";
const ITERATIONS: &[u8] = b"[{\"iter\": 5, \"numActiveRequests\": 2, \"numQueuedRequests\": 3}]";
const NOT_FOUND: &[u8] = b"{\"detail\":\"Not Found\"}";

fn trtllm_serve(scrape: &Scrape) -> (u16, &'static [u8], Option<&'static [u8]>) {
    match scrape.path.as_str() {
        "/prometheus/metrics" => (200, TRTLLM, None),
        "/metrics" => (200, ITERATIONS, None),
        _ => (404, NOT_FOUND, None),
    }
}

#[test]
fn the_path_is_the_engines_and_is_asked_for_once_an_interval() {
    let mut bench = configured(r#""engine": "trtllm-serve", "endpoints": {"static": ["10.0.0.1:1"]}"#);
    let asked = run(&mut bench, 50, trtllm_serve);
    assert_eq!(asked.len(), 50);
    assert!(asked.iter().all(|(_, at)| at == "10.0.0.1:1/prometheus/metrics"), "{asked:?}");
    assert_eq!(bench.published().unwrap().endpoints[0].waiting, Some(3));
    assert_eq!(bench.said(), ["metrics are read: page=/prometheus/metrics"]);
}

#[test]
fn in_a_mixed_pool_each_endpoint_has_its_path() {
    let json = r#""endpoints": {"static": ["10.0.0.1:1", {"address": "10.0.0.2:1", "labels": {"llm-d.ai/engine-type": "trtllm-serve"}}]}"#;
    let mut bench = configured(json);
    let asked = run(&mut bench, 3, |scrape| match scrape.address.as_str() {
        "10.0.0.1:1" if scrape.path == "/metrics" => (200, PAGE, None),
        "10.0.0.1:1" => (404, NOT_FOUND, None),
        _ => trtllm_serve(scrape),
    });
    assert_eq!(asked.len(), 6, "{asked:?}");
    let loads = bench.published().unwrap().endpoints;
    assert_eq!((loads[0].health, loads[1].health), (Health::Up, Health::Up));
    // A server of another kind behind the same engine's name: its page is found at the other path, with one more scrape.
    let mut bench = configured(r#""endpoints": {"static": ["10.0.0.1:1"]}"#);
    let asked = run(&mut bench, 20, |scrape| match scrape.path.as_str() {
        "/prometheus/metrics" => (200, PAGE, None),
        _ => (200, ITERATIONS, None),
    });
    assert_eq!(asked.len(), 21);
    assert_eq!((asked[0].0, asked[1].0), (200, 200), "at once");
    assert!(asked[1..].iter().all(|(_, at)| at.ends_with("/prometheus/metrics")));
    assert_eq!(bench.said(), ["metrics are read: page=/prometheus/metrics"]);
}

#[test]
fn without_a_page_there_is_one_scrape_an_interval_and_one_notice_that_says_all() {
    let mut bench = configured(r#""engine": "trtllm-serve", "endpoints": {"static": ["10.0.0.1:1"]}"#);
    let asked = run(&mut bench, 100, |scrape| match scrape.path.as_str() {
        "/metrics" => (200, ITERATIONS, None),
        _ => (404, NOT_FOUND, None),
    });
    assert_eq!(asked.len(), 101);
    assert_eq!(
        bench.said(),
        [
            "metrics are not read: page=/prometheus/metrics it answered 404: are its metrics on, and at this path and port? (metricsPath, metricsPort); page=/metrics the page is JSON, and not Prometheus text"
        ]
    );
    assert_eq!(bench.published().unwrap().endpoints[0].health, Health::Unknown);
    // With a path of the user's own no other is tried.
    let mut bench = configured(r#""metricsPath": "/m", "endpoints": {"static": ["10.0.0.1:1"]}"#);
    let asked = run(&mut bench, 30, |_| (404, NOT_FOUND, None));
    assert!(asked.len() == 30 && asked.iter().all(|(_, at)| at == "10.0.0.1:1/m"));
}

#[test]
fn an_engine_that_starts_anew_does_not_move_its_page() {
    let mut bench = configured(r#""endpoints": {"static": ["10.0.0.1:1"]}"#);
    run(&mut bench, 10, |_| (200, PAGE, None));
    for _ in 0..20 {
        run(&mut bench, 8, |_| (404, NOT_FOUND, None));
        let asked = run(&mut bench, 2, |_| (200, PAGE, None));
        assert!(asked.iter().all(|(_, at)| at == "10.0.0.1:1/metrics"), "{asked:?}");
    }
    assert_eq!(bench.said().len(), 2, "trouble that lasts, and no end of it");
}

#[test]
fn a_port_of_its_own_has_its_cluster_and_closes_no_endpoint() {
    let pool = r#""engine": "triton", "metricsPort": 8002, "endpoints": {"static": ["10.0.0.1:8000", {"address": "10.0.0.1:8010", "metricsPort": 8012}, "10.0.0.2:8002"]}"#;
    let mut bench = configured(pool);
    let scrapes = bench.after(0);
    let to: Vec<(&str, &str)> = scrapes.iter().map(|s| (s.cluster.as_str(), s.address.as_str())).collect();
    assert_eq!(
        to,
        [("inference-metrics", "10.0.0.1:8002"), ("inference-metrics", "10.0.0.1:8012"), ("a", "10.0.0.2:8002")]
    );
    let page = b"nv_inference_pending_request_count{model=\"a\",version=\"1\"} 3\n";
    let served = |served| Answer { status: 200, served: Some(served), body: Some(page), ..Answer::default() };
    bench.give(scrapes[0].id, served(b"10.0.0.1:8002"));
    bench.give(scrapes[1].id, served(b"10.0.0.1:8012"));
    bench.give(scrapes[2].id, served(b"10.0.0.9:1"));
    let loads = bench.published().unwrap().endpoints;
    assert_eq!((loads[0].address.as_str(), loads[0].waiting), ("10.0.0.1:8000", Some(3)));
    assert_eq!(loads[1].waiting, Some(3));
    // Nobody listens there, or nobody answers: of the port that serves it says nothing.
    for status in [503, 504] {
        run(&mut bench, 40, |_| (status, b"", None));
        let loads = bench.published().unwrap().endpoints;
        let health = if status == 503 { Health::Unreachable } else { Health::Silent };
        assert_eq!([loads[0].health, loads[1].health, loads[2].health], [Health::Unknown, Health::Unknown, health]);
    }
    let mut bench = configured(&pool.replacen("8002,", "8002, \"metricsCluster\": \"side\",", 1));
    let scrapes = bench.after(0);
    assert_eq!(scrapes[0].cluster, "side");
    for scrape in &scrapes[..2] {
        bench.poller.handle_not_sent(scrape, bench.now);
        while let Some(scrape) = bench.poller.poll_scrape(bench.now) {
            bench.poller.handle_not_sent(&scrape, bench.now);
        }
    }
    assert_eq!(bench.after(10_000).len(), 2, "and the third is given up");
}

#[test]
fn a_pods_annotations_are_tried_where_the_serving_port_has_no_page() {
    let mut bench = configured(r#""engine": "triton", "endpoints": {"envoyAdmin": {}}"#);
    let page = Hint { port: Some(8002), path: None };
    let annotated = Found { page: page.clone(), ..found(8000) };
    bench.poller.set_endpoints(PoolId(0), std::slice::from_ref(&annotated));
    let triton = |scrape: &Scrape| match scrape.address.as_str() {
        "10.0.0.1:8002" => (200, &b"nv_inference_pending_request_count{model=\"a\"} 3\n"[..], None),
        "10.0.0.1:9002" => (200, &b"nv_inference_pending_request_count{model=\"a\"} 4\n"[..], None),
        _ => (400, &b""[..], None),
    };
    let asked = run(&mut bench, 10, triton);
    assert_eq!(asked.len(), 11);
    assert_eq!((asked[0].1.as_str(), asked[1].1.as_str()), ("10.0.0.1:8000/metrics", "10.0.0.1:8002/metrics"));
    assert_eq!(bench.published().unwrap().endpoints[0].waiting, Some(3));
    assert_eq!(bench.said(), ["metrics are read: page=:8002/metrics"]);
    // It is read there as long as the annotation says so, also by an answer that was under way.
    let scrape = bench.after(200).remove(0);
    let moved = Found { page: Hint { port: Some(9002), ..page }, ..annotated };
    bench.poller.set_endpoints(PoolId(0), &[moved]);
    bench.answer(scrape.id, 200, b"nv_inference_pending_request_count 9\n");
    run(&mut bench, 3, triton);
    assert_eq!(bench.published().unwrap().endpoints[0].waiting, Some(4));
    // A page on the port that serves is the endpoint's own: a pod with several of them has one annotation.
    bench.poller.set_endpoints(
        PoolId(0),
        &[Found { page: Hint { port: Some(15020), path: Some("/stats/prometheus".to_owned()) }, ..found(9002) }],
    );
    let asked = run(&mut bench, 5, triton);
    assert!(asked.iter().all(|(_, at)| at == "10.0.0.1:9002/metrics"), "{asked:?}");
}

#[test]
fn redirects_within_the_endpoint_cost_one_scrape_and_no_more() {
    for status in [301, 302, 303, 307, 308] {
        let mut bench = Bench::new(r#"["10.0.0.1:1"]"#);
        let asked = run(&mut bench, 20, |scrape| match scrape.path.as_str() {
            "/metrics" => (status, b"", Some(b"http://10.0.0.1:1/metrics/")),
            _ => (200, PAGE, None),
        });
        assert_eq!(asked.len(), 21, "{asked:?}");
        assert_eq!(bench.published().unwrap().endpoints[0].waiting, Some(3));
        // The server is set up anew, and has it at the old path again.
        let asked = run(&mut bench, 5, |scrape| match scrape.path.as_str() {
            "/metrics" => (200, PAGE, None),
            _ => (404, NOT_FOUND, None),
        });
        assert_eq!(asked[1].1, "10.0.0.1:1/metrics");
        assert_eq!(bench.said(), ["metrics are read: page=/metrics/"]);
    }
    let refused: [(&[u8], &str); 4] = [
        (
            b"https://10.0.0.1/metrics",
            "it redirects to another host or port, which is not followed: https://10.0.0.1/metrics",
        ),
        (b"http://169.254.169.254/latest\xc2\x85", "it redirects, and does not say where to"),
        (b"/metrics", "it redirects in a circle, or wants https"),
        (b"", "it redirects, and does not say where to"),
    ];
    for (location, said) in refused {
        let mut bench = configured(r#""metricsPath": "/metrics", "endpoints": {"static": ["10.0.0.1:1"]}"#);
        let asked = run(&mut bench, 100, |_| (307, b"", Some(location)));
        assert_eq!(asked.len(), 100);
        assert_eq!(bench.said(), [format!("metrics are not read: page=/metrics {said}")]);
    }
    // From one to the next, without an end.
    let mut bench = configured(r#""metricsPath": "/0", "endpoints": {"static": ["10.0.0.1:1"]}"#);
    let asked = run(&mut bench, 50, |scrape| match scrape.path.as_str() {
        "/0" => (302, b"", Some(b"/1")),
        _ => (302, b"", Some(if scrape.path == "/1" { b"/2" } else { b"/1" })),
    });
    assert_eq!(asked.len(), 50 * 4, "{asked:?}");
}

#[test]
fn a_pages_end_and_packing_are_the_readers_business() {
    let open: &[u8] = b"vllm:num_requests_waiting 3\nvllm:num_requests_running 1";
    for (is_whole, waiting) in [(true, Some(3)), (false, None)] {
        let mut bench = configured(r#""metricsPath": "/m", "endpoints": {"static": ["10.0.0.1:1"]}"#);
        let scrape = bench.after(0).remove(0);
        bench.give(scrape.id, Answer { status: 200, is_whole, body: Some(open), ..Answer::default() });
        bench.after(1_000);
        assert_eq!(bench.published().unwrap().endpoints[0].waiting, waiting);
    }
}

#[test]
fn a_frozen_server_is_said_once_and_so_is_its_end() {
    let mut bench = Bench::new(r#"["10.0.0.1:1"]"#);
    run(&mut bench, 10, |_| (200, PAGE, None));
    for round in 0..60 {
        run(&mut bench, 1 + round % 4, |_| (503, b"", None));
        run(&mut bench, 1 + round % 3, |_| (504, b"", None));
    }
    run(&mut bench, 40, |_| (200, PAGE, None));
    assert_eq!(
        bench.said(),
        [
            "metrics are read: page=/metrics",
            "metrics are not read: page=/metrics it refuses connections or answers 503",
            "metrics are read: page=/metrics"
        ]
    );
}

#[test]
fn a_port_that_breaks_off_scrapes_keeps_no_annotation_from_being_tried_and_a_dead_pod_is_unreachable() {
    let mut bench = configured(r#""engine": "triton", "endpoints": {"envoyAdmin": {}}"#);
    let annotated = Found { page: Hint { port: Some(8002), path: None }, ..found(8001) };
    bench.poller.set_endpoints(PoolId(0), &[annotated]);
    // The port that serves speaks gRPC alone, for which Envoy says 503.
    let grpc = |scrape: &Scrape| match scrape.address.as_str() {
        "10.0.0.1:8002" => (200, &b"nv_inference_pending_request_count{model=\"a\"} 3\n"[..], None),
        _ => (503, &b""[..], None),
    };
    let asked = run(&mut bench, 10, grpc);
    assert_eq!(asked.len(), 11, "{asked:?}");
    let load = bench.published().unwrap().endpoints.remove(0);
    assert_eq!((load.health, load.waiting), (Health::Up, Some(3)));
    // Its metrics end, and then the pod: both ports refuse.
    run(&mut bench, 2, |_| (404, b"", None));
    assert_eq!(bench.published().unwrap().endpoints[0].health, Health::Unknown);
    let asked = run(&mut bench, 30, |_| (503, b"", None));
    assert_eq!(asked.len(), 30);
    assert_eq!(bench.published().unwrap().endpoints[0].health, Health::Unreachable);
    run(&mut bench, 5, grpc);
    assert_eq!(bench.published().unwrap().endpoints[0].health, Health::Up);
}
