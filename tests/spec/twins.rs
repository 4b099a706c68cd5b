//! Each clever reader beside a naive twin, on documents that proptest makes up.

use inference_plugin::exchange::{Edit, Exchange};
use inference_plugin::exposition::Samples;
use inference_plugin::gateway::Gateway;
use inference_plugin::scan::{self, Model, Scan, ScanError, Wanted};
use inference_plugin::shape::Shape;
use inference_plugin::time::Timestamp;
use proptest::prelude::*;
use serde_json::{Map, Value};

/// Any JSON value, with keys that matter now and then.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Eighths survive serde_json's reading and writing; any number would not.
        any::<i32>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
        "[ -~\n\t\"\\\\é€😀]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key(), inner), 0..6)
                .prop_map(|members| Value::from(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        "model|stream|max_tokens|messages|prompt|tools|\"|\\\\".prop_map(|key| key),
        "[a-z\"\\\\é]{0,6}".prop_map(|key| key),
    ]
}

fn object() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::vec((key(), json()), 0..8).prop_map(|members| members.into_iter().collect())
}

/// The same document with white space wherever it may stand, or none.
fn text(object: &Map<String, Value>, pretty: bool) -> String {
    let value = Value::from(object.clone());
    if pretty { format!("\t{value:#}\r\n ") } else { value.to_string() }
}

fn chat(body: &[u8]) -> Result<Scan<'_>, ScanError> {
    match Shape::of(b"POST", b"/v1/chat/completions") {
        Some(shape) => scan::scan(body, shape, None, Wanted::Named(&[])),
        None => Ok(Scan::default()),
    }
}

