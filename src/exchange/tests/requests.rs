//! What rules, names and shapes come to in one request.

use super::*;
use crate::testing::test;

fn with(more: &str) -> Gateway {
    let json = format!(
        r#"{{"pools": [
            {{"name": "qwen", "baseModel": "Qwen", "adapters": ["food"], "endpoints": {{"static": ["10.0.0.1:1"]}}}},
            {{"name": "deep", "baseModel": "Deep", "endpoints": {{"static": ["10.0.0.3:1"]}}, "flowControl": {{}}}}], {more}}}"#
    );
    Gateway::new(crate::config::parse(json.as_bytes()).unwrap(), 1)
}

/// Sends a request to the end, its route leading to no pool.
fn ask(gateway: &mut Gateway, path: &str, body: &str) -> (Next, Vec<Edit>) {
    let mut exchange = Exchange::default();
    let mut edits = Vec::new();
    let mut next = exchange.handle_request_headers(gateway, head("POST", path, &[]), false, NOW, &mut edits);
    loop {
        next = match next {
            Next::Buffer => exchange.handle_request_end(gateway, body.as_bytes().to_vec(), NOW, &mut edits),
            Next::Route => exchange.handle_route(gateway, None),
            Next::Load(_) => exchange.handle_load(gateway, NOW, &mut edits),
            done => return (done, edits),
        };
    }
}

