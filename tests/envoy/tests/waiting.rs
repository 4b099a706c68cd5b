//! Flow control: requests wait in Envoy while the pool is saturated, and every one is answered once.

use std::time::{Duration, Instant};

use envoy_tests::{Example, QWEN, Setup, report_waiting};
use inferencectl::client::{self, Answer, Connection};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const GAUGE: &str = "wasmcustom.inference_waiting_requests;pool=vllm-qwen3-32b";

fn with_flow_control(change: fn(&mut Value)) -> Setup {
    Setup { change, ..Setup::default() }
}

fn flow_control(document: &mut Value, flow_control: Value) {
    document["pools"][0]["flowControl"] = flow_control;
    document["trustedHeaders"] = json!(["x-gateway-inference-fairness-id", "x-llm-d-inference-ttl"]);
    document["models"] = json!([
        {"modelName": "critical", "pool": "vllm-qwen3-32b", "criticality": "Critical"},
        {"modelName": "standard", "pool": "vllm-qwen3-32b"},
        {"modelName": "batch", "pool": "vllm-qwen3-32b", "criticality": "Sheddable"}]);
}

/// Sends a request of its own connection, and gives its answer and when it came.
fn ask(example: &Example, model: &str, headers: &[(&str, &str)]) -> JoinHandle<anyhow::Result<(Answer, Instant)>> {
    let body = json!({"model": model, "prompt": "hi", "max_tokens": 1}).to_string();
    let request = client::post("/v1/completions", headers, body);
    let gateway = example.envoy.listen();
    tokio::spawn(async move {
        let answer = client::send(gateway, request?).await?;
        Ok((answer, Instant::now()))
    })
}

async fn is_saturated(example: &Example) -> anyhow::Result<()> {
    example.qwen.iter().for_each(|server| report_waiting(server, 9));
    // Who asks for little time is the probe: with room it is answered, and without refused.
    example
        .eventually("requests wait", || async {
            let (answer, _) = ask(example, "standard", &[("x-llm-d-inference-ttl", "10ms")]).await??;
            Ok(answer.status == 429)
        })
        .await
}

async fn waiting(example: &Example, wanted: u64) -> anyhow::Result<()> {
    let what = format!("{wanted} requests wait");
    example.eventually(&what, || async { Ok(example.envoy.stat(GAUGE).await? == Some(wanted)) }).await
}

