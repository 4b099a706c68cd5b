//! Scripted answers of an API: pages, events, and everything that goes wrong.

use super::*;
use crate::config::raw::EngineName;
use crate::discovery::Found;
use crate::testing::test;

const NOW: Timestamp = Timestamp(1_000_000);

/// A pod's object: its metadata and status beyond the usual.
fn object(name: &str, version: u64, metadata: &str, status: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"{name}","resourceVersion":"{version}","uid":"u-{name}","creationTimestamp":null{metadata}}},"spec":{{"containers":[{{"name":"vllm"}}]}},"status":{{{status}}}}}"#
    )
}

fn status(phase: &str, ready: &str, ips: &[&str]) -> String {
    let listed: Vec<String> = ips.iter().map(|ip| format!(r#"{{"ip":"{ip}"}}"#)).collect();
    format!(
        r#""phase":"{phase}","podIP":"{}","podIPs":[{}],"conditions":[{{"type":"ContainersReady","status":"True","lastProbeTime":null}},{{"type":"Ready","status":"{ready}","lastProbeTime":null}}]"#,
        ips.first().unwrap_or(&""),
        listed.join(",")
    )
}

fn up(name: &str, version: u64, ip: &str) -> String {
    object(name, version, "", &status("Running", "True", &[ip]))
}

fn down(name: &str, version: u64, ip: &str) -> String {
    object(name, version, "", &status("Running", "False", &[ip]))
}

fn page(version: u64, token: &str, objects: &[String]) -> String {
    format!(
        r#"{{"kind":"PodList","metadata":{{"resourceVersion":"{version}","continue":"{token}"}},"items":[{}]}}"#,
        objects.join(",")
    )
}

fn event(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn selected() -> Kubernetes {
    let labels = vec![("app".to_owned(), "vllm".to_owned())];
    let wanted = BTreeSet::from(["tier".to_owned()]);
    Kubernetes::new("ns", &Pods::Selected { labels, ports: vec![8000] }, wanted, 1)
}

fn answered(status: u16, body: &str) -> Answer<'_> {
    Answer::Answered { status, retry_after: b"", body: body.as_bytes() }
}

/// Answers a question of the list that is under way.
fn give(source: &mut Kubernetes, what: u64, answer: Answer<'_>, now: Timestamp) -> Result<Outcome, Failure> {
    let kind = if what == POOL { POOL } else { source.kind(what) };
    source.handle_answer(kind, answer, now)
}

/// The addresses that an answer leads to; empty when nothing changes.
fn found(source: &mut Kubernetes, what: u64, body: &str) -> Vec<String> {
    match give(source, what, answered(200, body), NOW).unwrap() {
        Outcome::Found(found) => found.iter().map(|found| found.address.to_string()).collect(),
        _ => Vec::new(),
    }
}

fn endpoints(source: &mut Kubernetes) -> Vec<String> {
    source.known.endpoints(&[8000]).iter().map(|found| found.address.to_string()).collect()
}

fn after(millis: u64) -> Timestamp {
    NOW.after(Duration::from_millis(millis))
}

/// A source that has listed two pods at version 10, and watches.
fn listed() -> Kubernetes {
    let mut source = selected();
    let objects = [up("a", 3, "10.0.0.1"), up("b", 7, "10.0.0.2")];
    assert_eq!(source.poll_question(&[], NOW).map(|question| question.kind), Some(LIST));
    assert_eq!(found(&mut source, LIST, &page(10, "", &objects)), ["10.0.0.1:8000", "10.0.0.2:8000"]);
    assert_eq!(source.poll_question(&[], NOW).map(|question| question.kind), Some(source.kind(WATCHES[0])));
    source
}

#[test]
fn pages_are_put_together() {
    let mut source = selected();
    let question = source.poll_question(&[], NOW).unwrap();
    assert_eq!(question.path, "/api/v1/namespaces/ns/pods?labelSelector=app%3Dvllm&limit=50");
    assert_eq!(source.poll_question(&[LIST], NOW), None, "one page at a time");
    assert!(found(&mut source, LIST, &page(10, "to/ken=", &[up("a", 3, "10.0.0.1")])).is_empty());
    let question = source.poll_question(&[], NOW).unwrap();
    assert!(question.path.ends_with("&limit=500&continue=to%2Fken%3D"), "{}", question.path);
    let all = found(&mut source, LIST, &page(10, "", &[up("b", 4, "2001:db8::2")]));
    assert_eq!(all, ["10.0.0.1:8000", "[2001:db8::2]:8000"]);
    let question = source.poll_question(&[], NOW).unwrap();
    assert!(question.path.ends_with("&watch=1&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion=10"));
}

#[test]
fn a_token_that_is_no_longer_kept_starts_the_list_again() {
    let mut source = selected();
    source.poll_question(&[], NOW);
    found(&mut source, LIST, &page(10, "token", &[up("a", 3, "10.0.0.1")]));
    assert!(give(&mut source, LIST, answered(410, "{}"), NOW).is_err());
    assert_eq!(source.poll_question(&[], NOW), None, "not at once");
    let question = source.poll_question(&[], after(200)).unwrap();
    assert!(!question.path.contains("continue="));
    let all = found(&mut source, LIST, &page(11, "", &[up("c", 3, "10.0.0.3")]));
    assert_eq!(all, ["10.0.0.3:8000"], "what the first page had is not the second list's");
}

#[test]
fn a_page_that_is_too_long_is_asked_for_in_smaller_ones() {
    let mut source = selected();
    let mut limits = Vec::new();
    loop {
        let question = source.poll_question(&[], NOW).unwrap();
        limits.push(question.path.rsplit_once("limit=").unwrap().1.to_owned());
        if give(&mut source, LIST, Answer::TooLarge, NOW).is_err() {
            break;
        }
    }
    assert_eq!(limits, ["50", "25", "12", "6", "3", "1"]);
    // Envoy itself breaks off what is above 32 MiB.
    let mut source = selected();
    source.poll_question(&[], NOW).unwrap();
    assert_eq!(give(&mut source, LIST, Answer::Broken, NOW), Err(Failure::Unreachable));
    assert!(source.poll_question(&[], after(200)).unwrap().path.ends_with("limit=25"));
}

#[test]
fn only_pods_that_take_requests_count() {
    let mut source = selected();
    source.poll_question(&[], NOW);
    let running = |ready: &str, ip: &str| status("Running", ready, &[ip]);
    let ports =
        |value: &str| format!(r#","annotations":{{"inference.networking.k8s.io/active-ports":"{value}","k":"v"}}"#);
    let objects = [
        up("up", 1, "10.0.0.1"),
        // A readiness gate, or a node that is lost: the containers are ready all the same.
        object("gate", 1, "", &running("False", "10.0.0.2")),
        object("lost", 1, "", &running("Unknown", "10.0.0.3")),
        object("pending", 1, "", r#""phase":"Pending""#),
        object("done", 1, "", &status("Succeeded", "True", &["10.0.0.4"])),
        object("marked", 1, r#","deletionTimestamp":"2026-01-01T00:00:00Z""#, &running("True", "10.0.0.6")),
        object("new", 1, "", r#""phase":"Running","podIP":"10.0.0.7""#),
        object(
            "other-port",
            1,
            r#","annotations":{"llm-d.ai/active-ports":"9000","inference.networking.k8s.io/active-ports":"8000"}"#,
            &running("True", "10.0.0.8"),
        ),
        object("ports", 1, &ports("9000, 8000"), &running("True", "10.0.0.9")),
        object(
            "alone",
            1,
            "",
            r#""phase":"Running","podIP":"10.0.0.10","conditions":[{"type":"Ready","status":"True"}]"#,
        ),
    ];
    let all = found(&mut source, LIST, &page(10, "", &objects));
    assert_eq!(all, ["10.0.0.10:8000", "10.0.0.9:8000", "10.0.0.1:8000"]);
}

#[test]
fn of_two_addresses_the_one_that_envoys_cluster_has_counts() {
    let mut source = selected();
    source.poll_question(&[], NOW);
    let objects = [
        object("v6-first", 1, "", &status("Running", "True", &["2001:db8::1", "10.0.0.1"])),
        object("v4-first", 2, "", &status("Running", "True", &["10.0.0.2", "2001:db8::2"])),
        object("v6-alone", 3, "", &status("Running", "True", &["2001:db8::3"])),
        object("odd", 4, "", &status("Running", "True", &["", "not an address"])),
    ];
    let all = found(&mut source, LIST, &page(10, "", &objects));
    assert_eq!(all, ["10.0.0.2:8000", "[2001:db8::3]:8000", "10.0.0.1:8000"]);
}

#[test]
fn an_annotation_without_a_port_is_said_once() {
    let mut source = selected();
    source.poll_question(&[], NOW);
    let with = |name: &str, version: u64, value: &str| {
        let annotations = format!(r#","annotations":{{"llm-d.ai/active-ports":"{value}"}}"#);
        object(name, version, &annotations, &status("Running", "True", &["10.0.0.1"]))
    };
    let objects = [with("a", 1, "8000;8001"), with("b", 2, "8000, x"), with("c", 3, "8000,9000"), with("d", 4, "")];
    assert_eq!(found(&mut source, LIST, &page(10, "", &objects)).len(), 2);
    let remarks = |source: &mut Kubernetes| Vec::from_iter(std::iter::from_fn(|| source.poll_remark()));
    assert_eq!(
        remarks(&mut source),
        [
            "pod a: the annotation llm-d.ai/active-ports \"8000;8001\" names none of the pool's ports, so it gets no request; write ports with commas between",
            "pod b: the annotation llm-d.ai/active-ports \"8000, x\" has an element that is not a port; the others count",
            "pod d: the annotation llm-d.ai/active-ports \"\" names none of the pool's ports, so it gets no request; write ports with commas between",
        ]
    );
    found(&mut source, WATCHES[0], &event("MODIFIED", &with("c", 11, "none")));
    assert_eq!(remarks(&mut source).len(), 1);
    let many: Vec<String> = (0..500).map(|number| with(&format!("p{number}"), 20, "none")).collect();
    source.list_anew(NOW);
    found(&mut source, LIST, &page(20, "", &many));
    assert_eq!(remarks(&mut source).len(), 20, "a log with a thousand lines helps nobody");
}

#[test]
fn labels_say_what_runs_in_a_pod_and_which_pods_are_alike() {
    let mut source = selected();
    let labelled = |name: &str, version: u64, ip: &str, labels: &str| {
        object(name, version, &format!(r#","labels":{{"app":"vllm",{labels}}}"#), &status("Running", "True", &[ip]))
    };
    let objects = [
        labelled(
            "new",
            1,
            "10.0.0.1",
            r#""llm-d.ai/engine-type":"sglang","inference.networking.k8s.io/engine-type":"vllm""#,
        ),
        labelled("old", 1, "10.0.0.2", r#""inference.networking.k8s.io/engine-type":"trtllm-serve","tier":"gold""#),
        labelled("odd", 1, "10.0.0.3", r#""llm-d.ai/engine-type":"mine""#),
    ];
    let of = |outcome: Outcome| -> Vec<Found> {
        let Outcome::Found(found) = outcome else { panic!("{outcome:?}") };
        found
    };
    let all = of(give(&mut source, LIST, answered(200, &page(10, "", &objects)), NOW).unwrap());
    let engines = Vec::from_iter(all.iter().map(|found| found.engine));
    assert_eq!(engines, [Some(EngineName::Sglang), None, Some(EngineName::TrtllmServe)]);
    assert_eq!(Vec::from_iter(all.iter().map(|found| found.labels.len())), [0, 0, 1], "those that the pool asks for");
    // A label that changes is news of a pod that stays.
    let changed = event("MODIFIED", &labelled("odd", 11, "10.0.0.3", r#""tier":"gold""#));
    let all = of(give(&mut source, WATCHES[0], answered(200, &changed), NOW).unwrap());
    assert_eq!(all[1].labels.get("tier").map(String::as_str), Some("gold"));
}

#[test]
fn events_change_what_was_listed_and_older_ones_do_not() {
    let mut source = listed();
    let first = [event("MODIFIED", &down("a", 11, "10.0.0.1")), event("ADDED", &up("c", 12, "10.0.0.3"))];
    assert_eq!(found(&mut source, WATCHES[0], &first.concat()), ["10.0.0.2:8000", "10.0.0.3:8000"]);
    // The other watch tells the same again, and then what came after.
    let second = [first.concat(), event("DELETED", &up("b", 13, "10.0.0.2"))];
    assert_eq!(found(&mut source, WATCHES[1], &second.concat()), ["10.0.0.3:8000"]);
    for quiet in [second.concat().as_str(), "", "\n"] {
        assert_eq!(give(&mut source, WATCHES[0], answered(200, quiet), NOW), Ok(Outcome::Unchanged));
    }
    let bookmark = r#"{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"90","creationTimestamp":null},"spec":{"containers":null},"status":{}}}"#;
    assert_eq!(give(&mut source, LONG_WATCH, answered(200, bookmark), NOW), Ok(Outcome::Unchanged));
    assert_eq!(source.known.version(), 90);
    // What nobody knows yet changes nothing, and neither does what is not a pod.
    let unknown = event("SYNCED", &up("x", 91, "10.0.0.9"));
    assert_eq!(give(&mut source, WATCHES[0], answered(200, &unknown), NOW), Ok(Outcome::Unchanged));
    assert_eq!(endpoints(&mut source), ["10.0.0.3:8000"]);
}

#[test]
fn two_watches_take_turns_and_now_and_then_a_longer_one_waits_for_a_bookmark() {
    let mut source = selected();
    source.poll_question(&[], NOW);
    found(&mut source, LIST, &page(10, "", &[]));
    let mut open = Vec::new();
    let (mut starts, mut long, mut probes) = (Vec::new(), Vec::new(), Vec::new());
    for tick in 0..230 {
        let now = after(100 * tick);
        open.retain(|(_, end)| *end > now);
        let kinds: Vec<u64> = open.iter().map(|(kind, _)| *kind).collect();
        if let Some(question) = source.poll_question(&kinds, now) {
            let what = question.kind % KINDS;
            let seconds = if what == LONG_WATCH { 5 } else { 1 };
            open.push((question.kind, now.after(Duration::from_secs(seconds))));
            match what {
                LONG_WATCH => long.push(tick),
                PROBE => probes.push(tick),
                _ => starts.push(tick),
            }
            let is_watch = question.path.contains(&format!("&timeoutSeconds={seconds}&"));
            assert!(is_watch || question.path.ends_with("pods?labelSelector=app%3Dvllm&limit=1"), "{}", question.path);
        }
    }
    assert_eq!(starts[..6], [0, 5, 10, 15, 20, 25]);
    assert_eq!((starts.len(), long, probes), (46, vec![1], vec![151]));
}

#[test]
fn a_version_that_goes_back_is_listed_anew() {
    // By the probe.
    let mut source = listed();
    let later = NOW.after(PROBE_PERIOD);
    let kinds = [source.kind(WATCHES[0]), source.kind(WATCHES[1]), source.kind(LONG_WATCH)];
    assert_eq!(source.poll_question(&kinds, later).map(|question| question.kind), Some(source.kind(PROBE)));
    let same = r#"{"kind":"PartialObjectMetadataList","metadata":{"resourceVersion":"10"},"items":[]}"#;
    give(&mut source, PROBE, answered(200, same), later).unwrap();
    assert!(source.listing.is_none());
    for odd in [answered(500, ""), answered(200, "<html>"), answered(200, "{}"), Answer::Broken] {
        assert_eq!(give(&mut source, PROBE, odd, later), Ok(Outcome::Stale));
        assert!(source.listing.is_none());
    }
    give(&mut source, PROBE, answered(200, &same.replace("10", "9")), later).unwrap();
    assert!(source.listing.is_some());
    assert_eq!(endpoints(&mut source).len(), 2, "until it is listed");
    assert_eq!(found(&mut source, LIST, &page(9, "", &[up("b", 7, "10.0.0.2")])), ["10.0.0.2:8000"]);
    assert_eq!(source.known.version(), 9);
    // By an event, or a bookmark, that is older than what the watch began with.
    for event in [
        event("MODIFIED", &up("a", 5, "10.0.0.1")),
        r#"{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"8"}}}"#.to_owned(),
    ] {
        let mut source = listed();
        give(&mut source, WATCHES[0], answered(200, &event), NOW).unwrap();
        assert!(source.listing.is_some());
    }
}

#[test]
fn a_list_is_repeated_by_what_it_weighs() {
    let mut source = listed();
    assert!(source.list_period() == SHORTEST_LIST_PERIOD);
    let kinds: Vec<u64> = [WATCHES[0], WATCHES[1], LONG_WATCH, PROBE].map(|what| source.kind(what)).into();
    let listed = |source: &mut Kubernetes, now| source.poll_question(&kinds, now).is_some();
    assert!(!listed(&mut source, NOW.after(SHORTEST_LIST_PERIOD * 4 / 5 - Duration::from_millis(1))));
    assert!(listed(&mut source, NOW.after(SHORTEST_LIST_PERIOD * 6 / 5)));
    source.list_bytes = 10 << 20;
    assert_eq!(source.list_period(), Duration::from_secs(320));
    source.list_bytes = usize::MAX;
    assert_eq!(source.list_period(), LONGEST_LIST_PERIOD);
}

#[test]
fn an_event_that_cannot_be_read_loses_nothing() {
    for cut in
        [r#"{"type":"DELETED","object":{"ki"#, r#"{"type":"DELETED"}"#, r#"{"type":"ADDED","object":7}"#, "<html>"]
    {
        let mut source = listed();
        source.has_watched = true;
        let events = event("ADDED", &up("c", 12, "10.0.0.3")) + cut;
        assert!(
            matches!(give(&mut source, WATCHES[0], answered(200, &events), NOW), Err(Failure::Unreadable(_))),
            "{cut}"
        );
        let question = source.poll_question(&[], after(200)).unwrap();
        assert_eq!(question.kind, source.kind(LIST));
        assert_eq!(found(&mut source, LIST, &page(13, "", &[up("c", 12, "10.0.0.3")])), ["10.0.0.3:8000"]);
    }
}

#[test]
fn a_watch_that_ends_badly_lists_again_and_keeps_what_is_known_until_then() {
    let error = |code: u16| {
        event("ERROR", &format!(r#"{{"kind":"Status","status":"Failure","message":"too old","code":{code}}}"#))
    };
    for (status, body) in
        [(410, String::new()), (200, error(410)), (200, error(504)), (503, String::new()), (403, String::new())]
    {
        let mut source = listed();
        source.has_watched = true;
        let other = source.kind(WATCHES[1]);
        assert!(give(&mut source, WATCHES[0], answered(status, &body), NOW).is_err());
        assert_eq!(endpoints(&mut source).len(), 2);
        let question = source.poll_question(&[other], after(200)).unwrap();
        assert_eq!(question.kind, source.kind(LIST));
        // What the other watch has to say is older than the list will be.
        let late = event("DELETED", &up("a", 99, "10.0.0.1"));
        assert_eq!(source.handle_answer(other, answered(200, &late), NOW), Ok(Outcome::Stale));
        assert_eq!(found(&mut source, LIST, &page(50, "", &[up("z", 3, "10.0.0.9")])), ["10.0.0.9:8000"]);
    }
}

#[test]
fn lists_take_the_place_of_watches_that_never_work() {
    let mut source = selected();
    let (mut lists, mut watches) = (0, 0);
    for tick in 0..600 {
        let now = after(100 * tick);
        while let Some(question) = source.poll_question(&[], now) {
            let body = page(10, "", &[up("a", 3, "10.0.0.1")]);
            let is_list = question.path.contains("limit=");
            let answer = if is_list { answered(200, &body) } else { answered(403, "") };
            let _ = source.handle_answer(question.kind, answer, now);
            *(if is_list { &mut lists } else { &mut watches }) += 1;
        }
    }
    assert!((15..=21).contains(&lists) && watches <= lists, "{lists} lists and {watches} watches in a minute");
}

#[test]
fn what_was_asked_for_another_selector_counts_no_more() {
    let pool = |app: &str| {
        format!(r#"{{"spec":{{"selector":{{"matchLabels":{{"app":"{app}"}}}},"targetPorts":[{{"number":8000}}]}}}}"#)
    };
    let mut source = Kubernetes::new("ns", &Pods::InferencePool("pool".to_owned()), BTreeSet::new(), 1);
    source.poll_question(&[], NOW).unwrap();
    found(&mut source, POOL, &pool("v1"));
    let list = source.poll_question(&[], NOW).unwrap();
    // The selector changes while a list of the first one's pods is under way.
    found(&mut source, POOL, &pool("v2"));
    let old = page(10, "", &[up("old", 3, "10.0.0.1")]);
    assert_eq!(source.handle_answer(list.kind, answered(200, &old), NOW), Ok(Outcome::Stale));
    let list = source.poll_question(&[list.kind], NOW).unwrap();
    assert!(list.path.contains("app%3Dv2&limit="), "{}", list.path);
    assert!(found(&mut source, LIST, &page(90, "", &[])).is_empty());
    assert!(endpoints(&mut source).is_empty());
}

#[test]
fn an_inference_pool_says_which_pods_and_ports() {
    let mut source = Kubernetes::new("ns", &Pods::InferencePool("pool".to_owned()), BTreeSet::new(), 1);
    let question = source.poll_question(&[], NOW).unwrap();
    assert_eq!(question.path, "/apis/inference.networking.k8s.io/v1/namespaces/ns/inferencepools/pool");
    assert_eq!(source.poll_question(&[POOL], NOW), None, "nothing else is known yet");
    assert_eq!(give(&mut source, POOL, Answer::Broken, NOW), Err(Failure::Unreachable));
    assert!(source.poll_question(&[], after(150)).is_some(), "Envoy's cluster is ready a moment after the start");
    let pool = |ports: &str| {
        format!(
            r#"{{"spec":{{"selector":{{"matchLabels":{{"app":"vllm","tier":"x"}}}},"targetPorts":[{ports}],"endpointPickerRef":{{}}}}}}"#
        )
    };
    assert_eq!(give(&mut source, POOL, answered(200, &pool(r#"{"number":8000}"#)), NOW), Ok(Outcome::Unchanged));
    let question = source.poll_question(&[], NOW).unwrap();
    assert!(question.path.contains("labelSelector=app%3Dvllm%2Ctier%3Dx&"), "{}", question.path);
    found(&mut source, LIST, &page(10, "", &[up("a", 3, "10.0.0.1")]));
    let both = found(&mut source, POOL, &pool(r#"{"number":8000},{"number":8001}"#));
    assert_eq!(both, ["10.0.0.1:8000", "10.0.0.1:8001"], "other ports need no other list");
    for bad in [r#"{"spec":{}}"#, &pool(""), &pool(r#"{"number":0}"#), &pool(r#"{"number":65536}"#), "{}", "[]"] {
        assert!(matches!(give(&mut source, POOL, answered(200, bad), NOW), Err(Failure::Unreadable(_))), "{bad}");
    }
    assert_eq!(endpoints(&mut source).len(), 1);
}

#[test]
fn a_pool_of_the_older_kind_is_read_where_there_is_no_other() {
    let old = r#"{"spec":{"selector":{"app":"vllm"},"targetPortNumber":8000,"extensionRef":{"name":"epp"}}}"#;
    let new = r#"{"spec":{"selector":{"matchLabels":{"app":"new"}},"targetPorts":[{"number":8000}]}}"#;
    let not_found = r#"{"kind":"Status","message":"inferencepools \"pool\" not found","code":404}"#;
    let path =
        |source: &mut Kubernetes, millis: u64| source.poll_question(&[LIST], after(millis)).map(|asked| asked.path);
    let (v1, v1alpha2) = (
        "/apis/inference.networking.k8s.io/v1/namespaces/ns/inferencepools/pool",
        "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/ns/inferencepools/pool",
    );
    let mut source = Kubernetes::new("ns", &Pods::InferencePool("pool".to_owned()), BTreeSet::new(), 1);
    assert_eq!(path(&mut source, 0).unwrap(), v1);
    assert_eq!(give(&mut source, POOL, answered(404, "404 page not found"), NOW), Ok(Outcome::Stale));
    assert_eq!(path(&mut source, 0).unwrap(), v1alpha2);
    assert_eq!(give(&mut source, POOL, answered(200, old), NOW), Ok(Outcome::Unchanged));
    assert!(path(&mut source, 0).unwrap().contains("labelSelector=app%3Dvllm&"));
    // With neither, it is said of the newer one; a role may well not know the older one.
    for status in [403, 404] {
        assert_eq!(path(&mut source, 6_000).unwrap(), v1);
        assert_eq!(give(&mut source, POOL, answered(404, not_found), after(6_000)), Ok(Outcome::Stale));
        assert_eq!(path(&mut source, 6_000).unwrap(), v1alpha2);
        let missing = give(&mut source, POOL, answered(status, "{}"), after(4_000)).unwrap_err();
        assert_eq!(missing, Failure::Status(404, "inferencepools \"pool\" not found".to_owned()));
    }
    // Whoever has moved keeps the new one, also while it is deleted and made again.
    assert_eq!(path(&mut source, 12_000).unwrap(), v1);
    give(&mut source, POOL, answered(200, new), after(12_000)).unwrap();
    assert_eq!(path(&mut source, 18_000).unwrap(), v1);
    assert!(give(&mut source, POOL, answered(404, not_found), after(18_000)).is_err());
    assert_eq!(path(&mut source, 19_000).unwrap(), v1);
    assert_eq!(source.wanted.as_ref().unwrap().selector, "app=new");
}

#[test]
fn a_huge_cluster_is_read_in_pages_and_what_is_not_needed_is_skipped() {
    let mut source = selected();
    let annotations: Vec<String> =
        (0..300).map(|number| format!(r#""example.org/{number}":"{}""#, "x".repeat(100))).collect();
    let metadata =
        format!(r#","annotations":{{{}}},"managedFields":[{{"fieldsV1":{{"f:a":{{}}}}}}]"#, annotations.join(","));
    let mut listed = 0;
    let mut pages = 0;
    while source.listing.is_some() {
        let question = source.poll_question(&[], NOW).unwrap();
        let limit: usize = question.path.split("limit=").nth(1).unwrap().split('&').next().unwrap().parse().unwrap();
        let last = (listed + limit).min(5_000);
        let objects: Vec<String> = (listed..last)
            .map(|number| {
                let ip = format!("10.1.{}.{}", number / 250, number % 250);
                object(&format!("p{number}"), 5, &metadata, &status("Running", "True", &[&ip]))
            })
            .collect();
        let body = page(10, if last < 5_000 { "more" } else { "" }, &objects);
        assert!(body.len() < 3 << 20, "{}", body.len());
        found(&mut source, LIST, &body);
        (listed, pages) = (last, pages + 1);
    }
    assert_eq!(endpoints(&mut source).len(), 5_000);
    assert!((100..250).contains(&pages), "{pages}");
    assert!(source.list_period() > Duration::from_secs(600));
}
