//! What rules, names and shapes come to in one request.

use super::*;
use crate::testing::test;

fn with(more: &str) -> Gateway {
    let json = format!(
        r#"{{"pools": [
            {{"name": "qwen", "baseModel": "Qwen", "adapters": ["food"], "endpoints": {{"static": ["10.0.0.1:1"]}}}},
            {{"name": "deep", "baseModel": "Deep", "endpoints": {{"static": ["10.0.0.3:1"]}}, "flowControl": {{}}}}], {more}}}"#
    );
    Gateway::new(crate::config::parse(json.as_bytes()).unwrap(), 1)
}

/// Sends a request to the end, its route leading to no pool.
fn ask(gateway: &mut Gateway, path: &str, body: &str) -> (Next, Vec<Edit>) {
    let mut exchange = Exchange::default();
    let mut edits = Vec::new();
    let mut next = exchange.handle_request_headers(gateway, head("POST", path, &[]), false, NOW, &mut edits);
    loop {
        next = match next {
            Next::Buffer => exchange.handle_request_end(gateway, body.as_bytes().to_vec(), NOW, &mut edits),
            Next::Route => exchange.handle_route(gateway, None),
            Next::Load(_) => exchange.handle_load(gateway, NOW, &mut edits),
            done => return (done, edits),
        };
    }
}

#[test]
fn a_name_that_nobody_has_checked_becomes_no_header() {
    let mut gateway = with(r#""rules": [{"pool": "qwen"}]"#);
    let (next, edits) = ask(&mut gateway, "/v1/completions", r#"{"model":"dynamic-lora"}"#);
    assert_eq!((next, header(&edits, "x-gateway-model-name")), (Next::Continue, Some("dynamic-lora")));
    for name in ["x\\r\\nx-admin: 1", "", &"x".repeat(300)] {
        let (next, _) = ask(&mut gateway, "/v1/completions", &format!(r#"{{"model":"{name}"}}"#));
        assert!(matches!(next, Next::Refuse(Refusal::UnknownModel { .. })), "{name:.20}");
    }
}

#[test]
fn what_a_rule_sets_is_set_on_every_path() {
    let mut gateway = with(r#""rules": [{"headers": {"x-tenant": "a"}}]"#);
    for (path, body) in [
        ("/v1/completions", r#"{"model":"Qwen"}"#),
        ("/v1/images/generations", r#"{"prompt":"a"}"#),
        ("/v1/images/generations", r#"{"prompt":"a","model":null}"#),
    ] {
        let (next, edits) = ask(&mut gateway, path, body);
        assert_eq!((next, header(&edits, "x-tenant")), (Next::Continue, Some("a")), "{body}");
    }
}

#[test]
fn a_pools_generic_rewrite_is_for_every_name_that_a_rule_sends_there() {
    let rewrite = r#""modelRewrites": [{"pool": "qwen", "rules": [{"targets": [{"modelRewrite": "food"}]}]}]"#;
    let mut gateway = with(&format!(r#""rules": [{{"pool": "qwen"}}], {rewrite}"#));
    let (_, edits) = ask(&mut gateway, "/v1/completions", r#"{"model":"whatever"}"#);
    assert_eq!(header(&edits, "x-gateway-model-name"), Some("food"));
}

#[test]
fn a_thousand_members_hide_nothing_from_the_rules() {
    let rules = r#""rules": [{"when": "has(body.user) && body.model == 'food'", "model": "Deep"}]"#;
    for filler in [r#""user":1,"#, r#""model":"Qwen","#] {
        let mut gateway = with(rules);
        let body = format!(r#"{{"user":"a",{}"model":"food"}}"#, filler.repeat(2_000));
        let (_, edits) = ask(&mut gateway, "/v1/completions", &body);
        assert_eq!(header(&edits, "x-gateway-model-name"), Some("Deep"), "{filler}");
    }
    let mut gateway = with(r#""rules": [{"when": "size(body) > 5000", "model": "Deep"}]"#);
    let many: String = (0..2_000).map(|index| format!(r#""k{index}":1,"#)).collect();
    let (next, _) = ask(&mut gateway, "/v1/completions", &format!(r#"{{{many}"model":"food"}}"#));
    assert!(matches!(next, Next::Refuse(Refusal::InvalidBody(_))));
}

#[test]
fn whatever_names_a_model_waits_like_the_others() {
    let mut gateway = with(r#""models": []"#);
    let endpoint = EndpointLoad {
        address: "10.0.0.3:1".to_owned(),
        health: Health::Up,
        scraped_at: NOW,
        waiting: Some(50),
        running: Some(16),
        ..EndpointLoad::default()
    };
    let snapshot = Snapshot { generation: 1, published_at: NOW, endpoints: vec![endpoint] };
    gateway.handle_read(Read::Load(PoolId(1)), Some((&snapshot.encode(), 1)), NOW);
    for path in ["/v1/completions", "/generate", "/inference/v1/generate", "/v1/images/generations"] {
        let (next, _) = ask(&mut gateway, path, r#"{"model":"Deep","text":"hi"}"#);
        assert!(matches!(next, Next::Wait(_)), "{path}: {next:?}");
    }
}
