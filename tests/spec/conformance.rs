//! The endpoint picker's and the body-based router's behaviour, statement by statement.
//!
//! One row for each statement of their sources about error codes, saturation, flow control, the resources and the
//! request bodies that applies to a gateway that does their work itself. Where this project differs, the row says so and
//! pins what it does instead.

use std::time::Duration;

use inference_plugin::config::{self, PoolId};
use inference_plugin::exchange::{Edit, Exchange, Next, ResponseHead};
use inference_plugin::gateway::{Gateway, Read};
use inference_plugin::headers;
use inference_plugin::load::{EndpointLoad, Health, Snapshot};
use inference_plugin::room;
use inference_plugin::time::Timestamp;

const NOW: Timestamp = Timestamp(1_000_000);

/// What becomes of a request.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// It is sent on: the pool's base model, the model that is asked for, and the body.
    Goes { model: String, body: String },
    /// It passes through, or goes to a pool by its route, as it came.
    Untouched,
    /// It is answered: status and reason.
    Refused(u16, &'static str),
    /// It waits.
    Waits,
}

/// The load of the pool's two endpoints.
#[derive(Clone, Copy)]
struct Load {
    waiting: u32,
    kv_cache_usage: f32,
    health: Health,
    age: Duration,
}

const IDLE: Load = Load { waiting: 0, kv_cache_usage: 0.0, health: Health::Up, age: Duration::ZERO };
const QUEUED: Load = Load { waiting: 5, ..IDLE };
const FULL: Load = Load { kv_cache_usage: 0.8, ..IDLE };
const BUSY: Load = Load { waiting: 4, kv_cache_usage: 0.79, ..IDLE };
const STALE: Load = Load { age: Duration::from_secs(60), waiting: 99, ..IDLE };
const GONE: Load = Load { health: Health::Unreachable, ..IDLE };

struct Row {
    says: &'static str,
    /// What the pool says besides its name, model and endpoints.
    pool: &'static str,
    /// What the document says besides the pool.
    more: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    load: Load,
    expected: Expected,
}

enum Expected {
    /// The model that is asked for; the body differs in its name alone.
    Model(&'static str),
    Untouched,
    Refused(u16, &'static str),
    Waits,
}

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"base","messages":[{"role":"user","content":"hi"}]}"#;
const BATCH: &str = r#""models": [{"modelName": "batch", "pool": "a", "criticality": "Sheddable"},
    {"modelName": "chat", "pool": "a", "criticality": "Standard"}, {"modelName": "now", "pool": "a", "criticality": "Critical"}],
    "objectives": [{"name": "later", "pool": "a", "priority": -1}, {"name": "plain", "pool": "a"}, {"name": "urgent", "pool": "a", "priority": 2147483647}]"#;
const ASKS_BATCH: &str = r#"{"model":"batch","messages":[]}"#;
const ROW: Row = Row {
    says: "",
    pool: "",
    more: "",
    path: CHAT,
    headers: &[],
    body: BODY,
    load: IDLE,
    expected: Expected::Model("base"),
};