proptest! {
    #[test]
    fn the_scan_agrees_with_a_document_reader(object in object(), pretty in any::<bool>()) {
        let text = text(&object, pretty);
        let scan = chat(text.as_bytes()).expect("serde_json wrote it");
        let expected = match object.get("model") {
            None => None,
            Some(Value::String(name)) => Some(name.clone()),
            Some(_) => Some("not a name".to_owned()),
        };
        let found = scan.model.as_ref().map(|model| match model {
            Model::Name { name, .. } => name.clone().into_owned(),
            Model::NotAName => "not a name".to_owned(),
        });
        prop_assert_eq!(found, expected);
        prop_assert_eq!(scan.stream, object.get("stream") == Some(&Value::Bool(true)));
        prop_assert_eq!(scan.max_tokens, object.get("max_tokens").and_then(Value::as_u64));
        for part in scan.prompt.in_template_order() {
            prop_assert!(serde_json::from_str::<Value>(&text[part]).is_ok());
        }
    }

    #[test]
    fn a_rewrite_changes_the_models_value_alone(mut object in object(), old in "\\PC{1,20}", new in "\\PC{1,20}", pretty in any::<bool>()) {
        object.insert("model".to_owned(), Value::from(old));
        let body = text(&object, pretty);
        let scan = chat(body.as_bytes()).expect("serde_json wrote it");
        let Some(Model::Name { span, .. }) = scan.model else { return Err(TestCaseError::fail("no model")) };
        let rewritten = scan::with_model(body.as_bytes(), &span, &new, false);
        prop_assert_eq!(&rewritten[..span.start], &body.as_bytes()[..span.start]);
        prop_assert!(rewritten.ends_with(&body.as_bytes()[span.end..]));
        object.insert("model".to_owned(), Value::from(new));
        let reread: Map<String, Value> = serde_json::from_slice(&rewritten).expect("still JSON");
        prop_assert_eq!(reread, object);
    }

    /// The naive twin knows where the model's value is, since it has put it there.
    #[test]
    fn the_exchange_changes_the_models_bytes_and_no_other(before in object(), after in object(), alias in "\\PC{1,20}", escaped in any::<bool>(), space in "[ \t\r\n]{0,3}", number in "-?[1-9][0-9]{0,40}(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?") {
        prop_assume!(alias != "base" && alias != "adapter" && !alias.chars().any(inference_plugin::shown::is_hidden));
        // Members before the model's may bear its name as well: the last one counts.
        let after: Map<String, Value> = after.into_iter().filter(|(key, _)| key != "model").collect();
        let members = |object: &Map<String, Value>| {
            let text = Value::from(object.clone()).to_string();
            text[1..text.len() - 1].to_owned()
        };
        let name = if escaped {
            alias.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect::<String>()
        } else {
            let quoted = Value::from(alias.clone()).to_string();
            quoted[1..quoted.len() - 1].to_owned()
        };
        let mut head = format!("{space}{{{space}\"number\":{number}");
        if !before.is_empty() {
            head += &format!(",{}", members(&before));
        }
        head += &format!("{space},\"model\"{space}:{space}");
        let mut tail = space.clone();
        if !after.is_empty() {
            tail += &format!(",{}", members(&after));
        }
        tail += &format!("{space}}}{space}");
        let body = format!("{head}\"{name}\"{tail}");
        let config = serde_json::json!({
            "pools": [{"name": "a", "baseModel": "base", "adapters": ["adapter"], "endpoints": {"static": ["10.0.0.1:1"]}}],
            "models": [{"modelName": alias, "pool": "a", "targetModels": [{"name": "adapter"}]}]});
        let config = inference_plugin::config::parse(config.to_string().as_bytes()).expect("a configuration");
        let mut gateway = Gateway::new(config, 1);
        let mut exchange = Exchange::default();
        let headers = [(":method", "POST"), (":path", "/v1/chat/completions")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec();
        let mut edits = Vec::new();
        exchange.handle_request_headers(&mut gateway, headers, false, Timestamp(1), &mut edits);
        exchange.handle_request_end(&mut gateway, body.clone().into_bytes(), Timestamp(1), &mut Vec::new());
        exchange.handle_load(&mut gateway, Timestamp(1), &mut edits);
        let sent = edits.iter().find_map(|edit| match edit {
            Edit::ReplaceBody(body) => Some(String::from_utf8_lossy(body).into_owned()),
            _ => None,
        });
        let expected = format!("{head}\"adapter\"{tail}");
        let length = edits.iter().find_map(|edit| match edit {
            Edit::SetRequestHeader(name, value) if name == "content-length" => Some(value.clone()),
            _ => None,
        });
        prop_assert_eq!(length, Some(expected.len().to_string()), "{}", body);
        prop_assert_eq!(sent, Some(expected));
    }

    #[test]
    fn what_a_document_reader_takes_the_scan_takes_and_it_never_panics(bytes in prop::collection::vec(prop::sample::select(b"{}[]\",:\\ tfn0e.-model".to_vec()), 0..40)) {
        let scan = chat(&bytes);
        if serde_json::from_slice::<Map<String, Value>>(&bytes).is_ok() {
            prop_assert!(scan.is_ok(), "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn the_metrics_reader_agrees_with_a_naive_one(lines in prop::collection::vec(metrics_line(), 0..30)) {
        let page: String = lines.iter().map(|line| format!("{line}\n")).collect();
        prop_assume!(!page.is_empty());
        let wanted = ["vllm:waiting", "vllm:running"];
        let found: Vec<(String, Option<String>, f64)> = Samples::new(page.as_bytes(), &wanted)
            .map(|sample| (sample.name.to_owned(), sample.labels.value("a").map(|value| value.into_owned()), sample.value))
            .collect();
        let expected: Vec<(String, Option<String>, f64)> = page.lines().filter_map(|line| naive(line, &wanted)).collect();
        prop_assert_eq!(found.len(), expected.len(), "{}", page);
        for (found, expected) in found.iter().zip(&expected) {
            prop_assert_eq!((&found.0, &found.1), (&expected.0, &expected.1));
            prop_assert!(found.2 == expected.2 || found.2.is_nan() && expected.2.is_nan());
        }
    }

    #[test]
    fn any_bytes_are_a_page_or_none(page in prop::collection::vec(any::<u8>(), 0..200)) {
        Samples::new(&page, &["m"]).for_each(drop);
    }
}

fn metrics_line() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "vllm:waiting",
        "vllm:waiting_by_reason",
        "vllm:running",
        "vllm:run",
        "other",
        "# HELP vllm:waiting",
    ]);
    let labels =
        prop::sample::select(vec!["", "{}", "{a=\"b\"}", "{b=\"}\",a=\"c,\"}", "{a=\"\\\"\"}", "{a=\"b", "{a=b}"]);
    let value =
        prop::sample::select(vec!["1", "1.5e3", "NaN", "+Inf", "-0", "", "x", "7 1700000000", "1 # {a=\"z\"} 2"]);
    (name, labels, value).prop_map(|(name, labels, value)| format!("{name}{labels} {value}"))
}

/// A reader that takes a line apart character by character.
fn naive(line: &str, wanted: &[&str]) -> Option<(String, Option<String>, f64)> {
    let name: String = line.chars().take_while(|char| !matches!(char, '{' | ' ')).collect();
    if !wanted.contains(&name.as_str()) {
        return None;
    }
    let mut chars = line.chars().skip(name.chars().count()).peekable();
    let mut a = None;
    if chars.peek() == Some(&'{') {
        chars.next();
        loop {
            if chars.peek() == Some(&'}') {
                chars.next();
                break;
            }
            let mut key = String::new();
            loop {
                match chars.next()? {
                    '=' => break,
                    char => key.push(char),
                }
            }
            if chars.next()? != '"' {
                return None;
            }
            let mut value = String::new();
            loop {
                match chars.next()? {
                    '"' => break,
                    '\\' => match chars.next()? {
                        'n' => value.push('\n'),
                        char => value.push(char),
                    },
                    char => value.push(char),
                }
            }
            if key == "a" {
                a.get_or_insert(value);
            }
            if chars.peek() == Some(&',') {
                chars.next();
            }
        }
    }
    let rest: String = chars.collect();
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name, a, value))
}
