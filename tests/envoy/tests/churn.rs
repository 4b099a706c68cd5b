//! Eight pools whose pods come and go, fifty changes a second, by the Kubernetes API.
//!
//! Of 1,000 pods four to eight of each pool take requests at a time, each for a few seconds; the other changes are about
//! pods that don't. Envoy has them all as hosts, so what the API says alone decides who is picked. It lasts a minute, or
//! `CHURN_SECONDS`, and prints how soon a change was followed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use envoy_tests::kube::{KubeApi, PodSpec};
use envoy_tests::site::Site;
use inference_plugin::rng::{Rng, SplitMix64};
use serde_json::json;
use simulator::flags::Flags;
use simulator::server::Server;

const POOLS: usize = 8;
/// Of each pool.
const PODS: usize = 125;
const CHANGES_PER_SECOND: u32 = 50;
/// How many pods of a pool take requests.
const READY: std::ops::RangeInclusive<usize> = 4..=8;
/// A pod takes requests for so long at least.
const LIFE: Duration = Duration::from_secs(3);
/// A pod that is on its way out is gone after this time.
const GRACE: Duration = Duration::from_secs(2);

/// What should have happened to a new pod, and to one that leaves.
const PICKED_WITHIN: Duration = Duration::from_secs(2);
const LEFT_WITHIN: Duration = Duration::from_secs(1);
/// How late a machine that pauses may be.
const PAUSE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Gone,
    Starting,
    Ready,
    Leaving,
}

#[derive(Clone, Copy, Debug)]
struct Pod {
    state: State,
    /// When it last became ready or ceased to be.
    since: Option<Instant>,
    is_picked: bool,
}

/// All pods, and how soon their changes were followed.
struct Fleet {
    pods: [Vec<Pod>; POOLS],
    rng: SplitMix64,
    changes: u32,
    /// From being ready to the first request, of each pod; `None` for one that got none.
    picked_after: Vec<Option<Duration>>,
    /// From leaving to each request after that.
    late: Vec<Duration>,
    requests: usize,
    lost: Vec<String>,
}

fn name(pool: usize) -> String {
    format!("pool-{pool}")
}

fn address(pool: usize, pod: usize) -> IpAddr {
    let [pool, pod] = [pool, pod].map(|index| u8::try_from(index).unwrap());
    IpAddr::V4(Ipv4Addr::new(127, 10 + pool, 0, pod + 1))
}

impl Fleet {
    fn new() -> Fleet {
        let new = Pod { state: State::Gone, since: None, is_picked: false };
        Fleet {
            pods: std::array::from_fn(|_| vec![new; PODS]),
            rng: SplitMix64::new(7),
            changes: 0,
            picked_after: Vec::new(),
            late: Vec::new(),
            requests: 0,
            lost: Vec::new(),
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.next_u64() % bound as u64).unwrap()
    }

    /// A pod of a pool that a condition holds for, any of them.
    fn any(&mut self, pool: usize, condition: impl Fn(&Pod) -> bool) -> Option<usize> {
        let found: Vec<usize> = (0..PODS).filter(|pod| condition(&self.pods[pool][*pod])).collect();
        (!found.is_empty()).then(|| found[self.below(found.len())])
    }

    /// Makes the next change.
    fn change(&mut self, api: &KubeApi) {
        let pool = self.changes as usize % POOLS;
        self.changes += 1;
        let ready = self.pods[pool].iter().filter(|pod| pod.state == State::Ready).count();
        let chance = self.below(4);
        let rests = |pod: &Pod, time: Duration| pod.since.is_none_or(|since| since.elapsed() >= time);
        let starts = ready < *READY.start() || (ready < *READY.end() && chance == 0);
        let (pod, next) = if starts {
            (self.any(pool, |pod| pod.state == State::Starting && rests(pod, GRACE)), State::Ready)
        } else if ready > *READY.start() && chance == 1 {
            // Some are deleted, some fail their probe.
            let next = if self.below(2) == 0 { State::Leaving } else { State::Starting };
            (self.any(pool, |pod| pod.state == State::Ready && rests(pod, LIFE)), next)
        } else if let Some(pod) = self.any(pool, |pod| pod.state == State::Leaving && rests(pod, GRACE)) {
            (Some(pod), State::Gone)
        } else {
            (self.any(pool, |pod| matches!(pod.state, State::Gone | State::Starting)), State::Starting)
        };
        if let Some(pod) = pod {
            self.set(api, pool, pod, next);
        }
    }

