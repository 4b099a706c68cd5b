//! Which headers say how a request is treated: those that a filter has set, and no client's.

use envoy_tests::chain::{Chain, Place, Running, shipped};
use envoy_tests::tokens::{NOBODYS, RESEARCH, SEARCH};
use envoy_tests::{QWEN, eventually, report_waiting};
use inferencectl::client::Answer;
use serde_json::{Value, json};

const FAIRNESS: &str = "x-gateway-inference-fairness-id";
const OBJECTIVE: &str = "x-gateway-inference-objective";

/// Requests below 0 are shed while the pool is saturated, so the answer shows which objective was believed.
fn with_objectives(document: &mut Value) {
    document["objectives"] = json!([{"name": "interactive", "pool": "qwen", "priority": 1}, {"name": "batch", "pool": "qwen", "priority": -1}]);
    document["trustedHeaders"] = json!([FAIRNESS, OBJECTIVE]);
}

async fn saturate(running: &Running) -> anyhow::Result<()> {
    report_waiting(&running.servers[0], 9);
    // A batch token is the probe: it is shed once the queue is known.
    eventually(&running.envoy, "the pool is saturated", || async {
        Ok(running.ask(QWEN, &[("authorization", RESEARCH)]).await?.status == 429)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_say_who_is_served_and_spoofed_headers_say_nothing() -> anyhow::Result<()> {
    let mut chain = Chain::new(1, with_objectives).await?;
    chain.insert(Place::Front, shipped("jwt-claims.yaml")?)?;
    let running = chain.start().await?;
    saturate(&running).await?;
    for (token, spoofed, wanted) in [
        (SEARCH, None, 200),
        (RESEARCH, None, 429),
        // The token says batch, and the client something better.
        (RESEARCH, Some("interactive"), 429),
        (SEARCH, Some("batch"), 200),
        // Without the claim the client's word is not taken in its place.
        (NOBODYS, Some("batch"), 200),
    ] {
        for name in [OBJECTIVE, "x-llm-d-inference-objective"] {
            let mut headers =
                vec![("authorization", token), (FAIRNESS, "another"), ("x-llm-d-inference-fairness-id", "x")];
            headers.extend(spoofed.map(|spoofed| (name, spoofed)));
            let answer = running.ask(QWEN, &headers).await?;
            assert_eq!(answer.status, wanted, "{spoofed:?} in {name}: {}", answer.text());
        }
    }
    for request in running.servers[0].received() {
        let steering = |name: &&str| name.contains("inference-objective") || name.contains("fairness-id");
        let names: Vec<&str> = request.headers.keys().map(hyper::header::HeaderName::as_str).filter(steering).collect();
        assert_eq!(names, [""; 0], "{}", request.path);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_teams_of_the_claims_take_turns() -> anyhow::Result<()> {
    let mut chain = Chain::new(1, |document| {
        document["pools"][0]["flowControl"] = json!({});
        document["trustedHeaders"] = json!([FAIRNESS]);
    })
    .await?;
    chain.insert(Place::Front, shipped("jwt-claims.yaml")?)?;
    let running = std::sync::Arc::new(chain.start().await?);
    report_waiting(&running.servers[0], 9);
    const WAITING: &str = "wasmcustom.inference_waiting_requests;pool=qwen";
    // One team fills the queue under many invented names; then the other sends two requests.
    let mut asked = Vec::new();
    for number in 0..12 {
        let token = if number < 10 { RESEARCH } else { SEARCH };
        let asking = std::sync::Arc::clone(&running);
        asked.push(tokio::spawn(async move {
            let invented = format!("invented-{number}");
            let body = json!({"model": QWEN, "max_tokens": 1, "prompt": format!("{number}")}).to_string();
            let headers =
                [("authorization", token), (FAIRNESS, invented.as_str()), ("x-llm-d-inference-fairness-id", "z")];
            asking.send("POST", "/v1/completions", &headers, body).await
        }));
        let before = number;
        eventually(&running.envoy, "it waits, or went before the queue was known", || async {
            let waiting = running.envoy.stat(WAITING).await?.unwrap_or(0);
            let done = asked.iter().filter(|asked| asked.is_finished()).count() as u64;
            Ok(waiting + done == before + 1)
        })
        .await?;
    }
    running.servers[0].received();
    report_waiting(&running.servers[0], 0);
    for asked in asked {
        assert_eq!(asked.await??.status, 200);
    }
    let order: Vec<u64> = running.servers[0]
        .received()
        .iter()
        .filter_map(|request| serde_json::from_slice::<Value>(&request.body).ok()?["prompt"].as_str()?.parse().ok())
        .collect();
    let place = |wanted: u64| order.iter().position(|number| *number == wanted);
    assert!(place(10).is_some_and(|place| place < 4), "the other team's first is second or so: {order:?}");
    assert!(place(11).is_some_and(|place| place < 6), "and its second follows: {order:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_stripping_nothing_is_believed_either() -> anyhow::Result<()> {
    let mut chain = Chain::new(1, |document| {
        with_objectives(document);
        document.as_object_mut().unwrap().remove("trustedHeaders");
    })
    .await?;
    // A configuration of somebody's own.
    chain.manager().as_object_mut().unwrap().remove("early_header_mutation_extensions");
    let running = chain.start().await?;
    report_waiting(&running.servers[0], 9);
    let spoofed = [
        (OBJECTIVE, "batch"),
        ("x-llm-d-inference-objective", "batch"),
        ("x-gateway-destination-endpoint-subset", "10.9.9.9:1"),
        ("x-llm-d-destination-endpoint-subset", "10.9.9.9:1"),
        ("x-llm-d-inference-ttl", "1ms"),
        ("x-slo-ttft-ms", "1"),
        ("x-llm-d-slo-ttft-ms", "1"),
        (FAIRNESS, "me"),
    ];
    for (method, path) in [("POST", "/v1/completions"), ("GET", "/v1/models")] {
        let body = json!({"model": QWEN, "max_tokens": 1, "prompt": "hi"}).to_string();
        for _ in 0..10 {
            let answer = running
                .send(method, path, &spoofed, if method == "POST" { body.clone() } else { String::new() })
                .await?;
            assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
        }
    }
    let received = running.servers[0].received();
    assert!(received.len() >= 20);
    for request in received {
        for (name, _) in spoofed {
            assert!(!request.headers.contains_key(name), "{} has {name}", request.path);
        }
    }
    Ok(())
}

/// Envoy drops the trailers of HTTP/1.1 requests, so these go over HTTP/2 on both sides.
#[tokio::test(flavor = "multi_thread")]
async fn trailers_that_steer_are_removed_and_the_others_arrive() -> anyhow::Result<()> {
    let mut chain = Chain::new(1, |document| {
        document["models"] = json!([{"modelName": "alias", "pool": "qwen", "targetModels": [{"name": QWEN}]}]);
    })
    .await?;
    chain.bootstrap["static_resources"]["clusters"][0]["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}}}});
    let running = chain.start().await?;
    let steering = inference_plugin::headers::CONTROL.iter().map(|name| (*name, "x"));
    let trailers: Vec<(&str, &str)> = steering.chain([("content-digest", "x"), ("x-checksum", "1")]).collect();
    // Untrusted names among the headers, too, and on each path that a request takes through the plugin.
    for headers in [&[][..], &[(FAIRNESS, "me"), ("digest", "x")][..]] {
        for (model, path, status) in [
            (QWEN, "/v1/completions", 200),
            ("alias", "/v1/completions", 200),
            ("gpt-nobody", "/v1/completions", 404),
            (QWEN, "/v1/models", 200),
        ] {
            running.servers[0].received();
            let body = json!({"model": model, "max_tokens": 1, "prompt": "hi"}).to_string();
            let method = if path == "/v1/models" { "GET" } else { "POST" };
            let answered = running.send_with_trailers(method, path, headers, body, &trailers).await?;
            assert_eq!(answered, status, "{model} {path}");
            let received = running.servers[0].received();
            assert_eq!(received.len(), usize::from(status == 200), "{model} {path}");
            for request in received {
                let arrived = request.trailers.unwrap_or_default();
                let names: Vec<&str> = arrived.keys().map(hyper::header::HeaderName::as_str).collect();
                let wanted: &[&str] =
                    if model == "alias" { &["x-checksum"] } else { &["content-digest", "x-checksum"] };
                assert_eq!(names, wanted, "{model} {path}");
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_learn_no_address_where_that_is_off() -> anyhow::Result<()> {
    let mut chain = Chain::new(1, |document| document["exposeEndpoint"] = json!(false)).await?;
    // The header by which the poller knows who has answered a scrape is on the client's answers, too.
    let address = chain.bootstrap["static_resources"]["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"]
        [0]["endpoint"]["address"]["socket_address"]["port_value"]
        .to_string();
    chain.bootstrap["static_resources"]["clusters"][0]["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http_protocol_options": {}},
            "http_filters": [
                {"name": "envoy.filters.http.header_mutation", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
                    "mutations": {"response_mutations": [{"append": {"append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                        "header": {"key": "x-gateway-destination-endpoint-served", "value": "%UPSTREAM_REMOTE_ADDRESS%"}}}]}}},
                {"name": "envoy.filters.http.upstream_codec", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"}}]}});
    let running = chain.start().await?;
    let up = "wasmcustom.inference_endpoints;pool=qwen;health=up";
    eventually(&running.envoy, "scrapes work", || async { Ok(running.envoy.stat(up).await? == Some(1)) }).await?;
    let names_it = |answer: &Answer| {
        let headers = answer.headers.values().any(|value| String::from_utf8_lossy(value.as_bytes()).contains(&address));
        headers || answer.text().contains(&address)
    };
    for answer in [
        running.ask(QWEN, &[]).await?,
        running.send("GET", "/v1/models", &[], "").await?,
        running.ask("gpt-nobody", &[]).await?,
    ] {
        assert!(!names_it(&answer), "{:?} {}", answer.headers, answer.text());
    }
    assert!(running.access_log().contains(&address), "the access log has it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_forges_no_line_of_a_text_log() -> anyhow::Result<()> {
    let mut chain = Chain::new(1, |_| {}).await?;
    chain.manager()["access_log"][0]["typed_config"]["log_format"] = json!({"text_format_source":
        {"inline_string": "%RESPONSE_CODE% model=%FILTER_STATE(wasm.inference_unknown_model:PLAIN)% end\n"}});
    let running = chain.start().await?;
    let long = "x".repeat(1 << 20);
    let hostile = [
        "x end\n200 model=forged",
        "\u{1b}[31mred",
        "a\u{2028}b",
        "\u{202e}drow",
        "a\";pool=\"b",
        "\u{85}\u{9b}",
        &long,
    ];
    for name in hostile {
        let answer = running.ask(name, &[]).await?;
        assert_eq!(answer.status, 404);
        let message = answer.json()?["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(!message.chars().any(inference_plugin::shown::is_hidden) && message.len() < 300, "{message:?}");
    }
    eventually(&running.envoy, "all are logged", || async {
        Ok(running.access_log().lines().count() >= hostile.len())
    })
    .await?;
    let log = running.access_log();
    for line in log.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let is_plain = line.len() < 200 && line.chars().all(|char| char.is_ascii_graphic() || char == ' ');
        assert!(words.len() == 3 && words[0] == "404" && words[2] == "end" && is_plain, "{line:?}");
    }
    assert_eq!(log.lines().count(), hostile.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_changes_takes_its_digests_along() -> anyhow::Result<()> {
    let chain = Chain::new(1, |document| {
        document["models"] = json!([{"modelName": "alias", "pool": "qwen", "targetModels": [{"name": QWEN}]}]);
    })
    .await?;
    let running = chain.start().await?;
    let mut headers: Vec<(&str, &str)> =
        inference_plugin::headers::DIGESTS.iter().map(|name| (*name, "sha-256=:eA==:")).collect();
    headers.extend([("signature-input", r#"s=("@path" "content-digest")"#), ("signature", "s=:eA==:")]);
    for (model, stay) in [(QWEN, true), ("alias", false)] {
        running.servers[0].received();
        assert_eq!(running.ask(model, &headers).await?.status, 200);
        let received = running.servers[0].received();
        let request = received.iter().find(|request| request.path == "/v1/completions").expect("it has come");
        for (name, _) in &headers {
            assert_eq!(request.headers.contains_key(*name), stay, "{model}: {name}");
        }
    }
    Ok(())
}
