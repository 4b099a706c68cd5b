//! Scripted answers of an API: pages, events, and everything that goes wrong.

use super::*;
use crate::testing::test;

const NOW: Timestamp = Timestamp(1_000_000);
const COLUMNS: &str = r#"[{"name":"Name"},{"name":"Ready"},{"name":"Status"},{"name":"Restarts"},{"name":"Age"},{"name":"IP"},{"name":"Node"}]"#;

fn row(name: &str, version: u64, ready: &str, status: &str, ip: &str, more: &str) -> String {
    format!(
        r#"{{"cells":["{name}","{ready}","{status}","0","1h","{ip}","n"],"object":{{"metadata":{{"name":"{name}","resourceVersion":"{version}"{more}}}}}}}"#
    )
}

fn up(name: &str, version: u64, ip: &str) -> String {
    row(name, version, "1/1", "Running", ip, "")
}

fn page(version: u64, token: &str, rows: &[String]) -> String {
    format!(
        r#"{{"kind":"Table","metadata":{{"resourceVersion":"{version}","continue":"{token}"}},"columnDefinitions":{COLUMNS},"rows":[{}]}}"#,
        rows.join(",")
    )
}

fn event(kind: &str, row: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{{\"kind\":\"Table\",\"columnDefinitions\":null,\"rows\":[{row}]}}}}\n")
}

fn selected() -> Kubernetes {
    let labels = vec![("app".to_owned(), "vllm".to_owned())];
    let wanted = BTreeSet::from(["tier".to_owned()]);
    Kubernetes::new("ns", &Pods::Selected { labels, ports: vec![8000] }, wanted, 1)
}

fn answer(source: &mut Kubernetes, kind: u64, status: u16, body: &str) -> Result<Option<Vec<String>>, Seen> {
    let answer = Answer::Answered { status, body: body.as_bytes() };
    let kind = if kind == POOL { POOL } else { source.kind(kind) };
    let found = source.handle_answer(kind, answer, NOW)?;
    Ok(found.map(|found| found.iter().map(|found| found.address.to_string()).collect()))
}

/// A source that has listed two pods at version 10.
fn listed() -> Kubernetes {
    let mut source = selected();
    let rows = [up("a", 3, "10.0.0.1"), up("b", 7, "10.0.0.2")];
    assert_eq!(source.poll_question(&[], NOW).map(|question| question.kind), Some(LIST));
    let found = answer(&mut source, LIST, 200, &page(10, "", &rows)).unwrap().unwrap();
    assert_eq!(found, ["10.0.0.1:8000", "10.0.0.2:8000"]);
    source
}

#[test]
fn pages_are_put_together() {
    let mut source = selected();
    let question = source.poll_question(&[], NOW).unwrap();
    assert_eq!(question.path, "/api/v1/namespaces/ns/pods?labelSelector=app%3Dvllm&limit=250");
    assert_eq!(source.poll_question(&[LIST], NOW), None, "one page at a time");
    assert_eq!(answer(&mut source, LIST, 200, &page(10, "to/ken=", &[up("a", 3, "10.0.0.1")])), Ok(None));
    let question = source.poll_question(&[], NOW).unwrap();
    assert!(question.path.ends_with("&limit=250&continue=to%2Fken%3D"), "{}", question.path);
    let found = answer(&mut source, LIST, 200, &page(10, "", &[up("b", 4, "2001:db8::2")])).unwrap();
    assert_eq!(found.unwrap(), ["10.0.0.1:8000", "[2001:db8::2]:8000"]);
    let question = source.poll_question(&[], NOW).unwrap();
    assert!(question.path.ends_with("&watch=1&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion=10"));
}

#[test]
fn a_token_that_is_no_longer_kept_starts_the_list_again() {
    let mut source = selected();
    source.poll_question(&[], NOW);
    answer(&mut source, LIST, 200, &page(10, "token", &[up("a", 3, "10.0.0.1")])).unwrap();
    assert_eq!(answer(&mut source, LIST, 410, "{}"), Ok(None));
    assert_eq!(source.poll_question(&[], NOW), None, "not at once");
    let question = source.poll_question(&[], NOW.after(Duration::from_secs(1))).unwrap();
    assert!(!question.path.contains("continue="));
    let found = answer(&mut source, LIST, 200, &page(11, "", &[up("c", 3, "10.0.0.3")])).unwrap();
    assert_eq!(found.unwrap(), ["10.0.0.3:8000"], "what the first page had is not the second list's");
}

#[test]
fn only_pods_that_take_requests_count() {
    let mut source = selected();
    source.poll_question(&[], NOW);
    let rows = [
        up("up", 1, "10.0.0.1"),
        row("starting", 1, "0/1", "Running", "10.0.0.2", ""),
        row("half", 1, "1/2", "Running", "10.0.0.3", ""),
        row("pending", 1, "0/1", "Pending", "<none>", ""),
        row("done", 1, "0/0", "Completed", "10.0.0.4", ""),
        row("leaving", 1, "1/1", "Terminating", "10.0.0.5", ""),
        row("marked", 1, "1/1", "Running", "10.0.0.6", r#","deletionTimestamp":"2026-01-01T00:00:00Z""#),
        row("crashing", 1, "0/1", "CrashLoopBackOff", "10.0.0.7", ""),
        row(
            "other-port",
            1,
            "1/1",
            "Running",
            "10.0.0.8",
            r#","annotations":{"llm-d.ai/active-ports":"9000","inference.networking.k8s.io/active-ports":"8000"}"#,
        ),
        row(
            "ports",
            1,
            "1/1",
            "Running",
            "10.0.0.9",
            r#","annotations":{"inference.networking.k8s.io/active-ports":"9000, 8000"}"#,
        ),
    ];
    let found = answer(&mut source, LIST, 200, &page(10, "", &rows)).unwrap().unwrap();
    assert_eq!(found, ["10.0.0.9:8000", "10.0.0.1:8000"]);
}

#[test]
fn labels_say_what_runs_in_a_pod_and_which_pods_are_alike() {
    let mut source = selected();
    let labelled = |name: &str, ip: &str, labels: &str| {
        row(name, 1, "1/1", "Running", ip, &format!(r#","labels":{{"app":"vllm",{labels}}}"#))
    };
    let rows = [
        labelled(
            "new",
            "10.0.0.1",
            r#""llm-d.ai/engine-type":"sglang","inference.networking.k8s.io/engine-type":"vllm""#,
        ),
        labelled("old", "10.0.0.2", r#""inference.networking.k8s.io/engine-type":"trtllm-serve","tier":"gold""#),
        labelled("odd", "10.0.0.3", r#""llm-d.ai/engine-type":"mine""#),
    ];
    let page = page(10, "", &rows);
    let found = source.handle_answer(LIST, Answer::Answered { status: 200, body: page.as_bytes() }, NOW);
    let found = found.unwrap().unwrap();
    let engines = Vec::from_iter(found.iter().map(|found| found.engine));
    assert_eq!(engines, [Some(EngineName::Sglang), None, Some(EngineName::TrtllmServe)]);
    let labels = Vec::from_iter(found.iter().map(|found| found.labels.len()));
    assert_eq!(labels, [0, 0, 1], "those that the pool asks for");
    // A label that changes is news of a pod that stays.
    let changed = event("MODIFIED", &row("odd", 11, "1/1", "Running", "10.0.0.3", r#","labels":{"tier":"gold"}"#));
    let found = source.handle_answer(WATCHES[0], Answer::Answered { status: 200, body: changed.as_bytes() }, NOW);
    assert_eq!(found.unwrap().unwrap()[1].labels.get("tier").map(String::as_str), Some("gold"));
}

#[test]
fn events_change_what_was_listed_and_older_ones_do_not() {
    let mut source = listed();
    let first = [
        event("MODIFIED", &row("a", 11, "1/1", "Terminating", "10.0.0.1", "")),
        event("ADDED", &up("c", 12, "10.0.0.3")),
    ];
    let found = answer(&mut source, WATCHES[0], 200, &first.concat()).unwrap();
    assert_eq!(found.unwrap(), ["10.0.0.2:8000", "10.0.0.3:8000"]);
    // The other watch began earlier: it tells the same again, and then what came after.
    let second =
        [event("MODIFIED", &up("a", 9, "10.0.0.1")), first.concat(), event("DELETED", &up("b", 13, "10.0.0.2"))];
    let found = answer(&mut source, WATCHES[1], 200, &second.concat()).unwrap();
    assert_eq!(found.unwrap(), ["10.0.0.3:8000"]);
    assert_eq!(answer(&mut source, WATCHES[0], 200, &second.concat()), Ok(None), "nothing is new");
    assert_eq!(answer(&mut source, WATCHES[0], 200, ""), Ok(None), "a quiet second");
    let bookmark = event("BOOKMARK", r#"{"cells":[],"object":{"metadata":{"resourceVersion":"90"}}}"#);
    assert_eq!(answer(&mut source, WATCHES[0], 200, &bookmark), Ok(None));
    assert_eq!(source.applied, 90);
    let bare = r#"{"type":"BOOKMARK","object":{"kind":"Table","metadata":{"resourceVersion":"95"},"rows":[]}}"#;
    assert_eq!(answer(&mut source, LONG_WATCH, 200, bare), Ok(None));
    assert_eq!(source.applied, 95);
}

#[test]
fn two_watches_take_turns_and_now_and_then_a_longer_one_waits_for_a_bookmark() {
    let mut source = listed();
    let mut open = Vec::new();
    let (mut starts, mut long) = (Vec::new(), Vec::new());
    for tick in 0..330 {
        let now = NOW.after(Duration::from_millis(100 * tick));
        open.retain(|(_, end)| *end > now);
        let kinds: Vec<u64> = open.iter().map(|(kind, _)| *kind).collect();
        if let Some(question) = source.poll_question(&kinds, now) {
            let is_long = question.kind == LONG_WATCH;
            assert!(question.path.contains(if is_long { "&timeoutSeconds=5&" } else { "&timeoutSeconds=1&" }));
            open.push((question.kind, now.after(Duration::from_secs(if is_long { 5 } else { 1 }))));
            if is_long { long.push(tick) } else { starts.push(tick) }
        }
    }
    assert_eq!(starts[..6], [0, 5, 10, 15, 20, 25]);
    assert_eq!((starts.len(), long), (66, vec![1, 301]));
}

#[test]
fn an_event_that_cannot_be_read_loses_nothing() {
    let mut source = listed();
    let cut = event("ADDED", &up("c", 12, "10.0.0.3")) + r#"{"type":"DELETED","object":{"ki"#;
    assert!(matches!(answer(&mut source, WATCHES[0], 200, &cut), Err(Seen::Unreadable(_))));
    let question = source.poll_question(&[], NOW.after(Duration::from_secs(1))).unwrap();
    assert_eq!(question.kind, source.kind(LIST));
    let found = answer(&mut source, LIST, 200, &page(13, "", &[up("c", 12, "10.0.0.3")]));
    assert_eq!(found, Ok(Some(vec!["10.0.0.3:8000".to_owned()])));
}

#[test]
fn what_was_asked_for_another_selector_counts_no_more() {
    let pool = |app: &str| {
        format!(r#"{{"spec":{{"selector":{{"matchLabels":{{"app":"{app}"}}}},"targetPorts":[{{"number":8000}}]}}}}"#)
    };
    let mut source = Kubernetes::new("ns", &Pods::InferencePool("pool".to_owned()), BTreeSet::new(), 1);
    source.poll_question(&[], NOW).unwrap();
    answer(&mut source, POOL, 200, &pool("v1")).unwrap();
    let list = source.poll_question(&[], NOW).unwrap();
    // The selector changes while a list of the first one's pods is under way.
    answer(&mut source, POOL, 200, &pool("v2")).unwrap();
    let old = page(10, "", &[up("old", 3, "10.0.0.1")]);
    let late = Answer::Answered { status: 200, body: old.as_bytes() };
    assert_eq!(source.handle_answer(list.kind, late, NOW), Ok(None));
    let list = source.poll_question(&[list.kind], NOW).unwrap();
    assert!(list.path.contains("app%3Dv2&limit="), "{}", list.path);
    answer(&mut source, LIST, 200, &page(90, "", &[])).unwrap();
    // And while a watch of them is.
    let watch = source.poll_question(&[], NOW).unwrap();
    answer(&mut source, POOL, 200, &pool("v3")).unwrap();
    answer(&mut source, LIST, 200, &page(100, "", &[])).unwrap();
    let old = event("MODIFIED", &up("old", 110, "10.0.0.1"));
    let late = Answer::Answered { status: 200, body: old.as_bytes() };
    assert_eq!(source.handle_answer(watch.kind, late, NOW), Ok(None));
    let found = answer(&mut source, WATCHES[0], 200, &event("ADDED", &up("new", 105, "10.0.0.2")));
    assert_eq!(found, Ok(Some(vec!["10.0.0.2:8000".to_owned()])));
}

#[test]
fn what_fails_is_tried_again_later_and_later_and_changes_nothing() {
    let mut source = listed();
    let mut now = NOW;
    let mut last = 0;
    for (status, seen) in
        [(500, Seen::Status(500)), (503, Seen::Unreachable), (403, Seen::Status(403)), (429, Seen::Status(429))]
    {
        let failed = source.handle_answer(WATCHES[0], Answer::Answered { status, body: b"" }, now);
        assert_eq!(failed, Err(seen));
        let mut waited = 0;
        while source.poll_question(&[], now).is_none() {
            now = now.after(Duration::from_millis(50));
            waited += 50;
        }
        assert!(waited > last && waited < 6_000, "{waited} after {last}");
        last = waited;
    }
    assert_eq!(source.handle_answer(WATCHES[1], Answer::Broken, now), Err(Seen::Unreachable));
    assert!(matches!(
        source.handle_answer(WATCHES[1], Answer::Answered { status: 200, body: b"{" }, now),
        Err(Seen::Unreadable(_))
    ));
    assert_eq!(source.endpoints().len(), 2, "what was last known holds");
    assert_eq!(answer(&mut source, WATCHES[0], 200, ""), Ok(None));
    assert_eq!(source.failures, 0);
}

#[test]
fn an_expired_version_lists_again_and_keeps_what_is_known_until_then() {
    for (status, body) in [(410, "{}"), (200, r#"{"type":"ERROR","object":{"kind":"Status","code":410}}"#)] {
        let mut source = listed();
        assert_eq!(answer(&mut source, WATCHES[0], status, body), Ok(None), "it is no news");
        assert_eq!(source.endpoints().len(), 2);
        let question = source.poll_question(&[WATCHES[1]], NOW.after(Duration::from_secs(1))).unwrap();
        assert_eq!(question.kind, source.kind(LIST));
        // What the other watch has to say is older than the list will be.
        assert_eq!(answer(&mut source, WATCHES[1], 200, &event("DELETED", &up("a", 99, "10.0.0.1"))), Ok(None));
        let found = answer(&mut source, LIST, 200, &page(50, "", &[up("z", 3, "10.0.0.9")])).unwrap();
        assert_eq!(found.unwrap(), ["10.0.0.9:8000"]);
    }
}

#[test]
fn an_inference_pool_says_which_pods_and_ports() {
    let mut source = Kubernetes::new("ns", &Pods::InferencePool("pool".to_owned()), BTreeSet::new(), 1);
    let question = source.poll_question(&[], NOW).unwrap();
    assert_eq!(question.path, "/apis/inference.networking.k8s.io/v1/namespaces/ns/inferencepools/pool");
    assert_eq!(source.poll_question(&[POOL], NOW), None, "nothing else is known yet");
    assert_eq!(answer(&mut source, POOL, 404, "{}"), Err(Seen::Status(404)));
    let later = NOW.after(POOL_PERIOD);
    assert_eq!(source.poll_question(&[], later).map(|question| question.kind), Some(POOL));
    let pool = |ports: &str| {
        format!(
            r#"{{"spec":{{"selector":{{"matchLabels":{{"app":"vllm","tier":"x"}}}},"targetPorts":[{ports}],"endpointPickerRef":{{}}}}}}"#
        )
    };
    assert_eq!(answer(&mut source, POOL, 200, &pool(r#"{"number":8000}"#)), Ok(None));
    let question = source.poll_question(&[], later).unwrap();
    assert!(question.path.contains("labelSelector=app%3Dvllm%2Ctier%3Dx&"), "{}", question.path);
    answer(&mut source, LIST, 200, &page(10, "", &[up("a", 3, "10.0.0.1")])).unwrap();
    let found = answer(&mut source, POOL, 200, &pool(r#"{"number":8000},{"number":8001}"#)).unwrap();
    assert_eq!(found.unwrap(), ["10.0.0.1:8000", "10.0.0.1:8001"], "other ports need no other list");
    assert!(answer(&mut source, POOL, 200, r#"{"spec":{}}"#).is_err());
    assert_eq!(source.endpoints().len(), 2);
}
