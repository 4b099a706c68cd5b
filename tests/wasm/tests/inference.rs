//! The inference filter, callback by callback.

use wasm_tests::{Action, Header, Process, Vm};

const CONFIG: &str = r#"{
    "maxBodyBytes": 4096,
    "pools": [
        {"name": "qwen", "baseModel": "Qwen", "adapters": ["food"],
         "endpoints": {"static": ["10.0.0.1:8000", "10.0.0.2:8000"]}},
        {"name": "deep", "baseModel": "Deep", "cluster": "deep-cluster", "failureMode": "FailClose",
         "endpoints": {"static": ["10.0.0.3:8000"]}}
    ],
    "models": [{"modelName": "alias", "pool": "qwen", "targetModels": [{"name": "food"}]}]
}"#;

fn vm(process: &Process) -> Vm {
    Vm::load(process, "inference.wasm", CONFIG).unwrap()
}

fn head(method: &str, path: &str, more: &[(&str, &[u8])]) -> Vec<Header> {
    let pseudo: [(&str, &[u8]); 3] =
        [(":method", method.as_bytes()), (":path", path.as_bytes()), (":authority", b"gateway")];
    pseudo.iter().chain(more).map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect()
}

/// Sends a chat completion to its end; gives the last action.
fn chat(vm: &mut Vm, body: &[u8]) -> (u32, Action) {
    let id = vm.stream().unwrap();
    let length = body.len().to_string();
    let headers = head("POST", "/v1/chat/completions", &[("content-length", length.as_bytes())]);
    assert_eq!(vm.request_headers(id, headers, false).unwrap(), Action::Pause);
    let (first, second) = body.split_at(body.len() / 2);
    assert_eq!(vm.request_body(id, first, false).unwrap(), Action::Pause);
    let action = vm.request_body(id, second, true).unwrap();
    (id, action)
}

/// Publishes metrics as the poller would: through the real one.
fn publish(process: &Process, waiting: &[(&str, u32)]) {
    let mut poller = Vm::load(process, "metrics-poller.wasm", CONFIG).unwrap();
    for call in poller.take_calls() {
        let address = call.header("x-gateway-destination-endpoint").unwrap();
        let waiting = waiting.iter().find(|(endpoint, _)| *endpoint == address).map_or(0, |(_, waiting)| *waiting);
        let page =
            format!("vllm:num_requests_waiting {waiting}\nvllm:num_requests_running 1\nvllm:kv_cache_usage_perc 0.5\n");
        poller.answer_call(call.token, 200, page.as_bytes()).unwrap();
    }
}

#[test]
fn picks_the_least_loaded_endpoint_and_says_so() {
    let process = Process::new();
    publish(&process, &[("10.0.0.1:8000", 9)]);
    let mut vm = vm(&process);
    let body = br#"{"model":"Qwen","messages":[]}"#;
    let (id, action) = chat(&mut vm, body);
    assert_eq!(action, Action::Continue);
    assert_eq!(vm.request_header("x-gateway-destination-endpoint"), ["10.0.0.2:8000,10.0.0.1:8000"]);
    assert_eq!(vm.request_header("x-gateway-base-model-name"), ["Qwen"]);
    assert_eq!(vm.request_header("x-gateway-model-name"), ["Qwen"]);
    assert_eq!(vm.body(), body);
    assert_eq!(vm.property("inference_tier").as_deref(), Some("fresh"));
    let status = (":status".to_owned(), b"200".to_vec());
    vm.response_headers(id, vec![status.clone()], "10.0.0.2:8000", false).unwrap();
    let served = ("x-gateway-destination-endpoint-served".to_owned(), b"10.0.0.2:8000".to_vec());
    assert_eq!(vm.response(), [status, served]);
    assert_eq!(vm.response_body(id, 100, true).unwrap(), Action::Continue);
    vm.end(id).unwrap();
    assert_eq!(vm.metric("inference_picks_total;pool=qwen;tier=fresh"), Some(1));
    assert_eq!(vm.metric("inference_endpoint_picks_total;pool=qwen;endpoint=10.0.0.2:8000"), Some(1));
    assert_eq!(vm.metric("inference_override_missed_total;pool=qwen"), Some(0));
}

