//! Engines as they are: pages at other paths and ports, in other forms, behind redirects, compressed, or no pages at all.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use envoy_tests::kube::{KubeApi, PodSpec};
use envoy_tests::site::Site;
use envoy_tests::web::Web;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::{Value, json};
use simulator::fault::{Fault, MetricsAnswer, MetricsFault};
use simulator::flags::Flags;
use simulator::server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const MODEL: &str = "m";
const INTERVAL: Duration = Duration::from_millis(200);

/// How a server answers scrapes: by the path with its query, and the page that vLLM would give.
type Answers = fn(&str, &str) -> MetricsAnswer;

async fn server(answers: Option<Answers>) -> anyhow::Result<Server> {
    let server = Server::start(Flags::for_model(MODEL)).await?;
    if let Some(answers) = answers {
        server.set_metrics_fault(MetricsFault::Other(answers));
    }
    Ok(server)
}

async fn servers(answers: &[Answers]) -> anyhow::Result<Vec<Server>> {
    let mut all = Vec::new();
    for answers in answers {
        all.push(server(Some(*answers)).await?);
    }
    Ok(all)
}

fn addresses(servers: &[Server]) -> Vec<Value> {
    servers.iter().map(|server| json!(server.address().to_string())).collect()
}

/// A pool of these endpoints, with more settings.
fn pool(endpoints: Value, more: Value) -> Value {
    let mut pool = json!({"name": "p", "baseModel": MODEL, "endpoints": endpoints});
    if let (Some(pool), Value::Object(more)) = (pool.as_object_mut(), more) {
        pool.extend(more);
    }
    json!({"pools": [pool], "models": [{"modelName": "batch", "pool": "p", "criticality": "Sheddable", "targetModels": [{"name": MODEL}]}]})
}

async fn site(document: Value) -> anyhow::Result<Site> {
    Site::start(document, |_, _| {}).await
}

async fn stat(site: &Site, name: &str) -> anyhow::Result<u64> {
    Ok(site.envoy.stat(&format!("wasmcustom.{name}")).await?.unwrap_or(0))
}

async fn wait_until_read(site: &Site, count: u64) -> anyhow::Result<()> {
    site.eventually(&format!("the metrics of {count} endpoints are read"), || async {
        Ok(stat(site, "inference_endpoints;pool=p;health=up").await? == count)
    })
    .await
}

/// How often the log has all of these words in one line.
fn lines(site: &Site, words: &[&str]) -> usize {
    site.envoy.log().lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
}

