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
    source.handle_answer(kind, Answer::Answered { status: 200, body: body.as_bytes() }).unwrap();
}

/// A source where llm-d's group has nothing; who may not list it gets along as well.
fn without_llm_ds() -> Resources {
    let mut source = Resources::new("ns", &config());
    for (kind, status) in [(3, 404), (4, 403)] {
        source.handle_answer(kind, Answer::Answered { status, body: b"" }).unwrap();
    }
    source
}

#[test]
fn each_kind_is_listed_and_one_that_is_not_installed_is_empty() {
    let mut source = Resources::new("ns", &config());
    let mut open = Vec::new();
    let mut paths = Vec::new();
    while let Some(question) = source.poll_question(&open, NOW) {
        open.push(question.kind);
        paths.push(question.path);
    }
    assert_eq!(
        paths,
        [
            "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/ns/inferencemodels?limit=1000",
            "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/ns/inferencemodelrewrites?limit=1000",
            "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/ns/inferenceobjectives?limit=1000",
            "/apis/llm-d.ai/v1alpha2/namespaces/ns/inferencemodelrewrites?limit=1000",
            "/apis/llm-d.ai/v1alpha2/namespaces/ns/inferenceobjectives?limit=1000"
        ]
    );
    assert_eq!(source.poll_question(&[], NOW.after(Duration::from_millis(1_999))), None);
    assert!(source.poll_question(&[], NOW.after(PERIOD)).is_some());
    for kind in 0..5 {
        assert_eq!(source.poll_publication(), None, "not before each is known");
        source.handle_answer(kind, Answer::Answered { status: 404, body: b"" }).unwrap();
    }
    let (_, blob) = source.poll_publication().unwrap();
    assert!(decode(&blob).unwrap().models.is_empty());
    source.handle_answer(0, Answer::Answered { status: 404, body: b"" }).unwrap();
    assert_eq!(source.poll_publication(), None, "nothing is new");
    // After another VM has polled, what is stored may be something else.
    source.restart();
    for kind in 0..5 {
        assert_eq!(source.poll_publication(), None);
        source.handle_answer(kind, Answer::Answered { status: 404, body: b"" }).unwrap();
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
    assert_eq!(source.handle_answer(0, Answer::Broken), Err(Seen::Unreachable));
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
    let mut source = Resources::new("ns", &config());
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
    let more = br#"{"metadata":{"continue":"abc"},"items":[]}"#;
    source.handle_answer(2, Answer::Answered { status: 200, body: more }).unwrap();
    assert_eq!(source.poll_refused().unwrap(), "InferenceObjective: only the first 1000 are read, and there are more");
}
