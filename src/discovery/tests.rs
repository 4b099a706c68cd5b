//! Discovery before an API server that starts, goes, comes back and is restored, in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::testing::test;

const START: Timestamp = Timestamp(1_000_000);
const STEP: Duration = Duration::from_millis(10);

const STARTING: &str = r#"{"kind":"Status","message":"the request has been made before all known HTTP paths have been installed","code":503}"#;
const FORBIDDEN: &str = r#"{"kind":"Status","message":"pods is forbidden: User \"system:serviceaccount:serving:llm-envoy\" cannot list resource \"pods\"","code":403}"#;

/// What an API server answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// Connections are refused.
    Away,
    /// Every answer is this.
    Refuses(u16, &'static str, &'static str),
    /// Watches are refused, and nothing else.
    NoWatch,
    Works,
}

/// An API server: pods, and what happened to them.
struct Api {
    phase: Phase,
    version: u64,
    pods: BTreeMap<String, String>,
    events: Vec<(u64, String)>,
    has_pool: bool,
}

impl Api {
    fn pod(&self, name: &str) -> String {
        format!(
            r#"{{"metadata":{{"name":"{name}","resourceVersion":"{}"}},"status":{{"phase":"Running","podIP":"{}","conditions":[{{"type":"Ready","status":"True"}}]}}}}"#,
            self.version, self.pods[name]
        )
    }