    fn set(&mut self, api: &KubeApi, pool: usize, at: usize, next: State) {
        let pod_name = format!("{}-{at}", name(pool));
        let pool_name = name(pool);
        let labels = [("app", pool_name.as_str())];
        let pod = &mut self.pods[pool][at];
        if (pod.state == State::Ready) != (next == State::Ready) {
            if pod.state == State::Ready && !pod.is_picked {
                self.picked_after.push(None);
            }
            (pod.since, pod.is_picked) = (Some(Instant::now()), false);
        }
        pod.state = next;
        match next {
            State::Starting | State::Ready => {
                let ready = if next == State::Ready { "True" } else { "False" };
                api.set_pod(&pod_name, PodSpec::ready(address(pool, at), &labels).condition(ready));
            }
            State::Leaving => api.terminate(&pod_name),
            State::Gone => api.delete(&pod_name),
        }
    }

    /// Notes who has served a request.
    fn served(&mut self, pool: usize, served: &str, sent_at: Instant) {
        self.requests += 1;
        let found = served.parse().ok().and_then(|served: SocketAddr| {
            (0..PODS).find(|pod| served.ip() == address(pool, *pod)).map(|pod| &mut self.pods[pool][pod])
        });
        match found {
            Some(Pod { state: State::Ready, is_picked: true, .. }) => {}
            Some(Pod { state: State::Ready, since: Some(since), is_picked }) => {
                *is_picked = true;
                self.picked_after.push(Some(since.elapsed()));
            }
            Some(Pod { since: Some(since), .. }) => {
                self.late.extend(sent_at.checked_duration_since(*since));
            }
            _ => self.lost.push(format!("{served:?} has served, which was never ready")),
        }
    }
}

fn lock(fleet: &Mutex<Fleet>) -> MutexGuard<'_, Fleet> {
    fleet.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends one request after the other to a pool.
