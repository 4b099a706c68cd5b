//! What goes wrong: dead servers, retries, a killed poller, a trapped VM, bad configurations.

use std::time::{Duration, Instant};

use envoy_tests::{Example, PATIENCE, QWEN, Setup, report_waiting, root, served_by};
use inferencectl::client;
use inferencectl::demo::scratch;
use inferencectl::envoy::Envoy;
use serde_json::json;
use simulator::fault::{Fault, MetricsFault};

#[tokio::test(flavor = "multi_thread")]
async fn retries_walk_the_list() -> anyhow::Result<()> {
    let example = Example::start(Setup::default()).await?;
    for (server, waiting) in example.qwen.iter().zip([0, 5, 10]) {
        report_waiting(server, waiting);
    }
    example.picks_settle_on(QWEN, &example.qwen, 0).await?;
    // The best one refuses with what its gauges don't show; the next one of the list serves.
    example.qwen[0].set_fault(Fault::Busy);
    let answer = example.chat(QWEN).await?;
    assert_eq!((answer.status, served_by(&answer, &example.qwen)), (200, Some(1)), "{}", answer.text());
    example.qwen[1].set_fault(Fault::Busy);
    let answer = example.chat(QWEN).await?;
    assert_eq!((answer.status, served_by(&answer, &example.qwen)), (200, Some(2)), "{}", answer.text());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_endpoint_is_left_and_no_client_sees_it() -> anyhow::Result<()> {
    let example = Example::start(Setup::default()).await?;
    for server in &example.qwen {
        report_waiting(server, 0);
    }
    for _ in 0..10 {
        assert_eq!(example.chat(QWEN).await?.status, 200);
    }
    let dead = 0;
    example.qwen[dead].set_fault(Fault::Refuse);
    let address = example.qwen[dead].address();
    example
        .eventually("the server is gone", || async { Ok(tokio::net::TcpStream::connect(address).await.is_err()) })
        .await?;
    let died = Instant::now();
    let name = "wasmcustom.inference_endpoints;pool=vllm-qwen3-32b;health=unreachable";
    let mut left_after = None;
    while left_after.is_none() && died.elapsed() < PATIENCE {
        let answer = example.chat(QWEN).await?;
        assert_eq!(answer.status, 200, "a client saw it: {}", answer.text());
        assert_ne!(served_by(&answer, &example.qwen), Some(dead));
        if example.envoy.stat(name).await? == Some(1) {
            left_after = Some(died.elapsed());
        }
    }
    let first_picks = format!(
        "wasmcustom.inference_endpoint_picks_total;pool=vllm-qwen3-32b;endpoint={}",
        example.qwen[dead].address()
    );
    // A pick that was made just before the news is counted by now.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = example.envoy.stat(&first_picks).await?;
    for _ in 0..40 {
        assert_eq!(example.chat(QWEN).await?.status, 200);
    }
    assert_eq!(example.envoy.stat(&first_picks).await?, before, "the dead one is still picked");
    println!("left after {left_after:?}");
    assert!(left_after.is_some(), "it was never left");
    // It comes back.
    example.qwen[dead].set_fault(Fault::None);
    example
        .eventually("the server is picked again", || async {
            Ok(served_by(&example.chat(QWEN).await?, &example.qwen) == Some(dead))
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_that_make_no_sense_disturb_nothing() -> anyhow::Result<()> {
    let example = Example::start(Setup::default()).await?;
    let huge = bytes::Bytes::from(vec![b'x'; 40 << 20]);
    let faults = [
        MetricsFault::Instead(200, "<html>not metrics</html>\n".into()),
        MetricsFault::Instead(200, bytes::Bytes::from_static(b"vllm:num_requests_waiting{a=\"\xff\"} \xff\n")),
        MetricsFault::Instead(500, "".into()),
        MetricsFault::Instead(200, huge),
        MetricsFault::Half,
        MetricsFault::Slow(Duration::from_secs(3)),
    ];
    for fault in faults {
        let what = format!("{fault:.60?}");
        example.qwen[0].set_metrics_fault(fault);
        tokio::time::sleep(Duration::from_millis(500)).await;
        for _ in 0..5 {
            assert_eq!(example.chat(QWEN).await?.status, 200, "{what}");
        }
        example.qwen[0].set_metrics_fault(MetricsFault::None);
        example
            .eventually("the server's metrics are read again", || async {
                let name = "wasmcustom.inference_endpoints;pool=vllm-qwen3-32b;health=up";
                Ok(example.envoy.stat(name).await? == Some(3))
            })
            .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_poller_is_killed_an_inference_vm_takes_over() -> anyhow::Result<()> {
    let example = Example::start(Setup { with_faults: true, ..Setup::default() }).await?;
    let backup = "wasmcustom.inference_lease_acquired_total;rank=backup";
    // Longer than a lease's term: the VM that Envoy tries the configuration out in must not have left one behind.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(example.envoy.stat(backup).await?.unwrap_or(0) == 0, "the singleton polls:\n{}", example.envoy.log());
    // The next page traps the singleton, for good: Envoy never reloads it.
    example.deepseek[0].set_metrics_fault(MetricsFault::Instead(200, "# trap\n".into()));
    example
        .eventually("an inference VM polls", || async { Ok(example.envoy.stat(backup).await?.unwrap_or(0) > 0) })
        .await?;
    example.deepseek[0].set_metrics_fault(MetricsFault::None);
    for idle in [2, 0] {
        for (index, server) in example.qwen.iter().enumerate() {
            report_waiting(server, if index == idle { 0 } else { 10 });
        }
        example.picks_settle_on(QWEN, &example.qwen, idle).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_singleton_one_module_is_enough() -> anyhow::Result<()> {
    let example = Example::start(Setup { with_poller: false, ..Setup::default() }).await?;
    report_waiting(&example.qwen[0], 10);
    report_waiting(&example.qwen[2], 10);
    example.picks_settle_on(QWEN, &example.qwen, 1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trapped_vm_heals() -> anyhow::Result<()> {
    let example = Example::start(Setup { with_faults: true, concurrency: 1, ..Setup::default() }).await?;
    let body = json!({"model": QWEN, "max_tokens": 1, "prompt": "hi"}).to_string();
    let answer = example.post("/v1/completions", &[("x-test-panic", "1")], body).await?;
    assert_eq!(answer.status, 503);
    example.eventually("the VM serves again", || async { Ok(example.chat(QWEN).await?.status == 200) }).await?;
    report_waiting(&example.qwen[0], 10);
    report_waiting(&example.qwen[1], 10);
    example.picks_settle_on(QWEN, &example.qwen, 2).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_with_mistakes_is_refused_with_all_of_them() -> anyhow::Result<()> {
    let good = include_str!("../../../envoy/plugin.json");
    let dist = root().join("dist");
    let config = inferencectl::check::load(good.as_bytes())?;
    let free = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let bad = good.replace("\"engine\": \"vllm\"", "\"engine\": \"vlm\"").replace("127.0.0.1:8101", "127.0.0.1");
    let bootstrap = inferencectl::render::Bootstrap::new(&bad, &config, free, free, &dist);
    let folder = scratch("bad-config")?;
    let Err(error) = Envoy::start(&bootstrap.yaml(), folder.path(), 1).await else {
        anyhow::bail!("Envoy took it");
    };
    let log = error.to_string();
    for part in [
        "pools[0].engine: unknown variant `vlm`",
        "pools[1].engine: unknown variant `vlm`",
        "pools[0].endpoints.static[0]: \"127.0.0.1\" has no port",
    ] {
        assert!(log.contains(part), "{part} is not in:\n{log}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_counted_no_more() -> anyhow::Result<()> {
    // By requests in flight alone: times to first token differ by chance.
    let setup = Setup {
        concurrency: 1,
        change: |document| {
            document["pools"][0]["scheduling"] = json!({
                "scorers": [{"type": "active-request-scorer"}],
                "picker": {"type": "max-score-picker"},
            });
        },
        ..Setup::default()
    };
    let example = Example::start(setup).await?;
    let body = json!({"model": QWEN, "max_tokens": 5000, "stream": true, "prompt": "hi"}).to_string();
    // Leave in the middle of twenty long answers.
    for _ in 0..20 {
        let request = client::post("/v1/completions", &[], body.clone())?;
        let sent = client::send(example.envoy.listen(), request);
        assert!(tokio::time::timeout(Duration::from_millis(100), sent).await.is_err(), "it ended too soon");
    }
    example
        .eventually("the engines are idle", || async {
            let mut running = 0;
            for server in &example.qwen {
                let page = client::get(server.address(), "/metrics").await?.text();
                let line = page.lines().find(|line| line.starts_with("vllm:num_requests_running{"));
                running += usize::from(!line.is_some_and(|line| line.ends_with(" 0.0")));
            }
            Ok(running == 0)
        })
        .await?;
    // Were any of the twenty still counted, the server that has the fewest of them would get all further requests.
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..60 {
        seen.extend(served_by(&example.chat(QWEN).await?, &example.qwen));
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn envoys_own_errors_have_the_apis_shape_and_name_no_server() -> anyhow::Result<()> {
    let example = Example::start(Setup::default()).await?;
    for server in &example.qwen {
        server.set_fault(Fault::Refuse);
    }
    for server in &example.qwen {
        let address = server.address();
        example
            .eventually("the server is gone", || async { Ok(tokio::net::TcpStream::connect(address).await.is_err()) })
            .await?;
    }
    let answer = example.chat(QWEN).await?;
    assert_eq!(
        (answer.status, &answer.json()?["error"]["code"]),
        (503, &json!("upstream_failure")),
        "{}",
        answer.text()
    );
    assert_eq!(answer.header("x-gateway-destination-endpoint-served"), None);
    // The plugin's own answers are left as they are.
    let answer = example.chat("nobody").await?;
    assert_eq!((answer.status, &answer.json()?["error"]["code"]), (404, &json!("model_not_found")));
    Ok(())
}