    fn add(&mut self, name: &str, ip: &str) {
        self.version += 1;
        self.pods.insert(name.to_owned(), ip.to_owned());
        self.events.push((self.version, format!(r#"{{"type":"ADDED","object":{}}}"#, self.pod(name))));
    }

    fn remove(&mut self, name: &str) {
        self.version += 1;
        self.events.push((self.version, format!(r#"{{"type":"DELETED","object":{}}}"#, self.pod(name))));
        self.pods.remove(name);
    }

    /// Another copy of the data: nothing of it is told to watches that began later.
    fn restore(&mut self, version: u64, pods: &[(&str, &str)]) {
        (self.version, self.events) = (version, Vec::new());
        self.pods = pods.iter().map(|(name, ip)| ((*name).to_owned(), (*ip).to_owned())).collect();
    }

    fn answer(&self, path: &str) -> (u16, String) {
        if path.contains("/inferencepools/") {
            let is_v1 = path.contains("k8s.io/v1/");
            let pool = r#"{"spec":{"selector":{"matchLabels":{"app":"a"}},"targetPorts":[{"number":8000}]}}"#;
            return if is_v1 && self.has_pool { (200, pool.to_owned()) } else { (404, String::new()) };
        }
        if !path.contains("/pods?") {
            return (200, r#"{"items":[]}"#.to_owned());
        }
        let Some((_, since)) = path.split_once("&resourceVersion=") else {
            let pods: Vec<String> = self.pods.keys().map(|name| self.pod(name)).collect();
            let list =
                format!(r#"{{"metadata":{{"resourceVersion":"{}"}},"items":[{}]}}"#, self.version, pods.join(","));
            return (200, list);
        };
        if self.phase == Phase::NoWatch {
            return (403, FORBIDDEN.replace("list", "watch"));
        }
        let since: u64 = since.parse().unwrap();
        let events = self.events.iter().filter(|(version, _)| *version > since);
        (200, events.map(|(_, event)| format!("{event}\n")).collect())
    }
}

struct World {
    now: Timestamp,
    discovery: Discovery,
    api: Api,
    pending: Vec<(Timestamp, Call)>,
    found: BTreeSet<String>,
    notices: Vec<String>,
    asked: usize,
}

impl World {
    fn new(document: &str) -> World {
        let config = config::parse(document.as_bytes()).unwrap();
        let mut api =
            Api { phase: Phase::Works, version: 10, pods: BTreeMap::new(), events: Vec::new(), has_pool: true };
        api.add("a", "10.0.0.1");
        api.add("b", "10.0.0.2");
        World {
            now: START,
            discovery: Discovery::new(&config, 7),
            api,
            pending: Vec::new(),
            found: BTreeSet::new(),
            notices: Vec::new(),
            asked: 0,
        }
    }

    fn of_pool() -> World {
        World::new(
            r#"{"pools":[{"name":"p","baseModel":"m","endpoints":{"kubernetes":{"namespace":"serving","inferencePool":"p"}}}]}"#,
        )
    }

    fn poll(&mut self) {
        while let Some(call) = self.discovery.poll_call(self.now) {
            self.asked += 1;
            let seconds: u64 = match call.path.split_once("timeoutSeconds=") {
                Some((_, rest)) => rest.split('&').next().unwrap().parse().unwrap(),
                None => 0,
            };
            // A refusal comes at once, and so does the end of a watch when a server goes.
            let millis = if matches!(self.api.phase, Phase::Works) { seconds * 1_000 + 10 } else { 10 };
            self.pending.push((self.now.after(Duration::from_millis(millis)), call));
        }
    }

    fn step(&mut self) {
        self.now = self.now.after(STEP);
        let is_over = self.api.phase == Phase::Away;
        let (due, pending) =
            std::mem::take(&mut self.pending).into_iter().partition(|(at, _)| is_over || *at <= self.now);
        self.pending = pending;
        let due: Vec<(Timestamp, Call)> = due;
        for (_, call) in due {
            let (status, body) = self.api.answer(&call.path);
            let answer = match self.api.phase {
                Phase::Away => Answer::Broken,
                Phase::Refuses(status, retry_after, body) => {
                    Answer::Answered { status, retry_after: retry_after.as_bytes(), body: body.as_bytes() }
                }
                _ => Answer::Answered { status, retry_after: b"", body: body.as_bytes() },
            };
            self.discovery.handle_answer(call.id, answer, self.now);
            self.poll();
        }
        if self.now.0.is_multiple_of(100) {
            self.poll();
        }
        while let Some((_, found)) = self.discovery.poll_endpoints() {
            self.found = found.iter().map(|found| found.address.to_string()).collect();
        }
        while let Some(notice) = self.discovery.poll_notice() {
            self.notices.push(notice.to_string());
        }
        self.discovery.poll_resources();
    }

    fn run(&mut self, time: Duration) {
        let end = self.now.after(time);
        while self.now < end {
            self.step();
        }
    }

    /// How long it takes until exactly these are found.
    fn until(&mut self, addresses: &[&str]) -> Duration {
        let wanted: BTreeSet<String> = addresses.iter().map(|address| format!("{address}:8000")).collect();
        let start = self.now;
        while self.found != wanted {
            assert!(self.now.since(start) < Duration::from_secs(600), "{wanted:?} are never found: {:?}", self.found);
            self.step();
        }
        self.now.since(start)
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn pods_are_known_within_a_second_of_the_start() {
    // Envoy's cluster for the API is ready only after that long.
    for ready_after in [0, 100, 250, 400, 600, 700] {
        let mut world = World::of_pool();
        world.api.phase = Phase::Away;
        world.run(Duration::from_millis(ready_after));
        world.api.phase = Phase::Works;
        let more = world.until(&["10.0.0.1", "10.0.0.2"]);
        assert!(more + Duration::from_millis(ready_after) <= secs(1), "{ready_after} ms and then {more:?}");
        assert_eq!(world.notices, ["pool=p 2 endpoints"]);
    }
}

#[test]
fn a_change_is_known_within_a_second_and_a_half() {
    let mut world = World::of_pool();
    world.until(&["10.0.0.1", "10.0.0.2"]);
    for number in 0..20 {
        world.run(Duration::from_millis(1_370));
        world.api.add("c", "10.0.0.3");
        assert!(world.until(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]) < Duration::from_millis(1_500), "{number}");
        world.api.remove("c");
        assert!(world.until(&["10.0.0.1", "10.0.0.2"]) < Duration::from_millis(1_500), "{number}");
    }
    assert_eq!(world.notices, ["pool=p 2 endpoints"]);
}

#[test]
fn news_are_known_within_five_seconds_of_a_servers_return() {
    for away in [1, 8, 11, 40, 600] {
        for phases in [&[][..], &[Phase::Refuses(503, "1", STARTING), Phase::Refuses(403, "", FORBIDDEN)]] {
            let mut world = World::of_pool();
            world.run(secs(7));
            world.api.phase = Phase::Refuses(429, "5", "{}");
            world.run(Duration::from_millis(300));
            world.api.phase = Phase::Away;
            world.run(secs(away));
            assert_eq!(world.found.len(), 2, "what was last known holds");
            world.api.remove("a");
            world.api.add("c", "10.0.0.3");
            world.api.events.clear();
            for phase in phases {
                world.api.phase = *phase;
                world.run(Duration::from_millis(800));
            }
            world.api.phase = Phase::Works;
            let blind = world.until(&["10.0.0.2", "10.0.0.3"]);
            assert!(blind < secs(5), "{blind:?} after {away} s and {phases:?}");
            world.run(secs(20));
            let said: Vec<&str> = world.notices.iter().map(String::as_str).collect();
            let all = [
                "pool=p 2 endpoints",
                "pool=p it cannot be reached; what was last known holds",
                "pool=p it works again: 2 endpoints",
            ];
            // A short one is not worth a line; whether one of ten seconds is depends on when it was asked last.
            match away {
                1 => assert_eq!(said, all[..1], "{phases:?}"),
                40.. => assert_eq!(said, all, "{phases:?}"),
                _ => assert!(said == all || said == all[..1], "{away} s and {phases:?}: {said:?}"),
            }
        }
    }
}

#[test]
fn an_outage_is_asked_about_gently() {
    let mut world = World::of_pool();
    world.run(secs(7));
    world.api.phase = Phase::Away;
    world.run(secs(30));
    let asked = world.asked;
    world.run(secs(100));
    let asked = world.asked - asked;
    // The pool and its pods, each every two seconds.
    assert!((90..=140).contains(&asked), "{asked} in 100 s");
}

#[test]
fn an_api_that_was_restored_is_noticed_within_a_minute() {
    // The versions are lower, or have caught up already; nothing broke off, and no event tells.
    for version in [5, 1_000] {
        let mut world = World::of_pool();
        world.run(secs(33));
        world.api.restore(version, &[("b", "10.0.0.2"), ("old", "10.0.0.9")]);
        let blind = world.until(&["10.0.0.2", "10.0.0.9"]);
        assert!(blind < secs(60), "{blind:?} at {version}");
        // And then it is followed as before.
        world.api.add("c", "10.0.0.3");
        assert!(world.until(&["10.0.0.2", "10.0.0.3", "10.0.0.9"]) < secs(2));
        assert_eq!(world.notices, ["pool=p 2 endpoints"]);
    }
}

#[test]
fn a_right_that_is_missing_is_said_once_and_so_is_its_return() {
    let mut world = World::of_pool();
    world.run(secs(5));
    world.api.phase = Phase::Refuses(403, "", FORBIDDEN);
    world.run(secs(120));
    assert_eq!(world.found.len(), 2);
    world.api.phase = Phase::Works;
    world.api.add("c", "10.0.0.3");
    assert!(world.until(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]) < secs(5));
    world.run(secs(60));
    let [found, denied, again] = world.notices.as_slice() else { panic!("{:?}", world.notices) };
    assert_eq!((found.as_str(), again.as_str()), ("pool=p 2 endpoints", "pool=p it works again: 3 endpoints"));
    assert!(
        denied.starts_with("pool=p access is denied: the answer is 403; see the service account's role"),
        "{denied}"
    );
    assert!(denied.ends_with(
        "[pods is forbidden: User \"system:serviceaccount:serving:llm-envoy\" cannot list resource \"pods\"]"
    ));
}

#[test]
fn without_the_right_to_watch_it_goes_on_and_says_so() {
    let mut world = World::of_pool();
    world.api.phase = Phase::NoWatch;
    world.until(&["10.0.0.1", "10.0.0.2"]);
    world.run(secs(60));
    world.api.remove("a");
    assert!(world.until(&["10.0.0.2"]) < secs(6));
    world.run(secs(60));
    let [_, denied] = world.notices.as_slice() else { panic!("{:?}", world.notices) };
    assert!(denied.contains("cannot watch resource \"pods\""), "{denied}");
}

#[test]
fn a_pool_that_is_deleted_and_made_again_is_said_once() {
    let mut world = World::of_pool();
    world.run(secs(5));
    world.api.has_pool = false;
    world.run(secs(90));
    assert_eq!(world.found.len(), 2, "what was last known holds");
    world.api.add("c", "10.0.0.3");
    assert!(world.until(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]) < secs(2), "pods are followed meanwhile");
    world.api.has_pool = true;
    world.run(secs(20));
    assert_eq!(
        world.notices,
        [
            "pool=p 2 endpoints",
            "pool=p the answer is 404; is the resource installed, and the name right?",
            "pool=p it works again: 3 endpoints"
        ]
    );
}

#[test]
fn resources_and_single_endpoints_have_lines_of_their_own() {
    let mut world = World::new(
        r#"{"pools":[{"name":"p","baseModel":"m","endpoints":{"kubernetes":{"namespace":"serving","selector":{"app":"a"},"targetPorts":[8000]}}}],
            "kubernetesResources":{"namespace":"serving"}}"#,
    );
    world.api.pods.remove("b");
    world.run(secs(5));
    world.api.phase = Phase::Away;
    world.run(secs(20));
    world.api.phase = Phase::Works;
    world.run(secs(5));
    let mut notices = world.notices.clone();
    notices.sort();
    assert_eq!(
        notices,
        [
            "namespace=serving model resources: it cannot be reached; what was last known holds",
            "namespace=serving model resources: it works again",
            "pool=p 1 endpoint",
            "pool=p it cannot be reached; what was last known holds",
            "pool=p it works again: 1 endpoint",
        ]
    );
}

#[test]
fn pods_on_one_address_are_one_endpoint_while_any_is_there() {
    let mut world = World::of_pool();
    world.api.add("host-1", "10.0.0.7");
    world.api.add("host-2", "10.0.0.7");
    world.until(&["10.0.0.1", "10.0.0.2", "10.0.0.7"]);
    world.api.remove("host-1");
    world.run(secs(5));
    assert_eq!(world.found.len(), 3);
    world.api.remove("host-2");
    assert!(world.until(&["10.0.0.1", "10.0.0.2"]) < secs(2));
}

#[test]
fn more_endpoints_than_a_pool_may_have_are_said_once() {
    let mut world = World::of_pool();
    for number in 0..1_100 {
        world.api.add(&format!("p{number}"), &format!("10.1.{}.{}", number / 250, number % 250));
    }
    world.run(secs(120));
    assert_eq!(world.notices, ["pool=p 1102 endpoints, of which 1024 are taken"]);
    assert_eq!(world.found.len(), MAX_ENDPOINTS);
}
