//! Model-aware routing and load-aware picking, request by request.

use std::collections::BTreeSet;
use std::time::Duration;

use envoy_tests::{DEEPSEEK, Example, QWEN, Setup, report_waiting, served_by};
use inferencectl::client;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn every_model_and_adapter_of_the_example_reaches_its_pool() -> anyhow::Result<()> {
    let example = Example::start(Setup::default()).await?;
    for model in [QWEN, "food-review-1"] {
        let answer = example.chat(model).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(served_by(&answer, &example.qwen).is_some(), "{model}: {:?}", answer.headers);
        assert_eq!(answer.json()?["model"], model, "the engine is asked for the adapter");
    }
    for model in [DEEPSEEK, "ski-resorts", "movie-critique"] {
        let answer = example.chat(model).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(served_by(&answer, &example.deepseek).is_some(), "{model}: {:?}", answer.headers);
    }
    let answer = example.chat("gpt-nobody").await?;
    assert_eq!((answer.status, &answer.json()?["error"]["code"]), (404, &json!("model_not_found")));
    assert_eq!(answer.header("x-llm-d-request-dropped-reason"), Some("rejected-unknown-model"));
    let answer = example.post("/v1/chat/completions", &[], "{\"model\":").await?;
    assert_eq!((answer.status, &answer.json()?["error"]["code"]), (400, &json!("invalid_json")));
    let answer = example.post("/v1/chat/completions", &[], "").await?;
    assert_eq!(answer.status, 400);
    let answer = client::get(example.envoy.listen(), "/v1/models").await?;
    assert_eq!(answer.status, 404, "with two pools, a path without a model belongs to none");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_streamed_as_they_come() -> anyhow::Result<()> {
    let example = Example::start(Setup::default()).await?;
    let body = json!({"model": QWEN, "stream": true, "max_tokens": 40, "prompt": "hi"}).to_string();
    // A machine that pauses may delay one answer's beginning; were answers held back, it would be every one's.
    example
        .eventually("an answer begins long before it ends", || async {
            let answer = example.post("/v1/completions", &[], body.clone()).await?;
            assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
            assert!(answer.text().ends_with("data: [DONE]\n\n"));
            Ok(answer.first_byte < answer.total / 2)
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn picks_follow_the_load_within_two_scrapes() -> anyhow::Result<()> {
    let example = Example::start(Setup::default()).await?;
    let mut delays = Vec::new();
    for round in 0..4 {
        let idle = round % 3;
        for (index, server) in example.qwen.iter().enumerate() {
            report_waiting(server, if index == idle { 0 } else { 10 });
        }
        delays.push(example.picks_settle_on(QWEN, &example.qwen, idle).await?);
    }
    println!("the last pick elsewhere after each flip: {delays:?}");
    // Two intervals are 400 ms. A machine that pauses may miss that once, not every time.
    delays.sort_unstable();
    let best = delays.first().copied().unwrap_or_default();
    assert!(best < Duration::from_millis(400), "{delays:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn spoofed_headers_go_nowhere() -> anyhow::Result<()> {
    let example = Example::start(Setup::default()).await?;
    report_waiting(&example.qwen[0], 0);
    report_waiting(&example.qwen[1], 10);
    report_waiting(&example.qwen[2], 10);
    example.picks_settle_on(QWEN, &example.qwen, 0).await?;
    let elsewhere = example.qwen[1].address().to_string();
    let body = json!({"model": QWEN, "max_tokens": 1, "prompt": "hi"}).to_string();
    let spoofed = [
        ("x-gateway-destination-endpoint", elsewhere.as_str()),
        ("x-gateway-destination-endpoint-subset", elsewhere.as_str()),
        ("x-gateway-base-model-name", DEEPSEEK),
        ("x-gateway-model-name", DEEPSEEK),
        ("x-gateway-inference-objective", "critical"),
        ("x-llm-d-inference-fairness-id", "me"),
    ];
    example.qwen[0].received();
    for _ in 0..20 {
        let answer = example.post("/v1/completions", &spoofed, body.clone()).await?;
        assert_eq!(served_by(&answer, &example.qwen), Some(0), "{:?}", answer.headers);
    }
    let received = example.qwen[0].received();
    let values: BTreeSet<&str> =
        received.iter().flat_map(|request| request.headers.values()).filter_map(|value| value.to_str().ok()).collect();
    assert!(!values.contains(DEEPSEEK) && !values.contains("critical") && !values.contains("me"), "{values:?}");
    // Without a body the routes see none of it either.
    let request = hyper::Request::get("/v1/models")
        .header("host", "gateway")
        .header("x-gateway-base-model-name", QWEN)
        .header("x-gateway-destination-endpoint", &elsewhere)
        .body(http_body_util::Full::default())?;
    assert_eq!(client::send(example.envoy.listen(), request).await?.status, 404);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_arrives_rewritten_with_its_length() -> anyhow::Result<()> {
    let setup = Setup {
        change: |document| {
            let target = json!([{"name": "food-review-1"}]);
            document["models"] =
                json!([{"modelName": "tweet-summary", "pool": "vllm-qwen3-32b", "targetModels": target}]);
        },
        ..Setup::default()
    };
    let example = Example::start(setup).await?;
    let body = "{ \"n\" : 123456789012345678901, \"model\":\"tweet-summary\",\"max_tokens\":1, \"prompt\":\"x\" }";
    let answer = example.post("/v1/completions", &[], body).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let server = served_by(&answer, &example.qwen).ok_or_else(|| anyhow::anyhow!("nobody"))?;
    let received = example.qwen[server].received().pop().ok_or_else(|| anyhow::anyhow!("nothing"))?;
    assert_eq!(received.body, body.replace("tweet-summary", "food-review-1"));
    assert_eq!(received.headers["content-length"], received.body.len().to_string());
    assert_eq!(received.headers["x-gateway-model-name"], "food-review-1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_pool_alone_takes_requests_without_a_model_too() -> anyhow::Result<()> {
    let setup = Setup {
        change: |document| {
            let only = document["pools"][0].take();
            document["pools"] = json!([only]);
        },
        ..Setup::default()
    };
    let example = Example::start(setup).await?;
    report_waiting(&example.qwen[0], 10);
    report_waiting(&example.qwen[2], 10);
    example
        .eventually("GET /v1/models is picked for by load", || async {
            let answer = client::get(example.envoy.listen(), "/v1/models").await?;
            Ok(answer.status == 200 && served_by(&answer, &example.qwen) == Some(1))
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_and_the_metrics_say_what_happened() -> anyhow::Result<()> {
    let example = Example::start(Setup::default()).await?;
    let answer = example.chat("food-review-1").await?;
    assert_eq!(answer.status, 200);
    example.chat("nobody").await?;
    example.eventually("both are logged", || async { Ok(example.access_log().lines().count() >= 2) }).await?;
    let log = example.access_log();
    let lines: Vec<Value> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let line = &lines[0];
    assert_eq!(line["pool"], "vllm-qwen3-32b");
    assert_eq!(line["model"], "food-review-1");
    assert_eq!(line["tier"], "fresh");
    assert_eq!(line["endpoint"], answer.header("x-gateway-destination-endpoint-served").unwrap_or_default());
    assert_eq!(lines[1]["refused"], "rejected-unknown-model");
    assert_eq!(lines[1]["unknown_model"], "nobody");
    example
        .eventually("labels are taken out of metric names", || async {
            let page = example.envoy.ask_admin("/stats/prometheus").await?.text();
            Ok(page.contains("inference_picks_total{pool=\"vllm-qwen3-32b\",tier=\"fresh\"} 1")
                && page.contains("inference_refusals_total{reason=\"rejected-unknown-model\"} 1"))
        })
        .await
}
