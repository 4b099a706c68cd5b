//! Rules against requests: what they see, what they cost at most, and what is wrong with bad ones.

use super::*;
use crate::scan::{self, Wanted};
use crate::shape::Shape;
use crate::testing::test;

/// A Saturday.
const NOW: Timestamp = Timestamp(1_780_000_000_000 + 212_345_000);

fn rules(conditions: &[&str]) -> Rules {
    let mut compiler = Compiler::default();
    let rules = conditions
        .iter()
        .map(|when| Rule { when: Some(compiler.condition(when).unwrap()), priority: Some(1), ..Rule::default() })
        .collect();
    compiler.finish(rules)
}

const BODY: &str = r#"{"model": "auto", "user": "anna", "temperature": 0.5, "max_tokens": 7, "seed": 18446744073709551615,
    "messages": [{"role": "user", "content": "h\u0069"}], "metadata": {"tier": "gold", "nothing": null}, "stream": true}"#;

fn with_facts<T>(rules: &Rules, body: &str, act: impl FnOnce(Facts<'_>) -> T) -> T {
    let headers: Vec<(String, Vec<u8>)> = [("x-team", "search"), ("accept", "a"), ("accept", "b"), ("x-bin", "\u{e9}")]
        .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
        .to_vec();
    let shape = Shape::of(b"POST", b"/v1/chat/completions").unwrap();
    let members = scan::scan(body.as_bytes(), shape, None, rules.wanted()).map(|scan| scan.members).unwrap_or_default();
    let target = b"/v1/chat/completions?tenant=a%20b&tenant=c#x";
    act(Facts::new(b"POST", target, &headers, NOW).with_body(body.as_bytes(), &members))
}

fn outcome(condition: &str, body: &str) -> Result<bool, String> {
    let rules = rules(&[condition]);
    with_facts(&rules, body, |facts| {
        let mut failures = Vec::new();
        let choice = rules.decide(facts, |_| None, |_| false, &mut failures);
        match failures.pop() {
            Some(failure) => Err(failure.message),
            None => Ok(choice.is_some()),
        }
    })
}

#[test]
fn expressions_see_the_request_and_its_body() {
    for holds in [
        "true",
        "request.method == 'POST'",
        "request.path == '/v1/chat/completions' && request.path.endsWith('/completions')",
        "request.query.tenant == 'a b'",
        "request.headers['x-team'] == 'search' && body.model == 'auto'",
        "request.headers.accept == 'a,b'",
        "request.headers['x-bin'] == 'é'",
        "!('x-none' in request.headers) && has(body.user) && !has(body.nobody)",
        "request.headers[?'x-none'].orValue('none') == 'none'",
        "body.model in ['auto', 'other']",
        "body.temperature < 1.0 && body.max_tokens < 10 && body.seed == 18446744073709551615u",
        "body.stream && body.metadata.tier.startsWith('go') && body.metadata.nothing == null",
        "body['us' + 'er'] == 'anna'",
        "size(body) == 8",
        "body.messages[0].content == 'hi' && size(body.messages) == 1",
        "body.messages.exists(m, m.role == 'user' && m.content.contains('h'))",
        "body.messages.all(m, has(m.role)) && body.messages.map(m, m.role) == ['user']",
        "body.user.matches('^an+a$') && !matches(body.user, 'b')",
        "json(request.body).model == 'auto' && json('{\"a\":[1]}').a[0] == 1",
        "string(json(request.body).model) == 'auto'",
        "request.body.contains('temperature')",
        "now > timestamp('2026-05-01T00:00:00Z') && now.getFullYear() == 2026",
        "now.getHours() != now.getHours('+05:00') && now.getHours('UTC') == now.getHours()",
        "type(body.user) == string && int('7') == body.max_tokens",
        "body.nobody == 'x' || body.model == 'auto'",
    ] {
        assert_eq!(outcome(holds, BODY), Ok(true), "{holds}");
        assert_eq!(outcome(&format!("!({holds})"), BODY), Ok(false), "{holds}");
    }
}

#[test]
fn an_evaluation_that_fails_says_why_without_the_prompt() {
    for (condition, message) in [
        ("body.nobody == 'x'", "No such key: nobody"),
        ("request.headers['x-none'] == 'x'", "No such key: x-none"),
        ("body.model", "the condition is a string, and no bool"),
        ("body.model > 7", "found no matching overload for '_>_' applied to '(string, int)'"),
        ("body.messages[7].role == 'x'", "index out of bounds"),
        ("body.max_tokens / 0 == 1", "division by zero"),
        ("json(body.user) == 1", "Error executing function 'json': expected value at line 1 column 1"),
    ] {
        assert_eq!(outcome(condition, BODY), Err(message.to_owned()), "{condition}");
    }
}

#[test]
fn mistakes_are_found_when_rules_are_compiled() {
    for (source, message) in [
        ("body.model ==", "1:14: "),
        ("body.model == 'a' &&\n  bodie.user == 'b'", "2:3: \"bodie\" is not known: there are request, body and now"),
        ("request.host == 'a'", "1:8: request has no \"host\""),
        ("lower(body.model) == 'a'", "1:6: there is no function \"lower\""),
        ("body.user.matches(body.pattern)", "the pattern of matches must be a literal"),
        ("body.user.matches('(')", "1:"),
        ("body.a.all(x, body.b.all(y, x == y))", "a macro inside another one"),
        ("body.a.map(x, body.b + body.b) == []", "json and + may not stand inside a macro"),
        ("body.a.exists(x, json(x) == 1)", "json and + may not stand inside a macro"),
        ("Message{a: 1} == 1", "there is no message type"),
        (&format!("{}1{} == 1", "(".repeat(200), ")".repeat(200)), "inside one another"),
        (&format!("{}true", "! ".repeat(200)), "inside one another"),
        (&format!("1{}", " in 1".repeat(400)), "make several rules of it"),
        (&format!("1{} == 2", " + 1".repeat(250)), "its tree is more than 200 deep"),
        (&format!("r'\\' == '' || body{}", ".a".repeat(400)), "make several rules of it"),
        (&format!("true // it's\n || body{}", ".a".repeat(400)), "make several rules of it"),
        (&format!("body{} == 1", ".a".repeat(400)), "make several rules of it"),
        (&format!("body.a == '{}'", "x".repeat(20_000)), "bytes, but an expression has at most 16384"),
    ] {
        let error = Compiler::default().condition(source).map(|_| ()).unwrap_err();
        assert!(error.contains(message), "{source:.60}: {error}");
    }
}

#[test]
fn only_what_some_expression_names_is_read() {
    let wanted = |conditions: &[&str]| match rules(conditions).wanted() {
        Wanted::Named(members) => Some(members.to_vec()),
        Wanted::All => None,
    };
    assert_eq!(wanted(&["request.method == 'POST'"]), Some(Vec::new()));
    assert_eq!(
        wanted(&["has(body.user) && body.model == 'a'", "json(request.body).tools == []"]),
        Some(vec!["model".to_owned(), "tools".to_owned(), "user".to_owned()])
    );
    assert_eq!(wanted(&["body.list.all(body, body.x == 1)"]), Some(vec!["list".to_owned()]), "a macro's own variable");
    assert_eq!(wanted(&["body == {}"]), None);
}

#[test]
fn what_is_too_large_is_not_there() {
    let body = |bytes: usize| format!(r#"{{"model":"{}","list":[1],"user":"anna"}}"#, "x".repeat(bytes));
    assert_eq!(outcome("body.model.startsWith('x')", &body(200_000)), Ok(true));
    assert_eq!(outcome("body.model.startsWith('x')", &body(300_000)), Err("No such key: model".to_owned()));
    assert_eq!(outcome("body.user == 'anna'", &body(300_000)), Ok(true));
    assert_eq!(outcome("request.body == ''", &body(300_000)), Err("No such key: body".to_owned()));
    let with_macro = "body.list.all(x, x == 1) && body.model.startsWith('x')";
    assert_eq!(outcome(with_macro, &body(60_000)), Ok(true));
    assert_eq!(outcome(with_macro, &body(70_000)), Err("No such key: model".to_owned()));
    let long = format!(r#"{{"list":[{}1]}}"#, "1,".repeat(1024));
    assert_eq!(outcome("body.list.all(x, x == 1)", &long), Err("No such key: list".to_owned()));
    assert_eq!(outcome("body.list[0] == 1", &long), Ok(true));
}

#[test]
fn the_first_rule_decides_and_a_failing_one_is_passed_over() {
    let mut compiler = Compiler::default();
    let mut rule = |when: &str, outcome: Outcome<String>| Rule {
        when: Some(compiler.condition(when).unwrap()),
        model: Some(outcome),
        ..Rule::default()
    };
    let list = vec![
        rule("body.model == 'other'", Outcome::Fixed("a".to_owned())),
        rule("body.nobody == 'x'", Outcome::Fixed("b".to_owned())),
        rule("true", Outcome::Fixed("c".to_owned())),
        rule("true", Outcome::Fixed("d".to_owned())),
    ];
    let rules = compiler.finish(list);
    let mut failures = Vec::new();
    let choice = with_facts(&rules, BODY, |facts| rules.decide(facts, |_| None, |_| true, &mut failures)).unwrap();
    assert_eq!((choice.rule, choice.model.as_deref()), (2, Some("c")));
    assert_eq!(failures, [Failure { rule: 1, message: "No such key: nobody".to_owned() }]);
}

/// The policy of the guide to multiple inference pools for agentgateway, as it stands there: a map literal that is
/// indexed by the model's name.
const GUIDE: &str = r#"{
  "meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
  "food-review-1": "meta-llama/Llama-3.1-8B-Instruct",
  "deepseek/DeepSeek-r1": "deepseek/DeepSeek-r1",
  "ski-resorts": "deepseek/DeepSeek-r1",
  "movie-critique": "deepseek/DeepSeek-r1"
}[string(json(request.body).model)]"#;

#[test]
fn what_a_rule_sets_may_be_computed() {
    let mut compiler = Compiler::default();
    let guide = || Outcome::Computed(Box::new(Compiler::default().expression(GUIDE).unwrap()));
    compiler.expression(GUIDE).unwrap();
    let rule = Rule {
        pool: Some(Outcome::Computed(Box::new(
            compiler.expression(&format!("{GUIDE}.startsWith('deep') ? 'b' : 'a'")).unwrap(),
        ))),
        headers: vec![(
            "x-gateway-base-model-name".to_owned(),
            match guide() {
                Outcome::Computed(expression) => Outcome::Computed(expression),
                fixed => fixed,
            },
        )],
        ..Rule::default()
    };
    let rules = compiler.finish(vec![rule]);
    let pools = |name: &str| ["a", "b"].iter().position(|pool| *pool == name).map(PoolId);
    let ask = |model: &str| {
        let body = format!(r#"{{"model":"{model}"}}"#);
        with_facts(&rules, &body, |facts| rules.decide(facts, pools, |_| false, &mut Vec::new()))
    };
    let choice = ask("ski-resorts").unwrap();
    assert_eq!(choice.pool, Some(PoolId(1)));
    assert_eq!(choice.headers, [("x-gateway-base-model-name".to_owned(), "deepseek/DeepSeek-r1".to_owned())]);
    assert_eq!(ask("food-review-1").unwrap().pool, Some(PoolId(0)));
    assert_eq!(ask("unknown"), None);
}

#[test]
fn a_value_that_is_no_header_fails_the_rule() {
    let mut compiler = Compiler::default();
    let value = compiler.expression("body.user").unwrap();
    let headers = vec![("x-user".to_owned(), Outcome::Computed(Box::new(value)))];
    let rules = compiler.finish(vec![Rule { headers, ..Rule::default() }]);
    for (user, is_fine) in [("\"anna\"", true), (r#""a\r\nx-admin: 1""#, false), ("7", false)] {
        let body = format!(r#"{{"user":{user}}}"#);
        let choice = with_facts(&rules, &body, |facts| rules.decide(facts, |_| None, |_| false, &mut Vec::new()));
        assert_eq!(choice.is_some(), is_fine, "{user}");
    }
}

#[test]
fn guards_say_no_only_where_evaluation_would() {
    for condition in [
        "body.model == 'other' && body.nobody == 1",
        "'GET' == request.method && true",
        "request.path == '/' && request.headers['x-none'] == 'a'",
        "request.headers['x-team'] == 'ads' && (body.nobody == 'x' || true)",
        "request.headers['x-team'] in ['ads', 'maps']",
        "body.user in [] && body.model == 'auto'",
    ] {
        assert_eq!(outcome(condition, BODY), Ok(false), "{condition}");
        let without_guards = {
            let mut rules = rules(&[condition]);
            for rule in &mut rules.rules {
                let guards = rule.when.as_mut().map(|when| std::mem::take(&mut when.guards));
                assert!(guards.is_some_and(|guards| !guards.is_empty()), "{condition}");
            }
            with_facts(&rules, BODY, |facts| rules.decide(facts, |_| None, |_| true, &mut Vec::new()))
        };
        assert_eq!(without_guards, None, "{condition}");
    }
    // Not what they seem: an escape, a value that is no text, a header of two values.
    for condition in [
        "body.messages[0].content == 'hi'",
        "body.max_tokens == 7",
        "request.headers.accept == 'a,b' && body.model == 'auto'",
    ] {
        assert_eq!(outcome(condition, BODY), Ok(true), "{condition}");
    }
    assert_eq!(outcome("body.user == 'anna'", r#"{"user":"\u0061nna"}"#), Ok(true));
    assert_eq!(outcome("body.user == 'anna'", r#"{"user":"bob","user":"anna"}"#), Ok(true), "the last one counts");
}