const ROWS: &[Row] = &[
    // Error codes.
    Row {
        says: "400: the body cannot be parsed",
        body: "{\"model\":",
        expected: Expected::Refused(400, "rejected-invalid-body"),
        ..ROW
    },
    Row { says: "400: there is no body", body: "", expected: Expected::Refused(400, "rejected-invalid-body"), ..ROW },
    Row {
        says: "400: no model in the body",
        body: "{}",
        expected: Expected::Refused(400, "rejected-invalid-body"),
        ..ROW
    },
    Row {
        says: "a model of another type counts as missing",
        body: r#"{"model":7}"#,
        expected: Expected::Refused(400, "rejected-invalid-body"),
        ..ROW
    },
    Row {
        says: "no parser for the path: differs, it passes untouched",
        path: "/v1/files",
        body: "{",
        expected: Expected::Untouched,
        ..ROW
    },
    Row {
        says: "404 for a model that no pool serves (the router sets an empty header)",
        body: r#"{"model":"nobody's"}"#,
        expected: Expected::Refused(404, "rejected-unknown-model"),
        ..ROW
    },
    Row {
        says: "429: filters left no candidate",
        pool: r#""failureMode": "FailClose", "scheduling": {"filters": [{"type": "utilization-filter", "parameters": {"maxWaiting": 1, "fallbackOnEmpty": false}}]},"#,
        load: QUEUED,
        expected: Expected::Refused(429, "rejected-saturated"),
        ..ROW
    },
    Row {
        says: "the same where the pool fails open: differs, Envoy balances",
        pool: r#""scheduling": {"filters": [{"type": "utilization-filter", "parameters": {"maxWaiting": 1, "fallbackOnEmpty": false}}]},"#,
        load: QUEUED,
        ..ROW
    },
    Row {
        says: "429: a priority below 0 and a saturation of 1",
        more: BATCH,
        body: ASKS_BATCH,
        load: QUEUED,
        expected: Expected::Refused(429, "rejected-saturated"),
        ..ROW
    },
    Row {
        says: "429: flow control has no place",
        more: BATCH,
        pool: r#""flowControl": {"maxBytes": 10},"#,
        load: QUEUED,
        expected: Expected::Refused(429, "rejected-saturated"),
        ..ROW
    },
    Row {
        says: "503: no endpoint at all",
        pool: r#""failureMode": "FailClose","#,
        load: GONE,
        expected: Expected::Refused(503, "rejected-no-endpoints"),
        ..ROW
    },
    Row {
        says: "503: the subset is empty",
        headers: &[("x-gateway-destination-endpoint-subset", "")],
        expected: Expected::Refused(503, "rejected-no-endpoints"),
        ..ROW
    },
    Row {
        says: "a subset that is not believed binds nobody",
        headers: &[("x-gateway-destination-endpoint-subset", "10.9.9.9:1")],
        more: r#""trustedHeaders": []"#,
        ..ROW
    },
    Row {
        says: "503: nothing of the subset is there",
        headers: &[("x-gateway-destination-endpoint-subset", "10.9.9.9:1")],
        expected: Expected::Refused(503, "rejected-no-endpoints"),
        ..ROW
    },
    Row { says: "FailOpen: a pool that cannot be reached is left to the proxy", load: GONE, ..ROW },
    Row {
        says: "503: flow control and no endpoint",
        pool: r#""flowControl": {}, "failureMode": "FailClose","#,
        load: GONE,
        expected: Expected::Refused(503, "rejected-no-endpoints"),
        ..ROW
    },
    // Admission and saturation.
    Row {
        says: "without flow control only a priority below 0 is refused",
        more: BATCH,
        body: r#"{"model":"chat"}"#,
        load: QUEUED,
        ..ROW
    },
    Row {
        says: "sheddable requests go while the saturation is below 1",
        more: BATCH,
        body: ASKS_BATCH,
        load: BUSY,
        ..ROW
    },
    Row {
        says: "saturation: used KV cache / 0.8",
        more: BATCH,
        body: ASKS_BATCH,
        load: FULL,
        expected: Expected::Refused(429, "rejected-saturated"),
        ..ROW
    },
    Row {
        says: "saturation: old metrics count as 1: differs, they count for nothing",
        more: BATCH,
        body: ASKS_BATCH,
        load: STALE,
        ..ROW
    },
    Row {
        says: "the thresholds can be set",
        more: BATCH,
        body: ASKS_BATCH,
        pool: r#""saturation": {"queueDepth": 6, "kvCacheUsage": 0.9},"#,
        load: QUEUED,
        ..ROW
    },
    // Flow control.
    Row { says: "flow control is off by default", load: QUEUED, ..ROW },
    Row {
        says: "flow control: a saturated pool's requests wait",
        pool: r#""flowControl": {},"#,
        load: QUEUED,
        expected: Expected::Waits,
        ..ROW
    },
    Row {
        says: "flow control: sheddable ones wait as well",
        pool: r#""flowControl": {},"#,
        more: BATCH,
        body: ASKS_BATCH,
        load: QUEUED,
        expected: Expected::Waits,
        ..ROW
    },
    Row { says: "flow control: nobody waits while there is room", pool: r#""flowControl": {},"#, load: BUSY, ..ROW },
    Row {
        says: "a band is held from its ceiling on",
        pool: r#""flowControl": {"bands": [{"priority": -1, "saturationCeiling": 0.5}]},"#,
        more: BATCH,
        body: ASKS_BATCH,
        load: BUSY,
        expected: Expected::Waits,
        ..ROW
    },
    Row {
        says: "and the bands above it are not",
        pool: r#""flowControl": {"bands": [{"priority": -1, "saturationCeiling": 0.5}]},"#,
        more: BATCH,
        load: BUSY,
        ..ROW
    },
    Row { says: "old metrics hold nobody: differs", pool: r#""flowControl": {},"#, load: STALE, ..ROW },
    // InferenceModel, InferenceObjective, InferenceModelRewrite.
    Row {
        says: "a model stands for its target",
        more: r#""models": [{"modelName": "m", "pool": "a", "targetModels": [{"name": "x"}]}]"#,
        body: r#"{"model":"m"}"#,
        expected: Expected::Model("x"),
        ..ROW
    },
    Row {
        says: "without targets a model is itself",
        more: r#""models": [{"modelName": "x", "pool": "a", "criticality": "Critical"}]"#,
        body: r#"{"model":"x"}"#,
        expected: Expected::Model("x"),
        ..ROW
    },
    Row { says: "Critical is never refused", more: BATCH, body: r#"{"model":"now"}"#, load: QUEUED, ..ROW },
    Row {
        says: "an objective's priority goes before the model's: down",
        more: BATCH,
        headers: &[("x-gateway-inference-objective", "later")],
        load: QUEUED,
        expected: Expected::Refused(429, "rejected-saturated"),
        ..ROW
    },
    Row {
        says: "and up, to the largest int32",
        more: BATCH,
        body: ASKS_BATCH,
        headers: &[("x-llm-d-inference-objective", "urgent")],
        load: QUEUED,
        ..ROW
    },
    Row {
        says: "an objective without a priority has 0",
        more: BATCH,
        body: ASKS_BATCH,
        headers: &[("x-gateway-inference-objective", "plain")],
        load: QUEUED,
        ..ROW
    },
    Row {
        says: "the present name of the header wins",
        more: BATCH,
        headers: &[("x-gateway-inference-objective", "urgent"), ("x-llm-d-inference-objective", "later")],
        load: QUEUED,
        expected: Expected::Refused(429, "rejected-saturated"),
        ..ROW
    },
    Row {
        says: "an objective that nobody has is none",
        more: BATCH,
        headers: &[("x-gateway-inference-objective", "nobody's")],
        load: QUEUED,
        ..ROW
    },
    Row {
        says: "a rewrite: exact goes before generic",
        more: r#""modelRewrites": [{"pool": "a", "rules": [{"targets": [{"modelRewrite": "y"}]}, {"matches": [{"model": {"value": "gpt"}}], "targets": [{"modelRewrite": "x"}]}]}]"#,
        body: r#"{"model":"gpt"}"#,
        expected: Expected::Model("x"),
        ..ROW
    },
    Row {
        says: "a rewrite without matches is for all",
        more: r#""modelRewrites": [{"pool": "a", "rules": [{"targets": [{"modelRewrite": "y"}]}]}]"#,
        expected: Expected::Model("y"),
        ..ROW
    },
    Row {
        says: "any of several matches is enough",
        more: r#""modelRewrites": [{"pool": "a", "rules": [{"matches": [{"model": {"value": "p"}}, {"model": {"value": "q"}}], "targets": [{"modelRewrite": "x"}]}]}]"#,
        body: r#"{"model":"q"}"#,
        expected: Expected::Model("x"),
        ..ROW
    },
    Row {
        says: "of two alike the first one counts",
        more: r#""modelRewrites": [{"pool": "a", "rules": [{"targets": [{"modelRewrite": "x"}]}]}, {"pool": "a", "rules": [{"targets": [{"modelRewrite": "y"}]}]}]"#,
        expected: Expected::Model("x"),
        ..ROW
    },
    Row {
        says: "where some targets have a weight, the others are never chosen",
        more: r#""modelRewrites": [{"pool": "a", "rules": [{"targets": [{"modelRewrite": "x"}, {"modelRewrite": "y", "weight": 1}]}]}]"#,
        expected: Expected::Model("y"),
        ..ROW
    },
    // Request bodies.
    Row {
        says: "openai: completions, one prompt",
        path: "/v1/completions",
        body: r#"{"model":"x","prompt":"a"}"#,
        expected: Expected::Model("x"),
        ..ROW
    },
    Row {
        says: "openai: completions, many prompts",
        path: "/v1/completions",
        body: r#"{"model":"x","prompt":["a","b"]}"#,
        expected: Expected::Model("x"),
        ..ROW
    },
    Row {
        says: "openai: completions, token ids",
        path: "/v1/completions",
        body: r#"{"model":"x","prompt":[1,2,3]}"#,
        expected: Expected::Model("x"),
        ..ROW
    },
    Row {
        says: "openai: completions/render",
        path: "/v1/completions/render",
        body: r#"{"model":"x"}"#,
        expected: Expected::Model("x"),
        ..ROW
    },
    Row {
        says: "openai: embeddings",
        path: "/v1/embeddings",
        body: r#"{"input":["a"],"model":"x"}"#,
        expected: Expected::Model("x"),
        ..ROW
    },
    Row {
        says: "openai: responses",
        path: "/v1/responses",
        body: r#"{"model":"x","input":"a"}"#,
        expected: Expected::Model("x"),
        ..ROW
    },
    Row {
        says: "openai: conversations name no model",
        path: "/v1/conversations",
        body: r#"{"items":[]}"#,
        expected: Expected::Untouched,
        ..ROW
    },
    Row {
        says: "openai: images",
        path: "/v1/images/generations",
        body: r#"{"model":"x","prompt":"a"}"#,
        expected: Expected::Model("x"),
        ..ROW
    },
    Row {
        says: "openai: audio, a form",
        path: "/v1/audio/transcriptions",
        headers: &[("content-type", "multipart/form-data; boundary=b")],
        body: "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nx\r\n--b--\r\n",
        expected: Expected::Model("x"),
        ..ROW
    },
    Row {
        says: "anthropic: messages",
        path: "/v1/messages",
        body: r#"{"model":"x","system":"s","messages":[]}"#,
        expected: Expected::Model("x"),
        ..ROW
    },
    Row {
        says: "anthropic: count_tokens",
        path: "/v1/messages/count_tokens",
        body: r#"{"model":"x","messages":[]}"#,
        expected: Expected::Model("x"),
        ..ROW
    },
    Row {
        says: "vllm: generate, with a model",
        path: "/inference/v1/generate",
        body: r#"{"model":"x","token_ids":[1]}"#,
        expected: Expected::Model("x"),
        ..ROW
    },
    Row {
        says: "vllm: generate, without one",
        path: "/inference/v1/generate",
        body: r#"{"token_ids":[1]}"#,
        expected: Expected::Untouched,
        ..ROW
    },
    Row {
        says: "openai: a path in percent-encoding is the path: differs, the picker reads it raw",
        path: "/v1/ch%61t%2Fcompletions",
        body: r#"{"model":"nobody's"}"#,
        expected: Expected::Refused(404, "rejected-unknown-model"),
        ..ROW
    },
    Row {
        says: "openai: a path that servers read differently: differs, it is refused",
        path: "/v1/chat//completions",
        expected: Expected::Refused(400, "rejected-invalid-body"),
        ..ROW
    },
    Row {
        says: "openai: audio, a form with two models: differs, it is refused",
        path: "/v1/audio/transcriptions",
        headers: &[("content-type", "multipart/form-data; boundary=b")],
        body: "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nx\r\n--b\r\nContent-Disposition: form-data; name=\"y\"; name=\"model\"\r\n\r\ny\r\n--b--\r\n",
        expected: Expected::Refused(400, "rejected-invalid-body"),
        ..ROW
    },
    Row {
        says: "azure: the path's model: differs, the picker has no such path",
        path: "/openai/deployments/x/embeddings",
        body: r#"{"input":"a"}"#,
        expected: Expected::Model("x"),
        ..ROW
    },
    Row {
        says: "gemini: the path's model: differs, the picker has no such path",
        path: "/v1beta/models/x:generateContent",
        body: r#"{"contents":[]}"#,
        expected: Expected::Model("x"),
        ..ROW
    },
    Row {
        says: "vllm: tokenize and the like: differs, the picker passes them on",
        path: "/tokenize",
        body: r#"{"model":"x"}"#,
        expected: Expected::Model("x"),
        ..ROW
    },
    Row {
        says: "sagemaker: an unknown model: differs, the picker passes it on",
        path: "/invocations",
        body: r#"{"model":"nobody's"}"#,
        expected: Expected::Refused(404, "rejected-unknown-model"),
        ..ROW
    },
    Row { says: "sglang: generate", path: "/generate", body: r#"{"text":"a"}"#, expected: Expected::Untouched, ..ROW },
    Row {
        says: "the longest end of the path wins",
        path: "/v1/messages/v1/responses",
        body: r#"{"model":"x"}"#,
        expected: Expected::Model("x"),
        ..ROW
    },
    Row {
        says: "passthrough: everything else",
        path: "/v1/fine_tuning/jobs",
        body: r#"{"model":"nobody's"}"#,
        expected: Expected::Untouched,
        ..ROW
    },
];

fn gateway(row: &Row) -> Gateway {
    let mut more = if row.more.is_empty() { String::new() } else { format!(", {}", row.more) };
    if !more.contains("trustedHeaders") {
        // The endpoint picker believes whoever sends them.
        more += &format!(r#", "trustedHeaders": {:?}"#, headers::TRUSTABLE);
    }
    let json = format!(
        r#"{{"pools": [{{{} "name": "a", "baseModel": "base", "adapters": ["x", "y"],
            "endpoints": {{"static": ["10.0.0.1:1", "10.0.0.2:1"]}}}}]{more}}}"#,
        row.pool
    );
    let config = config::parse(json.as_bytes()).unwrap_or_else(|errors| panic!("{}: {errors}", row.says));
    let mut gateway = Gateway::new(config, 1);
    let endpoint = |index: usize| EndpointLoad {
        address: format!("10.0.0.{index}:1"),
        health: row.load.health,
        scraped_at: NOW.before(row.load.age),
        waiting: Some(row.load.waiting),
        running: Some(1),
        kv_cache_usage: Some(row.load.kv_cache_usage),
        ..EndpointLoad::default()
    };
    let snapshot = Snapshot { generation: 1, published_at: NOW, endpoints: vec![endpoint(1), endpoint(2)] };
    gateway.handle_read(Read::Load(PoolId(0)), Some((&snapshot.encode(), 1)), NOW);
    gateway
}

