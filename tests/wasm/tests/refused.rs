//! A host may refuse any hostcall: no module traps on it, whichever it is and whatever the status says, and each works again
//! once its host does.

use std::collections::BTreeSet;

use wasm_tests::{Header, Process, Refused, Vm, module_bytes};

const CONFIG: &str = r#"{
    "pools": [{"name": "p", "baseModel": "m", "endpoints": {"static": ["10.0.0.1:8000", "10.0.0.2:8000"]},
               "flowControl": {}, "saturation": {"maxConcurrency": 1}}],
    "models": [{"modelName": "alias", "pool": "p", "restoreModelName": true}]
}"#;

/// The statuses that the ABI has, and one that it hasn't.
const STATUSES: [i32; 11] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 99];

fn header(name: &str, value: &str) -> Header {
    (name.to_owned(), value.as_bytes().to_vec())
}

fn head(path: &str) -> Vec<Header> {
    vec![
        header(":method", "POST"),
        header(":path", path),
        header(":authority", "gateway"),
        header("x-gateway-destination-endpoint", "10.9.9.9:1"),
        header("content-digest", "sha-256=:AAAA:"),
    ]
}

/// What can happen to requests: an alias whose answer is restored, trailers on both sides, a refusal, one that waits, is let go
/// and leaves, one that passes through.
fn journey(vm: &mut Vm) -> wasmtime::Result<()> {
    let served = vm.stream()?;
    vm.request_headers(served, head("/v1/chat/completions"), false)?;
    vm.request_body(served, br#"{"model":"alias","messages":[]}"#, false)?;
    vm.request_trailers(served, vec![header("x-slo-ttft-ms", "1"), header("digest", "x")])?;
    let refused = vm.stream()?;
    vm.request_headers(refused, head("/v1/chat/completions"), false)?;
    vm.request_body(refused, br#"{"model":"unknown"}"#, true)?;
    vm.end(refused)?;
    let others: Vec<u32> = (0..3)
        .map(|_| {
            let id = vm.stream()?;
            vm.request_headers(id, head("/v1/completions"), false)?;
            vm.request_body(id, br#"{"model":"m"}"#, true)?;
            Ok(id)
        })
        .collect::<wasmtime::Result<_>>()?;
    vm.tick()?;
    let answer = vec![header(":status", "200"), header("content-type", "application/json"), header("etag", "x")];
    vm.response_headers(served, answer, "10.0.0.1:8000", false)?;
    vm.response_body(served, 20, false)?;
    vm.response_trailers(served, vec![header("digest", "x")])?;
    vm.end(served)?;
    let passing = vm.stream()?;
    vm.request_headers(passing, head("/other"), true)?;
    vm.end(passing)?;
    for id in others {
        vm.end(id)?;
    }
    vm.tick()
}

fn works(vm: &mut Vm) {
    let id = vm.stream().unwrap();
    vm.request_headers(id, head("/v1/completions"), false).unwrap();
    vm.request_body(id, br#"{"model":"m"}"#, true).unwrap();
    assert_eq!(vm.request_header("x-gateway-destination-endpoint").len(), 1, "{:?}", vm.request());
    assert!(!vm.request_header("x-gateway-destination-endpoint").contains(&"10.9.9.9:1".to_owned()));
    vm.end(id).unwrap();
}

fn hostcalls() -> BTreeSet<String> {
    let module = wasmtime::Module::new(&wasmtime::Engine::default(), module_bytes("inference.wasm").unwrap()).unwrap();
    module.imports().filter(|import| import.module() == "env").map(|import| import.name().to_owned()).collect()
}

#[test]
fn no_refused_hostcall_traps_the_inference_filter() {
    let process = Process::new();
    let mut vm = Vm::load(&process, "inference.wasm", CONFIG).unwrap();
    let mut refuse = |refused: Refused, status: i32| {
        vm.refuse_hostcalls(Some((refused.clone(), status)));
        let outcome = journey(&mut vm);
        let made = vm.hostcalls_made();
        vm.refuse_hostcalls(None);
        if let Err(trap) = outcome {
            panic!("{refused:?} with status {status}: {trap}");
        }
        // Slots, leases and whatever else was lost on the way have run out.
        process.pass(60_000);
        vm.tick().unwrap();
        works(&mut vm);
        made
    };
    for status in STATUSES {
        refuse(Refused::All, status);
    }
    for name in hostcalls() {
        refuse(Refused::Named(name.clone()), 2);
        refuse(Refused::Named(name), 99);
    }
    let made = refuse(Refused::From(u32::MAX), 2);
    assert!(made > 50, "{made} hostcalls are no journey");
    for number in 0..made {
        refuse(Refused::Only(number), 2);
    }
    for number in (0..made).step_by(8) {
        refuse(Refused::From(number), 10);
    }
}

#[test]
fn no_refused_hostcall_traps_the_poller() {
    let process = Process::new();
    let mut vm = Vm::load(&process, "metrics-poller.wasm", CONFIG).unwrap();
    let all = STATUSES.map(|status| (Refused::All, status));
    let each = hostcalls().into_iter().flat_map(|name| [(Refused::Named(name.clone()), 2), (Refused::Named(name), 99)]);
    for (refused, status) in all.into_iter().chain(each) {
        vm.refuse_hostcalls(Some((refused.clone(), status)));
        for _ in 0..4 {
            process.pass(1000);
            let ticked = vm.tick();
            assert!(ticked.is_ok(), "{refused:?} with status {status}: {ticked:?}");
            for call in vm.take_calls() {
                let answered = vm.answer_call(call.token, 200, b"vllm:num_requests_waiting 3\n");
                assert!(answered.is_ok(), "{refused:?} with status {status}: {answered:?}");
            }
        }
        vm.refuse_hostcalls(None);
    }
    process.pass(60_000);
    vm.tick().unwrap();
    assert!(!vm.take_calls().is_empty(), "it polls again");
}
