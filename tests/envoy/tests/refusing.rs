//! One of three servers refuses what the others accept, under the loads that would send it everything.
//!
//! An endpoint that refuses at once is idle and fast. Round robin fails a third of the requests then; the plugin must
//! fail no more from the first request on, next to none once it knows, and give the endpoint its share back when it is
//! sound again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use envoy_tests::{Example, QWEN, Setup, served_by};
use inferencectl::client::{self, Answer};
use serde_json::{Value, json};
use simulator::fault::Fault;

/// How long the endpoint refuses.
const REFUSES: Duration = Duration::from_secs(8);
/// What is known by then.
const LEARNT: Duration = Duration::from_secs(2);
/// It has its share back by then; the rest is for machines that pause.
const BACK: Duration = Duration::from_secs(10 + 8);
/// Of three endpoints' requests at least this share is an endpoint's own: half of a third.
const SHARE: f64 = 1.0 / 6.0;
/// The server that refuses.
const REFUSING: usize = 1;

/// How requests come.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// So many clients, one request after the other.
    Closed(usize),
    /// The same, each going on with its conversation.
    Conversations(usize),
    /// So many requests a second, whatever becomes of them.
    Open(u32),
    /// So many clients that pause between requests.
    Light(usize),
}

/// A request as its client has seen it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Instant,
    failed: bool,
    server: Option<usize>,
}

struct Run {
    example: Example,
    seen: Mutex<Vec<Seen>>,
    numbers: AtomicU64,
    is_over: AtomicBool,
}

impl Run {
    async fn ask(&self, conversation: &str) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let content = format!("{conversation} {number}: {}", "hello ".repeat(40));
        let body = json!({
            "model": QWEN, "max_tokens": 12, "stream": number.is_multiple_of(2),
            "messages": [{"role": "user", "content": content}],
        });
        let at = Instant::now();
        let answer = self.example.post("/v1/chat/completions", &[], body.to_string()).await;
        let server = answer.as_ref().ok().and_then(|answer| served_by(answer, &self.example.qwen));
        let seen = Seen { at, failed: !answer.is_ok_and(|answer| is_good(&answer)), server };
        self.seen.lock().unwrap().push(seen);
    }

    fn seen_since(&self, start: Instant) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().copied().filter(|seen| seen.at >= start).collect()
    }
}

fn is_good(answer: &Answer) -> bool {
    answer.status == 200 && !answer.text().contains("\"error\"")
}

