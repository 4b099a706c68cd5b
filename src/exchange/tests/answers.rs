//! The way back: what answers, errors and ends say about the endpoints.

use super::*;
use crate::testing::test;

#[test]
fn a_request_is_counted_once_and_given_back_once() {
    let mut gateway = gateway("FailOpen");
    set_waiting(&mut gateway, 1, [0, 5]);
    let mut exchange = Exchange::default();
    send(&mut gateway, &mut exchange, r#"{"model":"Qwen"}"#);
    assert_eq!((in_flight(&gateway, 0), in_flight(&gateway, 1)), (1, 0));
    exchange.handle_response_headers(&mut gateway, &served_by("10.0.0.2:1"), NOW, &mut Vec::new());
    assert_eq!((in_flight(&gateway, 0), in_flight(&gateway, 1)), (0, 1), "a retry went elsewhere");
    exchange.handle_end(&mut gateway, None, NOW);
    exchange.handle_end(&mut gateway, None, NOW);
    assert_eq!((in_flight(&gateway, 0), in_flight(&gateway, 1)), (0, 0));
}

#[test]
fn the_endpoint_that_served_is_named_and_a_missed_override_is_counted() {
    let mut gateway = gateway("FailOpen");
    let mut exchange = Exchange::default();
    send(&mut gateway, &mut exchange, r#"{"model":"Qwen"}"#);
    gateway.stats.drain().for_each(drop);
    let mut edits = Vec::new();
    exchange.handle_response_headers(&mut gateway, &served_by("10.9.9.9:1"), NOW, &mut edits);
    assert_eq!(edits, [Edit::SetResponseHeader("x-gateway-destination-endpoint-served", "10.9.9.9:1".to_owned())]);
    let missed: Vec<_> = gateway.stats.drain().collect();
    assert_eq!(gateway.stats.metrics()[missed[0].metric.0].name, "inference_override_missed_total;pool=qwen");
    let mut edits = Vec::new();
    exchange.handle_response_headers(&mut gateway, &served_by(""), NOW, &mut edits);
    assert_eq!(edits, [Edit::RemoveResponseHeader("x-gateway-destination-endpoint-served")], "a local reply");
}

/// How a request ends at the endpoint that was picked first.
fn end_with(gateway: &mut Gateway, status: u16, details: &[u8], now: Timestamp) -> String {
    let mut exchange = Exchange::default();
    let (_, edits) = send_at(gateway, &mut exchange, r#"{"model":"Qwen","stream":true}"#, now);
    let first = header(&edits, "x-gateway-destination-endpoint").unwrap().split(',').next().unwrap().to_owned();
    let head =
        ResponseHead { status, address: Some(first.as_bytes()), details: Some(details), ..ResponseHead::default() };
    exchange.handle_response_headers(gateway, &head, now, &mut Vec::new());
    exchange.handle_response_body(gateway, 5, true, now);
    exchange.handle_end(gateway, None, now);
    first
}

fn ejected(gateway: &mut Gateway) -> usize {
    let names: Vec<String> = gateway.stats.metrics().iter().map(|metric| metric.name.clone()).collect();
    gateway.stats.drain().filter(|event| names[event.metric.0].starts_with("inference_ejections_total")).count()
}

#[test]
fn what_is_the_clients_fault_or_a_full_house_ejects_nobody() {
    for status in [400, 401, 404, 413, 422, 429, 503] {
        let mut gateway = gateway("FailOpen");
        for _ in 0..20 {
            end_with(&mut gateway, status, b"via_upstream", NOW);
        }
        assert_eq!(ejected(&mut gateway), 0, "{status}");
    }
}

#[test]
fn errors_resets_and_timeouts_in_a_row_eject() {
    for (status, details) in [
        (500, &b"via_upstream"[..]),
        (502, b"via_upstream"),
        (504, b"upstream_response_timeout"),
        (503, b"upstream_reset_before_response_started{connection_termination}"),
        (503, b"upstream_reset_before_response_started{remote_connection_failure|connection_refused}"),
    ] {
        let mut gateway = gateway("FailOpen");
        let failed: Vec<String> = (0..12).map(|_| end_with(&mut gateway, status, details, NOW)).collect();
        assert_eq!(ejected(&mut gateway), 1, "{status} {details:?}: one of two, and never both: {failed:?}");
    }
}

#[test]
fn a_local_answer_is_not_the_endpoints() {
    let mut gateway = gateway("FailOpen");
    for details in [&b"upstream_reset_before_response_started{overflow}"[..], b"no_healthy_upstream", b"rbac_denied"] {
        for _ in 0..20 {
            end_with(&mut gateway, 503, details, NOW);
        }
    }
    assert_eq!(ejected(&mut gateway), 0);
    assert_eq!((in_flight(&gateway, 0), in_flight(&gateway, 1)), (0, 0));
}

#[test]
fn one_error_already_makes_an_endpoint_unattractive() {
    let mut gateway = gateway("FailOpen");
    let failed = end_with(&mut gateway, 500, b"via_upstream", NOW);
    for _ in 0..10 {
        let next = end_with(&mut gateway, 200, b"via_upstream", NOW);
        assert_ne!(next, failed, "it fails fast, and is idle");
    }
}

/// Sends six requests at once, of which the host sends those for the first endpoint on; gives the ejections and the
/// refusals that were counted.
fn pass_over(now: Timestamp, served: &str, attempts: Option<u32>) -> (usize, usize) {
    let mut gateway = gateway("FailOpen");
    set_waiting(&mut gateway, 1, [0, 0]);
    let mut send = || {
        let mut exchange = Exchange::default();
        let (_, edits) = send_at(&mut gateway, &mut exchange, r#"{"model":"Qwen"}"#, now);
        (exchange, header(&edits, "x-gateway-destination-endpoint").unwrap().starts_with("10.0.0.1:1"))
    };
    let sent: Vec<_> = (0..6).map(|_| send()).collect();
    assert_eq!(sent.iter().filter(|(_, is_first)| *is_first).count(), 3);
    for (mut exchange, _) in sent.into_iter().filter(|(_, is_first)| *is_first) {
        let head = ResponseHead { attempts, ..served_by(served) };
        exchange.handle_response_headers(&mut gateway, &head, now, &mut Vec::new());
        exchange.handle_end(&mut gateway, None, now);
    }
    let names: Vec<String> = gateway.stats.metrics().iter().map(|metric| metric.name.clone()).collect();
    let events: Vec<_> = gateway.stats.drain().map(|event| names[event.metric.0].clone()).collect();
    let count = |wanted: &str| events.iter().filter(|name| name.starts_with(wanted)).count();
    (count("inference_ejections_total"), count("inference_endpoint_refusals_total;pool=qwen;about=room"))
}

#[test]
fn an_endpoint_that_was_passed_over_has_failed_unless_it_answers_scrapes() {
    let long_after = NOW.after(std::time::Duration::from_secs(60));
    for (served, attempts, count) in [
        ("10.0.0.2:1", None, 1),
        ("10.0.0.2:1", Some(2), 1),
        // Somebody who is not in the list has served.
        ("10.0.0.77:1", Some(2), 1),
        ("10.0.0.77:1", Some(1), 0),
    ] {
        assert_eq!(pass_over(NOW, served, attempts), (0, 3 * count), "{served} {attempts:?}: it has refused");
        assert_eq!(pass_over(long_after, served, attempts), (count, 0), "{served} {attempts:?}: it is broken");
    }
}

#[test]
fn a_stream_that_the_endpoint_breaks_off_counts_and_one_that_the_client_leaves_does_not() {
    let broken = &b"upstream_reset_after_response_started{connection_termination}"[..];
    for (details, expected) in [(Some(broken), 1), (Some(b"downstream_remote_disconnect"), 0), (None, 0)] {
        let mut gateway = gateway("FailOpen");
        set_waiting(&mut gateway, 1, [0, 5_000]);
        for _ in 0..3 {
            let mut exchange = Exchange::default();
            send(&mut gateway, &mut exchange, r#"{"model":"Qwen","stream":true}"#);
            exchange.handle_response_headers(&mut gateway, &served_by("10.0.0.1:1"), NOW, &mut Vec::new());
            exchange.handle_response_body(&mut gateway, 5, false, NOW);
            assert!(exchange.is_under_way());
            exchange.handle_end(&mut gateway, details, NOW);
        }
        assert_eq!(ejected(&mut gateway), expected);
    }
}

#[test]
fn refusals_teach_no_speed_and_leave_no_cache() {
    let mut gateway = gateway("FailOpen");
    let long = format!(r#"{{"model":"Qwen","stream":true,"prompt":"{}"}}"#, "p".repeat(900));
    let mut firsts = Vec::new();
    for status in [400, 429, 500, 503] {
        let mut exchange = Exchange::default();
        let (_, edits) = send(&mut gateway, &mut exchange, &long);
        let first = header(&edits, "x-gateway-destination-endpoint").unwrap().split(',').next().unwrap().to_owned();
        let details = Some(&b"via_upstream"[..]);
        let head = ResponseHead { status, address: Some(first.as_bytes()), details, ..ResponseHead::default() };
        exchange.handle_response_headers(&mut gateway, &head, NOW, &mut Vec::new());
        exchange.handle_response_body(&mut gateway, 40, true, NOW);
        exchange.handle_end(&mut gateway, None, NOW);
        firsts.push(first);
    }
    let names: Vec<String> = gateway.stats.metrics().iter().map(|metric| metric.name.clone()).collect();
    let timed = |event: &crate::stats::Event| names[event.metric.0].contains("first_token");
    assert_eq!(gateway.stats.drain().filter(timed).count(), 0);
    let mut exchange = Exchange::default();
    send(&mut gateway, &mut exchange, &long);
    let tokens = |endpoint: &str| {
        gateway.inflight.work(crate::hash::endpoint("qwen", endpoint)).map_or(0, |work| work.prefill_tokens)
    };
    assert_eq!(tokens("10.0.0.1:1") + tokens("10.0.0.2:1"), 226, "the whole prompt is to be computed: {firsts:?}");
}

#[test]
fn clients_that_leave_slow_answers_or_slow_uploads_eject_nobody() {
    use std::time::Duration;
    let mut gateway = gateway("FailOpen");
    let mut version = 1;
    let mut now = NOW;
    // It works, and says so: plain answers take as long as they take.
    for _ in 0..5 {
        let mut exchange = Exchange::default();
        send_at(&mut gateway, &mut exchange, r#"{"model":"Qwen","prompt":"a long story"}"#, now);
        now = now.after(Duration::from_secs(9));
        version += 1;
        set_running(&mut gateway, version, 1, now);
        exchange.handle_end(&mut gateway, None, now);
    }
    // What is no inference request may wait for its own client.
    for _ in 0..5 {
        let mut exchange = Exchange::default();
        let mut edits = Vec::new();
        exchange.handle_request_headers(&mut gateway, head("POST", "/upload", &[]), false, now, &mut edits);
        exchange.handle_route(&mut gateway, Some(b"qwen"));
        exchange.handle_load(&mut gateway, now, &mut edits);
        now = now.after(Duration::from_secs(9));
        version += 1;
        set_running(&mut gateway, version, 0, now);
        exchange.handle_end(&mut gateway, None, now);
    }
    assert_eq!(ejected(&mut gateway), 0);
}

/// Publishes that both endpoints of the first pool run so many requests.
fn set_running(gateway: &mut Gateway, version: u32, running: u32, now: Timestamp) {
    let endpoint = |index: usize| EndpointLoad {
        address: format!("10.0.0.{}:1", index + 1),
        health: Health::Up,
        scraped_at: now,
        waiting: Some(0),
        running: Some(running),
        cache_clock: Some(u64::from(version)),
        ..EndpointLoad::default()
    };
    let snapshot = Snapshot { generation: 1, published_at: now, endpoints: (0..2).map(endpoint).collect() };
    gateway.handle_read(Read::Load(PoolId(0)), Some((&snapshot.encode(), version)), now);
    gateway.inflight.handle_refreshed(now);
}

#[test]
fn headers_alone_prove_nothing() {
    use std::time::Duration;
    let mut gateway = gateway("FailOpen");
    set_running(&mut gateway, 1, 0, NOW);
    let mut exchange = Exchange::default();
    let (_, edits) = send(&mut gateway, &mut exchange, r#"{"model":"Qwen","stream":true,"prompt":"a"}"#);
    let first = header(&edits, "x-gateway-destination-endpoint").unwrap().split(',').next().unwrap().to_owned();
    // Servers send the headers of a stream before its first token.
    exchange.handle_response_headers(&mut gateway, &served_by(&first), NOW, &mut Vec::new());
    let later = NOW.after(Duration::from_secs(9));
    set_running(&mut gateway, 2, 0, later);
    assert_eq!(ejected(&mut gateway), 1, "it says that it is idle");
    exchange.handle_end(&mut gateway, None, later);
    assert_eq!(in_flight(&gateway, 0) + in_flight(&gateway, 1), 0);
}
