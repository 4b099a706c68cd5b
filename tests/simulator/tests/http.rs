//! The simulator's HTTP side: what a client and a scraper see, and what each fault does to it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use simulator::fault::{FakeMetrics, Fault, MetricsFault};
use simulator::flags::Flags;
use simulator::server::Server;

/// An answer's status, and its body with chunk sizes taken out.
struct Answer {
    status: u16,
    body: String,
}

async fn start(change: fn(&mut Flags)) -> Server {
    let mut flags = Flags::for_model("base");
    flags.lora_modules = vec!["lora-a".to_owned()];
    flags.lora_load_time = Duration::ZERO;
    flags.inter_token_latency = Duration::from_millis(1);
    change(&mut flags);
    Server::start(flags).await.expect("a free port")
}

/// Sends a request on a connection of its own; `None` when none can be had or it breaks.
async fn send(server: &Server, method: &'static str, path: &'static str, body: String) -> Option<Answer> {
    let address = server.address();
    tokio::task::spawn_blocking(move || exchange(address, method, path, &body).ok()).await.expect("it ends")
}

fn exchange(address: SocketAddr, method: &str, path: &str, body: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: s\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok(Answer { status, body: body.to_owned() })
}

async fn chat(server: &Server, body: Value) -> Answer {
    send(server, "POST", "/v1/chat/completions", body.to_string()).await.expect("an answer")
}

async fn gauge(server: &Server, name: &str) -> Option<f64> {
    let page = send(server, "GET", "/metrics", String::new()).await?.body;
    let line = page.lines().find(|line| line.starts_with(&format!("{name}{{")))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_as_vllm_does() {
    let server = start(|flags| flags.max_model_len = 100).await;
    let answer =
        chat(&server, json!({"model": "lora-a", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]}))
            .await;
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(
        (answer.status, &body["model"], &body["usage"]["completion_tokens"]),
        (200, &json!("lora-a"), &json!(3))
    );
    let answer = chat(&server, json!({"model": "base", "stream": true, "max_tokens": 3, "messages": []})).await;
    assert_eq!(answer.body.matches("\"delta\"").count(), 3);
    assert!(answer.body.contains("data: [DONE]\n\n"));
    assert_eq!(chat(&server, json!({"model": "other"})).await.status, 404);
    assert_eq!(chat(&server, json!({"model": 3})).await.status, 400);
    assert_eq!(chat(&server, json!({"model": "base", "max_tokens": u64::MAX})).await.status, 400);
    assert_eq!(send(&server, "POST", "/v1/completions", "{".to_owned()).await.unwrap().status, 400);
    assert_eq!(send(&server, "GET", "/v1/completions", String::new()).await.unwrap().status, 405);
    let models = send(&server, "GET", "/v1/models", String::new()).await.unwrap().body;
    assert!(models.contains("\"base\"") && models.contains("\"lora-a\""));
    let embedding = send(&server, "POST", "/v1/embeddings", json!({"model": "base", "input": "hi"}).to_string()).await;
    assert!(embedding.unwrap().body.contains("\"embedding\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_comes_again_is_cached() {
    let server = start(|_| {}).await;
    let request =
        json!({"model": "base", "max_tokens": 1, "messages": [{"role": "user", "content": "x".repeat(1000)}]});
    let mut cached = Vec::new();
    for _ in 0..2 {
        let body: Value = serde_json::from_str(&chat(&server, request.clone()).await.body).unwrap();
        cached.push(body["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap());
    }
    // 251 tokens are 15 full blocks of 16.
    assert_eq!(cached, [0, 240]);
    assert_eq!(gauge(&server, "vllm:prefix_cache_hits_total").await, Some(240.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_answers_503() {
    let server = start(|flags| (flags.max_num_seqs, flags.max_waiting_queue_length) = (1, 0)).await;
    let long = json!({"model": "base", "max_tokens": 300, "messages": []});
    let (first, second) = tokio::join!(chat(&server, long.clone()), chat(&server, long));
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 503]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_adapters_gauge_repeats_itself_as_vllms_does() {
    let server = start(|_| {}).await;
    let page = send(&server, "GET", "/metrics", String::new()).await.unwrap().body;
    assert!(!page.contains("vllm:lora_requests_info{"), "no series before the first adapter");
    chat(&server, json!({"model": "lora-a", "max_tokens": 1, "messages": []})).await;
    let page = send(&server, "GET", "/metrics", String::new()).await.unwrap().body;
    assert!(page.contains("running_lora_adapters=\"lora-a\",waiting_lora_adapters=\"lora-a\""));
    assert!(page.contains("running_lora_adapters=\"\",waiting_lora_adapters=\"\""), "and the old set stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_look_as_they_do_in_the_wild() {
    let server = start(|_| {}).await;
    let request = json!({"model": "base", "max_tokens": 1, "messages": []});
    server.set_fault(Fault::Drain);
    assert_eq!(chat(&server, request.clone()).await.status, 500);
    assert_eq!(send(&server, "GET", "/health", String::new()).await.unwrap().status, 200);
    assert_eq!(gauge(&server, "vllm:num_requests_running").await, Some(0.0));
    server.set_fault(Fault::Busy);
    assert_eq!(chat(&server, request.clone()).await.status, 503);
    server.set_fault(Fault::Hang);
    let hung = chat(&server, request.clone());
    assert!(tokio::time::timeout(Duration::from_millis(200), hung).await.is_err(), "a hung engine sends nothing");
    assert_eq!(send(&server, "GET", "/health", String::new()).await.unwrap().status, 200);
    server.set_fault(Fault::Refuse);
    let mut gone = false;
    for _ in 0..500 {
        gone = send(&server, "GET", "/health", String::new()).await.is_none();
        if gone {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(gone, "it still listens");
    server.set_fault(Fault::None);
    let mut back = false;
    for _ in 0..500 {
        back = send(&server, "GET", "/health", String::new()).await.is_some();
        if back {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(back, "it does not come back");
    assert_eq!(chat(&server, request).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_page_fails_on_demand() {
    let server = start(|_| {}).await;
    server.set_fake_metrics(Some(FakeMetrics { waiting_requests: 7, running_requests: 2, kv_cache_usage: 0.5 }));
    assert_eq!(gauge(&server, "vllm:num_requests_waiting").await, Some(7.0));
    server.set_metrics_fault(MetricsFault::Instead(500, Bytes::from_static(b"no")));
    assert_eq!(send(&server, "GET", "/metrics", String::new()).await.unwrap().status, 500);
    server.set_metrics_fault(MetricsFault::Half);
    let half = send(&server, "GET", "/metrics", String::new()).await.unwrap().body;
    server.set_metrics_fault(MetricsFault::None);
    let whole = send(&server, "GET", "/metrics", String::new()).await.unwrap().body;
    assert!(half.len() < whole.len() && !half.is_empty());
    server.set_fake_metrics(None);
    chat(&server, json!({"model": "base", "max_tokens": 5, "messages": []})).await;
    assert_eq!(gauge(&server, "vllm:generation_tokens_total").await, Some(5.0));
    server.restart();
    assert_eq!(gauge(&server, "vllm:generation_tokens_total").await, Some(0.0), "counters begin anew");
}