#[test]
fn a_name_that_nobody_has_checked_becomes_no_header() {
    let mut gateway = with(r#""rules": [{"pool": "qwen"}]"#);
    let (next, edits) = ask(&mut gateway, "/v1/completions", r#"{"model":"dynamic-lora"}"#);
    assert_eq!((next, header(&edits, "x-gateway-model-name")), (Next::Continue, Some("dynamic-lora")));
    for name in ["x\\r\\nx-admin: 1", "", &"x".repeat(300)] {
        let (next, _) = ask(&mut gateway, "/v1/completions", &format!(r#"{{"model":"{name}"}}"#));
        assert!(matches!(next, Next::Refuse(Refusal::UnknownModel { .. })), "{name:.20}");
    }
}

#[test]
fn what_a_rule_sets_is_set_on_every_path() {
    let mut gateway = with(r#""rules": [{"headers": {"x-tenant": "a"}}]"#);
    for (path, body) in [
        ("/v1/completions", r#"{"model":"Qwen"}"#),
        ("/v1/images/generations", r#"{"prompt":"a"}"#),
        ("/v1/images/generations", r#"{"prompt":"a","model":null}"#),
    ] {
        let (next, edits) = ask(&mut gateway, path, body);
        assert_eq!((next, header(&edits, "x-tenant")), (Next::Continue, Some("a")), "{body}");
    }
}

#[test]
fn a_pools_generic_rewrite_is_for_every_name_that_a_rule_sends_there() {
    let rewrite = r#""modelRewrites": [{"pool": "qwen", "rules": [{"targets": [{"modelRewrite": "food"}]}]}]"#;
    let mut gateway = with(&format!(r#""rules": [{{"pool": "qwen"}}], {rewrite}"#));
    let (_, edits) = ask(&mut gateway, "/v1/completions", r#"{"model":"whatever"}"#);
    assert_eq!(header(&edits, "x-gateway-model-name"), Some("food"));
}

#[test]
fn more_members_than_rules_look_at_are_refused_and_hide_nothing() {
    let rules = r#""rules": [{"when": "has(body.user) && body.model == 'food'", "model": "Deep"}]"#;
    for (filler, count, goes) in [
        (r#""user":1,"#, 200, true),
        (r#""model":"Qwen","#, 200, true),
        // What no rule names doesn't count.
        (r#""other":1,"#, 2_000, true),
        (r#""user":1,"#, 300, false),
        (r#""us\u0065r":1,"#, 300, false),
        (r#""model":"Qwen","#, 300, false),
    ] {
        let mut gateway = with(rules);
        let body = format!(r#"{{"user":"a",{}"model":"food"}}"#, filler.repeat(count));
        let (next, edits) = ask(&mut gateway, "/v1/completions", &body);
        assert_eq!(matches!(next, Next::Refuse(Refusal::InvalidBody(_))), !goes, "{filler}");
        assert_eq!(header(&edits, "x-gateway-model-name"), goes.then_some("Deep"), "{filler}");
    }
    for rule in ["size(body) > 5000", "'k1' in body"] {
        let mut gateway = with(&format!(r#""rules": [{{"when": "{rule}", "model": "Deep"}}]"#));
        let different: String = (0..300).map(|index| format!(r#""k{index}":1,"#)).collect();
        for many in [different, r#""k":1,"#.repeat(300)] {
            let (next, _) = ask(&mut gateway, "/v1/completions", &format!(r#"{{{many}"model":"food"}}"#));
            assert!(matches!(next, Next::Refuse(Refusal::InvalidBody(_))), "{rule}");
        }
    }
}

#[test]
fn a_path_is_read_as_engines_read_it() {
    let mut gateway = with(r#""rules": [{"when": "request.path == '/v1/completions'", "headers": {"x-rule": "1"}}]"#);
    for path in
        ["/v1/completions", "/v1/compl%65tions", "/v1%2Fcompletions", "/v1/completions/", "http://g/v1/completions?x"]
    {
        let (next, edits) = ask(&mut gateway, path, r#"{"model":"Qwen"}"#);
        assert_eq!((next, header(&edits, "x-rule")), (Next::Continue, Some("1")), "{path}");
        let (next, _) = ask(&mut gateway, path, r#"{"model":"secret"}"#);
        assert!(matches!(next, Next::Refuse(Refusal::UnknownModel { .. })), "{path}: {next:?}");
    }
    for path in [
        "/v1/./completions/.",
        "/v1//completions/",
        "/V1/completions",
        "/v1/%2563ompletions",
        "/v1/completions;x",
        "/v1/completions%00",
    ] {
        let request = head("POST", path, &[]);
        let next = Exchange::default().handle_request_headers(&mut gateway, request, false, NOW, &mut Vec::new());
        let Next::Refuse(refusal) = next else { panic!("{path}: {next:?}") };
        assert_eq!(refusal.reply().status, 400);
        assert!(refusal.reply().body.contains("/v1/completions"), "{path}: {}", refusal.reply().body);
    }
}

/// What a path of the table is where others may have one like it: an inference request if its route leads to a pool.
#[test]
fn a_path_that_may_be_anothers_is_the_pools_where_its_route_leads_there() {
    let mut gateway = with(r#""rules": []"#);
    let mut at_pool = |path: &str, body: &str, cluster: &str| {
        let mut exchange = Exchange::default();
        let next = exchange.handle_request_headers(&mut gateway, head("POST", path, &[]), false, NOW, &mut Vec::new());
        let next = match next {
            Next::Buffer => exchange.handle_request_end(&mut gateway, body.as_bytes().to_vec(), NOW, &mut Vec::new()),
            other => other,
        };
        match next {
            Next::Route => exchange.handle_route(&mut gateway, Some(cluster.as_bytes())),
            other => other,
        }
    };
    for path in [
        "/tokenize",
        "/rerank",
        "/score",
        "/classify",
        "/pooling",
        "/detokenize",
        "/invocations",
        "/v2/embed",
        "/embeddings",
        "/v1/responses/compact",
        "/v1/responses/input_tokens",
        "/v1/classify",
        "/v1/tokenize",
        "/v1/moderations",
        "/completion",
        "/infill",
        "/reranking",
        "/apply-template",
        "/openai/v1/embeddings",
        "/v1beta/openai/embeddings",
        "/api/v3/embeddings",
        "/generative_scoring",
        "/v1/chat/completions/batch",
        "/audio/speech",
        "/api/chat",
        "/v1/embeddings/",
    ] {
        assert_eq!(at_pool(path, r#"{"model":"food"}"#, ""), Next::Load(PoolId(0)), "{path}");
        for cluster in ["qwen", "elsewhere"] {
            let next = at_pool(path, r#"{"model":"secret"}"#, cluster);
            let is_required = Shape::of(b"POST", path.as_bytes()).unwrap().needs_model;
            match (is_required, cluster) {
                (false, "elsewhere") => assert_eq!(next, Next::Continue, "{path}"),
                _ => assert!(matches!(next, Next::Refuse(Refusal::UnknownModel { .. })), "{path} {next:?}"),
            }
        }
    }
    assert_eq!(at_pool("/tokenize", "{}", "qwen"), Next::Load(PoolId(0)));
    for (path, body) in [("/tokenize", "{"), ("//tokenize", ""), ("/Rerank", ""), ("/v1/images/edits", "--b")] {
        assert!(matches!(at_pool(path, body, "qwen"), Next::Refuse(_)), "{path}");
        assert_eq!(at_pool(path, body, "elsewhere"), Next::Continue, "{path}");
    }
}

#[test]
fn a_model_in_the_path_is_resolved_and_renamed() {
    let mut gateway = with(r#""models": [{"modelName": "alias", "pool": "qwen", "targetModels": [{"name": "food"}]}]"#);
    let body = |edits: &[Edit]| {
        edits.iter().find_map(|edit| match edit {
            Edit::ReplaceBody(body) => Some(String::from_utf8_lossy(body).into_owned()),
            _ => None,
        })
    };
    for (path, sent, renamed, changed) in [
        (
            "/openai/deployments/alias/chat/completions?a=1",
            r#"{"messages":[]}"#,
            "/openai/deployments/food/chat/completions?a=1",
            None,
        ),
        (
            "/openai/deployments/alias/embeddings",
            r#"{"model":"alias"}"#,
            "/openai/deployments/food/embeddings",
            Some(r#"{"model":"food"}"#),
        ),
        ("/v1beta/models/alias:generateContent", "{}", "/v1beta/models/food:generateContent", None),
        (
            "/v1beta/models/ali%61s:countTokens",
            r#"{"model":"models/alias"}"#,
            "/v1beta/models/food:countTokens",
            Some(r#"{"model":"models/food"}"#),
        ),
    ] {
        let (next, edits) = ask(&mut gateway, path, sent);
        assert_eq!(next, Next::Continue, "{path}");
        assert_eq!(header(&edits, ":path"), Some(renamed));
        assert_eq!(header(&edits, "x-gateway-model-name"), Some("food"));
        assert_eq!(body(&edits).as_deref(), changed, "{path}");
    }
    let (_, edits) = ask(&mut gateway, "/openai/deployments/food/chat/completions", "{}");
    assert_eq!(header(&edits, ":path"), None, "it is as it was");
    for (path, sent) in [
        ("/openai/deployments/alias/chat/completions", r#"{"model":"food"}"#),
        ("/v1beta/models/food:generateContent", r#"{"model":"Deep"}"#),
    ] {
        assert!(matches!(ask(&mut gateway, path, sent).0, Next::Refuse(Refusal::TwoModels { .. })), "{path}");
    }
    let (next, _) = ask(&mut gateway, "/v1beta/models/secret:streamGenerateContent", "{}");
    assert!(matches!(next, Next::Refuse(Refusal::UnknownModel { .. })));
}

#[test]
fn a_form_is_taken_where_the_api_takes_one_and_if_it_is_clear() {
    let mut gateway = with(r#""models": []"#);
    let first = |gateway: &mut Gateway, path: &str, types: &[&str]| {
        let headers: Vec<(&str, &str)> = types.iter().map(|kind| ("content-type", *kind)).collect();
        Exchange::default().handle_request_headers(gateway, head("POST", path, &headers), false, NOW, &mut Vec::new())
    };
    let audio = "/v1/audio/transcriptions";
    for types in [&["multipart/form-data; boundary=b"][..], &["application/json"], &[]] {
        assert_eq!(first(&mut gateway, audio, types), Next::Buffer, "{types:?}");
    }
    for types in [
        &["multipart/form-data; boundary=b", "multipart/form-data; boundary=c"][..],
        &["application/json", "multipart/form-data; boundary=c"],
        &["multipart/form-data; boundary=b; boundary=c"],
        &["application/x-www-form-urlencoded"],
        &["multipart/related; boundary=b"],
    ] {
        assert!(matches!(first(&mut gateway, audio, types), Next::Refuse(Refusal::InvalidBody(_))), "{types:?}");
    }
    assert!(matches!(first(&mut gateway, "/v1/completions", &["multipart/form-data; boundary=b"]), Next::Refuse(_)));
    assert_eq!(first(&mut gateway, "/v1/completions", &["application/x-www-form-urlencoded"]), Next::Buffer);
}

#[test]
fn whatever_names_a_model_waits_like_the_others() {
    let mut gateway = with(r#""models": []"#);
    let endpoint = EndpointLoad {
        address: "10.0.0.3:1".to_owned(),
        health: Health::Up,
        scraped_at: NOW,
        waiting: Some(50),
        running: Some(16),
        ..EndpointLoad::default()
    };
    let snapshot = Snapshot { generation: 1, published_at: NOW, endpoints: vec![endpoint] };
    gateway.handle_read(Read::Load(PoolId(1)), Some((&snapshot.encode(), 1)), NOW);
    for path in ["/v1/completions", "/generate", "/inference/v1/generate", "/v1/images/generations"] {
        let (next, _) = ask(&mut gateway, path, r#"{"model":"Deep","text":"hi"}"#);
        assert!(matches!(next, Next::Wait(_)), "{path}: {next:?}");
    }
}