#[test]
fn picks_when_trailers_end_the_request() {
    let mut vm = vm(&Process::new());
    let id = vm.stream().unwrap();
    vm.request_headers(id, head("POST", "/v1/completions", &[]), false).unwrap();
    assert_eq!(vm.request_body(id, br#"{"model":"food"}"#, false).unwrap(), Action::Pause);
    let trailer = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let trailers = vec![trailer("x-checked", "yes"), trailer("x-gateway-inference-fairness-id", "mine")];
    assert_eq!(vm.request_trailers(id, trailers).unwrap(), (Action::Continue, vec![trailer("x-checked", "yes")]));
    assert_eq!(vm.request_header("x-gateway-model-name"), ["food"]);
    assert_eq!(vm.request_header("x-gateway-destination-endpoint").len(), 1);
}

#[test]
fn an_alias_is_rewritten_and_the_length_is_right() {
    let mut vm = vm(&Process::new());
    let (_, action) = chat(&mut vm, br#"{"model":"alias","n":12345678901234567890}"#);
    assert_eq!(action, Action::Continue);
    assert_eq!(vm.body(), br#"{"model":"food","n":12345678901234567890}"#);
    assert_eq!(vm.request_header("content-length"), [vm.body().len().to_string()]);
}

#[test]
fn what_cannot_be_served_is_answered() {
    let mut vm = vm(&Process::new());
    for (body, status, code) in [
        (&b""[..], 400, "invalid_json"),
        (b"{\"model\":", 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b"{}", 400, "missing_model"),
        (b"{\"model\":\"nobody\"}", 404, "model_not_found"),
    ] {
        let (id, action) = chat(&mut vm, body);
        assert_eq!(action, Action::Pause);
        let answer = vm.local_response().unwrap();
        assert!(answer.status == status && answer.body.contains(code), "{answer:?}");
        vm.end(id).unwrap();
    }
    assert_eq!(vm.metric("inference_refusals_total;reason=rejected-invalid-body"), Some(4));
}

#[test]
fn a_post_without_a_body_and_an_oversized_one_are_answered_at_once() {
    let mut vm = vm(&Process::new());
    let id = vm.stream().unwrap();
    assert_eq!(vm.request_headers(id, head("POST", "/v1/completions", &[]), true).unwrap(), Action::Pause);
    assert_eq!(vm.local_response().unwrap().status, 400);
    let id = vm.stream().unwrap();
    let long = head("POST", "/v1/completions", &[("content-length", b"4097")]);
    assert_eq!(vm.request_headers(id, long, false).unwrap(), Action::Pause);
    assert_eq!(vm.local_response().unwrap().status, 413);
    let id = vm.stream().unwrap();
    vm.request_headers(id, head("POST", "/v1/completions", &[]), false).unwrap();
    assert_eq!(vm.request_body(id, &[b' '; 4097], false).unwrap(), Action::Pause);
    assert_eq!(vm.local_response().unwrap().status, 413);
}

#[test]
fn headers_that_are_not_utf_8_and_spoofed_ones_do_no_harm() {
    let mut vm = vm(&Process::new());
    for path in ["/v1/chat/completions", "/v1/models", "/\u{ff}"] {
        let id = vm.stream().unwrap();
        let hostile: [(&str, &[u8]); 5] = [
            ("x-strange", b"\xff\xfe\x00"),
            ("x-gateway-destination-endpoint", b"127.0.0.1:9901"),
            ("x-gateway-destination-endpoint", b"\xff"),
            ("x-gateway-base-model-name", b"Deep"),
            ("x-llm-d-inference-objective", b"critical"),
        ];
        let action = vm.request_headers(id, head("GET", path, &hostile), true).unwrap();
        assert_eq!(action, Action::Continue);
        let names: Vec<&str> = vm.request().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [":method", ":path", ":authority", "x-strange"]);
    }
}

#[test]
fn a_request_without_a_model_is_picked_for_by_its_route() {
    let mut vm = vm(&Process::new());
    let id = vm.stream().unwrap();
    vm.set_property("xds.cluster_name", "deep-cluster");
    assert_eq!(vm.request_headers(id, head("GET", "/v1/models", &[]), true).unwrap(), Action::Continue);
    assert_eq!(vm.request_header("x-gateway-destination-endpoint"), ["10.0.0.3:8000"]);
}

#[test]
fn workers_share_what_is_in_flight() {
    let process = Process::new();
    let mut first = vm(&process);
    let mut second = vm(&process);
    // All metrics are old, so that requests in flight are all there is to go by.
    publish(&process, &[]);
    process.pass(10_000);
    first.tick().unwrap();
    second.tick().unwrap();
    let (id, _) = chat(&mut first, br#"{"model":"Qwen"}"#);
    let busy = first.request_header("x-gateway-destination-endpoint")[0].split(',').next().unwrap().to_owned();
    for _ in 0..10 {
        process.pass(6);
        let (other, _) = chat(&mut second, br#"{"model":"Qwen"}"#);
        let picked = second.request_header("x-gateway-destination-endpoint")[0].clone();
        assert!(!picked.starts_with(&busy), "{picked}");
        assert_eq!(second.property("inference_tier").as_deref(), Some("in-flight"));
        second.end(other).unwrap();
    }
    first.end(id).unwrap();
    process.pass(6);
    let (other, _) = chat(&mut second, br#"{"model":"Qwen"}"#);
    let picked = second.request_header("x-gateway-destination-endpoint")[0].clone();
    assert!(
        picked.starts_with(&busy),
        "after its end the request counts no more, and both prefer one endpoint: {picked}"
    );
    second.end(other).unwrap();
}

#[test]
fn an_error_of_envoys_own_names_no_server_and_one_of_the_servers_does() {
    let mut vm = vm(&Process::new());
    for (details, named) in [("upstream_reset_before_response_started", false), ("via_upstream", true)] {
        let (id, _) = chat(&mut vm, br#"{"model":"Qwen"}"#);
        vm.set_property("response.code_details", details);
        let spoofed = ("x-gateway-destination-endpoint-served".to_owned(), b"me".to_vec());
        let headers = vec![(":status".to_owned(), b"503".to_vec()), spoofed];
        vm.response_headers(id, headers, "10.0.0.1:8000", true).unwrap();
        let served = vm.response().into_iter().find(|(name, _)| name == "x-gateway-destination-endpoint-served");
        assert_eq!(served.map(|(_, value)| value), named.then(|| b"10.0.0.1:8000".to_vec()), "{details}");
        vm.end(id).unwrap();
    }
}

#[test]
fn fail_close_answers_503_when_nothing_can_be_reached() {
    let process = Process::new();
    let mut poller = Vm::load(&process, "metrics-poller.wasm", CONFIG).unwrap();
    for _ in 0..2 {
        for call in poller.take_calls() {
            poller.answer_call(call.token, 503, b"upstream connect error").unwrap();
        }
        process.pass(200);
        poller.tick().unwrap();
    }
    let mut vm = vm(&process);
    let (_, action) = chat(&mut vm, br#"{"model":"Deep"}"#);
    assert_eq!((action, vm.local_response().unwrap().status), (Action::Pause, 503));
    let (_, action) = chat(&mut vm, br#"{"model":"Qwen"}"#);
    assert_eq!((action, vm.request_header("x-gateway-destination-endpoint").len()), (Action::Continue, 0));
    assert_eq!(vm.property("inference_tier").as_deref(), Some("none"));
}

#[test]
fn every_mistake_in_the_configuration_is_logged() {
    let config = r#"{"pools": [{"name": "a", "baseModel": 5, "endpoints": {"static": ["10.0.0.1"]}, "colour": "red"}],
        "poller": {"interval": "soon"}}"#;
    let Err(error) = Vm::load(&Process::new(), "inference.wasm", config) else { panic!("it was taken") };
    let log = error.to_string();
    for part in [
        "pools[0].baseModel",
        "pools[0].endpoints.static[0]: \"10.0.0.1\" has no port",
        "pools[0].colour",
        "poller.interval",
    ] {
        assert!(log.contains(part), "{part} is not in:\n{log}");
    }
}

#[test]
fn ten_thousand_requests_leave_nothing_behind() {
    let process = Process::new();
    let mut vm = vm(&process);
    let mut sizes = Vec::new();
    for round in 0..10_000 {
        let (id, _) = chat(&mut vm, br#"{"model":"alias","messages":[{"role":"user","content":"hello"}]}"#);
        if round % 3 == 0 {
            vm.response_headers(id, vec![(":status".to_owned(), b"200".to_vec())], "10.0.0.1:8000", true).unwrap();
        }
        vm.end(id).unwrap();
        process.pass(1);
        sizes.push(vm.memory_bytes());
    }
    assert_eq!(sizes[999], sizes[9_999], "the VM's memory grows");
    // When an endpoint last answered is remembered for a minute.
    process.pass(61_000);
    vm.tick().unwrap();
    let slot = process.data("ip1/inflight/0").unwrap();
    assert_eq!(slot.len(), 4 + 1 + 8 + 8 + 8 + 4, "requests are still counted as in flight");
}
