//! Models, rewrites, shapes of requests and rules, as a model server and a client see them.

use envoy_tests::{DEEPSEEK, Example, QWEN, Setup, report_waiting, served_by};
use inferencectl::client::{self, Answer};
use serde_json::{Value, json};
use simulator::server::{Received, Server};

/// A request for a path that a server of the list got, the last one of that server.
fn last_received(servers: &[Server], path: &str) -> Option<Received> {
    servers.iter().flat_map(Server::received).filter(|received| received.path == path).last()
}

fn with_models() -> Setup {
    Setup {
        change: |document| {
            document["models"] = json!([
                {"modelName": "reviews", "pool": "vllm-qwen3-32b", "criticality": "Critical", "restoreModelName": true,
                 "targetModels": [{"name": "food-review-1"}]},
                {"modelName": "plain-reviews", "pool": "vllm-qwen3-32b", "targetModels": [{"name": "food-review-1"}]},
                {"modelName": "split", "pool": "vllm-deepseek-r1", "sticky": true,
                 "targetModels": [{"name": "ski-resorts", "weight": 50}, {"name": "movie-critique", "weight": 50}]}]);
            document["modelRewrites"] = json!([{"pool": "vllm-qwen3-32b", "rules": [
                {"matches": [{"model": {"type": "Exact", "value": "gpt-4"}}], "targets": [{"modelRewrite": QWEN}], "restoreModelName": true}]}]);
            document["sessionKeys"] = json!([{"cookie": "sid"}, {"bodyField": "user"}]);
        },
        ..Setup::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_names_the_model_as_the_client_did() -> anyhow::Result<()> {
    let example = Example::start(with_models()).await?;
    for (model, asked_for) in [("reviews", "food-review-1"), ("gpt-4", QWEN)] {
        let prompt = format!("plain {model}");
        let body = json!({"model": model, "prompt": prompt, "max_tokens": 3});
        let headers = [("accept-encoding", "gzip")];
        let answer = example.post("/v1/completions", &headers, body.to_string()).await?;
        assert_eq!((answer.status, &answer.json()?["model"]), (200, &json!(model)), "{}", answer.text());
        assert_eq!(answer.header("content-length"), None, "its length changes on the way");
        let all = example.qwen.iter().flat_map(Server::received);
        let received =
            all.filter(|received| received.body.windows(prompt.len()).any(|text| text == prompt.as_bytes())).last();
        let received = received.unwrap();
        let received_body: Value = serde_json::from_slice(&received.body)?;
        assert_eq!(received_body["model"], asked_for);
        assert_eq!(received.headers["content-length"], received.body.len().to_string().as_str());
        assert!(!received.headers.contains_key("accept-encoding"), "a compressed answer could not be read");

        let body = json!({"model": model, "stream": true, "prompt": "hi", "max_tokens": 20});
        let answer = example.post("/v1/completions", &[], body.to_string()).await?;
        let events: Vec<Value> = events(&answer);
        assert_eq!(events.len(), 20);
        assert!(events.iter().all(|event| event["model"] == model), "{}", answer.text());
        assert!(answer.text().ends_with("data: [DONE]\n\n"));
    }
    // Where nobody asks for it, the answer is as the engine has sent it.
    let answer = example.post("/v1/completions", &[], r#"{"model":"plain-reviews","prompt":"hi"}"#).await?;
    assert_eq!(answer.json()?["model"], "food-review-1");
    assert!(answer.header("content-length").is_some());
    // So is an error.
    let answer =
        example.post("/v1/chat/completions", &[], r#"{"model":"reviews","messages":7,"max_tokens":900000}"#).await?;
    assert_eq!(answer.status, 400);
    assert!(answer.header("content-length").is_some());
    Ok(())
}

fn events(answer: &Answer) -> Vec<Value> {
    let text = answer.text();
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_keeps_its_side_of_a_split() -> anyhow::Result<()> {
    let example = Example::start(with_models()).await?;
    let ask = async |headers: &[(&str, &str)], user: &str| -> anyhow::Result<Value> {
        let body = json!({"model": "split", "prompt": "hi", "max_tokens": 1, "user": user});
        let answer = example.post("/v1/completions", headers, body.to_string()).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Ok(answer.json()?["model"].clone())
    };
    let mut sides = [0, 0];
    for session in 0..20 {
        let cookie = format!("a=b; sid={session}");
        let first = ask(&[("cookie", &cookie)], "anna").await?;
        for _ in 0..3 {
            assert_eq!(ask(&[("cookie", &cookie)], "bob").await?, first, "the cookie goes before the body");
        }
        assert_eq!(ask(&[], &format!("user-{session}")).await?, ask(&[], &format!("user-{session}")).await?);
        sides[usize::from(first == "ski-resorts")] += 1;
    }
    assert!(sides[0] >= 3 && sides[1] >= 3, "{sides:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_api_is_known_by_its_path_and_forms_are_read() -> anyhow::Result<()> {
    let example = Example::start(with_models()).await?;
    for path in [
        "/v1/chat/completions",
        "/openai/v1/chat/completions?api-version=1",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/conversations",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/inference/v1/generate",
        "/generate",
        "/v1/audio/speech",
        "/v1/images/generations",
        "/v1/rerank",
    ] {
        let body = json!({"zzz": 12345678901234567890123u128.to_string(), "model": "plain-reviews", "x": [1, {"model": "no"}]}).to_string();
        example.post(path, &[], body.clone()).await?;
        let received = last_received(&example.qwen, path).unwrap_or_else(|| panic!("{path} reached no server"));
        assert_eq!(received.body, body.replace("plain-reviews", "food-review-1"), "{path}");
        assert_eq!(received.headers["x-gateway-model-name"], "food-review-1");
    }
    let audio: Vec<u8> = (0..100_000u32).map(|index| (index % 256) as u8).collect();
    let form = |model: &str| {
        let head = "--b0und\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n";
        let tail =
            format!("\r\n--b0und\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--b0und--\r\n");
        [head.as_bytes(), &audio, tail.as_bytes()].concat()
    };
    for path in ["/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits"] {
        let request = hyper::Request::post(path)
            .header("host", "inference")
            .header("content-type", "multipart/form-data; boundary=b0und")
            .body(http_body_util::Full::new(form("plain-reviews").into()))?;
        client::send(example.envoy.listen(), request).await?;
        let received = last_received(&example.qwen, path).unwrap_or_else(|| panic!("{path} reached no server"));
        assert!(received.body == form("food-review-1"), "{path}");
    }
    let answer = example.post("/v1/audio/transcriptions", &[], "not a form").await?;
    assert_eq!(answer.status, 400);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_may_be_anothers_goes_where_its_route_leads() -> anyhow::Result<()> {
    let setup = Setup { change: |document| document["pools"].as_array_mut().unwrap().truncate(1), ..Setup::default() };
    let example = Example::start(setup).await?;
    for (server, waiting) in [(0, 50), (1, 0), (2, 50)] {
        report_waiting(&example.qwen[server], waiting);
    }
    example.picks_settle_on(QWEN, &example.qwen, 1).await?;
    for (path, body) in [
        ("/generate", r#"{"text": "hi", "sampling_params": {}}"#),
        ("/v1/conversations", r#"{"items": [{"role": "user", "content": "hi"}]}"#),
        ("/inference/v1/generate", r#"{"token_ids": [1, 2, 3]}"#),
        ("/v1/conversations/c/items", "\u{1f}\u{8b}"),
    ] {
        let answer = example.post(path, &[], body).await?;
        let received = last_received(&example.qwen, path).unwrap_or_else(|| panic!("{path} reached no server"));
        assert_eq!(received.body, body, "byte for byte");
        assert!(!received.headers.contains_key("x-gateway-model-name"));
        assert_eq!(served_by(&answer, &example.qwen), Some(1), "{path}: picked in the pool of the route");
    }
    // What cannot be read could name any model.
    for (headers, body, status) in [
        (&[][..], "no JSON at all".to_owned(), 400),
        (&[], r#"{"model": "another application's", "prompt": "x"}"#.to_owned(), 404),
        (&[("content-encoding", "zstd")], r#"{"text": "hi"}"#.to_owned(), 400),
    ] {
        assert_eq!(example.post("/generate", headers, body.clone()).await?.status, status, "{body}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_choose_and_what_fails_is_passed_over_and_counted() -> anyhow::Result<()> {
    let setup = Setup {
        change: |document| {
            document["rules"] = json!([
                {"when": "request.headers['x-team'] == 'search' && body.model == 'auto'", "model": DEEPSEEK, "headers": {"x-chosen-by": "search"}},
                {"when": "body.user.startsWith('vip')", "model": "food-review-1", "headers": {"x-user": {"cel": "body.user"}}},
                {"when": "request.path == '/v1/embeddings'", "pool": "vllm-deepseek-r1"},
                {"when": "body.model == 'auto'", "model": {"cel": "request.query.m"}}]);
        },
        ..Setup::default()
    };
    let example = Example::start(setup).await?;
    let body = |more: &str| format!(r#"{{"model":"auto","prompt":"hi","max_tokens":1{more}}}"#);
    let answer = example.post("/v1/completions", &[("x-team", "search")], body("")).await?;
    assert_eq!((answer.status, &answer.json()?["model"]), (200, &json!(DEEPSEEK)), "{}", answer.text());
    assert_eq!(last_received(&example.deepseek, "/v1/completions").unwrap().headers["x-chosen-by"], "search");
    let answer = example.post("/v1/completions", &[("x-team", "ads")], body(r#","user":"vip-7""#)).await?;
    assert_eq!(answer.json()?["model"], "food-review-1");
    assert_eq!(last_received(&example.qwen, "/v1/completions").unwrap().headers["x-user"], "vip-7");
    // The pool is the rule's, and the name the client's: an engine may serve what nobody has configured.
    let answer = example.post("/v1/embeddings", &[], r#"{"model":"dynamic-lora","input":"hi","user":"x"}"#).await?;
    assert_eq!(answer.status, 404, "the engine doesn't, this time");
    assert_eq!(
        last_received(&example.deepseek, "/v1/embeddings").unwrap().body,
        r#"{"model":"dynamic-lora","input":"hi","user":"x"}"#
    );
    let path = format!("/v1/completions?m={}", QWEN.replace('/', "%2F"));
    let answer = example.post(&path, &[], body("")).await?;
    assert_eq!(answer.json()?["model"], QWEN);
    // No header, no user, no such model: three rules fail, and nobody serves `auto`.
    let answer = example.post("/v1/completions?m=nobody", &[], body("")).await?;
    assert_eq!((answer.status, answer.header("x-llm-d-request-dropped-reason")), (404, Some("rejected-unknown-model")));
    let counted = async |rule: u32, metric: &str| {
        example.envoy.stat(&format!("wasmcustom.inference_rule_{metric}_total;rule={rule}")).await
    };
    example
        .eventually("rules are counted", || async {
            Ok(counted(0, "matches").await? == Some(1)
                && counted(3, "matches").await? == Some(1)
                && counted(3, "errors").await? == Some(1)
                && counted(1, "errors").await? >= Some(2))
        })
        .await?;
    let log = example.envoy.log();
    assert!(log.contains("rules[3] could not be evaluated, and was passed over: no pool serves the model"), "{log}");
    assert!(log.matches("rules[1] could not be evaluated").count() <= 3, "once for each VM: {log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saturated_pool_sheds_what_may_be_dropped_and_nothing_else() -> anyhow::Result<()> {
    let setup = Setup {
        change: |document| {
            document["models"] = json!([
                {"modelName": "batch", "pool": "vllm-qwen3-32b", "criticality": "Sheddable"},
                {"modelName": "chat", "pool": "vllm-qwen3-32b", "criticality": "Standard"}]);
            document["trustedHeaders"] = json!(["x-gateway-inference-objective"]);
            document["objectives"] = json!([
                {"name": "urgent", "pool": "vllm-qwen3-32b", "priority": 5},
                {"name": "later", "pool": "vllm-qwen3-32b", "priority": -5},
                {"name": "other", "pool": "vllm-deepseek-r1", "priority": 5}]);
            document["rules"] = json!([{"when": "request.headers[?'x-must'].orValue('') == 'yes'", "priority": 9}]);
        },
        ..Setup::default()
    };
    let example = Example::start(setup).await?;
    let ask = async |model: &str, headers: &[(&str, &str)]| -> anyhow::Result<Answer> {
        let body = json!({"model": model, "prompt": "hi", "max_tokens": 1});
        example.post("/v1/completions", headers, body.to_string()).await
    };
    assert_eq!(ask("batch", &[]).await?.status, 200, "there is room");
    example.qwen.iter().for_each(|server| report_waiting(server, 9));
    example.eventually("it is shed", || async { Ok(ask("batch", &[]).await?.status == 429) }).await?;
    let answer = ask("batch", &[]).await?;
    assert_eq!(answer.json()?["error"]["code"], "saturated");
    assert_eq!(answer.header("x-llm-d-request-dropped-reason"), Some("rejected-saturated"));
    let seconds: u32 = answer.header("retry-after").unwrap().parse()?;
    assert!((1..=60).contains(&seconds), "{seconds}");
    const OBJECTIVE: &str = "x-gateway-inference-objective";
    for (model, headers, status) in [
        ("chat", &[][..], 200),
        ("chat", &[(OBJECTIVE, "later")], 429),
        ("batch", &[(OBJECTIVE, "urgent")], 200),
        ("batch", &[(OBJECTIVE, "other")], 429),
        ("batch", &[(OBJECTIVE, "nobody's")], 429),
        ("batch", &[("x-must", "yes"), (OBJECTIVE, "later")], 200),
    ] {
        assert_eq!(ask(model, headers).await?.status, status, "{model} {headers:?}");
    }
    let received = last_received(&example.qwen, "/v1/completions").unwrap();
    assert!(!received.headers.contains_key(OBJECTIVE), "it is the gateway's, and not the engine's");
    example.qwen.iter().for_each(|server| report_waiting(server, 0));
    example.eventually("there is room again", || async { Ok(ask("batch", &[]).await?.status == 200) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sheddable_request_that_would_be_too_late_is_refused() -> anyhow::Result<()> {
    let setup = Setup {
        change: |document| {
            document["models"] = json!([{"modelName": "batch", "pool": "vllm-qwen3-32b", "priority": -1}]);
            document["pools"][0]["saturation"] = json!({"queueDepth": 100_000});
            document["trustedHeaders"] = json!(["x-slo-ttft-ms"]);
        },
        ..Setup::default()
    };
    let example = Example::start(setup).await?;
    // Each waiting request is some hundreds of tokens that are to be computed before.
    example.qwen.iter().for_each(|server| report_waiting(server, 1_000));
    let ask = async |model: &str, hope: &str| -> anyhow::Result<u16> {
        let body = json!({"model": model, "prompt": "hi", "max_tokens": 1});
        Ok(example.post("/v1/completions", &[("x-slo-ttft-ms", hope)], body.to_string()).await?.status)
    };
    example.eventually("it would be too late", || async { Ok(ask("batch", "200").await? == 429) }).await?;
    assert_eq!(ask("batch", "86400000").await?, 200);
    assert_eq!(ask(QWEN, "200").await?, 200, "what may not be dropped is late, and answered");
    Ok(())
}
