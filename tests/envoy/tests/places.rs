//! `maxConcurrency` is a limit: however many workers a burst comes to, no engine gets more, and none of the room stays empty.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use envoy_tests::counting::{Counts, engine};
use envoy_tests::{QWEN, eventually, root, take_modules_with_faults};
use inferencectl::check;
use inferencectl::client;
use inferencectl::demo::{Scratch, scratch};
use inferencectl::envoy::Envoy;
use inferencectl::render::Bootstrap;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const LIMIT: usize = 4;
const ENGINES: usize = 2;

struct Site {
    envoy: Envoy,
    counts: Counts,
    _folder: Scratch,
}

impl Site {
    async fn start(workers: u32, with_faults: bool, pool: Value, time: Duration) -> anyhow::Result<Arc<Site>> {
        let counts = Counts::default();
        let mut endpoints = Vec::new();
        for _ in 0..ENGINES {
            endpoints.push(engine(&counts, time).await?.to_string());
        }
        let mut document = json!({"pools": [{"name": "p", "baseModel": QWEN, "endpoints": {"static": endpoints},
            "saturation": {"maxConcurrency": LIMIT}}],
            "models": [{"modelName": "batch", "pool": "p", "criticality": "Sheddable"}]});
        for (key, value) in pool.as_object().into_iter().flatten() {
            document["pools"][0][key] = value.clone();
        }
        let plugin_json = document.to_string();
        let config = check::load(plugin_json.as_bytes())?;
        let folder = scratch("places")?;
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut bootstrap = Bootstrap::new(&plugin_json, &config, free, free, &root().join("dist"));
        if with_faults {
            take_modules_with_faults(&mut bootstrap);
        }
        bootstrap.access_log = folder.path().join("access.log");
        let envoy = Envoy::start(&bootstrap.yaml(), folder.path(), workers).await?;
        let site = Site { envoy, counts, _folder: folder };
        let up = "wasmcustom.inference_endpoints;pool=p;health=up";
        eventually(&site.envoy, "all engines are known", || async {
            Ok(site.envoy.stat(up).await? == Some(ENGINES as u64))
        })
        .await?;
        Ok(Arc::new(site))
    }

    /// Sends requests at one moment, each over a connection of its own; gives how many were answered with each status.
    async fn burst(self: &Arc<Site>, model: &'static str, requests: usize) -> anyhow::Result<Vec<(u16, usize)>> {
        // Whoever stops waiting for the burst ends its requests.
        let mut asked = JoinSet::new();
        for number in 0..requests {
            let gateway = self.envoy.listen();
            let body = json!({"model": model, "max_tokens": 1, "prompt": format!("{number}")}).to_string();
            let request = client::post("/v1/completions", &[], body)?;
            asked.spawn(async move { client::send(gateway, request).await });
        }
        let mut statuses = BTreeMap::new();
        while let Some(answer) = asked.join_next().await {
            *statuses.entry(answer??.status).or_default() += 1;
        }
        Ok(statuses.into_iter().collect())
    }

    fn check(&self, what: &str) {
        assert!(self.counts.peak() <= LIMIT * ENGINES, "{what}: {} at the engines", self.counts.peak());
        assert!(self.counts.peaks().iter().all(|peak| *peak <= LIMIT), "{what}: {:?}", self.counts.peaks());
    }

    async fn is_idle(&self) -> anyhow::Result<()> {
        eventually(&self.envoy, "nothing is in flight", || async {
            Ok(self.envoy.stat("cluster.p.upstream_rq_active").await? == Some(0) && self.counts.now() == 0)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_over_many_workers_fills_the_room_and_no_more() -> anyhow::Result<()> {
    for workers in [1, 8, 16] {
        let site = Site::start(workers, false, json!({"flowControl": {}}), Duration::from_millis(100)).await?;
        for round in 0..3 {
            site.counts.reset();
            let what = format!("{workers} workers, round {round}");
            let statuses = site.burst(QWEN, 200).await?;
            assert_eq!(statuses, [(200, 200)], "{what}");
            site.check(&what);
            let mean = site.counts.mean_while_busy(LIMIT * ENGINES);
            println!("{what}: {mean:.2} of {} places taken on average", LIMIT * ENGINES);
            // The mean depends on pauses of the machine as well, so it is only printed.
            assert_eq!(site.counts.peak(), LIMIT * ENGINES, "{what}: some of the room stays empty");
            site.is_idle().await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_dropped_fills_the_room_and_the_rest_is_refused() -> anyhow::Result<()> {
    let site = Site::start(16, false, json!({}), Duration::from_millis(1500)).await?;
    for round in 0..3 {
        site.counts.reset();
        let statuses = site.burst("batch", 100).await?;
        site.check(&format!("round {round}"));
        let count = |wanted: u16| statuses.iter().find(|(status, _)| *status == wanted).map_or(0, |(_, count)| *count);
        assert!(count(200) >= LIMIT && count(200) + count(429) == 100, "{statuses:?}");
        site.is_idle().await?;
    }
    // What may not be dropped goes all the same.
    assert_eq!(site.burst(QWEN, 20).await?, [(200, 20)]);
    assert!(site.counts.peak() > LIMIT * ENGINES, "{}", site.counts.peak());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_traps_keeps_no_places() -> anyhow::Result<()> {
    let site = Site::start(4, true, json!({"flowControl": {}}), Duration::from_millis(400)).await?;
    let bursting = tokio::spawn({
        let site = Arc::clone(&site);
        async move { site.burst(QWEN, 60).await }
    });
    eventually(&site.envoy, "the room is full", || async { Ok(site.counts.now() == LIMIT * ENGINES) }).await?;
    for _ in 0..6 {
        let request = client::post("/v1/completions", &[("x-test-panic", "1")], "{}".to_owned())?;
        let _ = client::send(site.envoy.listen(), request).await?;
    }
    // What waits in a VM that traps is never let go.
    bursting.abort();
    eventually(&site.envoy, "nothing is left at the engines", || async { Ok(site.counts.now() == 0) }).await?;
    // Once the dead workers' slots have run out the room is all there again.
    eventually(&site.envoy, "all places are taken again", || async {
        site.counts.reset();
        // Envoy takes its time to load a VM again that has trapped, and answers 503 until then.
        let is_loaded = site.burst(QWEN, 24).await? == [(200, 24)];
        site.check("after the traps");
        Ok(is_loaded && site.counts.peaks() == [LIMIT; ENGINES])
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_take_no_places_along() -> anyhow::Result<()> {
    let site = Site::start(8, false, json!({"flowControl": {}}), Duration::from_millis(300)).await?;
    for round in 0..3 {
        let leaving = tokio::spawn({
            let site = Arc::clone(&site);
            async move { site.burst(QWEN, 60).await }
        });
        eventually(&site.envoy, "the room is full", || async { Ok(site.counts.now() == LIMIT * ENGINES) }).await?;
        // Some are at the engines, and the others wait.
        leaving.abort();
        site.is_idle().await?;
        site.counts.reset();
        assert_eq!(site.burst(QWEN, 40).await?, [(200, 40)], "round {round}");
        site.check(&format!("round {round}"));
        assert_eq!(site.counts.peaks(), [LIMIT; ENGINES], "round {round}: all of the room is there");
    }
    Ok(())
}
