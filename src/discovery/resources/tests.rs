//! Resources as the API lists them, good and bad, and what the filters make of them.

use super::*;
use crate::gateway::{Gateway, Read};
use crate::testing::test;

const NOW: Timestamp = Timestamp(1_000_000);
const CONFIG: &str = r#"{"pools": [
    {"name": "a", "baseModel": "base", "adapters": ["x", "y"], "endpoints": {"kubernetes": {"namespace": "ns", "inferencePool": "llama"}}},
    {"name": "b", "baseModel": "other", "endpoints": {"static": ["10.0.0.1:1"]}}],
    "models": [{"modelName": "written", "pool": "a"}], "kubernetesResources": {"namespace": "ns"}}"#;

fn config() -> Config {
    crate::config::parse(CONFIG.as_bytes()).unwrap()
}

fn item(name: &str, created: &str, spec: &str) -> String {
    format!(r#"{{"metadata":{{"name":"{name}","creationTimestamp":"{created}"}},"spec":{spec}}}"#)
}

fn answer(source: &mut Resources, kind: u64, items: &[String]) {
    let body = format!(r#"{{"kind":"List","items":[{}]}}"#, items.join(","));
    source.handle_answer(kind, answered(200, &body), NOW).unwrap();
}

fn answered(status: u16, body: &str) -> Answer<'_> {
    Answer::Answered { status, retry_after: b"", body: body.as_bytes() }
}

/// A source where llm-d's group has nothing.
fn without_llm_ds() -> Resources {
    let mut source = Resources::new("ns", &config(), 1);
    for kind in [3, 4] {
        source.handle_answer(kind, answered(404, ""), NOW).unwrap();
    }
    source
}

#[test]
fn each_kind_is_listed_and_one_that_is_not_installed_is_empty() {
    let mut source = Resources::new("ns", &config(), 1);
    let mut open = Vec::new();
    let mut paths = Vec::new();
    while let Some(question) = source.poll_question(&open, NOW) {
        open.push(question.kind);
        paths.push(question.path);
    }
    assert_eq!(
        paths,
        [
            "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/ns/inferencemodels?limit=50",
            "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/ns/inferencemodelrewrites?limit=50",
            "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/ns/inferenceobjectives?limit=50",
            "/apis/llm-d.ai/v1alpha2/namespaces/ns/inferencemodelrewrites?limit=50",
            "/apis/llm-d.ai/v1alpha2/namespaces/ns/inferenceobjectives?limit=50"
        ]
    );
    for kind in 0..5 {
        assert_eq!(source.poll_publication(), None, "not before each is known");
        source.handle_answer(kind, answered(404, ""), NOW).unwrap();
    }
    assert_eq!(source.poll_question(&[], NOW.after(Duration::from_millis(1_999))), None);
    assert!(source.poll_question(&[], NOW.after(PERIOD)).is_some());
    let (_, blob) = source.poll_publication().unwrap();
    assert!(decode(&blob).unwrap().models.is_empty());
    source.handle_answer(0, answered(404, ""), NOW).unwrap();
    assert_eq!(source.poll_publication(), None, "nothing is new");
    // After another VM has polled, what is stored may be something else.
    source.restart();
    for kind in 0..5 {
        assert_eq!(source.poll_publication(), None);
        source.handle_answer(kind, answered(404, ""), NOW).unwrap();
    }
    assert!(source.poll_publication().is_some());
}

#[test]
fn what_they_say_reaches_the_model_table_and_what_is_bad_is_left_out() {
    let mut source = without_llm_ds();
    let pool = r#""poolRef":{"name":"llama"}"#;
    answer(
        &mut source,
        0,
        &[
            item(
                "young",
                "2026-02-01T00:00:00Z",
                &format!(r#"{{"modelName":"tweet","criticality":"Sheddable",{pool}}}"#),
            ),
            item(
                "old",
                "2026-01-01T00:00:00Z",
                &format!(
                    r#"{{"modelName":"tweet","criticality":"Critical","targetModels":[{{"name":"x","weight":1}}],{pool}}}"#
                ),
            ),
            item("stray", "2026-01-01T00:00:00Z", r#"{"modelName":"stray","poolRef":{"name":"nobody"}}"#),
            item(
                "bad",
                "2026-01-01T00:00:00Z",
                &format!(r#"{{"modelName":"bad","targetModels":[{{"name":"z"}}],{pool}}}"#),
            ),
            r#"{"metadata":{"name":"unreadable"},"spec":7}"#.to_owned(),
        ],
    );
    let rules = r#""rules":[{"matches":[{"model":{"type":"Exact","value":"gpt"}}],"targets":[{"modelRewrite":"y"}]}]"#;
    answer(&mut source, 1, &[item("rewrite", "", &format!(r#"{{{pool},{rules}}}"#))]);
    answer(&mut source, 2, &[item("batch", "", &format!(r#"{{"priority":-5,{pool}}}"#))]);
    let (_, blob) = source.poll_publication().unwrap();
    let mut gateway = Gateway::new(config(), 1);
    assert_eq!(gateway.poll_names(NOW), Some(Read::Resources));
    assert!(gateway.resolve("tweet", None).is_none());
    gateway.handle_read(Read::Resources, Some((&blob, 1)), NOW);
    assert_eq!(gateway.poll_names(NOW), None);
    let mut found = |name: &str| gateway.resolve(name, None).map(|found| (found.target.to_owned(), found.priority));
    assert_eq!(found("tweet"), Some(("x".to_owned(), Some(1))), "the oldest one counts");
    assert_eq!(found("gpt"), Some(("y".to_owned(), None)));
    assert_eq!(found("written"), Some(("base".to_owned(), None)));
    assert_eq!((found("stray"), found("bad")), (None, None));
    assert_eq!(gateway.objective(crate::config::PoolId(0), "batch"), Some(-5));
    let mut refused = Vec::from_iter(std::iter::from_fn(|| source.poll_refused()));
    refused.sort();
    assert_eq!(
        refused,
        [
            "InferenceModel bad: \"z\" is neither the base model nor an adapter of the pool",
            "InferenceModel stray: there is no pool \"nobody\"",
            "InferenceModel unreadable: spec: invalid type: integer `7`, expected struct InferenceModel",
            "InferenceModel young: \"tweet\" is defined twice",
        ]
    );
    // Damage, and an outage, change nothing.
    gateway.handle_read(Read::Resources, Some((b"IPpl", 2)), NOW);
    gateway.handle_read(Read::Resources, None, NOW);
    assert!(gateway.resolve("tweet", None).is_some());
    assert_eq!(source.handle_answer(0, Answer::Broken, NOW), Err(Failure::Unreachable));
    assert_eq!(source.poll_publication(), None);
}

#[test]
fn resources_that_contradict_each_other_leave_the_rest() {
    let mut document = config().document;
    let own = r#"[{"pool":"a","rules":[{"matches":[{"model":{"value":"own"}}],"targets":[{"modelRewrite":"x"}]}]}]"#;
    document.model_rewrites = serde_json::from_str(own).unwrap();
    let model =
        |name: &str, pool: &str| item(name, "", &format!(r#"{{"modelName":"{name}","poolRef":{{"name":"{pool}"}}}}"#));
    let rewrite = |name: &str, of: &str| {
        let rules = format!(r#"[{{"matches":[{{"model":{{"value":"{of}"}}}}],"targets":[{{"modelRewrite":"x"}}]}}]"#);
        item(name, "", &format!(r#"{{"poolRef":{{"name":"llama"}},"rules":{rules}}}"#))
    };
    let mut source = without_llm_ds();
    answer(&mut source, 0, &[model("m", "b"), model("fine", "b"), model("own", "b"), model("base", "b")]);
    answer(&mut source, 1, &[rewrite("r", "m"), rewrite("good", "alias")]);
    answer(&mut source, 2, &[]);
    let additions = decode(&source.poll_publication().unwrap().1).unwrap();
    let extended = extend(&document, &additions).unwrap();
    let models = Vec::from_iter(extended.models.iter().map(|model| model.name.as_str()));
    let rewritten =
        Vec::from_iter(extended.rewrites.iter().flat_map(|rewrite| rewrite.names.iter().map(String::as_str)));
    assert_eq!((models, rewritten), (vec!["written", "fine", "m"], vec!["own", "alias"]));
    assert_eq!(
        extended.refused,
        [
            "InferenceModel base: \"base\" is a model of pool \"a\"",
            "InferenceModelRewrite r: \"m\" leads to pool \"b\" already: a name leads to one pool",
            "InferenceModel own: \"own\" leads to pool \"b\" already: a name leads to one pool",
        ]
    );
}

#[test]
fn llm_ds_group_counts_first() {
    let mut source = Resources::new("ns", &config(), 1);
    let objective = |name: &str, priority: i32| {
        item(name, "", &format!(r#"{{"priority":{priority},"poolRef":{{"name":"llama"}}}}"#))
    };
    answer(&mut source, 0, &[]);
    answer(&mut source, 1, &[]);
    answer(&mut source, 2, &[objective("both", -1), objective("old", 2)]);
    answer(&mut source, 3, &[]);
    assert_eq!(source.poll_publication(), None, "not before each is known");
    answer(&mut source, 4, &[objective("both", 1), objective("new", 3)]);
    let additions = decode(&source.poll_publication().unwrap().1).unwrap();
    let extended = extend(&config().document, &additions).unwrap();
    let objectives =
        Vec::from_iter(extended.objectives.iter().map(|objective| (objective.name.as_str(), objective.priority)));
    assert_eq!(objectives, [("both", 1), ("new", 3), ("old", 2)]);
    assert_eq!(extended.refused, ["InferenceObjective both: \"both\" is defined twice for the pool"]);
}

#[test]
fn one_that_is_wrong_by_itself_takes_no_other_along() {
    let mut source = without_llm_ds();
    let wrong = |name: &str, pool: &str| {
        format!(r#"{{"modelName":"{name}","targetModels":[{{"name":"nope"}}],"poolRef":{{"name":"{pool}"}}}}"#)
    };
    let right = r#"{"modelName":"twice","poolRef":{"name":"llama"}}"#;
    let models =
        [item("w1", "1", &wrong("rewritten", "b")), item("w2", "2", &wrong("twice", "llama")), item("ok", "3", right)];
    answer(&mut source, 0, &models);
    let rules = r#"{"poolRef":{"name":"llama"},"rules":[{"matches":[{"model":{"value":"rewritten"}}],"targets":[{"modelRewrite":"y"}]}]}"#;
    answer(&mut source, 1, &[item("good", "4", rules)]);
    answer(&mut source, 2, &[]);
    let additions = decode(&source.poll_publication().unwrap().1).unwrap();
    let extended = extend(&config().document, &additions).unwrap();
    assert_eq!((extended.models.len(), extended.rewrites.len()), (2, 1), "{:?}", extended.refused);
    assert!(extended.refused.len() == 2 && extended.refused.iter().all(|why| why.contains("\"nope\" is neither")));
}

#[test]
fn a_thousand_resources_of_each_kind_with_mistakes_are_all_left_out() {
    let mut source = without_llm_ds();
    let many = |spec: &str| Vec::from_iter((0..1000).map(|number| item(&format!("odd-{number}"), "", spec)));
    answer(&mut source, 0, &many(r#"{"modelName":"a\nb","poolRef":{"name":"nobody"},"targetModels":[]}"#));
    answer(&mut source, 1, &many(r#"{"poolRef":{"name":"nobody"},"rules":[]}"#));
    answer(&mut source, 2, &many(r#"{"poolRef":{"name":"nobody"},"priority":99999999999}"#));
    let additions = decode(&source.poll_publication().unwrap().1).unwrap();
    let extended = extend(&config().document, &additions).unwrap();
    assert_eq!((extended.models.len(), extended.refused.len()), (1, 3000));
    let said = Vec::from_iter(std::iter::from_fn(|| source.poll_refused()));
    assert_eq!(said.len(), MAX_NEWS + 1);
    assert_eq!(said.last().unwrap(), "2900 more resources that cannot be used");
    // Only what is new is said again, also of one that nobody could read.
    let unreadable = r#"{"metadata":{"name":"unreadable"},"spec":7}"#.to_owned();
    let mut models = many(r#"{"modelName":"a\nb","poolRef":{"name":"nobody"},"targetModels":[]}"#);
    models.push(unreadable);
    answer(&mut source, 0, &models);
    assert!(source.poll_refused().unwrap().starts_with("InferenceModel unreadable: "));
    assert_eq!((source.poll_refused(), source.poll_publication()), (None, None));
}

#[test]
fn a_long_list_is_read_in_pages_up_to_its_limit() {
    let mut source = without_llm_ds();
    answer(&mut source, 0, &[]);
    answer(&mut source, 1, &[]);
    let mut listed = 0;
    while source.kinds[2].list.is_none() {
        let question = source.poll_question(&[0, 1, 3, 4], NOW).unwrap();
        let (_, limit) = question.path.split_once("limit=").unwrap();
        let limit: usize = limit.split('&').next().unwrap().parse().unwrap();
        let spec = r#"{"priority":1,"poolRef":{"name":"llama"}}"#;
        let items: Vec<String> = (listed..listed + limit).map(|number| item(&format!("o{number}"), "", spec)).collect();
        let page = format!(r#"{{"metadata":{{"continue":"c{listed}"}},"items":[{}]}}"#, items.join(","));
        source.handle_answer(2, answered(200, &page), NOW).unwrap();
        listed += limit;
    }
    let (_, blob) = source.poll_publication().unwrap();
    assert_eq!(decode(&blob).unwrap().objectives.len(), 1_000);
    assert_eq!(source.poll_refused().unwrap(), "InferenceObjective: only the first 1000 are read, and there are more");
    assert!(
        source.poll_question(&[0, 1, 3, 4], NOW.after(PERIOD)).is_some_and(|asked| !asked.path.contains("continue"))
    );
    // One that is too long is asked for in smaller pages, and what is known holds meanwhile.
    for limit in ["limit=500", "limit=250", "limit=125"] {
        let question = source.poll_question(&[0, 1, 3, 4], NOW.after(PERIOD)).unwrap();
        assert!(question.path.ends_with(limit), "{}", question.path);
        assert_eq!(source.handle_answer(2, Answer::TooLarge, NOW), Ok(Outcome::Stale));
    }
    assert_eq!(source.poll_publication(), None);
}

#[test]
fn names_hold_while_a_list_is_refused() {
    let rewrite = r#"{"poolRef":{"name":"llama"},"rules":[{"matches":[{"model":{"value":"gpt"}}],"targets":[{"modelRewrite":"y"}]}]}"#;
    for kind in [1, 3] {
        let mut source = Resources::new("ns", &config(), 1);
        for other in 0..5 {
            answer(&mut source, other, &[]);
        }
        answer(&mut source, kind, &[item("gpt", "", rewrite)]);
        assert_eq!(decode(&source.poll_publication().unwrap().1).unwrap().model_rewrites.len(), 1);
        // A role that is away, for however long, takes no name along; neither does a server that is.
        for millis in (0..120_000).step_by(2_000) {
            let now = NOW.after(Duration::from_millis(millis));
            for failure in [answered(403, ""), answered(401, ""), answered(500, ""), Answer::Broken] {
                assert!(source.handle_answer(kind, failure, now).is_err());
                assert!(source.handle_answer(kind, answered(403, ""), now).is_err());
            }
            assert_eq!(source.poll_publication(), None);
        }
        // A definition that is deleted and made again is away for a moment; one that stays away has no resources.
        let later = NOW.after(Duration::from_secs(200));
        source.handle_answer(kind, answered(404, ""), later).unwrap();
        source.handle_answer(kind, answered(404, ""), later.after(PATIENCE - Duration::from_millis(1))).unwrap();
        assert_eq!(source.poll_publication(), None);
        source.handle_answer(kind, answered(404, ""), later.after(PATIENCE)).unwrap();
        assert!(decode(&source.poll_publication().unwrap().1).unwrap().model_rewrites.is_empty());
    }
}

#[test]
fn a_role_that_lacks_a_kind_gets_along_with_the_others() {
    let mut source = Resources::new("ns", &config(), 1);
    let objective = item("batch", "", r#"{"priority":-5,"poolRef":{"name":"llama"}}"#);
    let mut published_at = None;
    for millis in (0..15_000).step_by(1_000) {
        for kind in [0, 1, 3, 4] {
            assert!(source.handle_answer(kind, answered(403, ""), NOW.after(Duration::from_millis(millis))).is_err());
        }
        answer(&mut source, 2, std::slice::from_ref(&objective));
        if source.poll_publication().is_some() {
            published_at = published_at.or(Some(millis));
        }
    }
    assert_eq!(published_at, Some(10_000), "a role may be on its way");
    // Where everything is refused nothing is known, and what another VM has published holds.
    let mut source = Resources::new("ns", &config(), 1);
    for millis in (0..60_000).step_by(1_000) {
        for kind in 0..5 {
            assert!(source.handle_answer(kind, answered(403, ""), NOW.after(Duration::from_millis(millis))).is_err());
        }
    }
    assert_eq!(source.poll_publication(), None);
}

/// Whoever begins to poll while a list is refused, or its definition is away for a moment, goes on with what was published.
#[test]
fn names_hold_when_another_vm_begins_to_poll() {
    let rewrite = |name: &str| {
        let rules = format!(r#"[{{"matches":[{{"model":{{"value":"{name}"}}}}],"targets":[{{"modelRewrite":"y"}}]}}]"#);
        item(name, "", &format!(r#"{{"poolRef":{{"name":"llama"}},"rules":{rules}}}"#))
    };
    let names = |source: &mut Resources| {
        let published = source.poll_publication().map(|(_, blob)| decode(&blob).unwrap().model_rewrites);
        published.map(|rewrites| rewrites.into_iter().map(|rewrite| rewrite.source).collect::<Vec<String>>())
    };
    let both = Some(vec!["InferenceModelRewrite a".to_owned(), "InferenceModelRewrite b".to_owned()]);
    for (kind, other) in [(1, 3), (3, 1)] {
        let mut first = Resources::new("ns", &config(), 1);
        for kind in 0..5 {
            answer(&mut first, kind, &[]);
        }
        answer(&mut first, kind, &[rewrite("a"), rewrite("b")]);
        let (_, blob) = first.poll_publication().unwrap();
        for status in [403, 404] {
            let mut second = Resources::new("ns", &config(), 2);
            second.restart();
            second.handle_published(&blob);
            let fail = |second: &mut Resources, after: Duration| {
                let _ = second.handle_answer(kind, answered(status, ""), NOW.after(after));
                for other in (0..5).filter(|other| *other != kind) {
                    answer(second, other, &[]);
                }
            };
            fail(&mut second, Duration::ZERO);
            fail(&mut second, PATIENCE - Duration::from_millis(1));
            let at_first = names(&mut second);
            assert!(at_first.is_none() || at_first == both, "{status}: {at_first:?}");
            fail(&mut second, PATIENCE);
            let later = names(&mut second).or(at_first);
            // A definition that stays away has no resources; a role that does leaves what was known.
            assert_eq!(later, if status == 403 { both.clone() } else { Some(Vec::new()) });
            // What is known by itself counts once.
            answer(&mut second, other, &[rewrite("b")]);
            if status == 403 {
                let known = names(&mut second).unwrap();
                assert_eq!(known, ["InferenceModelRewrite b", "InferenceModelRewrite a"]);
            }
            answer(&mut second, other, &[]);
            answer(&mut second, kind, &[rewrite("a")]);
            assert_eq!(names(&mut second), Some(vec!["InferenceModelRewrite a".to_owned()]), "{status}");
        }
    }
    let mut damaged = without_llm_ds();
    damaged.handle_published(b"IPpl");
    for kind in 0..3 {
        answer(&mut damaged, kind, &[]);
    }
    assert_eq!(names(&mut damaged), Some(Vec::new()));
}
