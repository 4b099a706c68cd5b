//! Cases that hold on every control plane, for every example of the chart.

use std::collections::BTreeSet;

use anyhow::Context;
use chart_tests::{Setup, chart, config, examples};
use envoy_tests::tokens::{RESEARCH, SEARCH};
use envoy_tests::{DEEPSEEK, QWEN};
use inference_plugin::headers;
use inferencectl::client;
use serde_json::{Value, json};
use simulator::fault::{FakeMetrics, Fault};

use crate::site::{Site, setup};

/// An example of the chart on a provider.
pub fn example(provider: &'static str, name: &str, more: &[&str]) -> Setup {
    setup(provider, &chart().join("examples").join(name), more)
}

/// Every example serves every model of its pools, by fresh metrics, and refuses the rest.
pub async fn every_example_serves(provider: &'static str) -> anyhow::Result<()> {
    for path in examples()? {
        let site = Site::start(&setup(provider, &path, &[]), &[]).await?;
        let objects = setup(provider, &path, &[]).objects()?;
        let plugin: Value = serde_json::from_str(config(&objects, "plugin.json").context("no plugin.json")?)?;
        let mut asked = 0;
        for pool in plugin["pools"].as_array().context("no pools")? {
            let adapters = pool["adapters"].as_array().into_iter().flatten();
            for model in adapters.chain([&pool["baseModel"]]).filter_map(Value::as_str) {
                // Some names of adapters are models of the values too, which may lead to another target of the pool.
                let answer = site.ask(model, &[]).await?;
                assert_eq!(answer.status, 200, "{model}: {}", answer.text());
                assert_eq!(site.served(&answer)?.0, pool["name"], "{model}");
                asked += 1;
            }
        }
        let picked = picks(&site).await?;
        assert_eq!(picked, asked, "picks by fresh metrics:\n{}", site.envoy.log());
        refusals(&site).await?;
        nobody_steers(&site).await?;
        let missed = site.envoy.ask_admin("/stats").await?.text();
        let missed: Vec<&str> =
            missed.lines().filter(|line| line.contains("override_missed") && !line.ends_with(": 0")).collect();
        assert_eq!(missed, Vec::<&str>::new());
    }
    Ok(())
}

/// How many picks rested on fresh metrics, over all pools.
async fn picks(site: &Site) -> anyhow::Result<u64> {
    let mut sum = 0;
    for pool in site.pools.keys() {
        let name = format!("wasmcustom.inference_picks_total;pool={pool};tier=fresh");
        sum += site.envoy.stat(&name).await?.unwrap_or(0);
    }
    Ok(sum)
}

/// What no model server gets.
async fn refusals(site: &Site) -> anyhow::Result<()> {
    site.pools.values().flatten().for_each(|server| drop(server.received()));
    let unknown = site.ask("nobody-serves-this", &[]).await?;
    assert!(
        unknown.status == 404 && unknown.text().contains("model_not_found"),
        "{} {}",
        unknown.status,
        unknown.text()
    );
    for body in ["", "{", "[]", r#"{"model": 1}"#, r#"{"prompt": "hi"}"#] {
        let answer = site.send("POST", "/v1/chat/completions", &[("content-type", "application/json")], body).await?;
        assert!(
            answer.status == 400 && answer.json()?["error"]["message"].is_string(),
            "{body}: {} {}",
            answer.status,
            answer.text()
        );
    }
    let long = json!({"model": "m", "prompt": "x".repeat(17 << 20)}).to_string();
    let answer = site.send("POST", "/v1/completions", &[], long).await?;
    assert_eq!(answer.status, 413, "{}", answer.text());
    // What names no model goes to the only pool, and nowhere where there are several.
    let models = site.send("GET", "/v1/models", &[], "").await?;
    assert_eq!(models.status, if site.pools.len() == 1 { 200 } else { 404 }, "{}", models.text());
    let asked: Vec<String> = site
        .pools
        .values()
        .flatten()
        .flat_map(|server| server.received())
        .filter(|request| request.method == "POST")
        .map(|request| request.path)
        .collect();
    assert_eq!(asked, Vec::<String>::new());
    Ok(())
}

/// A client's own headers choose neither a pool nor a pod, and a body of three megabytes passes.
async fn nobody_steers(site: &Site) -> anyhow::Result<()> {
    let pool = site.pools.keys().next().context("no pool")?.clone();
    let elsewhere = site.envoy.admin().to_string();
    let model = first_model(site, &pool).await?;
    let long = json!({"model": model, "max_tokens": 1, "prompt": "hi ".repeat(1 << 20)}).to_string();
    let short = json!({"model": model, "max_tokens": 1, "prompt": "hi"}).to_string();
    for body in [long, short] {
        let spoofed = [
            (headers::DESTINATION, elsewhere.as_str()),
            (headers::BASE_MODEL, "another"),
            (headers::MODEL, "another"),
            (headers::SUBSET, elsewhere.as_str()),
        ];
        let answer = site.send("POST", "/v1/completions", &spoofed, body).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(site.served(&answer)?.0, pool);
    }
    Ok(())
}

/// A model that a pool's servers say they have.
async fn first_model(site: &Site, pool: &str) -> anyhow::Result<String> {
    let server = site.pools.get(pool).and_then(|servers| servers.first()).context("no server")?;
    let models = client::get(server.address(), "/v1/models").await?.json()?;
    Ok(models["data"][0]["id"].as_str().context("no model")?.to_owned())
}

