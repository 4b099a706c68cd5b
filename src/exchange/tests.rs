//! The exchange against a small gateway: two pools, an alias, and a load that the tests set.

use super::*;
use crate::gateway::Read;
use crate::load::{EndpointLoad, Health, Snapshot};
use crate::testing::test;

mod answers;
mod places;
mod refusing;
mod requests;
mod trust;

const NOW: Timestamp = Timestamp(1_000_000);

fn gateway(failure_mode: &str) -> Gateway {
    let json = format!(
        r#"{{
        "maxBodyBytes": 1000,
        "trustedHeaders": ["x-gateway-destination-endpoint-subset"],
        "pools": [
            {{"name": "qwen", "baseModel": "Qwen", "adapters": ["food"], "failureMode": "{failure_mode}",
              "endpoints": {{"static": ["10.0.0.1:1", "10.0.0.2:1"]}}}},
            {{"name": "deep", "baseModel": "Deep", "cluster": "deep-cluster", "endpoints": {{"static": ["10.0.0.3:1"]}}}}
        ],
        "models": [{{"modelName": "alias", "pool": "qwen", "targetModels": [{{"name": "food"}}]}}]}}"#
    );
    Gateway::new(crate::config::parse(json.as_bytes()).unwrap(), 1)
}

/// Publishes the queue lengths of the first pool.
fn set_waiting(gateway: &mut Gateway, version: u32, waiting: [u32; 2]) {
    let endpoint = |index: usize, waiting| EndpointLoad {
        address: format!("10.0.0.{}:1", index + 1),
        health: Health::Up,
        scraped_at: Timestamp(NOW.0 + u64::from(version)),
        waiting: Some(waiting),
        ..EndpointLoad::default()
    };
    let endpoints = waiting.into_iter().enumerate().map(|(index, waiting)| endpoint(index, waiting)).collect();
    let snapshot = Snapshot { generation: 1, published_at: NOW, endpoints };
    gateway.handle_read(Read::Load(PoolId(0)), Some((&snapshot.encode(), version)), NOW);
}

/// Publishes that no endpoint of the first pool can be connected to.
fn set_unreachable(gateway: &mut Gateway) {
    let endpoints = [1, 2].map(|index| EndpointLoad {
        address: format!("10.0.0.{index}:1"),
        health: Health::Unreachable,
        ..EndpointLoad::default()
    });
    let snapshot = Snapshot { generation: 1, published_at: NOW, endpoints: endpoints.to_vec() };
    gateway.handle_read(Read::Load(PoolId(0)), Some((&snapshot.encode(), 1)), NOW);
}

fn head(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<Header> {
    let pseudo = [(":method", method), (":path", path)];
    pseudo.iter().chain(more).map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
}

/// Sends a completion with this body and gives the last answer and all edits.
fn send(gateway: &mut Gateway, exchange: &mut Exchange, body: &str) -> (Next, Vec<Edit>) {
    send_at(gateway, exchange, body, NOW)
}

fn send_at(gateway: &mut Gateway, exchange: &mut Exchange, body: &str, now: Timestamp) -> (Next, Vec<Edit>) {
    let mut edits = Vec::new();
    let next = exchange.handle_request_headers(gateway, head("POST", "/v1/completions", &[]), false, now, &mut edits);
    assert_eq!(next, Next::Buffer);
    let next = match exchange.handle_request_end(gateway, body.as_bytes().to_vec(), now, &mut Vec::new()) {
        Next::Load(_) => exchange.handle_load(gateway, now, &mut edits),
        other => other,
    };
    (next, edits)
}

fn served_by(address: &str) -> ResponseHead<'_> {
    ResponseHead { status: 200, address: Some(address.as_bytes()), ..ResponseHead::default() }
}

/// Lets an endpoint answer in full.
fn answer(gateway: &mut Gateway, exchange: &mut Exchange, endpoint: &str) {
    exchange.handle_response_headers(gateway, &served_by(endpoint), NOW, &mut Vec::new());
    exchange.handle_response_body(gateway, 10, true, NOW);
    exchange.handle_end(gateway, None, NOW);
}

fn header<'e>(edits: &'e [Edit], wanted: &str) -> Option<&'e str> {
    edits.iter().find_map(|edit| match edit {
        Edit::SetRequestHeader(name, value) if *name == wanted => Some(value.as_str()),
        _ => None,
    })
}

