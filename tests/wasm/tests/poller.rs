//! The metrics poller and its backup, callback by callback.

use wasm_tests::{HttpCall, Process, Vm};

const CONFIG: &str = r#"{"pools": [{"name": "p", "baseModel": "m", "cluster": "c", "metricsPath": "/m",
    "endpoints": {"static": ["10.0.0.1:8000", "10.0.0.2:8000"]}}]}"#;
const PAGE: &[u8] = b"vllm:num_requests_waiting 3\nvllm:num_requests_running 1\nvllm:kv_cache_usage_perc 0.5\n";

fn poller(process: &Process) -> Vm {
    Vm::load(process, "metrics-poller.wasm", CONFIG).unwrap()
}

fn targets(calls: &[HttpCall]) -> Vec<&str> {
    calls.iter().filter_map(|call| call.header("x-gateway-destination-endpoint")).collect()
}

/// Ticks as often as the VM asked for, over this time; gives every callout.
fn run(process: &Process, vm: &mut Vm, milliseconds: u64) -> Vec<HttpCall> {
    let period = u64::from(vm.tick_period());
    for _ in 0..milliseconds / period {
        process.pass(period);
        vm.tick().unwrap();
    }
    vm.take_calls()
}

#[test]
fn scrapes_every_endpoint_at_once_when_it_is_configured() {
    let process = Process::new();
    let mut vm = poller(&process);
    let calls = vm.take_calls();
    assert_eq!(targets(&calls), ["10.0.0.1:8000", "10.0.0.2:8000"]);
    let first = &calls[0];
    assert_eq!((first.cluster.as_str(), first.timeout), ("c", 1000));
    assert_eq!((first.header(":path"), first.header(":authority")), (Some("/m"), Some("10.0.0.1:8000")));
    for call in calls {
        vm.answer_call(call.token, 200, PAGE).unwrap();
    }
    assert!(process.keys().contains(&"ip1/load/p".to_owned()));
    assert_eq!(vm.metric("inference_endpoints;pool=p;health=up"), Some(2));
    assert_eq!(run(&process, &mut vm, 400).len(), 2, "and not again before it is answered");
}

#[test]
fn survives_any_answer() {
    let process = Process::new();
    let mut vm = poller(&process);
    let long = vec![b'x'; 5 << 20];
    let answers: [(u16, &[u8]); 11] = [
        (200, b""),
        (200, b"\n"),
        (200, b"half a page"),
        (200, b"\xff\xfe\xfd\n"),
        (200, b"vllm:num_requests_waiting{model_name=\"\xff\"} 1\n"),
        (200, b"vllm:num_requests_waiting 1e999\nvllm:kv_cache_usage_perc NaN\n"),
        (200, b"{{{{\"\"\"\n"),
        (200, &long),
        (404, b"{\"detail\":\"Not Found\"}"),
        (500, PAGE),
        (503, b"upstream connect error"),
    ];
    for (status, body) in answers {
        for call in vm.take_calls() {
            vm.answer_call(call.token, status, body).unwrap();
        }
        run(&process, &mut vm, 100);
        process.pass(100);
        vm.tick().unwrap();
    }
    for call in vm.take_calls() {
        vm.fail_call(call.token).unwrap();
    }
    vm.refuse_calls(true);
    run(&process, &mut vm, 1000);
    vm.refuse_calls(false);
    let calls = run(&process, &mut vm, 400);
    assert!(calls.len() >= 2, "it goes on: {calls:?}");
}

#[test]
fn an_inference_vm_polls_while_there_is_no_singleton_and_yields_when_there_is() {
    let process = Process::new();
    let mut worker = Vm::load(&process, "inference.wasm", CONFIG).unwrap();
    let mut other = Vm::load(&process, "inference.wasm", CONFIG).unwrap();
    assert_eq!(run(&process, &mut worker, 200).len(), 2, "the first takes the lease");
    assert!(run(&process, &mut other, 200).is_empty(), "the second follows");
    assert_eq!(worker.metric("inference_lease_acquired_total;rank=backup"), Some(1));
    // A singleton takes over at once.
    let mut singleton = poller(&process);
    assert_eq!(singleton.take_calls().len(), 2);
    for call in worker.take_calls() {
        worker.answer_call(call.token, 200, PAGE).unwrap();
    }
    assert!(run(&process, &mut worker, 400).is_empty());
    // It dies: within its term and a tick, one worker polls again.
    let mut polled = 0;
    for _ in 0..30 {
        polled += run(&process, &mut worker, 50).len() + run(&process, &mut other, 50).len();
    }
    assert!(polled >= 2, "{polled}");
    // It comes back.
    assert!(!run(&process, &mut singleton, 100).is_empty());
    let mut after = 0;
    for _ in 0..5 {
        run(&process, &mut singleton, 50);
        after += run(&process, &mut worker, 50).len() + run(&process, &mut other, 50).len();
    }
    assert_eq!(after, 0);
}