/// Keeps the load up until the run is over.
async fn keep_up(run: &Arc<Run>, load: Load) {
    let clients = match load {
        Load::Closed(clients) | Load::Conversations(clients) | Load::Light(clients) => clients,
        Load::Open(rate) => {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
            while !run.is_over.load(Ordering::Relaxed) {
                ticks.tick().await;
                let run = Arc::clone(run);
                tokio::spawn(async move { run.ask("").await });
            }
            return;
        }
    };
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..clients {
        let run = Arc::clone(run);
        tasks.spawn(async move {
            let mut history = String::new();
            while !run.is_over.load(Ordering::Relaxed) {
                if let Load::Conversations(_) = load {
                    history = if history.len() > 4000 { String::new() } else { history + &"and so on ".repeat(30) };
                }
                run.ask(&format!("{client} {history}")).await;
                if let Load::Light(_) = load {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// Lets one server refuse under a load, after it has worked for a while as all do.
async fn check(load: Load, fault: Fault) -> anyhow::Result<()> {
    let example = Example::start(Setup::default()).await?;
    let run =
        Arc::new(Run { example, seen: Mutex::default(), numbers: AtomicU64::new(0), is_over: AtomicBool::new(false) });
    let background = tokio::spawn({
        let run = Arc::clone(&run);
        async move { keep_up(&run, load).await }
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    run.example.qwen[REFUSING].set_fault(fault.clone());
    let began = Instant::now();
    tokio::time::sleep(REFUSES).await;
    run.example.qwen[REFUSING].set_fault(Fault::None);
    let sound_at = Instant::now();
    let during: Vec<Seen> = run.seen_since(began).into_iter().filter(|seen| seen.at < sound_at).collect();
    let back_after = loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = Instant::now();
        let recent = run.seen_since(sound_at.max(now - Duration::from_secs(2)));
        let own = recent.iter().filter(|seen| seen.server == Some(REFUSING) && !seen.failed).count();
        if recent.len() >= 6 && own as f64 >= recent.len() as f64 * SHARE || sound_at.elapsed() > BACK {
            break sound_at.elapsed();
        }
    };
    run.is_over.store(true, Ordering::Relaxed);
    background.await?;
    let failed = |seen: &[Seen]| (seen.iter().filter(|seen| seen.failed).count(), seen.len());
    let late: Vec<Seen> = during.iter().copied().filter(|seen| seen.at > began + LEARNT).collect();
    let (all, late) = (failed(&during), failed(&late));
    let what =
        format!("{load:?} {fault:?}: {all:?} failed, {late:?} after {LEARNT:?}, its share back after {back_after:?}");
    println!("{what}");
    let log = || run.example.envoy.log();
    // A few requests are on their way to it when it begins to refuse.
    anyhow::ensure!(all.0 as f64 <= all.1 as f64 / 3.0, "more than round robin: {what}\n{}", log());
    anyhow::ensure!(late.0 as f64 <= (late.1 as f64 * 0.05).max(2.0), "{what}\n{}", log());
    anyhow::ensure!(back_after < BACK, "{what}\n{}", log());
    Ok(())
}

async fn check_both(load: Load) -> anyhow::Result<()> {
    let (unauthorized, busy) = tokio::join!(check(load, Fault::Status(401)), check(load, Fault::Status(429)));
    unauthorized.and(busy)
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_closed_loop() -> anyhow::Result<()> {
    check_both(Load::Closed(12)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_conversations_whose_prefixes_it_has() -> anyhow::Result<()> {
    check_both(Load::Conversations(12)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_open_loop() -> anyhow::Result<()> {
    let (slow, medium, fast) =
        tokio::join!(check_both(Load::Open(5)), check_both(Load::Open(15)), check_both(Load::Open(25)));
    slow.and(medium).and(fast)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_few_clients() -> anyhow::Result<()> {
    check_both(Load::Light(4)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_any_refusal() -> anyhow::Result<()> {
    let load = Load::Closed(6);
    let (forbidden, missing, busy, broken) = tokio::join!(
        check(load, Fault::Status(403)),
        check(load, Fault::Status(404)),
        check(load, Fault::Busy),
        check(load, Fault::ErrorEvent),
    );
    forbidden.and(missing).and(busy).and(broken)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_all_refuse_alike_reaches_the_client_and_changes_nothing() -> anyhow::Result<()> {
    let example = Example::start(Setup { concurrency: 1, ..Setup::default() }).await?;
    for status in [401, 429] {
        for server in &example.qwen {
            server.set_fault(Fault::Status(status));
            server.received();
        }
        for _ in 0..60 {
            let answer = example.chat(QWEN).await?;
            assert_eq!(answer.status, status);
        }
        let shares: Vec<usize> = example.qwen.iter().map(|server| server.received().len()).collect();
        assert!(shares.iter().all(|share| *share >= 10), "{status}: {shares:?}");
    }
    Ok(())
}

/// What the plugin asks of the router is not seen by the engine.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_servers_429_goes_on_to_one_that_has_room_and_can_be_kept() -> anyhow::Result<()> {
    let keep = |document: &mut Value| {
        for pool in document["pools"].as_array_mut().into_iter().flatten() {
            pool["retryRefused"] = json!(false);
        }
    };
    let (retried, kept) = tokio::join!(answers_of_a_busy_server(|_| {}), answers_of_a_busy_server(keep));
    let (retried, kept) = (retried?, kept?);
    assert!(retried.iter().all(|status| *status == 200), "{retried:?}");
    assert!(kept.contains(&429), "{kept:?}");
    Ok(())
}

/// What clients see of a pool in which one server has room for one request.
async fn answers_of_a_busy_server(change: fn(&mut Value)) -> anyhow::Result<Vec<u16>> {
    let example = Example::start(Setup { change, ..Setup::default() }).await?;
    example.qwen[0].set_fault(Fault::RoomFor(1));
    let body = |number: usize| {
        json!({"model": QWEN, "max_tokens": 20, "messages": [{"role": "user", "content": format!("{number}")}]})
            .to_string()
    };
    let posts = (0..9).map(|number| {
        let listen = example.envoy.listen();
        tokio::spawn(
            async move { client::send(listen, client::post("/v1/chat/completions", &[], body(number))?).await },
        )
    });
    let mut statuses = Vec::new();
    for post in posts.collect::<Vec<_>>() {
        statuses.push(post.await??.status);
    }
    for received in example.qwen.iter().flat_map(|server| server.received()) {
        assert!(!received.headers.contains_key("x-envoy-retriable-status-codes"), "the router removes it");
    }
    Ok(statuses)
}