/// Plays the host's part: reads nothing more, publishes, and lets requests go.
fn ask(row: &Row) -> Outcome {
    let mut gateway = gateway(row);
    let mut exchange = Exchange::default();
    let mut edits = Vec::new();
    let pseudo = [(":method", "POST"), (":path", row.path)];
    let headers = pseudo.iter().chain(row.headers).map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
    let mut next =
        exchange.handle_request_headers(&mut gateway, headers.collect(), row.body.is_empty(), NOW, &mut edits);
    loop {
        next = match next {
            Next::Buffer => {
                exchange.handle_request_end(&mut gateway, row.body.as_bytes().to_vec(), NOW, &mut Vec::new())
            }
            Next::Route => exchange.handle_route(&mut gateway, Some(b"a")),
            Next::Load(_) => exchange.handle_load(&mut gateway, NOW, &mut edits),
            Next::Claim(place) => {
                let shard = room::shard(place.endpoint);
                let got = gateway.look_for_place(shard, Some(place), None, NOW).is_some();
                exchange.handle_claimed(&mut gateway, got, NOW, &mut edits)
            }
            Next::Refuse(refusal) => return Outcome::Refused(refusal.reply().status, refusal.reason().name()),
            Next::Wait(_) => {
                // What goes beyond a limit shows when it is published.
                while gateway.poll_write(NOW).is_some() {}
                return match gateway.poll_refusal(PoolId(0), NOW) {
                    Some((_, refusal)) => Outcome::Refused(refusal.reply().status, refusal.reason().name()),
                    None => Outcome::Waits,
                };
            }
            Next::Continue => break,
        };
    }
    let model = edits.iter().find_map(|edit| match edit {
        Edit::SetRequestHeader(name, value) if name == "x-gateway-model-name" => Some(value.clone()),
        _ => None,
    });
    let body = edits.iter().find_map(|edit| match edit {
        Edit::ReplaceBody(body) => Some(String::from_utf8_lossy(body).into_owned()),
        _ => None,
    });
    exchange.handle_response_headers(&mut gateway, &ResponseHead::default(), NOW, &mut Vec::new());
    exchange.handle_end(&mut gateway, None, NOW);
    match model {
        Some(model) => Outcome::Goes { model, body: body.unwrap_or_else(|| row.body.to_owned()) },
        None => Outcome::Untouched,
    }
}

