//! What the default profile does with real traffic: caches, broken servers, reports in answers.

use std::time::Duration;

use envoy_tests::{Example, QWEN, Setup, report_waiting, served_by};
use inferencectl::client::{self, Answer};
use serde_json::json;
use simulator::fault::Fault;

fn ejections(reason: &str) -> String {
    format!("wasmcustom.inference_ejections_total;pool=vllm-qwen3-32b;reason={reason}")
}

/// Waits until every pick goes elsewhere than to a server, forty times in a row.
async fn is_left(example: &Example, server: usize) -> anyhow::Result<()> {
    let mut in_a_row = 0;
    for _ in 0..1_000 {
        let answer = example.chat(QWEN).await?;
        let is_elsewhere = answer.status == 200 && served_by(&answer, &example.qwen) != Some(server);
        in_a_row = if is_elsewhere { in_a_row + 1 } else { 0 };
        if in_a_row == 40 {
            return Ok(());
        }
    }
    anyhow::bail!("server {server} is still fed:\n{}", example.envoy.log())
}

async fn comes_back(example: &Example, server: usize) -> anyhow::Result<()> {
    example
        .eventually("the server is picked again", || async {
            Ok(served_by(&example.chat(QWEN).await?, &example.qwen) == Some(server))
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_drains_gets_a_few_requests_and_no_more() -> anyhow::Result<()> {
    let example = Example::start(Setup::default()).await?;
    example.qwen[0].set_fault(Fault::Drain);
    let mut failed = 0;
    for _ in 0..200 {
        failed += u32::from(example.chat(QWEN).await?.status == 500);
    }
    // One error keeps a worker away for a while, and three in a row eject the server for all.
    assert!((1..=8).contains(&failed), "{failed} requests failed");
    is_left(&example, 0).await?;
    example.qwen[0].set_fault(Fault::None);
    comes_back(&example, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_fed_no_more_although_its_gauges_look_best() -> anyhow::Result<()> {
    let example = Example::start(Setup::default()).await?;
    example.qwen[0].set_fault(Fault::Hang);
    let mut hanging = Vec::new();
    for number in 0..12 {
        let body = json!({"model": QWEN, "max_tokens": 1, "messages": [{"role": "user", "content": format!("hang {number}")}]});
        let request = client::post("/v1/chat/completions", &[], body.to_string())?;
        hanging.push(tokio::spawn(client::send(example.envoy.listen(), request)));
    }
    example
        .eventually("the hung server is ejected", || async {
            // A worker looks when it picks.
            let _ = tokio::time::timeout(Duration::from_millis(200), example.chat(QWEN)).await;
            Ok(example.envoy.stat(&ejections("stalled")).await? == Some(1))
        })
        .await?;
    is_left(&example, 0).await?;
    example.qwen[0].set_fault(Fault::None);
    for answer in hanging {
        assert_eq!(answer.await??.status, 200, "what it had taken is answered in the end");
    }
    comes_back(&example, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_clients_give_up_on_is_ejected_too() -> anyhow::Result<()> {
    let example = Example::start(Setup::default()).await?;
    example.qwen[0].set_fault(Fault::Hang);
    example
        .eventually("the hung server is ejected", || async {
            // Nobody waits long enough for the metrics to contradict.
            let _ = tokio::time::timeout(Duration::from_secs(5), example.chat(QWEN)).await;
            let of =
                async |reason| Ok::<u64, anyhow::Error>(example.envoy.stat(&ejections(reason)).await?.unwrap_or(0));
            Ok(of("stalled").await? + of("errors").await? > 0)
        })
        .await?;
    is_left(&example, 0).await
}

/// A prompt of some thousand tokens that others don't share.
async fn ask(example: &Example, conversation: &str, question: &str) -> anyhow::Result<Answer> {
    let document = format!("{conversation} ").repeat(1_500);
    let messages = json!([{"role": "user", "content": document}, {"role": "user", "content": question}]);
    let body = json!({"model": QWEN, "max_tokens": 1, "messages": messages});
    example.post("/v1/chat/completions", &[], body.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_worker_knows_which_server_has_a_prompt() -> anyhow::Result<()> {
    let example = Example::start(Setup { concurrency: 4, ..Setup::default() }).await?;
    for home in 0..3 {
        // All but one are busy, so that the first question goes where no hash of the prompt would send all of them.
        for (index, server) in example.qwen.iter().enumerate() {
            report_waiting(server, if index == home { 0 } else { 5_000 });
        }
        example.picks_settle_on(QWEN, &example.qwen, home).await?;
        let name = format!("conversation-{home}");
        assert_eq!(served_by(&ask(&example, &name, "first").await?, &example.qwen), Some(home));
        for server in &example.qwen {
            server.set_fake_metrics(None);
        }
        let others = (0..3).filter(|other| *other != home);
        for other in others {
            comes_back(&example, other).await?;
        }
        for number in 0..24 {
            let answer = ask(&example, &name, &format!("question {number}")).await?;
            assert_eq!(served_by(&answer, &example.qwen), Some(home), "{home}: question {number}");
            let cached = answer.json()?.pointer("/usage/prompt_tokens_details/cached_tokens").cloned();
            assert!(cached.and_then(|cached| cached.as_u64()).is_some_and(|cached| cached > 1_000));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_in_answers_are_asked_for_read_and_taken_out() -> anyhow::Result<()> {
    let in_band = |document: &mut serde_json::Value| {
        document["poller"] = json!({"interval": "1m", "staleAfter": "10m", "inBand": true});
    };
    let example = Example::start(Setup { concurrency: 1, change: in_band, ..Setup::default() }).await?;
    let answer = example.chat(QWEN).await?;
    assert_eq!(answer.header("endpoint-load-metrics"), None, "clients get no report");
    let asked = example.qwen.iter().flat_map(|server| server.received());
    assert!(asked.into_iter().any(|request| request.headers.contains_key("endpoint-load-metrics-format")));
    // The next scrape is a minute away: only answers can tell.
    let busy = 1;
    for (index, server) in example.qwen.iter().enumerate() {
        report_waiting(server, if index == busy { 80 } else { 0 });
    }
    for _ in 0..30 {
        assert_eq!(example.chat(QWEN).await?.status, 200);
    }
    let mut served = [0; 3];
    for _ in 0..30 {
        let answer = example.chat(QWEN).await?;
        served[served_by(&answer, &example.qwen).unwrap()] += 1;
    }
    assert_eq!(served[busy], 0, "{served:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_to_report_unless_configured() -> anyhow::Result<()> {
    let example = Example::start(Setup::default()).await?;
    example.chat(QWEN).await?;
    let asked = example.qwen.iter().flat_map(|server| server.received());
    assert!(asked.into_iter().all(|request| !request.headers.contains_key("endpoint-load-metrics-format")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_a_server_breaks_off_eject_it() -> anyhow::Result<()> {
    let example = Example::start(Setup { concurrency: 1, ..Setup::default() }).await?;
    let streams: Vec<_> = (0..15)
        .map(|number| {
            let content = format!("a long story, number {number}");
            let messages = json!([{"role": "user", "content": content}]);
            let body = json!({"model": QWEN, "stream": true, "max_tokens": 100_000, "messages": messages});
            let listen = example.envoy.listen();
            tokio::spawn(async move {
                client::send(listen, client::post("/v1/chat/completions", &[], body.to_string())?).await
            })
        })
        .collect();
    let picks = |server: usize| {
        let address = example.qwen[server].address();
        format!("wasmcustom.inference_endpoint_picks_total;pool=vllm-qwen3-32b;endpoint={address}")
    };
    example
        .eventually("every server has streams", || async {
            let mut least = u64::MAX;
            for server in 0..3 {
                least = least.min(example.envoy.stat(&picks(server)).await?.unwrap_or(0));
            }
            Ok(least >= 3)
        })
        .await?;
    // Long enough for first tokens, and over before a second scrape could be refused.
    tokio::time::sleep(Duration::from_millis(500)).await;
    example.qwen[0].set_fault(Fault::Refuse);
    tokio::time::sleep(Duration::from_millis(50)).await;
    example.qwen[0].set_fault(Fault::None);
    example
        .eventually("the server is ejected", || async {
            Ok(example.envoy.stat(&ejections("errors")).await? == Some(1))
        })
        .await?;
    streams.iter().for_each(|stream| stream.abort());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pick_that_refuses_is_left_although_somebody_else_has_served() -> anyhow::Result<()> {
    let one_pick = |document: &mut serde_json::Value| {
        document["pools"][0]["scheduling"] = json!({"picker": {"maxNumOfEndpoints": 1}});
    };
    let example = Example::start(Setup { concurrency: 1, change: one_pick, ..Setup::default() }).await?;
    // It is up, has no work, and refuses: Envoy's fallback serves what the pick could not.
    example.qwen[0].set_fault(Fault::Busy);
    example
        .eventually("the refusal is counted", || async {
            let _ = example.chat(QWEN).await?;
            let name = "wasmcustom.inference_endpoint_refusals_total;pool=vllm-qwen3-32b;about=room";
            Ok(example.envoy.stat(name).await? >= Some(1))
        })
        .await?;
    is_left(&example, 0).await?;
    anyhow::ensure!(example.envoy.stat(&ejections("errors")).await?.unwrap_or(0) == 0, "it is not broken");
    Ok(())
}
