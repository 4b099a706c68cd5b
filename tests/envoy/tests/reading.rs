//! Nobody gets around the plugin by how a request is written: paths, forms and JSON of every spelling reach no model that is not
//! listed, and no path that isn't open.

use envoy_tests::{Example, QWEN, Setup};
use inferencectl::client::{self, Answer};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn one_pool() -> Setup {
    Setup {
        change: |document| {
            document["pools"].as_array_mut().unwrap().truncate(1);
            document["models"] =
                json!([{"modelName": "alias", "pool": "vllm-qwen3-32b", "targetModels": [{"name": "food-review-1"}]}]);
        },
        ..Setup::default()
    }
}

/// Sends a request whose target no client's library would write, and gives the status.
async fn raw(example: &Example, target: &str, body: &str) -> anyhow::Result<u16> {
    let mut socket = TcpStream::connect(example.envoy.listen()).await?;
    let request = format!(
        "POST {target} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| anyhow::anyhow!("{target}: {answer}"))
}

/// The paths and bodies that have reached a server since the last look; those of its metrics and its health apart.
fn received(example: &Example) -> Vec<(String, String)> {
    let all = example.qwen.iter().flat_map(|server| server.received());
    all.map(|request| (request.path, String::from_utf8_lossy(&request.body).into_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_path_hides_a_model() -> anyhow::Result<()> {
    let example = Example::start(one_pool()).await?;
    received(&example);
    let secret = r#"{"model":"secret","messages":[],"prompt":"x"}"#;
    for target in [
        "/v1/chat/completions",
        "/v1/ch%61t/completions",
        "/v1/chat%2Fcompletions",
        "/v1%2fchat%2fcompletions",
        "/v1/chat/completion%73",
        "/v1/ch%2561t/completions",
        "/v1/chat%252Fcompletions",
        "//v1//chat//completions",
        "/v1/./chat/x/../completions",
        "/v1/%2e/chat/x/%2e%2e/completions",
        "/v1/chat/completions/",
        "/v1/chat/completions//",
        "/v1/chat/completions;x=y",
        "/v1;x/chat/completions",
        "/V1/Chat/Completions",
        "/v1\\chat\\completions",
        "/v1/chat/completions%3f",
        "/v1/chat/completions%20",
        "/v1/chat/completions.",
        "/v1/c%zzhat/completions",
        "http://gateway/v1/ch%61t/completions",
        "/invocations",
        "/inv%6fcations",
        "/tokenize/",
        "/Rerank",
        "/v1beta/models/secret:generateContent",
        "/v1beta/models/s%65cret:generateContent",
        "/openai/deployments/secret/chat/completions",
    ] {
        let status = raw(&example, target, secret).await?;
        assert!(status == 400 || status == 404, "{target}: {status}");
        assert_eq!(received(&example), [], "{target}");
    }
    for target in
        ["/v1/ch%61t/completions", "/v1%2Fchat%2Fcompletions", "//v1/chat/./completions", "/v1/chat/completions/"]
    {
        let body = format!(r#"{{"model":"{QWEN}","messages":[]}}"#);
        raw(&example, target, &body).await?;
        assert_eq!(received(&example).len(), 1, "{target}: a model that is listed is reached");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_are_resolved_wherever_a_model_is_named() -> anyhow::Result<()> {
    let example = Example::start(one_pool()).await?;
    received(&example);
    for path in [
        "/tokenize",
        "/detokenize",
        "/rerank",
        "/score",
        "/classify",
        "/pooling",
        "/invocations",
        "/v1/responses/compact",
        "/v1/responses/input_tokens",
        "/v2/embed",
        "/embeddings",
        "/v1/embeddings/",
        "/v1beta/openai/embeddings",
        "/api/v3/embeddings",
        "/v1/tokenize",
        "/v1/classify",
        "/v1/moderations",
        "/infill",
        "/completion",
    ] {
        example.post(path, &[], r#"{"model":"alias","x":1}"#).await?;
        assert_eq!(received(&example), [(path.to_owned(), r#"{"model":"food-review-1","x":1}"#.to_owned())]);
    }
    for (path, sent, at, body) in [
        (
            "/openai/deployments/alias/chat/completions?api-version=1",
            "{}",
            "/openai/deployments/food-review-1/chat/completions?api-version=1",
            "{}",
        ),
        (
            "/v1beta/models/alias:generateContent",
            "{\"contents\":[]}",
            "/v1beta/models/food-review-1:generateContent",
            "{\"contents\":[]}",
        ),
    ] {
        example.post(path, &[], sent).await?;
        assert_eq!(received(&example), [(at.to_owned(), body.to_owned())]);
    }
    let bom = format!("\u{feff}{{\"model\":\"{QWEN}\",\"prompt\":\"x\"}}");
    example.post("/v1/completions", &[], bom.clone()).await?;
    assert_eq!(received(&example), [("/v1/completions".to_owned(), bom)], "a byte order mark is no error");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_readers_see_differently_is_refused() -> anyhow::Result<()> {
    let example = Example::start(one_pool()).await?;
    received(&example);
    let send = async |content_type: &str, body: String| -> anyhow::Result<Answer> {
        let request = hyper::Request::post("/v1/audio/transcriptions")
            .header("host", "inference")
            .header("content-type", content_type)
            .body(http_body_util::Full::new(body.into()))?;
        client::send(example.envoy.listen(), request).await
    };
    let part = |head: &str, value: &str| format!("--x\r\n{head}\r\n\r\n{value}\r\n");
    let base = part("Content-Disposition: form-data; name=\"model\"", QWEN);
    let file = part("Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"", "RIFF") + "--x--\r\n";
    for head in [
        "Content-Disposition: form-data; name=\"y\"; name=\"model\"",
        "Content-Disposition: form-data; name=\"y\"\r\nContent-Disposition: form-data; name=\"model\"",
        "Content-Disposition: form-data; name=\"model\"",
        "Content-Disposition: attachment; name=\"model\"",
        "Content-Disposition: form-data; name=\"model\"; filename*=utf-8''a",
        "Content-Disposition: form-data; name*=utf-8''y; name=\"model\"",
        "Content-Disposition: form-data; name=\"y\\\"; name=\\\"model\"",
    ] {
        let form = format!("{base}{}{file}", part(head, "secret"));
        let answer = send("multipart/form-data; boundary=x", form).await?;
        assert_eq!((answer.status, answer.json()?["error"]["code"].as_str()), (400, Some("invalid_form")), "{head}");
    }
    for content_type in [
        "multipart/form-data; boundary=y; boundary=x",
        "multipart/form-data; boundary=x; charset=utf-7",
        "application/x-www-form-urlencoded",
    ] {
        let answer = send(content_type, format!("{base}{file}")).await?;
        assert_eq!(answer.status, 400, "{content_type}");
    }
    assert_eq!(received(&example), []);
    send("multipart/form-data; boundary=x", format!("{base}{file}")).await?;
    assert_eq!(received(&example).len(), 1, "a plain one is served");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engines_own_paths_are_closed() -> anyhow::Result<()> {
    let example = Example::start(one_pool()).await?;
    received(&example);
    for path in [
        "/metrics",
        "/metrics/",
        "/%6detrics",
        "//metrics",
        "/v1/models/../../metrics",
        "/v1/models/..%2f..%2fmetrics",
        "/server_info",
        "/load_lora_adapter",
        "/v1/load_lora_adapter",
        "/reset_prefix_cache",
        "/collective_rpc",
        "/sleep",
        "/flush_cache",
        "/update_weights_from_disk",
        "/slots",
        "/props",
        "/lora-adapters",
        "/docs",
        "/openapi.json",
        "/v1/modelsx",
        "/",
    ] {
        assert_eq!(client::get(example.envoy.listen(), path).await?.status, 404, "GET {path}");
        assert_eq!(example.post(path, &[], "{}").await?.status, 404, "POST {path}");
    }
    // What can be read can't be changed: llama.cpp loads and unloads models below a list.
    for path in ["/models/load", "/models/unload", "/models", "/v1/models", "/v1/models/load", "/health", "/ping"] {
        assert_eq!(example.post(path, &[], r#"{"model":"a"}"#).await?.status, 404, "POST {path}");
    }
    assert_eq!(received(&example), []);
    for path in ["/health", "/v1/models"] {
        assert_eq!(client::get(example.envoy.listen(), path).await?.status, 200, "{path}");
    }
    received(&example);
    for path in ["/v1/models", "/models/a", "/v1/models/a", "/v1/responses/resp_1"] {
        client::get(example.envoy.listen(), path).await?;
        let reached = received(&example);
        assert!(reached.iter().any(|(at, _)| at == path), "{path}: {reached:?}");
    }
    Ok(())
}
