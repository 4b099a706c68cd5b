//! What is believed of a request's headers, what goes no further, and what no longer holds once a body is another one.

use super::*;
use crate::testing::test;

fn gateway_that_trusts(trusted: &str, more: &str) -> Gateway {
    let json = format!(
        r#"{{"pools": [{{"name": "qwen", "baseModel": "Qwen", "adapters": ["food"],
              "endpoints": {{"static": ["10.0.0.1:1", "10.0.0.2:1"]}}}}],
            "models": [{{"modelName": "alias", "pool": "qwen", "targetModels": [{{"name": "food"}}], "restoreModelName": true}}],
            "trustedHeaders": [{trusted}]{more}}}"#
    );
    Gateway::new(crate::config::parse(json.as_bytes()).unwrap(), 1)
}

/// Sends a completion with these headers, to its end.
fn ask(gateway: &mut Gateway, headers: &[(&str, &str)], body: &str) -> (Exchange, Next, Vec<Edit>) {
    let (mut exchange, mut edits) = (Exchange::default(), Vec::new());
    let request = head("POST", "/v1/completions", headers);
    let mut next = exchange.handle_request_headers(gateway, request, false, NOW, &mut edits);
    if next == Next::Buffer {
        next = exchange.handle_request_end(gateway, body.as_bytes().to_vec(), NOW, &mut edits);
    }
    if let Next::Load(_) = next {
        next = exchange.handle_load(gateway, NOW, &mut edits);
    }
    (exchange, next, edits)
}

fn removed(edits: &[Edit]) -> Vec<&'static str> {
    let names = edits.iter().filter_map(|edit| match edit {
        Edit::RemoveRequestHeader(name) => Some(*name),
        _ => None,
    });
    names.collect()
}

#[test]
fn a_subset_that_is_not_believed_binds_nobody() {
    let body = r#"{"model":"Qwen"}"#;
    for name in [headers::SUBSET, headers::SUBSET_TWIN] {
        let subset = [(name, "10.9.9.9:1")];
        let (_, next, edits) = ask(&mut gateway_that_trusts("", ""), &subset, body);
        assert_eq!(next, Next::Continue, "{name}");
        assert_eq!(removed(&edits), [name]);
        let trusted = format!("{name:?}");
        let (_, next, _) = ask(&mut gateway_that_trusts(&trusted, ""), &subset, body);
        assert!(matches!(next, Next::Refuse(Refusal::NoEndpoint { .. })), "{name}: {next:?}");
    }
}

#[test]
fn rules_see_no_header_that_steers_unless_it_is_believed() {
    let rules = r#", "rules": [
        {"when": "request.headers[?'x-gateway-inference-objective'].orValue('') == 'vip'", "headers": {"x-seen": "objective"}},
        {"when": "request.headers[?'x-gateway-model-name'].orValue('') == 'vip'", "headers": {"x-seen": "model"}},
        {"when": "request.headers[?'x-team'].orValue('') == 'vip'", "headers": {"x-seen": "team"}}]"#;
    let body = r#"{"model":"Qwen"}"#;
    let spoofed = [("x-gateway-inference-objective", "vip"), ("x-gateway-model-name", "vip"), ("x-team", "vip")];
    let (_, _, edits) = ask(&mut gateway_that_trusts("", rules), &spoofed, body);
    assert_eq!(header(&edits, "x-seen"), Some("team"));
    let (_, _, edits) = ask(&mut gateway_that_trusts("\"x-gateway-inference-objective\"", rules), &spoofed, body);
    assert_eq!(header(&edits, "x-seen"), Some("objective"));
}

#[test]
fn a_believed_slo_is_passed_on_under_the_name_that_engines_know() {
    let slo = [("x-slo-ttft-ms", "100"), ("x-llm-d-slo-ttft-ms", "100")];
    let body = r#"{"model":"Qwen"}"#;
    let (_, _, edits) = ask(&mut gateway_that_trusts("\"x-slo-ttft-ms\"", ""), &slo, body);
    assert_eq!(removed(&edits), ["x-llm-d-slo-ttft-ms"]);
    let (_, _, edits) = ask(&mut gateway_that_trusts("", ""), &slo, body);
    assert_eq!(removed(&edits), ["x-slo-ttft-ms", "x-llm-d-slo-ttft-ms"]);
}