#[test]
fn every_statement() {
    for row in ROWS {
        let outcome = ask(row);
        let expected = match row.expected {
            Expected::Untouched => Outcome::Untouched,
            Expected::Refused(status, reason) => Outcome::Refused(status, reason),
            Expected::Waits => Outcome::Waits,
            Expected::Model(model) => {
                // Each body of the table names its model in one way, once.
                let asked = ["base", "batch", "chat", "now", "gpt", "m", "q"]
                    .iter()
                    .find(|asked| row.body.contains(&format!("\"model\":\"{asked}\"")));
                let body = match asked {
                    Some(asked) => {
                        row.body.replace(&format!("\"model\":\"{asked}\""), &format!("\"model\":\"{model}\""))
                    }
                    None => row.body.to_owned(),
                };
                Outcome::Goes { model: model.to_owned(), body }
            }
        };
        assert_eq!(outcome, expected, "{}", row.says);
    }
}

#[test]
fn a_request_that_waited_for_a_pool_that_is_gone_gets_503_and_else_429() {
    for (load, status) in [(QUEUED, 429), (GONE, 503)] {
        let row = Row { pool: r#""flowControl": {"ttl": "1s"},"#, load: QUEUED, ..ROW };
        let mut gateway = gateway(&row);
        let mut exchange = Exchange::default();
        let headers = vec![(":method".to_owned(), b"POST".to_vec()), (":path".to_owned(), CHAT.as_bytes().to_vec())];
        exchange.handle_request_headers(&mut gateway, headers, false, NOW, &mut Vec::new());
        exchange.handle_request_end(&mut gateway, BODY.as_bytes().to_vec(), NOW, &mut Vec::new());
        assert!(matches!(exchange.handle_load(&mut gateway, NOW, &mut Vec::new()), Next::Wait(_)));
        assert_eq!(gateway.poll_refusal(PoolId(0), NOW), None);
        let later = NOW.after(Duration::from_secs(1));
        let endpoint = |index: usize| EndpointLoad {
            address: format!("10.0.0.{index}:1"),
            health: load.health,
            scraped_at: later,
            waiting: Some(9),
            ..EndpointLoad::default()
        };
        let snapshot = Snapshot { generation: 2, published_at: later, endpoints: vec![endpoint(1), endpoint(2)] };
        gateway.handle_read(Read::Load(PoolId(0)), Some((&snapshot.encode(), 2)), later);
        let (_, refusal) = gateway.poll_refusal(PoolId(0), later).unwrap();
        assert_eq!((refusal.reply().status, refusal.reason().name()), (status, "rejected-ttl-expired"));
    }
}

#[test]
fn the_resources_bounds() {
    let errors = |more: &str| {
        let json = format!(
            r#"{{"pools": [{{"name": "a", "baseModel": "m", "adapters": ["x"], "endpoints": {{"static": ["10.0.0.1:1"]}}}},
                {{"name": "b", "baseModel": "n", "endpoints": {{"static": ["10.0.0.2:1"]}}}}], {more}}}"#
        );
        config::parse(json.as_bytes()).map(|_| ()).map_err(|errors| errors.to_string())
    };
    let model =
        |targets: &str| format!(r#""models": [{{"modelName": "z", "pool": "a", "targetModels": [{targets}]}}]"#);
    let ten = [r#"{"name": "x"}"#; 10].join(",");
    assert_eq!(errors(&model(&ten)), Ok(()), "targetModels has at most ten");
    assert!(errors(&model(&format!("{ten}, {{\"name\": \"x\"}}"))).unwrap_err().contains("at most 10"));
    assert!(
        errors(&model(r#"{"name": "x", "weight": 1}, {"name": "m"}"#))
            .unwrap_err()
            .contains("all of them one, or none")
    );
    let twice = r#""models": [{"modelName": "z", "pool": "a"}, {"modelName": "z", "pool": "b"}]"#;
    assert!(errors(twice).unwrap_err().contains("leads to pool \"a\" already"), "a name is unique, over all pools");
    assert!(
        errors(r#""models": [{"modelName": "z", "pool": "a", "criticality": "High"}]"#)
            .unwrap_err()
            .contains("unknown variant `High`")
    );
    let rewrite = |weight: u32| {
        format!(
            r#""modelRewrites": [{{"pool": "a", "rules": [{{"targets": [{{"modelRewrite": "x", "weight": {weight}}}]}}]}}]"#
        )
    };
    assert_eq!((errors(&rewrite(1)), errors(&rewrite(1_000_000))), (Ok(()), Ok(())), "a weight is from 1 to a million");
    assert!(errors(&rewrite(0)).is_err() && errors(&rewrite(1_000_001)).is_err());
}

#[test]
fn flow_controls_defaults() {
    let control = inference_plugin::flow::FlowControl::default();
    let usual = control.band(0);
    assert_eq!((usual.max_requests, usual.max_bytes, usual.ttl), (5_000, 1_000_000_000, Duration::from_secs(60)));
    assert_eq!(usual.ceiling, 1.0);
}