fn trtllm(path: &str, _page: &str) -> MetricsAnswer {
    match path {
        "/prometheus/metrics" => MetricsAnswer::page(
            "# HELP trtllm_num_requests_waiting Requests that wait\n# TYPE trtllm_num_requests_waiting gauge\n\
             trtllm_num_requests_waiting{engine_type=\"trtllm\",model_name=\"m\"} 9.0\n\
             trtllm_num_requests_running{engine_type=\"trtllm\",model_name=\"m\"} 2.0\n\
             trtllm_kv_cache_utilization{engine_type=\"trtllm\",model_name=\"m\"} 0.5\n",
        ),
        "/metrics" => MetricsAnswer::page("[{\"iter\": 5, \"numActiveRequests\": 2, \"numQueuedRequests\": 9}]")
            .header("content-type", "application/json"),
        _ => MetricsAnswer::not_found(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trtllm_serve_has_its_page_at_a_path_of_its_own() -> anyhow::Result<()> {
    let server = server(Some(trtllm)).await?;
    let document = pool(
        json!({"static": [server.address().to_string()]}),
        json!({"engine": "trtllm-serve", "saturation": {"queueDepth": 3}}),
    );
    let site = site(document).await?;
    wait_until_read(&site, 1).await?;
    site.eventually("the queue is known, and what may be shed is", || async {
        Ok(site.ask("batch", 1).await?.status == 429)
    })
    .await?;
    assert_eq!(site.ask(MODEL, 2).await?.status, 200);
    assert!(stat(&site, "inference_picks_total;pool=p;tier=fresh").await? > 0);
    assert!(stat(&site, "inference_saturation_percent;pool=p").await? >= 100);
    assert_eq!(stat(&site, "inference_scrapes_total;pool=p;result=unreadable").await?, 0);
    let scraped = server.scraped();
    assert!(scraped.iter().all(|path| path == "/prometheus/metrics"), "{scraped:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_mixed_pool_each_page_is_found_and_asked_for_once_an_interval() -> anyhow::Result<()> {
    let moved: Answers = |path, page| match path {
        "/prometheus/metrics" => MetricsAnswer::page(page.to_owned()),
        _ => trtllm(path, page),
    };
    let servers = [server(None).await?, server(Some(trtllm)).await?, server(Some(moved)).await?];
    let label = json!({"llm-d.ai/engine-type": "trtllm-serve"});
    let endpoints = json!({"static": [servers[0].address().to_string(),
        {"address": servers[1].address().to_string(), "labels": label}, servers[2].address().to_string()]});
    let site = site(pool(endpoints, json!({}))).await?;
    wait_until_read(&site, 3).await?;
    let started = Instant::now();
    servers.iter().for_each(|server| drop(server.scraped()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (server, path) in servers.iter().zip(["/metrics", "/prometheus/metrics", "/prometheus/metrics"]) {
        let scraped = server.scraped();
        let intervals = started.elapsed().as_millis() / INTERVAL.as_millis();
        assert!(scraped.iter().all(|asked| asked == path), "{scraped:?}");
        assert!(!scraped.is_empty() && scraped.len() as u128 <= intervals + 2, "{} in {intervals}", scraped.len());
    }
    site.eventually("the log says that all are read", || async {
        Ok(lines(&site, &["endpoint:", "metrics are read"]) == 3)
    })
    .await?;
    assert_eq!(lines(&site, &["endpoint:", "metrics are not read"]), 0);
    Ok(())
}

/// Triton's page for one model.
fn triton(path: &str, _page: &str) -> MetricsAnswer {
    match path {
        "/metrics" => MetricsAnswer::page(
            "# TYPE nv_inference_pending_request_count gauge\nnv_inference_pending_request_count{model=\"m\",version=\"1\"} 9\n",
        ),
        _ => MetricsAnswer { status: 400, ..MetricsAnswer::page("") },
    }
}

async fn triton_server(host: IpAddr, port: u16, metrics_port: u16) -> anyhow::Result<Server> {
    let mut flags = Flags::for_model(MODEL);
    (flags.host, flags.port, flags.metrics_port) = (host.to_string(), port, Some(metrics_port));
    let server = Server::start(flags).await?;
    server.set_metrics_fault(MetricsFault::Other(triton));
    Ok(server)
}

fn metrics_port(server: &Server) -> u16 {
    server.metrics_address().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn tritons_page_is_on_a_port_of_its_own() -> anyhow::Result<()> {
    let loopback = |last| IpAddr::V4(Ipv4Addr::new(127, 0, 9, last));
    let first = triton_server(loopback(1), 0, 0).await?;
    let second = triton_server(loopback(2), 0, metrics_port(&first)).await?;
    let other = triton_server(loopback(3), 0, 0).await?;
    let endpoints = json!({"static": [first.address().to_string(), second.address().to_string(),
        {"address": other.address().to_string(), "metricsPort": metrics_port(&other)}]});
    let more = json!({"engine": "triton", "metricsPort": metrics_port(&first), "saturation": {"queueDepth": 3}});
    let site = site(pool(endpoints, more)).await?;
    wait_until_read(&site, 3).await?;
    site.eventually("the queue is known", || async { Ok(site.ask("batch", 1).await?.status == 429) }).await?;
    assert_eq!(site.ask(MODEL, 2).await?.status, 200);
    // The port of one is closed: its metrics are missing, and it works all the same.
    drop(other);
    let other = triton_server(loopback(4), 0, 0).await?;
    let document = pool(
        json!({"static": [other.address().to_string()]}),
        json!({"engine": "triton", "metricsPort": metrics_port(&second) }),
    );
    let site = self::site(document).await?;
    site.eventually("the log says that the port is closed", || async {
        Ok(lines(
            &site,
            &[
                "endpoint:",
                "metrics are not read",
                "refuses connections",
                &format!("page=:{}/metrics", metrics_port(&second)),
            ],
        ) == 1)
    })
    .await?;
    assert_eq!(stat(&site, "inference_endpoints;pool=p;health=unreachable").await?, 0);
    assert_eq!(site.ask(MODEL, 3).await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_say_by_annotations_where_their_page_is() -> anyhow::Result<()> {
    const LABELS: [(&str, &str); 1] = [("app", "llm")];
    let host = |last| IpAddr::V4(Ipv4Addr::new(127, 0, 10, last));
    let first = triton_server(host(1), 0, 0).await?;
    let port = first.address().port();
    let second = triton_server(host(2), port, 0).await?;
    let mut flags = Flags::for_model(MODEL);
    (flags.host, flags.port) = (host(3).to_string(), port);
    let vllm = Server::start(flags).await?;
    let api = KubeApi::start("token").await?;
    let engine = |name: &'static str| [LABELS[0], ("llm-d.ai/engine-type", name)];
    for (name, server) in [("first", &first), ("second", &second)] {
        let pod = PodSpec::ready(server.address().ip(), &engine("triton"))
            .annotation("prometheus.io/port", &metrics_port(server).to_string());
        api.set_pod(name, pod);
    }
    // A sidecar's, as Istio's injection sets it: the page of the port that serves is the endpoint's own.
    let pod = PodSpec::ready(host(3), &engine("vllm")).annotation("prometheus.io/port", "15020");
    api.set_pod("vllm", pod.annotation("prometheus.io/path", "/stats/prometheus"));
    api.set_pod("odd", PodSpec::ready(host(3), &LABELS).annotation("prometheus.io/port", "metrics"));
    let kubernetes = json!({"kubernetes": {"namespace": "models", "selector": {"app": "llm"}, "targetPorts": [port]}});
    let site = Site::on_kubernetes(&api, pool(kubernetes, json!({"engine": "vllm"})), "token").await?;
    site.set_hosts("p", &[first.address(), second.address(), vllm.address()])?;
    wait_until_read(&site, 3).await?;
    assert!(vllm.scraped().iter().all(|path| path == "/metrics"));
    site.eventually("the log names the odd annotation", || async {
        Ok(lines(&site, &["discovery:", "pod odd", "prometheus.io/port", "is not a port"]) == 1)
    })
    .await?;
    // The annotation changes, as with a new version of the chart.
    let moved = triton_server(host(1), 0, 0).await?;
    let annotated =
        |port: u16| PodSpec::ready(host(1), &engine("triton")).annotation("prometheus.io/port", &port.to_string());
    api.set_pod("first", annotated(metrics_port(&moved)));
    site.eventually("the page is read at its new port", || async { Ok(!moved.scraped().is_empty()) }).await?;
    wait_until_read(&site, 3).await
}

#[tokio::test(flavor = "multi_thread")]
async fn gauges_of_several_processes_are_one() -> anyhow::Result<()> {
    let server = server(Some(|_, _| {
        let usage: String = [270, 272, 274, 276, 278, 280, 282, 284]
            .map(|pid| {
                let value = if pid == 272 { 0.93 } else { 0.0 };
                format!("vllm:kv_cache_usage_perc{{engine=\"0\",model_name=\"m\",pid=\"{pid}\"}} {value:?}\n")
            })
            .concat();
        MetricsAnswer::page(format!(
            "vllm:num_requests_running{{engine=\"0\",model_name=\"m\"}} 4.0\nvllm:num_requests_waiting{{engine=\"0\",model_name=\"m\"}} 0.0\n{usage}"
        ))
    }))
    .await?;
    let site = site(pool(json!({"static": [server.address().to_string()]}), json!({}))).await?;
    wait_until_read(&site, 1).await?;
    site.eventually("what may be shed is", || async { Ok(site.ask("batch", 1).await?.status == 429) }).await?;
    assert!(stat(&site, "inference_saturation_percent;pool=p").await? > 100);
    Ok(())
}

fn gzip(page: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(page.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn zlib(page: &str) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(page.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_in_every_form_are_read() -> anyhow::Result<()> {
    let forms: [Answers; 14] = [
        |_, page| MetricsAnswer::page(gzip(page)).header("content-encoding", "gzip"),
        |_, page| MetricsAnswer::page(gzip(page)),
        |_, page| MetricsAnswer {
            in_chunks: true,
            ..MetricsAnswer::page(gzip(page)).header("content-encoding", "x-gzip")
        },
        |_, page| MetricsAnswer::page(zlib(page)).header("content-encoding", "deflate"),
        |_, page| MetricsAnswer::page(page.to_owned()).header("content-encoding", "gzip"),
        |_, page| {
            MetricsAnswer::page(format!("{page}# EOF"))
                .header("content-type", "application/openmetrics-text; version=1.0.0")
        },
        |_, page| MetricsAnswer::page(page.trim_end().to_owned()),
        |_, page| MetricsAnswer { in_chunks: true, ..MetricsAnswer::page(page.trim_end().to_owned()) },
        |_, page| MetricsAnswer::page(format!("\u{feff}{}", page.replace('\n', "\r\n"))),
        |_, page| MetricsAnswer::page(page.replace("vllm:", "vllm_")),
        |_, page| MetricsAnswer::page(format!("{page}{page}# trailing\nnonsense {{{{\n")),
        |path, page| match path {
            "/metrics" => MetricsAnswer { status: 307, ..MetricsAnswer::page("") }.header("location", "/metrics/"),
            "/metrics/" => MetricsAnswer::page(page.to_owned()),
            _ => MetricsAnswer::not_found(),
        },
        |path, page| match path {
            "/metrics" => {
                MetricsAnswer { status: 301, ..MetricsAnswer::page("") }.header("location", "engine/1?format=text")
            }
            "/engine/1?format=text" => {
                MetricsAnswer { status: 302, ..MetricsAnswer::page("") }.header("location", "?full")
            }
            "/engine/1?full" => MetricsAnswer::page(page.to_owned()),
            _ => MetricsAnswer::not_found(),
        },
        |path, page| match path {
            "/metrics" => MetricsAnswer::page("<html><a href=\"/prometheus/metrics\">here</a></html>"),
            "/prometheus/metrics" => MetricsAnswer::page(page.to_owned()),
            _ => MetricsAnswer::not_found(),
        },
    ];
    let servers = servers(&forms).await?;
    let site = site(pool(json!({"static": addresses(&servers)}), json!({}))).await?;
    wait_until_read(&site, forms.len() as u64).await?;
    servers.iter().for_each(|server| drop(server.scraped()));
    let started = Instant::now();
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (number, server) in servers.iter().enumerate() {
        let scraped = server.scraped();
        let intervals = started.elapsed().as_millis() / INTERVAL.as_millis();
        assert!(scraped.len() as u128 <= intervals + 2, "{number}: {scraped:?}");
        assert!(scraped.iter().all(|path| *path == scraped[0]), "{number}: {scraped:?}");
    }
    assert_eq!(stat(&site, "inference_endpoints;pool=p;health=up").await?, forms.len() as u64);
    Ok(())
}

/// Answers each connection with these bytes and closes it.
async fn raw(answer: &'static [u8]) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                // A client that leaves early does not matter here.
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer).await;
            });
        }
    });
    Ok(address)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_what_a_page_is_that_is_none() -> anyhow::Result<()> {
    static ELSEWHERE: OnceLock<SocketAddr> = OnceLock::new();
    static BOMB: OnceLock<Vec<u8>> = OnceLock::new();
    BOMB.get_or_init(|| gzip(&"\n".repeat(64 << 20)));
    let elsewhere = Web::start(|_| 200).await?;
    let _ = ELSEWHERE.set(elsewhere.address);
    let cases: [(Answers, &str); 13] = [
        (|_, _| MetricsAnswer::page("[{\"iter\": 5}]"), "the page is JSON"),
        (|_, _| MetricsAnswer::page("<!doctype html>\n<p>Welcome\n"), "the page is HTML"),
        (|_, _| MetricsAnswer::page("OK"), "the page is text of another kind"),
        (|_, _| MetricsAnswer::page(""), "the page is empty"),
        (|_, _| MetricsAnswer::page(vec![0; 100]), "the page is binary"),
        (|_, page| MetricsAnswer::page(gzip(page)[..200].to_vec()), "the page is cut off"),
        (|_, _| MetricsAnswer::page(BOMB.get().unwrap().clone()), "the page is longer than 4194304 bytes"),
        (
            |_, _| MetricsAnswer::page(&b"\x28\xb5\x2f\xfd\x04\x00"[..]).header("content-encoding", "zstd"),
            "the page is compressed (zstd)",
        ),
        (|_, _| MetricsAnswer::page("sglang:num_queue_reqs 1\n"), "none of the engine's metrics is on the page"),
        (
            |_, _| MetricsAnswer { status: 401, ..MetricsAnswer::page("{}") },
            "it answered 401: the page must be open to the gateway",
        ),
        (|_, _| MetricsAnswer { status: 204, ..MetricsAnswer::page("") }, "it answered 204"),
        (
            |_, _| {
                let to = format!("http://{}/metrics", ELSEWHERE.get().unwrap());
                MetricsAnswer { status: 302, ..MetricsAnswer::page("") }.header("location", &to)
            },
            "it redirects to another host or port",
        ),
        (
            |path, _| {
                let to = if path == "/a" { "/b" } else { "/a" };
                MetricsAnswer { status: 308, ..MetricsAnswer::page("") }.header("location", to)
            },
            "it redirects in a circle",
        ),
    ];
    let answers: Vec<Answers> = cases.iter().map(|(answers, _)| *answers).collect();
    let servers = servers(&answers).await?;
    // Neither a length nor an end: what is missing might matter.
    let open =
        raw(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nvllm:num_requests_waiting 1\nvllm:num_requests_running 1")
            .await?;
    let mut endpoints = addresses(&servers);
    endpoints.push(json!(open.to_string()));
    let site = site(pool(json!({"static": endpoints}), json!({"metricsPath": "/metrics"}))).await?;
    let mut expected: Vec<(SocketAddr, &str)> =
        servers.iter().zip(&cases).map(|(server, (_, said))| (server.address(), *said)).collect();
    expected.push((open, "the page is cut off"));
    for (address, said) in &expected {
        let words = ["endpoint:", &format!("endpoint={address} metrics are not read:"), said];
        site.eventually(&format!("the log says of {address}: {said}"), || async { Ok(lines(&site, &words) == 1) })
            .await?;
    }
    assert_eq!(stat(&site, "inference_endpoints;pool=p;health=up").await?, 0);
    assert_eq!(site.ask(MODEL, 1).await?.status, 200, "it is balanced all the same");
    assert!(elsewhere.asked().is_empty(), "an endpoint must not say who else is asked");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_said_once_and_so_is_its_end() -> anyhow::Result<()> {
    let server = server(None).await?;
    let site = site(pool(json!({"static": [server.address().to_string()]}), json!({}))).await?;
    wait_until_read(&site, 1).await?;
    let of = format!("endpoint={}", server.address());
    let count = |what: &str| lines(&site, &["endpoint:", &of, what]);
    site.eventually("it is said that metrics are read", || async { Ok(count("metrics are read") == 1) }).await?;
    // It refuses, is silent and breaks off by turns.
    for _ in 0..6 {
        server.set_metrics_fault(MetricsFault::Slow(Duration::from_secs(20)));
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        server.set_metrics_fault(MetricsFault::Half);
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.set_fault(Fault::Refuse);
        tokio::time::sleep(Duration::from_millis(700)).await;
        server.set_fault(Fault::None);
    }
    assert_eq!((count("metrics are not read"), count("metrics are read")), (1, 1), "{}", site.envoy.log());
    server.set_metrics_fault(MetricsFault::None);
    site.eventually("it is said that it is over", || async { Ok(count("metrics are read") == 2) }).await?;
    assert_eq!(count("metrics are not read"), 1, "{}", site.envoy.log());
    Ok(())
}