#[test]
fn digests_go_when_the_body_changes_and_stay_when_it_does_not() {
    let digests: Vec<(&str, &str)> = headers::DIGESTS.iter().map(|name| (*name, "sha-256=:eA==:")).collect();
    let mut sent = digests.clone();
    sent.extend([("signature-input", r#"s=("@path" "content-digest")"#), ("signature", "s=:eA==:")]);
    let mut gateway = gateway_that_trusts("", "");
    let (exchange, _, edits) = ask(&mut gateway, &sent, r#"{"model":"alias"}"#);
    let gone = removed(&edits);
    assert!(sent.iter().all(|(name, _)| gone.contains(name)), "{gone:?}");
    let trailers: Vec<Header> = [("content-digest", "x"), ("x-gateway-model-name", "x"), ("server-timing", "x")]
        .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
        .to_vec();
    let mut edits = Vec::new();
    exchange.handle_request_trailers(&trailers, &mut edits);
    assert_eq!(
        edits,
        [Edit::RemoveRequestTrailer("content-digest"), Edit::RemoveRequestTrailer("x-gateway-model-name")]
    );
    let (exchange, _, edits) = ask(&mut gateway, &sent, r#"{"model":"Qwen"}"#);
    assert_eq!(removed(&edits), [""; 0]);
    let mut edits = Vec::new();
    exchange.handle_request_trailers(&trailers, &mut edits);
    assert_eq!(edits, [Edit::RemoveRequestTrailer("x-gateway-model-name")]);
    // What holds whatever the body is stays.
    let kept = [
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ("signature-input", r#"s=("@path")"#),
        ("signature", "s=:eA==:"),
    ];
    let (_, _, edits) = ask(&mut gateway, &kept, r#"{"model":"alias"}"#);
    assert_eq!(removed(&edits), ["accept-encoding"]);
}

#[test]
fn an_answer_that_changes_has_no_digest_and_no_entity_tag() {
    let mut gateway = gateway_that_trusts("", "");
    for (model, changes) in [("alias", true), ("food", false)] {
        let (mut exchange, _, _) = ask(&mut gateway, &[], &format!(r#"{{"model":"{model}"}}"#));
        let answer = ResponseHead { content_type: Some(b"application/json"), ..served_by("10.0.0.1:1") };
        let mut edits = Vec::new();
        exchange.handle_response_headers(&mut gateway, &answer, NOW, &mut edits);
        for name in headers::DIGESTS.into_iter().chain(headers::SIGNATURES).chain(["etag", "content-length"]) {
            assert_eq!(edits.contains(&Edit::RemoveResponseHeader(name)), changes, "{model}: {name}");
        }
        let mut edits = Vec::new();
        exchange.handle_response_trailers(&[("content-digest".to_owned(), b"x".to_vec())], &mut edits);
        assert_eq!(edits.len(), usize::from(changes), "{model}");
    }
}

#[test]
fn clients_need_not_learn_who_has_served() {
    let mut gateway = gateway_that_trusts("", r#", "exposeEndpoint": false"#);
    let (mut exchange, _, _) = ask(&mut gateway, &[], r#"{"model":"Qwen"}"#);
    let mut edits = Vec::new();
    exchange.handle_response_headers(&mut gateway, &served_by("10.0.0.1:1"), NOW, &mut edits);
    assert_eq!(edits, [Edit::RemoveResponseHeader(headers::SERVED)], "that of the upstream filter goes as well");
    assert_eq!(in_flight(&gateway, 0), 1, "the plugin itself knows");
}

#[test]
fn a_name_that_is_not_configured_goes_on_in_a_plain_form_alone() {
    let mut gateway = gateway_that_trusts("", r#", "rules": [{"pool": "qwen"}]"#);
    let (_, next, edits) = ask(&mut gateway, &[], r#"{"model":"org/other:rev"}"#);
    assert_eq!((next, header(&edits, "x-gateway-model-name")), (Next::Continue, Some("org/other:rev")));
    for name in ["a b", "a\\u2028b", "a\\u202eb", "a\\nb", "a;b=c", "", &"x".repeat(2_000)] {
        let (_, next, _) = ask(&mut gateway, &[], &format!(r#"{{"model":"{name}"}}"#));
        assert!(matches!(next, Next::Refuse(Refusal::UnknownModel { .. })), "{name:?}: {next:?}");
    }
}