fn in_flight(gateway: &Gateway, endpoint: usize) -> u32 {
    let address = format!("10.0.0.{}:1", endpoint + 1);
    gateway.inflight.work(crate::hash::endpoint("qwen", &address)).map_or(0, |work| work.requests)
}

#[test]
fn a_model_leads_to_the_least_loaded_endpoint_of_its_pool() {
    let mut gateway = gateway("FailOpen");
    set_waiting(&mut gateway, 1, [5, 0]);
    let (next, edits) = send(&mut gateway, &mut Exchange::default(), r#"{"model":"Qwen"}"#);
    assert_eq!(next, Next::Continue);
    assert_eq!(header(&edits, "x-gateway-destination-endpoint"), Some("10.0.0.2:1,10.0.0.1:1"));
    assert_eq!(header(&edits, "x-gateway-base-model-name"), Some("Qwen"));
    set_waiting(&mut gateway, 2, [0, 5]);
    let (_, edits) = send(&mut gateway, &mut Exchange::default(), r#"{"model":"food"}"#);
    assert_eq!(header(&edits, "x-gateway-destination-endpoint"), Some("10.0.0.1:1,10.0.0.2:1"));
    assert_eq!(header(&edits, "x-gateway-model-name"), Some("food"));
    assert_eq!(header(&edits, "x-gateway-base-model-name"), Some("Qwen"));
    assert_eq!(header(&edits, "content-length"), None, "the body is as it was");
}

#[test]
fn an_alias_changes_the_model_and_the_length_and_nothing_else() {
    let mut gateway = gateway("FailOpen");
    let (_, edits) = send(&mut gateway, &mut Exchange::default(), r#"{ "model" : "alias", "x":1}"#);
    let body = edits.iter().find_map(|edit| match edit {
        Edit::ReplaceBody(body) => Some(String::from_utf8(body.clone()).unwrap()),
        _ => None,
    });
    assert_eq!(body.as_deref(), Some(r#"{ "model" : "food", "x":1}"#));
    assert_eq!(header(&edits, "content-length"), Some("26"));
    assert_eq!(header(&edits, "x-gateway-model-name"), Some("food"));
}

#[test]
fn what_cannot_be_served_is_refused_with_its_reason() {
    let mut gateway = gateway("FailOpen");
    for (body, status, reason) in [
        ("", 400, "rejected-invalid-body"),
        ("{", 400, "rejected-invalid-body"),
        ("{}", 400, "rejected-invalid-body"),
        (r#"{"model":7}"#, 400, "rejected-invalid-body"),
        (r#"{"model":"other"}"#, 404, "rejected-unknown-model"),
        (&format!(r#"{{"model":"Qwen","prompt":"{}"}}"#, "x".repeat(1000)), 413, "rejected-too-large"),
    ] {
        match send(&mut gateway, &mut Exchange::default(), body).0 {
            Next::Refuse(refusal) => assert_eq!((refusal.reply().status, refusal.reason().name()), (status, reason)),
            other => panic!("{body:.40}: {other:?}"),
        }
    }
}

#[test]
fn a_body_that_is_announced_or_grows_too_large_is_refused_early() {
    let mut gateway = gateway("FailOpen");
    let mut edits = Vec::new();
    let long = head("POST", "/v1/completions", &[("content-length", "1001")]);
    let next = Exchange::default().handle_request_headers(&mut gateway, long, false, NOW, &mut edits);
    assert!(matches!(next, Next::Refuse(Refusal::TooLarge { .. })));
    let mut exchange = Exchange::default();
    exchange.handle_request_headers(&mut gateway, head("POST", "/v1/completions", &[]), false, NOW, &mut edits);
    assert_eq!(exchange.handle_request_body(&mut gateway, 1000), Next::Buffer);
    assert!(matches!(exchange.handle_request_body(&mut gateway, 1001), Next::Refuse(Refusal::TooLarge { .. })));
}

#[test]
fn a_compressed_body_is_refused_and_an_identical_one_is_not() {
    let mut gateway = gateway("FailOpen");
    let mut first = |coding: &str| {
        let request = head("POST", "/v1/completions", &[("content-encoding", coding)]);
        Exchange::default().handle_request_headers(&mut gateway, request, false, NOW, &mut Vec::new())
    };
    assert!(matches!(first("gzip"), Next::Refuse(Refusal::EncodedBody { .. })));
    assert_eq!(first("Identity"), Next::Buffer);
}

#[test]
fn every_steering_header_of_a_client_is_removed_on_every_path() {
    let mut gateway = gateway("FailOpen");
    let spoofed: Vec<(&str, &str)> = headers::CONTROL.iter().map(|name| (*name, "10.9.9.9:9")).collect();
    for (method, path) in [("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("POST", "/tokenize")] {
        let mut edits = Vec::new();
        let request = head(method, path, &spoofed);
        let _ = Exchange::default().handle_request_headers(&mut gateway, request, false, NOW, &mut edits);
        for name in headers::CONTROL {
            assert!(edits.contains(&Edit::RemoveRequestHeader(name)), "{method} {path}: {name}");
        }
    }
}

#[test]
fn what_is_no_inference_request_is_left_alone_or_picked_by_its_route() {
    let mut gateway = gateway("FailOpen");
    for (method, path) in [
        ("GET", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions/x"),
        ("POST", "/api/rooms/1/messages"),
        ("POST", "/v1/threads/t/messages"),
        ("OPTIONS", "/"),
        ("", ""),
    ] {
        let mut exchange = Exchange::default();
        let mut edits = Vec::new();
        let next = exchange.handle_request_headers(&mut gateway, head(method, path, &[]), true, NOW, &mut edits);
        assert_eq!(next, Next::Route, "{method} {path}");
        assert_eq!(exchange.handle_route(&mut gateway, Some(b"elsewhere")), Next::Continue);
        assert!(edits.is_empty() && !exchange.wants_request_end());
    }
    let mut exchange = Exchange::default();
    let mut edits = Vec::new();
    exchange.handle_request_headers(&mut gateway, head("GET", "/v1/models", &[]), true, NOW, &mut edits);
    assert_eq!(exchange.handle_route(&mut gateway, Some(b"deep-cluster")), Next::Load(PoolId(1)));
    assert_eq!(exchange.handle_load(&mut gateway, NOW, &mut edits), Next::Continue);
    assert_eq!(edits, [Edit::SetRequestHeader("x-gateway-destination-endpoint".into(), "10.0.0.3:1".to_owned())]);
}

#[test]
fn paths_match_by_their_end_and_without_their_query() {
    let mut gateway = gateway("FailOpen");
    for path in [
        "/v1/completions?x=/no",
        "/team/a/v1/embeddings",
        "/v1/responses#x",
        "/anthropic/v1/messages",
        "/openai/chat/completions",
    ] {
        let next = Exchange::default().handle_request_headers(
            &mut gateway,
            head("POST", path, &[]),
            false,
            NOW,
            &mut Vec::new(),
        );
        assert_eq!(next, Next::Buffer, "{path}");
    }
}

#[test]
fn without_any_endpoint_the_failure_mode_decides() {
    for (failure_mode, refused) in [("FailOpen", false), ("FailClose", true)] {
        let mut gateway = gateway(failure_mode);
        set_unreachable(&mut gateway);
        let mut exchange = Exchange::default();
        let (next, edits) = send(&mut gateway, &mut exchange, r#"{"model":"Qwen"}"#);
        assert_eq!(matches!(next, Next::Refuse(Refusal::NoEndpoint { .. })), refused);
        assert_eq!(header(&edits, "x-gateway-destination-endpoint"), None);
        assert_eq!(header(&edits, "x-gateway-base-model-name").is_some(), !refused, "Envoy can still route it");
        assert_eq!(exchange.tier(), Some(Tier::None));
    }
}

#[test]
fn a_pool_that_fails_closed_refuses_inference_requests_alone() {
    let mut gateway = gateway("FailClose");
    set_unreachable(&mut gateway);
    let mut exchange = Exchange::default();
    let mut edits = Vec::new();
    exchange.handle_request_headers(&mut gateway, head("GET", "/v1/models", &[]), true, NOW, &mut edits);
    assert_eq!(exchange.handle_route(&mut gateway, Some(b"qwen")), Next::Load(PoolId(0)));
    assert_eq!(exchange.handle_load(&mut gateway, NOW, &mut edits), Next::Continue);
    assert!(edits.is_empty());
    // When the poller is gone for long, what it said of health counts no more.
    let later = NOW.after(std::time::Duration::from_secs(3));
    let (next, _) = send_at(&mut gateway, &mut Exchange::default(), r#"{"model":"Qwen"}"#, later);
    assert_eq!(next, Next::Continue);
}

#[test]
fn a_client_that_names_the_route_gets_no_pick() {
    let mut gateway = gateway("FailOpen");
    let mut edits = Vec::new();
    let request = head("GET", "/v1/models", &[("x-gateway-base-model-name", "Deep")]);
    let next = Exchange::default().handle_request_headers(&mut gateway, request, true, NOW, &mut edits);
    assert_eq!((next, edits), (Next::Continue, vec![Edit::RemoveRequestHeader("x-gateway-base-model-name")]));
}

#[test]
fn cold_gateways_send_one_prompt_to_one_endpoint() {
    let mut first_picks = Vec::new();
    for seed in 0..20 {
        let json = r#"{"pools": [{"name": "p", "baseModel": "m", "endpoints": {"static": ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]}}]}"#;
        let mut gateway = Gateway::new(crate::config::parse(json.as_bytes()).unwrap(), seed);
        let mut exchange = Exchange::default();
        let (_, edits) = send(&mut gateway, &mut exchange, r#"{"model":"m","prompt":"one and the same"}"#);
        assert_eq!(exchange.tier(), Some(Tier::Hash));
        first_picks
            .push(header(&edits, "x-gateway-destination-endpoint").unwrap().split(',').next().unwrap().to_owned());
    }
    first_picks.dedup();
    assert_eq!(first_picks.len(), 1);
}

#[test]
fn a_subset_names_address_and_port_and_binds() {
    let mut gateway = gateway("FailOpen");
    set_waiting(&mut gateway, 1, [500, 0]);
    let mut ask = |subset: &str| {
        let mut exchange = Exchange::default();
        let mut edits = Vec::new();
        let request = head("POST", "/v1/completions", &[("x-gateway-destination-endpoint-subset", subset)]);
        exchange.handle_request_headers(&mut gateway, request, false, NOW, &mut edits);
        match exchange.handle_request_end(&mut gateway, br#"{"model":"Qwen"}"#.to_vec(), NOW, &mut Vec::new()) {
            Next::Load(_) => {}
            other => panic!("{other:?}"),
        }
        let next = exchange.handle_load(&mut gateway, NOW, &mut edits);
        (next, header(&edits, "x-gateway-destination-endpoint").map(str::to_owned))
    };
    assert_eq!(ask("10.0.0.1:1"), (Next::Continue, Some("10.0.0.1:1".to_owned())));
    assert_eq!(ask(" 10.0.0.9:9 , 10.0.0.1:1").1, Some("10.0.0.1:1".to_owned()));
    for nobody in ["", "10.0.0.1:2", "10.0.0.1"] {
        assert!(matches!(ask(nobody).0, Next::Refuse(Refusal::NoEndpoint { .. })), "{nobody:?}");
    }
}

#[test]
fn prompts_stay_with_their_caches_until_the_queue_costs_more() {
    let mut gateway = gateway("FailOpen");
    set_waiting(&mut gateway, 1, [0, 0]);
    let turn = |question: &str| format!(r#"{{"model":"Qwen","prompt":"{}{question}"}}"#, "a".repeat(900));
    let mut exchange = Exchange::default();
    let (_, edits) = send(&mut gateway, &mut exchange, &turn("1"));
    let home = header(&edits, "x-gateway-destination-endpoint").unwrap().split(',').next().unwrap().to_owned();
    answer(&mut gateway, &mut exchange, &home);
    for question in 0..20 {
        let mut exchange = Exchange::default();
        let (_, edits) = send(&mut gateway, &mut exchange, &turn(&question.to_string()));
        assert!(header(&edits, "x-gateway-destination-endpoint").unwrap().starts_with(&home));
        answer(&mut gateway, &mut exchange, &home);
    }
    let queue = if home.starts_with("10.0.0.1") { [50, 0] } else { [0, 50] };
    set_waiting(&mut gateway, 2, queue);
    let (_, edits) = send(&mut gateway, &mut Exchange::default(), &turn("2"));
    assert!(!header(&edits, "x-gateway-destination-endpoint").unwrap().starts_with(&home));
}
