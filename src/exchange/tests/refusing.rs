//! Endpoints that refuse what others accept: what the exchange learns of it, and what follows for picks.

use std::time::Duration;

use super::*;
use crate::testing::test;

const FIRST: &str = "10.0.0.1:1";
const SECOND: &str = "10.0.0.2:1";

/// What an endpoint does with a request.
#[derive(Clone, Copy)]
enum Does {
    Accept,
    /// With this status.
    Refuse(u16),
    /// With this body of a stream of status 200.
    Stream(&'static str),
}

/// A pool of two, and time.
struct Bench {
    gateway: Gateway,
    now: Timestamp,
    prompts: usize,
}

impl Bench {
    fn new() -> Bench {
        let mut gateway = gateway("FailOpen");
        set_waiting(&mut gateway, 1, [0, 0]);
        Bench { gateway, now: NOW, prompts: 0 }
    }

    /// Each prompt is another one, so that neither is at home anywhere.
    fn pick(&mut self, model: &str) -> (Exchange, Vec<Edit>, String) {
        self.prompts += 1;
        let body = format!(r#"{{"model":"{model}","stream":true,"prompt":"{}"}}"#, self.prompts);
        let mut exchange = Exchange::default();
        let (_, edits) = send_at(&mut self.gateway, &mut exchange, &body, self.now);
        let list = header(&edits, "x-gateway-destination-endpoint").unwrap();
        let first = list.split(',').next().unwrap().to_owned();
        (exchange, edits, first)
    }

    fn end(&mut self, mut exchange: Exchange, endpoint: &str, does: Does) {
        let status = if let Does::Refuse(status) = does { status } else { 200 };
        let head = ResponseHead {
            status,
            details: Some(b"via_upstream"),
            content_type: Some(b"text/event-stream; charset=utf-8"),
            ..served_by(endpoint)
        };
        let (gateway, now) = (&mut self.gateway, self.now);
        exchange.handle_response_headers(gateway, &head, now, &mut Vec::new());
        let body = match does {
            Does::Stream(body) => body,
            Does::Accept => "data: {\"id\":\"1\"}\n\ndata: {\"id\":\"1\"}\n\ndata: [DONE]\n\n",
            Does::Refuse(_) => "{\"error\":{}}",
        };
        if exchange.wants_to_watch() {
            exchange.watch(gateway, body.as_bytes(), body.len(), true, now);
        }
        exchange.handle_response_body(gateway, body.len(), true, now);
        exchange.handle_end(gateway, None, now);
    }

    /// Rounds of `at_once` requests whose answers come a millisecond later; says how many of them the first endpoint
    /// got.
    fn rounds(&mut self, count: usize, at_once: usize, first: Does) -> usize {
        let mut got = 0;
        for _ in 0..count {
            let sent: Vec<_> = (0..at_once).map(|_| self.pick("Qwen")).collect();
            self.now = self.now.after(Duration::from_millis(1));
            for (exchange, _, picked) in sent {
                got += usize::from(picked == FIRST);
                self.end(exchange, &picked, if picked == FIRST { first } else { Does::Accept });
            }
        }
        got
    }
}

const ERROR_EVENT: &str = "data: {\"error\":{\"message\":\"broken\",\"code\":500}}\n\ndata: [DONE]\n\n";

#[test]
fn what_refuses_at_once_gets_next_to_nothing_and_its_share_when_it_is_sound() {
    for does in [401, 403, 404, 413, 422, 429, 503].map(Does::Refuse).into_iter().chain([Does::Stream(ERROR_EVENT)]) {
        let mut bench = Bench::new();
        bench.rounds(20, 4, Does::Accept);
        let got = bench.rounds(100, 4, does);
        assert!(got <= 16, "{got} of 400");
        bench.now = bench.now.after(Duration::from_secs(6));
        let got = bench.rounds(25, 4, Does::Accept);
        assert!(got >= 30, "{got} of 100");
    }
}

#[test]
fn the_fastest_draws_nothing_by_refusing() {
    let mut bench = Bench::new();
    for _ in 0..40 {
        let (exchange, _, picked) = bench.pick("Qwen");
        bench.now = bench.now.after(Duration::from_millis(if picked == FIRST { 1 } else { 400 }));
        bench.end(exchange, &picked, Does::Accept);
    }
    assert!(bench.rounds(10, 1, Does::Accept) >= 9, "it is the fastest");
    let got = bench.rounds(300, 1, Does::Refuse(401));
    assert!(got <= 16, "{got} of 300");
}

#[test]
fn what_all_refuse_alike_moves_no_pick() {
    for status in [400, 401, 404, 429, 503] {
        let mut bench = Bench::new();
        let mut got = 0;
        for _ in 0..200 {
            let (exchange, _, picked) = bench.pick("Qwen");
            bench.now = bench.now.after(Duration::from_millis(5));
            got += usize::from(picked == FIRST);
            bench.end(exchange, &picked, Does::Refuse(status));
        }
        assert!((60..=140).contains(&got), "{status}: {got} of 200");
    }
}

#[test]
fn a_refusal_teaches_no_time_and_no_adapter() {
    for does in [Does::Refuse(404), Does::Stream(ERROR_EVENT)] {
        let mut bench = Bench::new();
        let (exchange, _, picked) = bench.pick("food");
        bench.end(exchange, &picked, does);
        let events: Vec<_> = bench.gateway.stats.drain().map(|event| event.metric.0).collect();
        let names: Vec<&str> =
            events.iter().map(|metric| bench.gateway.stats.metrics()[*metric].name.as_str()).collect();
        assert!(!names.iter().any(|name| name.starts_with("inference_time_to_first_token")), "{names:?}");
        assert!(names.iter().any(|name| name.starts_with("inference_endpoint_refusals_total")), "{names:?}");
    }
}

#[test]
fn an_endpoint_without_an_adapter_keeps_its_share_of_the_rest() {
    let mut bench = Bench::new();
    let mut got = [0, 0];
    for _ in 0..100 {
        let sent = ["food", "Qwen", "Qwen", "food"].map(|model| (model == "food", bench.pick(model)));
        bench.now = bench.now.after(Duration::from_millis(1));
        for (wants_it, (exchange, _, picked)) in sent {
            let lacks_it = picked == FIRST && wants_it;
            bench.end(exchange, &picked, if lacks_it { Does::Refuse(404) } else { Does::Accept });
            got[usize::from(wants_it)] += usize::from(picked == FIRST);
        }
    }
    assert!(got[0] >= 60 && got[1] <= 12, "{got:?} of 200");
}

#[test]
fn a_page_for_people_says_nothing_of_an_endpoint_unless_a_model_was_asked_for() {
    for (method, path, is_refusal) in [("GET", "/docs", false), ("POST", "/v1/completions", true)] {
        for (status, media_type) in [(200, "text/html; charset=utf-8"), (302, "text/plain")] {
            let mut gateway = gateway("FailOpen");
            let mut exchange = Exchange::default();
            let (now, edits) = (NOW, &mut Vec::new());
            let next = exchange.handle_request_headers(&mut gateway, head(method, path, &[]), false, now, edits);
            let next = match next {
                Next::Route => exchange.handle_route(&mut gateway, Some(b"qwen")),
                _ => exchange.handle_request_end(&mut gateway, br#"{"model":"Qwen"}"#.to_vec(), now, edits),
            };
            assert_eq!(next, Next::Load(PoolId(0)));
            exchange.handle_load(&mut gateway, now, edits);
            let answer = ResponseHead {
                status,
                details: Some(b"via_upstream"),
                content_type: Some(media_type.as_bytes()),
                ..served_by(FIRST)
            };
            exchange.handle_response_headers(&mut gateway, &answer, now, edits);
            let names: Vec<String> = gateway.stats.metrics().iter().map(|metric| metric.name.clone()).collect();
            let mut counted = gateway.stats.drain().map(|event| &names[event.metric.0]);
            let is_counted = counted.any(|name| name.starts_with("inference_endpoint_refusals_total"));
            assert_eq!(is_counted, is_refusal, "{path} {status}");
        }
    }
}

#[test]
fn the_router_is_asked_to_send_on_what_the_next_one_takes() {
    let mut bench = Bench::new();
    let retriable = |edits: &[Edit]| header(edits, "x-envoy-retriable-status-codes").map(str::to_owned);
    let (exchange, edits, picked) = bench.pick("Qwen");
    assert_eq!(retriable(&edits).as_deref(), Some("429"));
    bench.end(exchange, &picked, Does::Accept);
    // The one that is left has more to do than it can.
    set_waiting(&mut bench.gateway, 2, [50, 50]);
    let (_exchange, edits, _) = bench.pick("Qwen");
    assert_eq!(retriable(&edits), None);
    // A trial is not at the client's expense.
    let mut bench = Bench::new();
    bench.rounds(5, 4, Does::Accept);
    bench.rounds(15, 4, Does::Refuse(401));
    bench.now = bench.now.after(Duration::from_secs(7));
    // Where there is work at the other, too, it is the first one's turn.
    let (_busy, _, picked) = bench.pick("Qwen");
    assert_eq!(picked, SECOND);
    let (_exchange, edits, picked) = bench.pick("Qwen");
    assert_eq!((picked.as_str(), retriable(&edits).as_deref()), (FIRST, Some("401,402,403,429")));
    let (_exchange, _, picked) = bench.pick("Qwen");
    assert_eq!(picked, SECOND, "one trial at a time");
}