fn make_room(example: &Example) {
    example.qwen.iter().for_each(|server| report_waiting(server, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_room_and_are_answered_when_there_is_some() -> anyhow::Result<()> {
    let example = Example::start(with_flow_control(|document| flow_control(document, json!({})))).await?;
    let (answer, _) = ask(&example, "batch", &[]).await??;
    assert_eq!(answer.status, 200, "there is room");
    is_saturated(&example).await?;
    let held: Vec<_> =
        ["batch", "critical", "standard", QWEN].map(|model| ask(&example, model, &[])).into_iter().collect();
    waiting(&example, 4).await?;
    assert!(held.iter().all(|request| !request.is_finished()));
    make_room(&example);
    for request in held {
        let (answer, _) = request.await??;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.header("x-gateway-destination-endpoint-served").is_some());
    }
    waiting(&example, 0).await?;
    // Another pool never waited.
    assert_eq!(example.chat(envoy_tests::DEEPSEEK).await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_too_long_or_finds_no_place_is_refused() -> anyhow::Result<()> {
    let setup = with_flow_control(|document| {
        let bands = json!([{"priority": -1, "maxRequests": 2}, {"priority": 1, "ttl": "300ms"}]);
        flow_control(document, json!({"bands": bands, "ttl": "60s"}));
    });
    let example = Example::start(setup).await?;
    is_saturated(&example).await?;
    let (answer, _) = ask(&example, "critical", &[]).await??;
    assert_eq!((answer.status, &answer.json()?["error"]["code"]), (429, &json!("wait_expired")));
    assert_eq!(answer.header("x-llm-d-request-dropped-reason"), Some("rejected-ttl-expired"));
    assert!(answer.header("retry-after").is_some());
    // The limit is over all workers: each connection may come to either of the two.
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(ask(&example, "batch", &[]));
    }
    waiting(&example, 2).await?;
    for _ in 0..10 {
        let (answer, _) = ask(&example, "batch", &[]).await??;
        assert_eq!((answer.status, &answer.json()?["error"]["code"]), (429, &json!("queue_full")));
        assert_eq!(answer.header("x-llm-d-request-dropped-reason"), Some("rejected-saturated"));
    }
    // Other priorities have places of their own.
    held.push(ask(&example, "standard", &[]));
    waiting(&example, 3).await?;
    make_room(&example);
    for request in held {
        assert_eq!(request.await??.0.status, 200);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_forgotten_at_once() -> anyhow::Result<()> {
    let setup = with_flow_control(|document| flow_control(document, json!({"maxRequests": 3})));
    let example = Example::start(setup).await?;
    is_saturated(&example).await?;
    for _ in 0..5 {
        let leaving: Vec<_> = (0..3).map(|_| ask(&example, "standard", &[])).collect();
        waiting(&example, 3).await?;
        leaving.iter().for_each(JoinHandle::abort);
        waiting(&example, 0).await?;
    }
    let outcome = "wasmcustom.inference_waited_total;pool=vllm-qwen3-32b;outcome=left";
    example.eventually("who left is counted", || async { Ok(example.envoy.stat(outcome).await? == Some(15)) }).await?;
    let before: usize = example.qwen.iter().map(|server| server.received().len()).sum();
    make_room(&example);
    let (answer, _) = ask(&example, "standard", &[]).await??;
    assert_eq!(answer.status, 200);
    let scrapes = |received: &simulator::server::Received| received.path != "/metrics";
    let after = example.qwen.iter().flat_map(|server| server.received()).filter(scrapes).count();
    assert!(after <= before + 1, "no server ever hears of them");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_matters_more_leaves_first_and_flows_take_turns() -> anyhow::Result<()> {
    let setup = Setup {
        // One worker, so that the order is one.
        concurrency: 1,
        change: |document| {
            document["pools"][0]["saturation"] = json!({"maxConcurrency": 1});
            flow_control(document, json!({}));
        },
        ..Setup::default()
    };
    let example = Example::start(setup).await?;
    is_saturated(&example).await?;
    let ask_as = |model: &str, flow: &str| ask(&example, model, &[("x-gateway-inference-fairness-id", flow)]);
    let mut held = Vec::new();
    for (model, flow, name) in [
        ("batch", "a", "batch"),
        ("standard", "a", "a1"),
        ("standard", "a", "a2"),
        ("standard", "a", "a3"),
        ("standard", "b", "b1"),
        ("critical", "a", "critical"),
    ] {
        held.push((name, ask_as(model, flow)));
        waiting(&example, held.len() as u64).await?;
    }
    make_room(&example);
    let mut ends = Vec::new();
    for (name, request) in held {
        let (answer, at) = request.await??;
        assert_eq!(answer.status, 200);
        ends.push((at, name));
    }
    ends.sort();
    let position = |name: &str| ends.iter().position(|(_, other)| *other == name).unwrap();
    // Three servers take one each, so neighbours may overtake each other; those of different rounds don't.
    assert!(position("critical") < position("a3") && position("critical") < position("batch"), "{ends:?}");
    assert!(position("b1") < position("a3"), "{ends:?}");
    assert!(position("batch") >= 3, "it is not of the first round: {ends:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn under_overload_every_request_is_answered_exactly_once() -> anyhow::Result<()> {
    let setup = with_flow_control(|document| {
        document["pools"][0]["saturation"] = json!({"maxConcurrency": 5});
        let bands = json!([{"priority": 0, "maxRequests": 40, "ttl": "2s"},
            {"priority": -1, "maxRequests": 20, "ttl": "1s", "saturationCeiling": 0.6}]);
        flow_control(document, json!({"bands": bands}));
    });
    let example = Example::start(setup).await?;
    // More clients than the servers have places and the queue has room, each with its connection, one request after
    // the other: now and then one leaves in the middle.
    const CLIENTS: usize = 120;
    const REQUESTS: usize = 12;
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        let gateway = example.envoy.listen();
        clients.push(tokio::spawn(async move {
            let mut statuses = Vec::new();
            let mut connection = Connection::open(gateway).await?;
            for number in 0..REQUESTS {
                let model = ["critical", "standard", "batch"][(client + number) % 3];
                let body =
                    json!({"model": model, "prompt": format!("{client} {number}"), "max_tokens": 8, "stream": true});
                let request = client::post("/v1/completions", &[], body.to_string())?;
                if (client + number) % 17 == 0 {
                    let _ = tokio::time::timeout(Duration::from_millis(40), connection.send(request)).await;
                    connection = Connection::open(gateway).await?;
                    continue;
                }
                let answer = tokio::time::timeout(envoy_tests::PATIENCE, connection.send(request)).await??;
                if answer.status == 200 {
                    anyhow::ensure!(answer.text().matches("data: ").count() == 9, "{}", answer.text());
                }
                statuses.push((model, answer.status));
            }
            Ok(statuses)
        }));
    }
    let mut most = 0;
    let mut statuses = Vec::new();
    for client in clients {
        most = most.max(example.envoy.stat(GAUGE).await?.unwrap_or(0));
        statuses.extend(client.await??);
    }
    assert!(most <= 5_000 + 40 + 20);
    let count = |model: &str, status: u16| statuses.iter().filter(|other| **other == (model, status)).count();
    let all = |model: &str| statuses.iter().filter(|(other, _)| *other == model).count();
    assert_eq!(count("critical", 200), all("critical"), "there is a place for each of them");
    for model in ["standard", "batch"] {
        assert_eq!(count(model, 200) + count(model, 429), all(model));
        assert!(count(model, 200) > 0, "{model}");
    }
    assert!(count("batch", 429) > 0, "too many for the servers");
    waiting(&example, 0).await?;
    example
        .eventually("nothing is in flight", || async {
            Ok(example.envoy.stat("cluster.vllm-qwen3-32b.upstream_rq_active").await? == Some(0))
        })
        .await
}