/// Aliases, rules and splits reach their targets, and answers have the names that clients asked for.
pub async fn names_reach_their_targets(provider: &'static str) -> anyhow::Result<()> {
    let site = Site::start(&example(provider, "qwen-quickstart.yaml", &[]), &[]).await?;
    let answer = site.ask("food-review", &[]).await?;
    assert_eq!((answer.status, answer.json()?["model"].as_str()), (200, Some("food-review")));
    assert_eq!(targets(&site), BTreeSet::from(["food-review-1".to_owned()]));

    let site = Site::start(&example(provider, "two-pools.yaml", &[]), &[]).await?;
    for (team, pool) in [("search", "vllm-deepseek-r1"), ("sales", "vllm-qwen3-32b")] {
        let answer = site.ask("auto", &[("x-team", team)]).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(site.served(&answer)?.0, pool, "{team}");
    }
    // Every port of every pod serves.
    let mut serving = BTreeSet::new();
    for _ in 0..60 {
        serving.insert(site.served(&site.ask(DEEPSEEK, &[]).await?)?.1);
    }
    assert_eq!(serving, (0..site.pools["vllm-deepseek-r1"].len()).collect());

    let site = Site::start(&example(provider, "inferencemodel-split.yaml", &[]), &[]).await?;
    assert_eq!(site.ask("gpt-4o-mini", &[]).await?.json()?["model"], "gpt-4o-mini");
    assert_eq!(targets(&site), BTreeSet::from(["meta-llama/Llama-3.1-8B-Instruct".to_owned()]));
    for session in 0..40 {
        let answer = site.ask("tweet-summary", &[("x-session-id", &format!("session {session}"))]).await?;
        assert_eq!(answer.json()?["model"], "tweet-summary");
    }
    assert_eq!(targets(&site), BTreeSet::from(["tweet-summary-0".to_owned(), "tweet-summary-1".to_owned()]));
    Ok(())
}

/// Which models the servers were asked for since the last call.
fn targets(site: &Site) -> BTreeSet<String> {
    let requests = site.pools.values().flatten().flat_map(|server| server.received());
    let bodies = requests.filter_map(|request| serde_json::from_slice::<Value>(&request.body).ok());
    bodies.filter_map(|body| Some(body["model"].as_str()?.to_owned())).collect()
}

/// Waits until this one of a model's servers has served 20 requests in a row.
pub async fn settle(site: &Site, model: &str, wanted: usize) -> anyhow::Result<()> {
    site.eventually(&format!("picks settle on server {wanted}"), || async {
        for _ in 0..20 {
            let answer = site.ask(model, &[]).await?;
            if answer.status != 200 || site.served(&answer)?.1 != wanted {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await
}

/// Load, a refusing server, one that is gone, and a pool that is gone.
pub async fn load_and_failures_move_requests(provider: &'static str) -> anyhow::Result<()> {
    let site = Site::start(&example(provider, "two-pools.yaml", &[]), &[]).await?;
    let servers = &site.pools["vllm-qwen3-32b"];
    let busy = FakeMetrics { waiting_requests: 50, running_requests: 8, kv_cache_usage: 0.9 };
    servers[0].set_fake_metrics(Some(busy));
    settle(&site, QWEN, 1).await?;
    servers[0].set_fake_metrics(None);
    // One refuses what it gets: the next of the pick serves it.
    for refusing in [0, 1] {
        servers[refusing].set_fault(Fault::Busy);
        for _ in 0..20 {
            let answer = site.ask(QWEN, &[]).await?;
            assert_eq!((answer.status, site.served(&answer)?.1), (200, 1 - refusing), "{}", answer.text());
        }
        servers[refusing].set_fault(Fault::None);
    }
    // One is gone.
    servers[1].set_fault(Fault::Refuse);
    settle(&site, QWEN, 0).await?;
    // All are gone: an error at once, and the other pool goes on.
    servers[0].set_fault(Fault::Refuse);
    site.eventually("the pool is down", || async { Ok(site.status(QWEN, None).await? == 503) }).await?;
    assert_eq!(site.status(DEEPSEEK, None).await?, 200);
    servers.iter().for_each(|server| server.set_fault(Fault::None));
    site.eventually("the pool is back", || async {
        let mut is_back = true;
        for _ in 0..20 {
            is_back &= site.status(QWEN, None).await? == 200;
        }
        Ok(is_back)
    })
    .await
}

/// Nobody gets in without a token of the example's issuer, and its claims lead where the rules say. `without` is the status of a
/// request that has none, and `position` that of the plugin among the control plane's filters.
pub async fn only_tokens_get_in(site: &Site, position: &str, without: u16) -> anyhow::Result<()> {
    for model in [QWEN, DEEPSEEK] {
        assert_eq!(site.status(model, None).await?, without, "{position} {model}");
        assert_eq!(site.status(model, Some("Bearer x.y.z")).await?, 401, "{position} {model}");
        assert_eq!(site.status(model, Some(SEARCH)).await?, 200, "{position} {model}");
    }
    assert_eq!(site.send("GET", "/v1/models", &[], "").await?.status, without, "{position}");
    // In front, the plugin is the first to answer.
    let unknown = if position == "first" { 404 } else { without };
    assert_eq!(site.status("nobody-serves-this", None).await?, unknown, "{position}");
    // Claims reach rules if authentication stands in front of the plugin.
    for (token, behind) in [(SEARCH, "vllm-deepseek-r1"), (RESEARCH, "vllm-qwen3-32b")] {
        let answer = site.ask("auto", &[("authorization", token)]).await?;
        let wanted = if position == "last" { behind } else { "vllm-qwen3-32b" };
        assert_eq!(site.served(&answer)?.0, wanted, "{position}");
    }
    Ok(())
}