async fn ask(site: &Site, fleet: &Mutex<Fleet>, pool: usize, until: Instant) {
    let model = format!("model-{pool}");
    for number in 0.. {
        let sent_at = Instant::now();
        if sent_at >= until {
            return;
        }
        match site.ask(&model, number).await {
            Ok(answer) if answer.status == 200 => {
                let served = answer.header("x-gateway-destination-endpoint-served").unwrap_or_default();
                lock(fleet).served(pool, served, sent_at);
            }
            Ok(answer) => lock(fleet).lost.push(format!("{}: {}", answer.status, answer.text())),
            Err(error) => lock(fleet).lost.push(error.to_string()),
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

fn share(times: &[Duration], bound: Duration) -> f64 {
    times.iter().filter(|time| **time <= bound).count() as f64 / times.len().max(1) as f64
}

fn quantile(times: &[Duration], part: f64) -> Duration {
    times.get(((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_followed_and_no_request_lost() -> anyhow::Result<()> {
    let seconds = std::env::var("CHURN_SECONDS").map_or(Ok(60), |seconds| seconds.parse())?;
    let api = KubeApi::start("secret-1").await?;
    let mut fleet = Fleet::new();
    let mut servers = Vec::new();
    let mut pools = Vec::new();
    for pool in 0..POOLS {
        // All pods of a pool are one server, at as many addresses.
        let mut flags = Flags::for_model(&format!("model-{pool}"));
        flags.host = "0.0.0.0".to_owned();
        flags.prefill_time_per_token = Duration::ZERO;
        let server = Server::start(flags).await?;
        api.set_pool(&name(pool), &[("app", &name(pool))], &[server.address().port()]);
        servers.push(server);
        for pod in 0..PODS {
            fleet.set(&api, pool, pod, if pod < *READY.start() { State::Ready } else { State::Starting });
        }
        // The one that was longest without a request gets the next, so that a new one need not wait for chance.
        pools.push(json!({"name": name(pool), "baseModel": format!("model-{pool}"),
            "endpoints": {"kubernetes": {"namespace": "models", "inferencePool": name(pool)}},
            "scheduling": {"scorers": [{"type": "no-hit-lru-scorer"}], "picker": {"type": "max-score-picker"}}}));
    }
    let site = Site::on_kubernetes(&api, json!({"pools": pools, "poller": {"interval": "1s"}}), "secret-1").await?;
    for (pool, server) in servers.iter().enumerate() {
        let hosts: Vec<SocketAddr> =
            (0..PODS).map(|pod| SocketAddr::new(address(pool, pod), server.address().port())).collect();
        site.set_hosts(&name(pool), &hosts)?;
    }
    for pool in 0..POOLS {
        let model = format!("model-{pool}");
        site.eventually("the pods are found", || async { Ok(site.serving(&model).await?.len() == *READY.start()) })
            .await?;
        for pod in &mut fleet.pods[pool] {
            (pod.since, pod.is_picked) = (Some(Instant::now()), true);
        }
    }
    let until = Instant::now() + Duration::from_secs(seconds);
    let fleet = Arc::new(Mutex::new(fleet));
    let changing = async {
        let mut clock = tokio::time::interval(Duration::from_secs(1) / CHANGES_PER_SECOND);
        while Instant::now() < until {
            clock.tick().await;
            lock(&fleet).change(&api);
        }
    };
    let site = Arc::new(site);
    let mut asking = tokio::task::JoinSet::new();
    for pool in 0..POOLS {
        let (site, fleet) = (Arc::clone(&site), Arc::clone(&fleet));
        asking.spawn(async move { ask(&site, &fleet, pool, until).await });
    }
    changing.await;
    while let Some(asked) = asking.join_next().await {
        asked?;
    }

    let mut fleet = lock(&fleet);
    let unpicked = fleet.picked_after.iter().filter(|time| time.is_none()).count();
    let mut picked: Vec<Duration> = fleet.picked_after.iter().flatten().copied().collect();
    picked.sort();
    fleet.late.sort();
    eprintln!(
        "{seconds} s, {} changes, {} requests, {} lost\n\
        ready to picked, of {} pods: p50 {:?}, p99 {:?}, longest {:?}, {unpicked} never\n\
        left to the last request, of {} requests after that: p50 {:?}, p99 {:?}, longest {:?}",
        fleet.changes,
        fleet.requests,
        fleet.lost.len(),
        picked.len(),
        quantile(&picked, 0.5),
        quantile(&picked, 0.99),
        quantile(&picked, 1.0),
        fleet.late.len(),
        quantile(&fleet.late, 0.5),
        quantile(&fleet.late, 0.99),
        quantile(&fleet.late, 1.0),
    );
    assert!(fleet.lost.is_empty(), "{:?}\n{}", fleet.lost, site.envoy.log());
    assert!(
        picked.len() as u64 > seconds && unpicked * 20 <= picked.len(),
        "{} picked, {unpicked} never",
        picked.len()
    );
    assert!(share(&picked, PICKED_WITHIN) > 0.9, "{picked:?}");
    assert!(share(&fleet.late, LEFT_WITHIN) > 0.9, "{:?}", fleet.late);
    assert!(quantile(&fleet.late, 1.0) < PAUSE, "{:?}", fleet.late);
    Ok(())
}
